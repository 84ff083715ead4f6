"""support/few.py: the paper's settings, and those for few photographs where nothing is asked."""

import json
import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import data
import train
from capellm import Codec
from skirts import write_skirts
from support import few, train_options
from support.descriptions import Keypoint
from support.files import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_skirts(folder)
    return folder


def read_options(monkeypatch, folder, *words):
    command = ["train.py", "--data", str(folder), "--init", str(ROOT / "nano"), *words]
    monkeypatch.setattr(sys, "argv", command)
    return train_options.read_options("", list(data.GROUPINGS))


def fill(monkeypatch, folder, *words):
    options = read_options(monkeypatch, folder, *words)
    instances, _ = data.read_split(folder, 1, "train")
    filled = few.fill_options(options, instances)
    for name, value in filled.options.items():
        setattr(options, name, value)
    return options, filled.line


def test_few_objects_get_steps_that_teach(folder, monkeypatch):
    options, line = fill(monkeypatch, folder)
    # Skirts have 8 keypoints or, two of them, 4: two pairs an image, of 11 images.
    assert (options.steps, options.batch, options.micro_batch) == (210, 22, 22)
    # nano is small, and the drawings have a validation part.
    assert options.tune == "everything" and options.val_every and options.patience
    assert (options.augmentation, options.optimiser, options.lr) == ("wide", "muon", 1e-3)
    for name in ("steps", "batch", "micro_batch", "tune", "val_every", "patience", "lr",
                 "augmentation", "optimiser"):
        assert f"--{name.replace('_', '-')} {getattr(options, name)}" in line
    assert "--share-image" in line and "True" not in line


def test_more_objects_get_more_steps(folder, monkeypatch):
    """As their square root; and so many more between measurements."""
    options = read_options(monkeypatch, folder)
    (first, *_), _ = data.read_split(folder, 1, "train")
    lengths = {}
    for count in (8, 40, 90, 360, 499):
        found = few.fill_options(options, [first] * count).options
        lengths[count] = found["steps"], found["val_every"]
    assert lengths == {8: (210, 25), 40: (210, 25), 90: (315, 38), 360: (630, 75), 499: (742, 88)}


def test_images_with_one_pair_each_have_none_to_share(folder, monkeypatch):
    options, line = fill(monkeypatch, folder, "--k", "8")
    assert (options.batch, options.micro_batch, options.share_image) == (16, 16, False)
    assert "--share-image" not in line


def test_the_line_s_options_give_the_same_run(folder, monkeypatch):
    """Typed, they are accepted, and nothing is left open."""
    options, line = fill(monkeypatch, folder)
    words = line.partition(", so ")[2].split()
    typed, other_line = fill(monkeypatch, folder, *words)
    assert other_line == ""
    assert {name: getattr(typed, name) for name in few.PAPER} == {
        name: getattr(options, name) for name in few.PAPER
    } | {"epochs": typed.epochs}


@pytest.mark.parametrize("words", [["--steps", "7"], ["--epochs", "2"], ["--batch", "4"]])
def test_who_asks_gets_the_paper_s_settings_for_the_rest(folder, monkeypatch, words):
    options, line = fill(monkeypatch, folder, *words)
    expected = few.PAPER | {"val_every": None, "steps": None}
    expected[words[0].removeprefix("--")] = int(words[1])
    assert {name: getattr(options, name) for name in expected} == expected
    # But it is said what they would have been, of the rest.
    asked, better = line.split("Better for so few: ")
    assert asked.startswith("few: 13 objects; --steps, --epochs or --batch is given")
    _, usual = fill(monkeypatch, folder)
    usual = re.sub(rf"{words[0]} \d+ ", "", usual.partition(", so ")[2])
    assert better == usual


def test_what_is_asked_for_stays(folder, monkeypatch):
    options, line = fill(monkeypatch, folder, "--tune", "lora", "--micro-batch", "2")
    assert (options.tune, options.micro_batch, options.steps) == ("lora", 2, 210)
    assert "--tune" not in line and "--micro-batch" not in line


def test_many_objects_get_the_paper_s_settings(folder, monkeypatch):
    monkeypatch.setattr(few, "FEW", 3)
    options, line = fill(monkeypatch, folder)
    assert {name: getattr(options, name) for name in few.PAPER} == few.PAPER and line == ""


def test_a_large_model_keeps_its_adapters(folder, monkeypatch):
    monkeypatch.setattr(few, "SMALL", 1000)
    options, line = fill(monkeypatch, folder)
    assert options.tune == "lora" and options.steps == 210
    # Which no memory was measured for: a pair a pass, as the paper's settings are.
    assert (options.batch, options.micro_batch, options.share_image) == (22, 1, False)
    assert options.optimiser == "adamw" and "--micro-batch" not in line
    options, _ = fill(monkeypatch, folder, "--micro-batch", "4")
    assert (options.micro_batch, options.share_image) == (4, True)


