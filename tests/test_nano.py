"""nano, the embedded model: it looks and it reads, on drawings made for this test of categories it was not trained on."""
import random
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import data
import eval as evaluation
from capellm import CapeLLM
from drawings.dataset import write_dataset
from nano import pretrain
from study import metrics

NANO = data.HERE / "nano"


@pytest.fixture(scope="module")
def model():
    return CapeLLM.from_pretrained(NANO)


@pytest.fixture(scope="module")
def scores(model, tmp_path_factory):
    """PCK of nano and of the controls on 60 drawings with a seed of their own: {"": {...}, "mean": {...}, ...}."""
    folder = tmp_path_factory.mktemp("nano") / "figures"
    write_dataset(folder, seed=20, per_category=3)
    instances, names = data.read_split(folder, 1, "test")
    described = data.describe(instances, names)
    prepared, _ = evaluation.controls(SimpleNamespace(data=folder, split=1, part="test"), instances, names, described)
    look = lambda instance: data.load_crop(instance, model.config.image_size)[0]
    records = [evaluation.measure(model, i, described[i.category], p, look) for i, p in zip(instances, prepared)]
    found = metrics.summary(records)
    return {"": found} | found["controls"]


def test_nano_clears_the_mean_place(scores):
    assert scores[""]["instances"] == 60
    assert scores[""]["PCK@0.10"] > 1.5 * scores["mean"]["PCK@0.10"]
    assert scores[""]["PCK@0.05"] > 2 * scores["mean"]["PCK@0.05"]


@pytest.mark.parametrize("lie", ["other image", "other text"])
def test_nano_loses_half_when_the_image_or_the_text_lies(scores, lie):
    assert scores[lie]["PCK@0.10"] < scores[""]["PCK@0.10"] / 2


def test_nano_follows_the_face(model):
    """The portrait, moved inside a larger photo and mirrored: the points move with it. No truth is needed for that."""
    photo, box = Image.open(data.HERE / "examples" / "astronaut.jpg").convert("RGB"), (86, 40, 54, 53)
    keypoints = data.read_descriptions(data.HERE / "descriptions" / "human_face_68.txt")
    points = torch.tensor(model.locate(photo, keypoints, box))[:, :2]
    larger = Image.new("RGB", (400, 300), "white")
    larger.paste(photo, (100, 30))
    moved = torch.tensor(model.locate(larger, keypoints, (186, 70, 54, 53)))[:, :2]
    assert (moved - points - torch.tensor([100, 30])).norm(dim=1).median() < 0.02 * 54
    mirrored = torch.tensor(model.locate(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT), keypoints, (256 - 86 - 54, 40, 54, 53)))[:, :2]
    chin, brow = 8, 27                                                   # on the axis of the face: no left, no right
    assert (256 - mirrored[[chin, brow], 0] - points[[chin, brow], 0]).abs().max() < 0.15 * 54


def test_nano_loads_in_a_moment():
    """Drawing random weights that a file replaces costs more than all the rest, most of it in importing a compiler."""
    code = f"import sys; from capellm import CapeLLM; CapeLLM.from_pretrained({str(NANO)!r}); print('torch._dynamo' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=data.HERE)
    assert (ran.stdout.strip(), ran.returncode) == ("False", 0), ran.stderr


def test_nano_is_small():
    assert sum(f.stat().st_size for f in NANO.rglob("*") if f.is_file()) < 12_000_000


def test_photographs_enter_in_the_third_phase(tmp_path, model, monkeypatch):
    """Until then a model knows drawings alone; then a fifth of the images are photographs."""
    folders = [tmp_path / "drawings", tmp_path / "photographs"]
    for seed, folder in enumerate(folders):
        write_dataset(folder, seed, per_category=1)
    sampler, seen, original = pretrain.Sampler(folders, model.tokenizer, model.codec), [], data.load_crop
    monkeypatch.setattr(data, "load_crop", lambda i, *a: seen.append(folders[1] in i.image.parents) or original(i, *a))
    sampler.batch(40, random.Random(0))
    assert len(seen) >= 40 and not any(seen)
    seen.clear()
    sampler.batch(200, random.Random(0), rounds=True)
    assert 0.1 < sum(seen) / len(seen) < 0.3


def test_pretraining_continues_as_if_never_interrupted(tmp_path, monkeypatch, one_thread):
    """Stopped between its phases and started again, it ends with the weights, and the optimiser, of a run in one go."""
    write_dataset(tmp_path / "figures", seed=3, per_category=1)

    def run(out, rounds):
        monkeypatch.setattr("sys.argv", ["pretrain", "--data", str(tmp_path / "figures"), "--out", str(tmp_path / out), "--eyes", "2",
                                         "--words", "2", "--names", "1", "--rounds", str(rounds), "--batch", "4"])
        pretrain.main()
        return torch.load(tmp_path / out / "newest.pt", weights_only=True)
    once = run("once", 2)
    assert run("twice", 0)["step"] == 4
    twice = run("twice", 2)
    assert once["step"] == twice["step"] == 6
    assert all(torch.equal(t, twice["module"][n]) for n, t in once["module"].items())
    for a, b in zip(once["optims"], twice["optims"]):
        assert a["param_groups"] == b["param_groups"]
        assert all(torch.equal(t, b["state"][n][k]) for n, state in a["state"].items() for k, t in state.items())
    again = CapeLLM.from_pretrained(tmp_path / "once" / "model")         # what train.py --init reads
    assert again.image_size == pretrain.SIZE and not any(p.isnan().any() for p in again.parameters())


def test_stretched_images_keep_their_points():
    """A white dot stays under its point."""
    for seed in range(40):
        rng = random.Random(seed)
        y, x = rng.randint(30, 80), rng.randint(30, 80)
        pixels = torch.zeros(3, 112, 112)
        pixels[:, y - 2:y + 3, x - 2:x + 3] = 1
        moved, points = pretrain.stretch(pixels, np.array([[(x + 0.5) / 112, (y + 0.5) / 112, 2.0]]), rng)
        weight = moved[0] / moved[0].sum()
        found = [(weight.sum(axis) * (torch.arange(112) + 0.5)).sum().item() / 112 for axis in (0, 1)]
        assert np.abs(points[0, :2] - found).max() < 0.01 and points[0, 2] == 2
