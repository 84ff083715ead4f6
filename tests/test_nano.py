"""nano, the embedded model: it looks and it reads, and its pre-training can be resumed.

It is asked about drawings, made for this test, of categories it was not trained on.
"""

import json
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import data
from capellm import CapeLLM
from drawings.dataset import write_dataset
from nano import pretrain
from study.controls import prepare_controls
from study.measure import Asking, Shown, measure_images
from study.metrics import average_records
from support.descriptions import describe_categories
from support.files import ROOT

NANO = ROOT / "nano"


@pytest.fixture(scope="module")
def model():
    return CapeLLM.from_pretrained(NANO)


@pytest.fixture(scope="module")
def scores(model, tmp_path_factory):
    """PCK on 60 drawings with a seed of their own: {"": of nano, "mean": of a control, ...}."""
    folder = tmp_path_factory.mktemp("nano") / "figures"
    write_dataset(folder, seed=20, per_category=3)
    instances, names = data.read_split(folder, 1, "test")
    described = describe_categories(instances, names)
    prepared, _ = prepare_controls(folder, 1, "test", instances, names, described)

    def look(instance):
        return data.load_crop(instance, model.config.image_size)[0]

    records = []
    for instance, control in zip(instances, prepared, strict=True):
        keypoints = described[instance.category]
        shown = Shown(instance, keypoints, look(instance), control, look(control.other))
        records += measure_images(model, [shown], Asking())
    found = average_records(records)
    return {"": found} | found["controls"]


def test_nano_clears_the_mean_place(scores):
    assert scores[""]["instances"] == 60
    assert scores[""]["PCK@0.10"] > 1.5 * scores["mean"]["PCK@0.10"]
    assert scores[""]["PCK@0.05"] > 2 * scores["mean"]["PCK@0.05"]


@pytest.mark.parametrize("lie", ["other image", "other text"])
def test_nano_loses_half_when_the_image_or_the_text_lies(scores, lie):
    assert scores[lie]["PCK@0.10"] < scores[""]["PCK@0.10"] / 2


def locate(model, photo, keypoints, box):
    """(K, 2) in pixels."""
    return torch.tensor([(p.x, p.y) for p in model.locate(photo, keypoints, box)])


def test_nano_follows_the_face(model):
    """The portrait, moved inside a larger photo and mirrored: the points move with it. No truth is
    needed for that."""
    photo = Image.open(ROOT / "examples" / "astronaut.jpg").convert("RGB")
    keypoints = data.read_descriptions(ROOT / "descriptions" / "human_face_68.txt")
    x, y, w, h = 86, 40, 54, 53
    points = locate(model, photo, keypoints, (x, y, w, h))
    larger = Image.new("RGB", (400, 300), "white")
    larger.paste(photo, (100, 30))
    moved = locate(model, larger, keypoints, (x + 100, y + 30, w, h))
    assert (moved - points - torch.tensor([100, 30])).norm(dim=1).median() < 0.02 * w
    mirrored = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirrored = locate(model, mirrored, keypoints, (photo.width - x - w, y, w, h))
    # On the axis of the face there is no left and right.
    chin, brow = 8, 27
    axis = [chin, brow]
    assert (photo.width - mirrored[axis, 0] - points[axis, 0]).abs().max() < 0.15 * w


def test_nano_loads_in_a_moment():
    """Drawing random weights that a file replaces costs more than all the rest, most of it in
    importing a compiler."""
    code = "import sys; from capellm import CapeLLM; "
    code += f"CapeLLM.from_pretrained({str(NANO)!r}); print('torch._dynamo' in sys.modules)"
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (ran.stdout.strip(), ran.returncode) == ("False", 0), ran.stderr


def test_nano_is_small():
    assert sum(f.stat().st_size for f in NANO.rglob("*") if f.is_file()) < 16_000_000


