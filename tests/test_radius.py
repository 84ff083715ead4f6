"""support/radius.py against every code in plain loops; study/coverage.py against circles that are
known."""

import itertools
import json
import math
import shutil
import sys

import numpy as np
import pytest
import torch

from capellm import CapeLLM
from evaluations import write_kites_and_boats
from helpers import keypoints, photo, photos
from study import coverage
from study.coverage import Coverage
from support import radius
from support.files import ROOT
from support.passes import Decoded

STEP = 2**0.5 / 2**radius.HALVINGS


def draw_digits(K, base, n=12, seed=0):
    """(p (n, 2 K, base), digits (n, 2 K)); some p are sharp, some flat."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 2 * K, base, generator=generator, dtype=torch.float64)
    sharpness = torch.linspace(0.3, 8, n)[:, None, None]
    return (logits * sharpness).softmax(-1), torch.randint(base, (n, 2 * K), generator=generator)


def spread_in_loops(p, digits):
    """{distance in codes: mass}: a digit that was not chosen counts at its nearest code."""
    K, base = p.shape
    codes = list(itertools.product(range(base), repeat=K))
    number = {code: n for n, code in enumerate(codes)}
    own, found = number[tuple(digits.tolist())], {}
    for k in range(K):
        begins = tuple(digits[:k].tolist())
        before = math.prod(float(p[j, digits[j]]) for j in range(k))
        for digit in range(base):
            prefix = (*begins, digit)
            if digit == digits[k] and k < K - 1:
                continue
            nearest = min(abs(number[c] - own) for c in codes if c[: k + 1] == prefix)
            found[nearest] = found.get(nearest, 0) + before * float(p[k, digit])
    return found


@pytest.mark.parametrize("K, base", [(3, 10), (1, 60), (2, 6)])
def test_the_radius_is_that_of_all_codes(K, base):
    p, digits = draw_digits(K, base, n=6)
    for level in (0.5, radius.LEVEL):
        found = radius.measure_radii(p, digits, level)
        for each_p, each_digits, r in zip(p, digits, found.tolist(), strict=True):
            x = spread_in_loops(each_p[:K], each_digits[:K])
            y = spread_in_loops(each_p[K:], each_digits[K:])
            assert sum(x.values()) == pytest.approx(1) and sum(y.values()) == pytest.approx(1)
            held = 0
            pairs = itertools.product(x.items(), y.items())
            places = [(math.hypot(dx, dy), p_x * p_y) for (dx, p_x), (dy, p_y) in pairs]
            for place, mass in sorted(places):
                held, distance = held + mass, place / base**K
                if held >= level:
                    break
            assert distance - 1e-9 <= r <= distance + STEP


def test_one_token_for_a_coordinate_gives_the_exact_circle():
    """With K = 1 nothing is cut off: the circle holds its share of p(x, y) itself."""
    p, digits = draw_digits(1, 1000, n=4)
    values = torch.arange(1000) / 1000
    found = radius.measure_radii(p, digits)
    for (p_x, p_y), (x, y), r in zip(p, digits / 1000, found, strict=True):
        distance = torch.hypot(values[:, None] - x, values - y)
        joint = p_x[:, None] * p_y
        assert joint[distance <= r + 1e-9].sum() >= radius.LEVEL
        assert joint[distance < r - STEP].sum() < radius.LEVEL


def test_who_is_sure_has_the_least_circle():
    p = torch.zeros(1, 6, 10, dtype=torch.float64)
    p[:, :, 4] = 1
    sure = [Decoded([4] * 6, 1.0, p[0])]
    assert radius.find_radii(sure) == [radius.LEAST] and radius.find_radii([]) == []
    # Half of the time the first digit of x is another one: 0.500 is the nearest that begins with 5.
    p[0, 0, 4] = p[0, 0, 5] = 0.5
    assert radius.find_radii(sure, 2) == pytest.approx([2 * (0.5 - 0.444)], abs=2 * STEP)
    assert radius.find_radii([Decoded([0.5, 0.5], 1.0)]) == [None]


def test_locating_gives_pixels_of_the_image(model):
    image, asked = photo(90, 70), keypoints(5)
    (box, larger), found = ((5, 5, 40, 30), (0, 0, 80, 70)), []
    for b in (box, larger):
        answers = model.answer(model.look(image, b)[0], asked)
        points = model.locate(image, asked, b)
        assert [point.radius for point in points] == pytest.approx(
            [max(b[2:]) * r for r in answers.radii]
        )
        found.append(answers.radii)
    assert found[0] != found[1]


def test_no_pass_is_added(model, monkeypatch):
    """The image and its questions, then a digit at a time, and nothing for the circles."""
    calls, forward = [], model.llm.forward
    monkeypatch.setattr(model.llm, "forward", lambda *a, **k: calls.append(a) or forward(*a, **k))
    assert None not in model.answer(photos(1)[0], keypoints(4)).radii
    assert len(calls) == 1 + 2 * model.codec.K


def test_each_folder_counts_the_same():
    """Many sure truths in one folder do not outvote a few unsure ones in another."""
    sure = Coverage(np.ones(1000), np.linspace(0, 1, 1000))
    unsure = Coverage(np.ones(10), np.linspace(1, 10, 10))
    # Both hold 0.9 of a folder: of both together 0.9 is 0.8 of the second.
    ratios = [found.distances / found.radii for found in (sure, unsure)]
    factor = radius.find_radius_scale(ratios)
    assert factor == 8 and (sure.count_held(factor) + unsure.count_held(factor)) / 2 == 0.9
    assert radius.find_radius_scale(ratios[:1]) == pytest.approx(0.9, abs=1e-3)
    assert radius.find_radius_scale([np.zeros(3)]) == radius.LEAST_FACTOR


@pytest.fixture
def call(tmp_path, model_folder, monkeypatch):
    """study.coverage of kites and boats; returns the model folder."""
    folder = write_kites_and_boats(tmp_path / "data")
    shutil.copytree(model_folder, tmp_path / "model")

    def call(*more):
        words = ["--model", tmp_path / "model", "--data", folder, "--part", "test"]
        words += ["--descriptions", folder / "texts", *more]
        monkeypatch.setattr(sys, "argv", ["coverage", *map(str, words)])
        coverage.main()
        return tmp_path / "model"

    return call


def test_nano_s_circles_hold_nine_of_ten_as_measured():
    """Of `make radii`, on images that its factor was not measured on."""
    found = json.loads((ROOT / "results/radii.json").read_text())
    assert found["factor"] == json.loads((ROOT / "nano/config.json").read_text())["radius_scale"]
    holds = {row["set"]: row["holds"] for row in found["rows"]}
    assert holds.keys() == {"figures", "people", "hands", "faces"}
    assert all(85 <= percent <= 95 for percent in holds.values())


def test_a_calibrated_model_holds_nine_of_ten(call, model_folder, capsys):
    model = call()
    before = json.loads((model / "config.json").read_text())
    assert "radius_scale" not in before or before["radius_scale"] is None
    call("--calibrate")
    after = json.loads((model / "config.json").read_text())
    assert after.pop("radius_scale") == CapeLLM.from_pretrained(model).config.radius_scale > 0
    before.pop("radius_scale", None)
    assert after == before
    capsys.readouterr()
    call()
    out = capsys.readouterr().out
    held = float(out.split("hold ")[1].split("%")[0])
    keypoints_asked = int(out.split(" keypoints")[0].split()[-1])
    assert 90 <= held + 0.05 and held <= 90 + 100 / keypoints_asked + 0.1
    scale = float(out.split("radius_scale ")[1])
    assert scale == pytest.approx(CapeLLM.from_pretrained(model).config.radius_scale, abs=2e-3)
