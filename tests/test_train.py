"""train.py on a tiny data folder: interrupted and resumed, alone and as two processes, its first step by hand."""
import json
import os
import re
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import data
import train
from capellm import CapeLLM


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """13 photos of skirts with 8 keypoints each, some hidden: 24 pairs of 4 rounds."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "annotations").mkdir()
    (folder / "images").mkdir()
    rng, images, annotations = np.random.default_rng(0), [], []
    for i in range(13):
        Image.fromarray(rng.integers(0, 256, (50, 60, 3), np.uint8)).save(folder / "images" / f"{i}.png")
        points = np.c_[rng.uniform(12, 42, 8), rng.uniform(12, 38, 8), [2] * 8]
        points[:4 * (i > 10)] = 0
        images.append({"id": i, "file_name": f"{i}.png", "width": 60, "height": 50})
        annotations.append({"id": i, "image_id": i, "category_id": 1, "bbox": [8, 8, 40, 34], "keypoints": points.ravel().tolist()})
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "skirt"}]}
    (folder / "annotations" / "mp100_split1_train.json").write_text(json.dumps(coco))
    (folder / "skirt.txt").write_text("".join(f"{name}:\n" for name in "abcdefgh"))     # short, for the tests' sake
    return folder


@pytest.fixture(scope="module")
def init(model_folder, tmp_path_factory):
    """Model folders by their LoRA dropout."""
    def copy(dropout):
        target = tmp_path_factory.mktemp("init") / "model"
        shutil.copytree(model_folder, target)
        config = json.loads((target / "config.json").read_text())
        config["lora"] |= {"dropout": dropout}
        (target / "config.json").write_text(json.dumps(config))
        return target
    return {dropout: copy(dropout) for dropout in (0.0, 0.3)}


def command(folder, start, out, **options):
    options = {"data": folder, "init": start, "descriptions": folder, "out": out, "batch": 8, "workers": 0, "steps": 6} | options
    return [str(word) for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value) if value != ""]


def run(monkeypatch, *arguments, **options):
    monkeypatch.setattr(sys, "argv", ["train.py", *command(*arguments, **options)])
    train.train(train.arguments())


def adapters(out):
    """{step: tensors} of a run's checkpoints."""
    return {int(p.name[5:]): load_file(p / "adapter.safetensors") for p in train.checkpoints(out)}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(t, b[n]) for n, t in a.items())


# The schedule and the order of pairs

