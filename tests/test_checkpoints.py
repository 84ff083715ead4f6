"""What a run leaves on the disk: whole or not at all, read back as written, and drawn."""

import json
import math
import random
import stat
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from damage import OTHERS, check_message, damage_value, make_special
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


def test_a_gpu_s_memory_is_logged(monkeypatch):
    measured = SimpleNamespace(loss=1, digits=1, gradient=1, tokens=10, waited=0.5)
    assert "GB" not in checkpoints.describe_step(1, 0.1, measured, 8, time.time() - 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 20_044_000_000)
    record = checkpoints.describe_step(1, 0.1, measured, 8, time.time() - 2)
    assert record["GB"] == 20.04
    assert record["pairs_per_s"] == pytest.approx(4, rel=0.05)


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


# What was damaged since.

PARAMETERS = {"a.b": torch.zeros(2, 3), "c": torch.zeros(4), "layers.m": torch.zeros(3, 3)}


def write_run(out):
    """A run's folder that can be continued: two steps are logged, the second is a checkpoint."""
    moments = {}
    for name, parameter in PARAMETERS.items():
        tensors = {"exp_avg": torch.randn_like(parameter), "exp_avg_sq": torch.rand_like(parameter)}
        moments[name] = tensors | {"step": torch.tensor(2.0)}
    # One is Muon's.
    moments["layers.m"] = {"momentum": torch.randn(3, 3)}
    random_state = torch.get_rng_state()[None]
    state = {"step": 2, "best": [0.5, 1], "settings": SETTINGS}
    folder = out / "step-0000002"
    state |= {"optimiser": moments, "random": random_state}
    checkpoints.write_checkpoint(folder, CapeLLMConfig("v", "l"), PARAMETERS, state)
    scores = {"PCK@0.20": 0.5, "PCK@0.05": 0.1}
    for step in (1, 2):
        record = {"step": step, "loss": 3 / step, "lr": 5e-4, "waiting": 0.0, "val": scores}
        checkpoints.append_to_log(out, record)
    return folder / "state.safetensors"


def resume(out):
    """What --resume reads and checks before it writes anything: a Start."""
    start = checkpoints.read_newest_state(out, SETTINGS)
    if start.folder:
        device = torch.device("cpu")
        checkpoints.check_state(start.folder, start.state, PARAMETERS, device, rank=0)
    return start


def read_files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change_state(file, texts, tensors):
    """Write a state anew with other texts and tensors; None: without it."""
    with safe_open(file, framework="pt") as saved:
        texts = saved.metadata() | texts
        tensors = {name: saved.get_tensor(name) for name in saved.keys()} | tensors
    texts = {name: text for name, text in texts.items() if text is not None}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(tensors, file, texts)


def test_a_run_that_is_whole_goes_on(tmp_path):
    write_run(tmp_path)
    start = resume(tmp_path)
    assert [record["step"] for record in start.log] == [1, 2] and start.state["best"] == [0.5, 1]


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_log_is_named_and_left_as_it_was(tmp_path, seed):
    write_run(tmp_path)
    log, rng = tmp_path / "log.jsonl", random.Random(seed)
    first, second = log.read_bytes().splitlines()
    log.write_bytes(damage_value(rng, json.loads(first)) + b"\n" + second + b"\n")
    before = read_files(tmp_path)
    try:
        start = resume(tmp_path)
        checkpoints.draw_curves({"run": tmp_path}, tmp_path / "curves.png")
    except ValueError as error:
        check_message(str(error), log)
        assert "line 1" in str(error) and read_files(tmp_path) == before
        # Training does not end for it.
        checkpoints.draw_own_curves(tmp_path)
    else:
        checkpoints.write_log(tmp_path, start.log)
        assert checkpoints.read_log(tmp_path) == start.log