@pytest.mark.parametrize("rounds, k", [("fixed", 2), ("fixed", 3), ("dynamic", 4), ("locllm", 3)])
def test_a_step_has_the_pairs_of_so_many_objects(monkeypatch, tokenizers, tmp_path, rounds, k):
    """Counted before data.Pairs groups them: objects of which half of the keypoints is labelled."""
    points = np.array([[j, 5.0, 2 * (j % 2)] for j in range(10)])
    instances = [
        data.Instance(n, tmp_path / f"{n}.png", 1, points, (0, 0, 40, 40), name="comb")
        for n in range(60)
    ]
    described = {1: [Keypoint(f"tooth {j}", "a tooth") for j in range(10)]}
    tokenizer = tokenizers["tiny"]
    pairs = data.Pairs(
        instances, described, tokenizer, Codec(tokenizer), 28, k=k, rounds=rounds, augment=None
    )
    counts = []
    for epoch in range(20):
        pairs.set_epoch(epoch)
        counts.append(len(pairs))
    options = SimpleNamespace(rounds=rounds, k=k)
    expected = sum(few.estimate_pairs(options, instance) for instance in instances)
    # Of groups of keypoints some hold none that is labelled.
    most = 0.25 if rounds == "fixed" else 0.05
    assert (1 - most) * expected <= np.mean(counts) <= 1.05 * expected


def test_who_wants_adamw_gets_its_learning_rate(folder, monkeypatch):
    options, _ = fill(monkeypatch, folder, "--optimiser", "adamw")
    assert options.tune == "everything" and options.lr == few.PAPER["lr"]


def test_the_help_says_all_defaults(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    with pytest.raises(SystemExit):
        train_options.read_options("", list(data.GROUPINGS))
    shown = " ".join(capsys.readouterr().out.split())
    for text in (
        "(default: lora; of few objects and a small model everything)",
        "(default: 12; of few objects 210 to 742 steps)",
        "(default: 128; of few objects 16 to 32)",
        "(of few objects an eighth of the steps)",
        "(default: 0.0005; of few objects and a small model 0.001)",
    ):
        assert text in shown


def fill_and_check(monkeypatch, folder, *words):
    options = read_options(monkeypatch, folder, *words)
    instances, _ = data.read_split(folder, 1, "train")
    train_options.check_options(options, 0, 1)
    train_options.fill_open_options(options, instances, 0, 1)
    return options


def test_options_are_checked_with_what_was_left_open(folder, monkeypatch):
    """--patience needs --val-every, --share-image a larger --micro-batch: few objects have both."""
    assert fill_and_check(monkeypatch, folder, "--patience", "9").val_every == 25
    assert fill_and_check(monkeypatch, folder, "--share-image").micro_batch == 22
    with pytest.raises(ValueError, match="--patience counts measurements of --val-every"):
        fill_and_check(monkeypatch, folder, "--patience", "9", "--steps", "5")
    with pytest.raises(ValueError, match="--share-image shares within a pass"):
        fill_and_check(monkeypatch, folder, "--share-image", "--steps", "5")


def test_without_a_validation_part_there_is_a_warning(folder, monkeypatch, tmp_path):
    own = shutil.copytree(folder, tmp_path / "own")
    for path in (own / "annotations").glob("*_val.json"):
        path.unlink()
    options, line = fill(monkeypatch, own)
    assert options.val_every is None and options.patience is None
    assert f"no validation part in {own}: nothing tells when training has lasted" in line


def test_training_stops_if_nothing_gets_better(
    folder, model_folder, monkeypatch, tmp_path, capsys
):
    """The best measurement stays, and is named at the end."""
    values = iter([0.2, 0.5, 0.4, 0.46, 0.3, 0.1])

    def measure(*_):
        others = {"PCK@0.20": 0.0, "PCK@0.05": 0.0, "standard_error": 0.05}
        return {"mPCK": next(values)} | others

    monkeypatch.setattr(train, "validate", measure)
    words = ["--batch", "2", "--steps", "20", "--workers", "0", "--out", str(tmp_path / "out")]
    words += ["--val-every", "2", "--patience", "2", "--descriptions", str(folder)]
    command = ["train.py", "--data", str(folder), "--init", str(model_folder), *words]
    monkeypatch.setattr(sys, "argv", command)
    train.main()
    printed = capsys.readouterr().out
    # Within a standard error the later counts as the best: two after it are worse.
    assert "done, worse for 2 measurements" in printed and "step-0000012" in printed
    assert "best: " in printed and "step-0000008, mPCK 46.0 ± 5.0" in printed
    log = (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["step"] == 12
    # Who resumes what has ended changes nothing.
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    monkeypatch.setattr(sys, "argv", [*command, "--resume"])
    train.main()
    assert "done, worse for 2 measurements" in capsys.readouterr().out
    now = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert now == files


def test_a_validation_part_without_objects_is_refused(
    folder, model_folder, monkeypatch, tmp_path, capsys
):
    own = shutil.copytree(folder, tmp_path / "own")
    (path,) = (own / "annotations").glob("*split1_val.json")
    coco = json.loads(path.read_text())
    path.write_text(json.dumps(coco | {"annotations": []}))
    words = ["--init", str(model_folder), "--descriptions", str(own), "--workers", "0"]
    monkeypatch.setattr(sys, "argv", ["train.py", "--data", str(own), *words])
    with pytest.raises(ValueError, match="val.json, has no object that can be used: annotate"):
        train.main()