@pytest.mark.parametrize("steps", [2, 10, 100, 1234])
def test_schedule(steps):
    factors = [train.schedule(step, steps) for step in range(steps)]
    warm = max(1, round(0.03 * steps))
    assert factors[:warm] == [(i + 1) / warm for i in range(warm)] and max(factors) == 1
    assert train.schedule(steps, steps) == pytest.approx(0, abs=1e-12)
    rest = np.array([train.schedule(step, steps) for step in range(warm, steps + 1)])
    assert (np.diff(rest) < 0).all()
    np.testing.assert_allclose(rest + rest[::-1], 1, atol=1e-12)         # half a cosine is odd about its middle
    if len(rest) > 4:                                                    # and flat at its ends
        assert rest[0] - rest[1] < rest[len(rest) // 2 - 1] - rest[len(rest) // 2]


@pytest.mark.parametrize("world, micro", [(1, 1), (1, 4), (2, 1), (2, 2), (4, 2), (8, 1)])
def test_the_processes_share_each_steps_pairs(world, micro):
    pairs, batch = range(45), 8
    shares = [list(train.order(pairs, rank, world, batch, micro)) for rank in range(world)]
    passes = batch // (world * micro)
    assert all(len(share) == 5 * passes and {len(p) for p in share} == {micro} for share in shares)
    for step in range(5):
        together = [i for share in shares for p in share[step * passes:(step + 1) * passes] for i in p]
        assert sorted(together) == list(range(step * batch, (step + 1) * batch))


# Runs

def test_resumed_equals_uninterrupted(folder, init, tmp_path, monkeypatch):
    """Bit by bit, within an epoch (3 steps), with augmentation and with dropout, and whoever loads the images."""
    run(monkeypatch, folder, init[0.3], tmp_path / "whole", save_every=2)
    whole = adapters(tmp_path / "whole")
    assert sorted(whole) == [2, 4, 6] and not equal(whole[4], whole[6])
    shutil.copytree(tmp_path / "whole" / "step-0000004", tmp_path / "cut" / "step-0000004")
    (tmp_path / "cut" / "step-0000006.partial").mkdir()                  # what a crash may leave
    torch.manual_seed(1234)
    monkeypatch.setattr(sys, "argv", ["train.py", *command(folder, init[0.3], tmp_path / "cut", save_every=2, workers=1), "--resume"])
    train.train(train.arguments())
    assert equal(adapters(tmp_path / "cut")[6], whole[6])
    states = [torch.load(tmp_path / n / "step-0000006" / "state.pt", weights_only=True) for n in ("whole", "cut")]
    assert all(torch.equal(a["exp_avg_sq"], b["exp_avg_sq"]) for a, b in zip(*(s["optimiser"]["state"].values() for s in states)))
    logs = [[json.loads(line) for line in (tmp_path / n / "log.jsonl").read_text().splitlines()] for n in ("whole", "cut")]
    assert [r["step"] for r in logs[0]] == [1, 2, 3, 4, 5, 6] and [r["step"] for r in logs[1]] == [5, 6]
    assert [(r["loss"], r["lr"]) for r in logs[0][4:]] == [(r["loss"], r["lr"]) for r in logs[1]]
    assert [r["lr"] for r in logs[0]] == [5e-4 * train.schedule(i, 6) for i in range(6)]


def test_only_the_newest_checkpoints_are_kept(folder, init, tmp_path, monkeypatch):
    run(monkeypatch, folder, init[0.0], tmp_path / "out", save_every=1, batch=2, steps=5)
    assert sorted(adapters(tmp_path / "out")) == [3, 4, 5] and train.KEEP == 3
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["log.jsonl", *(f"step-000000{i}" for i in (3, 4, 5))]
    CapeLLM.from_pretrained(tmp_path / "out" / "step-0000005")           # a checkpoint is a model folder


def test_the_first_step_is_adamw_by_hand(folder, init, tmp_path, monkeypatch):
    """lr 5e-4, weight decay 0.01 on LoRA and projection, nothing else trained: p (1 - lr wd) - lr g / (|g| + eps)."""
    models = []
    original = CapeLLM.from_pretrained.__func__

    def spy(cls, *arguments, **options):
        models.append(original(cls, *arguments, **options))
        return models[-1]

    monkeypatch.setattr(CapeLLM, "from_pretrained", classmethod(spy))
    run(monkeypatch, folder, init[0.0], tmp_path / "out", steps=1)
    trained, start = models[0], original(CapeLLM, init[0.0], merge=False)
    tuned = start.adapter()
    assert tuned.keys() == adapters(tmp_path / "out")[1].keys()
    assert all(any(part in n for n in tuned) for part in ("vision.", "llm.", "projection."))
    before, after = start.state_dict(), trained.state_dict()
    assert all(torch.equal(after[n], t) for n, t in before.items() if n not in tuned)        # frozen, to the last bit
    instances, names = data.read_split(folder)
    pairs = data.Pairs(instances, data.describe(instances, names, folder), start.tokenizer, start.codec, 28)
    for i in range(8):                                                   # the mean over pairs of each pair's mean over tokens
        pixels, ids, labels = pairs[i]
        (start.loss(pixels[None], [[(ids, labels)]]) / 8).backward()
    assert len(pairs) == 24
    moved = 0
    for name, p in start.named_parameters():
        if name in tuned:
            expected = p.detach() * (1 - 5e-4 * 0.01) - 5e-4 * p.grad / (p.grad.abs() + 1e-8)
            clear = (p.grad.abs() > 1e-6) | (p.grad == 0)                # where rounding cannot turn the sign
            torch.testing.assert_close(after[name][clear], expected[clear], atol=2e-5, rtol=0)
            moved += int((clear & (p.grad != 0)).sum())
        else:
            assert p.grad is None
    assert moved > 1000
    state = torch.load(tmp_path / "out" / "step-0000001" / "state.pt", weights_only=True)
    (group,) = state["optimiser"]["param_groups"]
    assert (group["weight_decay"], group["lr"], tuple(group["betas"])) == (0.01, 5e-4, (0.9, 0.999))
    assert len(group["params"]) == len(tuned)


def test_two_processes_equal_one(folder, init, tmp_path, monkeypatch):
    """The same pairs make a step, whoever computes them. Dropout is off here: every process has its own."""
    arguments = command(folder, init[0.0], tmp_path / "two", steps=4)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(data.HERE)}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*launcher, str(data.HERE / "train.py"), *arguments], env=environment, capture_output=True,
                          text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    two = adapters(tmp_path / "two")[4]
    run(monkeypatch, folder, init[0.0], tmp_path / "one", steps=4)
    one, start = adapters(tmp_path / "one")[4], load_file(init[0.0] / "adapter.safetensors")
    assert one.keys() == two.keys() and max(float((t - start[n]).abs().max()) for n, t in one.items()) > 1e-3
    for name in one:                                                     # where a gradient is nothing but rounding, AdamW may go either way
        assert float(((one[name] - two[name]).abs() > 2e-5).float().mean()) < 0.01, name
    logs = [[json.loads(line)["loss"] for line in (tmp_path / n / "log.jsonl").read_text().splitlines()] for n in ("one", "two")]
    np.testing.assert_allclose(*logs, atol=2e-4)


