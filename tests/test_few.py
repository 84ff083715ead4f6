"""support/few.py: the paper's settings, and those for few photographs where nothing is asked."""

import json
import shutil
import sys

import pytest

import data
import train
from skirts import write_skirts
from support import few, train_options
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


def test_few_images_get_steps_that_teach(folder, monkeypatch):
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


def test_images_with_one_pair_each_have_none_to_share(folder, monkeypatch):
    options, line = fill(monkeypatch, folder, "--k", "8")
    assert (options.batch, options.micro_batch, options.share_image) == (16, 16, False)
    assert "--share-image" not in line


def test_the_line_s_options_give_the_same_run(folder, monkeypatch):
    """Typed, they are accepted, and nothing is left open."""
    options, line = fill(monkeypatch, folder)
    words = line.partition(", so ")[2].partition(" (")[0].split()
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
    assert {name: getattr(options, name) for name in expected} == expected and line == ""


def test_what_is_asked_for_stays(folder, monkeypatch):
    options, line = fill(monkeypatch, folder, "--tune", "lora", "--micro-batch", "2")
    assert (options.tune, options.micro_batch, options.steps) == ("lora", 2, 210)
    assert "--tune" not in line and "--micro-batch" not in line


def test_many_images_get_the_paper_s_settings(folder, monkeypatch):
    monkeypatch.setattr(few, "FEW", 3)
    options, line = fill(monkeypatch, folder)
    assert {name: getattr(options, name) for name in few.PAPER} == few.PAPER and line == ""


def test_a_large_model_keeps_its_adapters(folder, monkeypatch):
    monkeypatch.setattr(few, "SMALL", 1000)
    options, _ = fill(monkeypatch, folder)
    assert options.tune == "lora" and options.steps == 210


def test_without_a_validation_part_there_is_a_warning(folder, monkeypatch, tmp_path):
    own = shutil.copytree(folder, tmp_path / "own")
    for path in (own / "annotations").glob("*_val.json"):
        path.unlink()
    options, line = fill(monkeypatch, own)
    assert options.val_every is None and options.patience is None
    assert "nothing tells when training has lasted long enough" in line


def test_training_stops_if_nothing_gets_better(
    folder, model_folder, monkeypatch, tmp_path, capsys
):
    """The best of the first measurements stays, and is named at the end."""
    values = iter([0.2, 0.5, 0.4, 0.5, 0.3, 0.1])

    def measure(*_):
        return {"PCK@0.20": 0.0, "PCK@0.05": 0.0, "mPCK": next(values)}

    monkeypatch.setattr(train, "validate", measure)
    words = ["--batch", "2", "--steps", "20", "--workers", "0", "--out", str(tmp_path / "out")]
    words += ["--val-every", "2", "--patience", "2", "--descriptions", str(folder)]
    command = ["train.py", "--data", str(folder), "--init", str(model_folder), *words]
    monkeypatch.setattr(sys, "argv", command)
    train.main()
    printed = capsys.readouterr().out
    # Of equal ones the later counts as the best: two after it are no better.
    assert "done, no better for 2 measurements" in printed and "step-0000012" in printed
    assert "best: " in printed and "step-0000008, mPCK 50.0" in printed
    log = (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["step"] == 12