def test_photographs_enter_in_the_third_phase(tmp_path, model, monkeypatch):
    """Until then a model knows drawings alone; then a fifth of the images are photographs."""
    drawings, photographs = tmp_path / "drawings", tmp_path / "photographs"
    write_dataset(drawings, seed=0, per_category=1)
    write_dataset(photographs, seed=1, per_category=1)
    sampler = pretrain.Sampler([drawings, photographs], model.tokenizer, model.codec)
    are_photographs, original = [], data.load_crop

    def load_crop(instance, *how):
        are_photographs.append(photographs in instance.image.parents)
        return original(instance, *how)

    monkeypatch.setattr(data, "load_crop", load_crop)
    sampler.draw_batch(40, random.Random(0))
    assert len(are_photographs) >= 40 and not any(are_photographs)
    are_photographs.clear()
    sampler.draw_batch(200, random.Random(0), rounds=True)
    assert 0.1 < sum(are_photographs) / len(are_photographs) < 0.3


def run_pretraining(monkeypatch, folder, out, rounds):
    """Two steps of the first and second phase, and `rounds` of the third."""
    arguments = ["--data", folder, "--out", out, "--eyes", 2, "--words", 2, "--names", 1]
    arguments += ["--rounds", rounds, "--batch", 4]
    monkeypatch.setattr("sys.argv", ["pretrain", *map(str, arguments)])
    pretrain.main()
    return load_file(out / "newest.safetensors")


def test_pretraining_continues_as_if_never_interrupted(tmp_path, monkeypatch, one_thread):
    """Stopped between its phases and started again, it ends with the weights, and the optimisers,
    of a run in one go."""
    folder = tmp_path / "figures"
    write_dataset(folder, seed=3, per_category=1)
    once = run_pretraining(monkeypatch, folder, tmp_path / "once", rounds=2)
    half = run_pretraining(monkeypatch, folder, tmp_path / "twice", rounds=0)
    twice = run_pretraining(monkeypatch, folder, tmp_path / "twice", rounds=2)
    kinds = {name.partition("/")[0] for name in once}
    assert kinds == {"module", "optimiser 0", "optimiser 1"}
    assert once.keys() == twice.keys() >= half.keys()
    assert all(torch.equal(tensor, twice[name]) for name, tensor in once.items())
    assert not all(torch.equal(tensor, twice[name]) for name, tensor in half.items())
    # What train.py --init reads.
    again = CapeLLM.from_pretrained(tmp_path / "once" / "model")
    assert again.config.image_size == pretrain.SIZE
    assert not any(p.isnan().any() for p in again.parameters())


def test_a_second_run_goes_on_from_the_first_at_a_larger_size(tmp_path, monkeypatch, one_thread):
    """It starts from what the first one answers; photographs come at once."""
    folder, photographs = tmp_path / "figures", tmp_path / "photographs"
    write_dataset(folder, seed=3, per_category=1)
    write_dataset(photographs, seed=4, per_category=1)
    run_pretraining(monkeypatch, folder, tmp_path / "first", rounds=1)
    first = tmp_path / "first" / "model"
    model = CapeLLM.from_pretrained(first)
    pixels = torch.rand(3, 168, 168, generator=torch.Generator().manual_seed(0))
    asked = [data.Keypoint("left eye", "the eye on the left")]
    # DINOv2 itself resamples its positions for a photo of another size (Table 8).
    larger = pretrain.enlarge_model(first, 168).eval()
    assert larger.vision.config.image_size == 168
    assert larger.answer(pixels, asked) == model.answer(pixels, asked)

    read, original = [], data.load_crop

    def load_crop(instance, size, *how):
        read.append((photographs in instance.image.parents, size))
        return original(instance, size, *how)

    monkeypatch.setattr(data, "load_crop", load_crop)
    arguments = ["--data", folder, photographs, "--out", tmp_path / "second", "--init", first]
    arguments += ["--size", 168, "--photos", 0.5, "--batch", 8]
    arguments += ["--eyes", 2, "--words", 0, "--names", 0, "--rounds", 1]
    monkeypatch.setattr("sys.argv", ["pretrain", *map(str, arguments)])
    pretrain.main()
    assert {size for _, size in read} == {168}
    assert 0.2 < sum(is_photograph for is_photograph, _ in read) / len(read) < 0.8
    second = CapeLLM.from_pretrained(tmp_path / "second" / "model")
    assert second.config.image_size == 168
    assert second.tokenizer.fingerprint == model.tokenizer.fingerprint