@pytest.mark.parametrize("name", ["step", "best", "settings"])
@pytest.mark.parametrize("seed", range(25))
def test_a_damaged_text_of_a_state_is_named(tmp_path, name, seed):
    file, rng = write_run(tmp_path), random.Random(seed)
    with safe_open(file, framework="pt") as saved:
        value = json.loads(saved.metadata()[name])
    text = damage_value(rng, {name: value})
    other = rng.choice([None, text.decode(errors="ignore"), *OTHERS])
    change_state(file, {name: other}, {})
    try:
        state = resume(tmp_path).state
    except ValueError as error:
        check_message(str(error), file if name != "settings" else file.parent)
    else:
        assert state["step"] == 2 and (state["best"] is None or len(state["best"]) == 2)


MOMENT_CHANGES = [
    {"a.b/exp_avg": None},
    {"a.b/step": None},
    {"c/step": None, "c/exp_avg": None, "c/exp_avg_sq": None},
    {"d/exp_avg": torch.zeros(2)},
    {"a.b/more": torch.zeros(2)},
    {"a.b/exp_avg": torch.zeros(3, 2)},
    {"a.b/exp_avg": torch.zeros(2, 3, dtype=torch.int64)},
    {"a.b/exp_avg": torch.full((2, 3), math.nan)},
    {"c/exp_avg_sq": torch.full((4,), -1.0)},
    {"c/step": torch.tensor(0.0)},
    {"c/step": torch.tensor(math.nan)},
    {"c/step": torch.tensor(3.0)},
    {"c/step": torch.zeros(4)},
    {"layers.m/momentum": None},
    {"layers.m/momentum": torch.zeros(2, 3)},
    {"layers.m/momentum": torch.full((3, 3), math.inf)},
    {"layers.m/step": torch.tensor(2.0)},
    {"random": None},
    {"random": torch.zeros(16, dtype=torch.uint8)},
    {"random": torch.zeros(1, 16, dtype=torch.uint8)},
    {"random": torch.zeros(1, 5056)},
    {"random": torch.zeros(0, 5056, dtype=torch.uint8)},
    {"random": torch.tensor(3)},
]


@pytest.mark.parametrize("tensors", MOMENT_CHANGES, ids=range(len(MOMENT_CHANGES)))
def test_damaged_tensors_of_a_state_are_named(tmp_path, tensors):
    """Before they end in an exception of PyTorch's, or in weights that are no numbers."""
    file = write_run(tmp_path)
    change_state(file, {}, tensors)
    with pytest.raises(ValueError) as error:
        resume(tmp_path)
    check_message(str(error.value), file)
    assert "and --resume continues the checkpoint before it" in str(error.value)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("name", ["log.jsonl", "step-0000002/state.safetensors"])
def test_what_is_no_file_is_not_waited_for(tmp_path, name, kind):
    write_run(tmp_path)
    make_special(tmp_path / name, kind)
    with pytest.raises(ValueError, match=f"{name} is no regular file"):
        resume(tmp_path)
    # Nor does it take a name that only looks like a checkpoint's.
    for other in ("step-²", "step-1b", "step-"):
        (tmp_path / other).mkdir()
    assert [p.name for p in checkpoints.list_checkpoints(tmp_path)] == ["step-0000002"]


def test_curves_are_drawn_as_matplotlib_can(tmp_path):
    write_log(tmp_path / "run", steps=2)
    for name in ("a.xyz", "a.jsonl"):
        with pytest.raises(ValueError, match=f"{name}: curves are not drawn as") as error:
            checkpoints.draw_curves({"run": tmp_path / "run"}, tmp_path / name)
        check_message(str(error.value), name)
    make_special(tmp_path / "a.png", "pipe")
    with pytest.raises(ValueError, match="a.png is no regular file"):
        checkpoints.draw_curves({"run": tmp_path / "run"}, tmp_path / "a.png")
    for name in ("a.PNG", "a.pdf", "a"):
        checkpoints.draw_curves({"run": tmp_path / "run"}, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000


def test_curves_have_any_name(tmp_path, recwarn):
    write_log(tmp_path / "run", steps=2)
    for label in ("9" * 400, "\x1b[31mred", "a$b$c", "$\\x$", "\u202e"):
        checkpoints.draw_curves({label: tmp_path / "run"}, tmp_path / "curves.png")
    assert not recwarn.list
