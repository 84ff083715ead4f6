"""What a run leaves on the disk: whole or not at all, read back as written, and drawn."""

import json
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch

from support import checkpoints
from support.files import ROOT
from support.folders import CapeLLMConfig


def write_log(out, steps, validated=False):
    out.mkdir()
    for step in range(1, steps + 1):
        record = {"step": step, "loss": 3 / step, "lr": 5e-4 / step}
        if validated:
            record["val"] = {"PCK@0.20": 0.5, "PCK@0.05": 0.1}
        checkpoints.append_to_log(out, record)


SETTINGS = {"--k": 4, "the data": "abc"}
STATE = {
    "step": 7,
    "best": [0.5, 6],
    "settings": SETTINGS,
    "optimiser": {"a.b": {"step": torch.tensor(7.0), "exp_avg": torch.arange(6.0).view(2, 3)}},
    "random": torch.arange(8, dtype=torch.uint8).view(2, 4),
}


def write_checkpoint(out, step=7):
    folder = out / f"step-{step:07d}"
    adapter = {"a.b": torch.ones(2, 3)}
    checkpoints.write_checkpoint(folder, CapeLLMConfig("vision", "llm"), adapter, STATE)
    return folder


def test_a_state_is_read_as_it_was_written(tmp_path):
    (tmp_path / "step-0000007.partial").mkdir()  # what a crash may leave
    folder = write_checkpoint(tmp_path)
    state = checkpoints.read_state(folder, SETTINGS)
    assert state.keys() == STATE.keys()
    for key in ("step", "best", "settings"):
        assert state[key] == STATE[key]
    assert torch.equal(state["random"], STATE["random"])
    for name, tensor in STATE["optimiser"]["a.b"].items():
        assert torch.equal(state["optimiser"]["a.b"][name], tensor)
    assert checkpoints.list_checkpoints(tmp_path) == [folder]
    assert checkpoints.read_newest_state(tmp_path, SETTINGS)[0] == folder
    config = json.loads((folder / "config.json").read_text())
    assert CapeLLMConfig(**config) == CapeLLMConfig("vision", "llm")


def test_a_run_that_has_not_begun(tmp_path):
    expected = (None, {"step": 0, "best": None}, [])
    assert checkpoints.read_newest_state(tmp_path / "nowhere", SETTINGS) == expected


def test_others_may_read_what_was_saved(tmp_path):
    """safetensors' own save_file lets the owner alone read."""
    folder = write_checkpoint(tmp_path)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    (tmp_path / "plain").touch()
    assert modes == {stat.S_IMODE((tmp_path / "plain").stat().st_mode)}


@pytest.mark.parametrize("best, kept", [(None, [3, 4]), (1, [1, 3, 4]), (4, [3, 4])])
def test_old_checkpoints_are_removed_but_for_the_best(tmp_path, best, kept):
    for step in (1, 2, 3, 4):
        write_checkpoint(tmp_path, step)
    checkpoints.remove_old_checkpoints(tmp_path, best_step=best, keep=2)
    left = checkpoints.list_checkpoints(tmp_path)
    assert left == [tmp_path / f"step-{step:07d}" for step in kept]


def test_settings_that_differ_are_named(tmp_path):
    folder = write_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="--k was 4, is 2; the data changed. Resume as"):
        checkpoints.read_state(folder, {"--k": 2, "the data": "xyz"})


def test_a_log_cut_anywhere(tmp_path):
    first = {"step": 1, "loss": 2.5, "lr": 1e-3}
    record = {"step": 2, "loss": 1.5, "lr": 1e-4, "val": {"PCK@0.20": 0.25, "PCK@0.05": 0.0}}
    line = json.dumps(record)
    for end in range(len(line) + 1):
        (tmp_path / "log.jsonl").write_text(json.dumps(first) + "\n" + line[:end])
        expected = [first]
        if end == len(line):
            expected.append(record)
        assert checkpoints.read_log(tmp_path) == expected


def test_a_log_loses_the_steps_that_are_done_again(tmp_path):
    run = tmp_path / "run"
    write_log(run, steps=9)
    write_checkpoint(run)
    start = checkpoints.read_newest_state(run, SETTINGS)
    # Nothing is written before all is read.
    assert len(checkpoints.read_log(run)) == 9
    checkpoints.write_log(run, start.log)
    assert [r["step"] for r in checkpoints.read_log(run)] == [1, 2, 3, 4, 5, 6, 7]
    assert sorted(p.name for p in run.iterdir()) == ["log.jsonl", "step-0000007"]


def count_coloured(picture):
    """Pixels that are not grey: those of the lines."""
    return int((np.ptp(picture[..., :3], axis=2) > 0.3).sum())


def test_curves(tmp_path):
    """One picture for several runs; validation gets a third panel."""
    from matplotlib import image

    write_log(tmp_path / "one", steps=4)
    write_log(tmp_path / "validated", steps=4, validated=True)
    checkpoints.draw_curves({"one": tmp_path / "one"}, tmp_path / "plain.png")
    plain = image.imread(tmp_path / "plain.png")
    runs = {name: tmp_path / name for name in ("one", "validated")}
    checkpoints.draw_curves(runs, tmp_path / "both.png")
    both = image.imread(tmp_path / "both.png")
    assert both.shape[0] == plain.shape[0] and both.shape[1] == 1.5 * plain.shape[1]
    assert 100 < count_coloured(plain) < count_coloured(both)
    assert sorted(p.name for p in tmp_path.glob("*.p*")) == ["both.png", "plain.png"]


def test_the_mean_of_what_went_before():
    values = [1.0, 3.0, 5.0, 7.0]
    assert checkpoints.average_behind(values, 1) == [1.0, 2.0, 4.0, 6.0]
    assert checkpoints.average_behind(values, 10) == [1.0, 2.0, 3.0, 4.0]


def run_curves(*arguments):
    command = [sys.executable, "-m", "scripts.curves", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_curves_of_several_runs(tmp_path):
    """By names of one's own; what is no run, or two of one name, is refused in a line."""
    one, picture = tmp_path / "one", tmp_path / "new" / "both.png"
    write_log(one, steps=4)
    ran = run_curves(one, one, "--labels", "a", "b", "--out", picture)
    assert ran.returncode == 0 and picture.stat().st_size > 10_000, ran.stderr
    refused = [
        ([tmp_path], "log.jsonl not found"),
        ([one, one], "2 runs need as many different names"),
        ([one, "--labels", "a", "b"], "1 runs need as many different names"),
    ]
    for arguments, complaint in refused:
        ran = run_curves(*arguments, "--out", tmp_path / "no.png")
        assert ran.returncode == 2
        assert complaint in ran.stderr and ran.stderr.count("\n") == 1
    assert not (tmp_path / "no.png").exists()