@pytest.mark.parametrize(
    "arguments, problem",
    [
        (["--init", "a", "--llm", "b"], "--init names both backbones"),
        (["--init", "a", "--vision", "hiera"], "--init names both backbones"),
        (["--size", "100"], "--size 100: expected a multiple of 14"),
        (["--photos", "1.5"], "--photos 1.5: expected a share from 0 to 1"),
        (["--photos", "nan"], "--photos nan: expected a share from 0 to 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments, problem, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pretrain", *arguments])
    with pytest.raises(ValueError, match=problem):
        pretrain.main()


def test_only_an_earlier_run_is_gone_on_from(model_folder):
    with pytest.raises(ValueError, match="its vision encoder is none that this script makes"):
        pretrain.enlarge_model(model_folder, 168)


def test_stretched_images_keep_their_points():
    """A white dot stays under its point."""
    for seed in range(40):
        rng = random.Random(seed)
        y, x = rng.randint(30, 80), rng.randint(30, 80)
        pixels = torch.zeros(3, 112, 112)
        pixels[:, y - 2:y + 3, x - 2:x + 3] = 1
        points = np.array([[(x + 0.5) / 112, (y + 0.5) / 112, 2.0]])
        moved, points = pretrain.stretch(pixels, points, rng)
        weight, centres = moved[0] / moved[0].sum(), torch.arange(112) + 0.5
        found = [(weight.sum(axis) * centres).sum().item() / 112 for axis in (0, 1)]
        assert np.abs(points[0, :2] - found).max() < 0.01 and points[0, 2] == 2


def test_the_pointer_starts_at_the_token_before_the_first_digit(model, tmp_path):
    """It is read once an answer, at the answer's opening, whatever stands in front of it."""
    write_dataset(tmp_path / "drawings", seed=0, per_category=1)
    size = model.config.image_size
    sampler = pretrain.Sampler([tmp_path / "drawings"], model.tokenizer, model.codec, size)
    batch = sampler.draw_batch(4, random.Random(0), rounds=True)
    asked = 0
    for conversations in batch.branches:
        for conversation in conversations:
            openings = 0
            for n, label in enumerate(conversation.labels):
                if label != data.IGNORE and conversation.labels[n - 1] == data.IGNORE:
                    assert label == model.codec.open[0]
                    openings += 1
            asked += openings
    assert asked == len(batch.answers) > 0
    module = pretrain.Grounding(model, sampler.keypoints)
    loss, parts = module(batch, words=True)
    assert parts.keys() == {"loss", "pointer", "eyes", "patch"} and loss.isfinite()


def list_other_values(value):
    """Values that another file could have in the place of one."""
    if isinstance(value, bool) or value is None:
        return [not value, "yes"]
    if isinstance(value, (int, float)):
        return [value * 2, value * 3, value // 2, value + 1, -value, 0, str(value), None, 10**9]
    return ["other", 3, None]


def list_changes(entries):
    """Copies of a config.json in which one entry differs or is absent."""
    for name, value in entries.items():
        yield {key: entries[key] for key in entries if key != name}
        for other in list_other_values(value):
            yield entries | {name: other}
    yield entries | {"num_key_value_heads": 1}
    yield entries | {"head_dim": 16}
    yield entries | {"rope_parameters": {"rope_type": "default", "rope_theta": 10001}}
    yield entries | {"layerscale_value": 2}


@pytest.mark.parametrize("part", ["vision", "llm"])
def test_another_config_is_refused_or_answers_as_before(part, model, tmp_path):
    """Also where the same tensors fit it: twice the heads, other frequencies, another epsilon."""
    folder = shutil.copytree(NANO, tmp_path / "nano")
    file = folder / part / "config.json"
    entries = json.loads(file.read_bytes())
    pixels = torch.rand(3, 168, 168, generator=torch.Generator().manual_seed(0))
    keypoints = [data.Keypoint("left eye", "the eye on the left")]
    expected = model.answer(pixels, keypoints)
    refused = 0
    for changed in list_changes(entries):
        file.write_text(json.dumps(changed))
        try:
            other = CapeLLM.from_pretrained(folder)
        except (ValueError, FileNotFoundError) as error:
            assert str(folder) in str(error) and "\n" not in str(error), error
            refused += 1
        else:
            assert other.answer(pixels, keypoints) == expected, changed
    assert refused > 40