def test_training_lowers_the_loss(folder, init, tmp_path, monkeypatch):
    run(monkeypatch, folder, init[0.0], tmp_path / "out", steps=24, lr=0.02)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 1


# What is refused

def refused(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(data.HERE / "train.py"), run_name="__main__")
    assert exit.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("train.py: ")
    return lines[0]


def test_an_earlier_run_is_not_overwritten(folder, init, tmp_path, monkeypatch, capsys):
    shutil.copytree(init[0.0], tmp_path / "out" / "step-0000003")
    error = refused(monkeypatch, capsys, command(folder, init[0.0], tmp_path / "out"))
    assert str(tmp_path / "out") in error and "--resume" in error
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["step-0000003"]


def test_another_number_of_processes(folder, init, tmp_path, monkeypatch, capsys):
    run(monkeypatch, folder, init[0.0], tmp_path / "out", steps=1, batch=1)
    state = tmp_path / "out" / "step-0000001" / "state.pt"
    torch.save(torch.load(state, weights_only=True) | {"random": torch.zeros(4, 10, dtype=torch.uint8)}, state)
    capsys.readouterr()
    error = refused(monkeypatch, capsys, [*command(folder, init[0.0], tmp_path / "out"), "--resume"])
    assert "written by 4 processes, here are 1" in error


@pytest.mark.parametrize("options, message", [
    ({"batch": 3, "micro_batch": 2}, "--batch 3 cannot be split into 1 processes x --micro-batch 2"),
    ({"batch": 99}, "24 pairs .* make no batch of 99"),
    ({"split": 2}, "mp100_split2_train.json is missing"), ({"init": "nowhere"}, "nowhere is no model folder")])
def test_wrong_input(folder, init, tmp_path, monkeypatch, capsys, options, message):
    error = refused(monkeypatch, capsys, command(folder, init[0.0], tmp_path / "out", **options))
    assert re.search(message, error) and not (tmp_path / "out").exists()
