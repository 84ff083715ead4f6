"""measure.py: models that know the truth by what they are shown and asked."""

import numpy as np
import pytest
import torch

import data
from study import controls, metrics
from study.measure import Asking, measure
from support.descriptions import describe
from test_controls import prepared
from test_eval import NAMES, folder  # noqa: F401 a fixture
from test_metrics import pck_in_loops


class Oracle:
    """Knows the truth by the pixels it is shown and the name it is asked: what a control exchanges, it gets wrong."""

    image_size = 28

    def __init__(self, truths):
        self.truths = truths

    def answer(self, pixels, keypoints, **_):
        return [self.truths[pixels][k.name] for k in keypoints], [1.0] * len(keypoints)


def test_who_looks_and_reads_is_right_and_falls_with_the_controls(folder):
    instances, described, found, _ = prepared(folder)
    truths = {}
    for i in instances:
        relative = data.to_crop(i.keypoints[:, :2], data.crop_affine(i.bbox, 28), 28)
        truths[i.id] = {k.name: place for k, place in zip(described[i.category], relative)}
    records = [
        measure(Oracle(truths), i, described[i.category], c, lambda i: i.id)
        for i, c in zip(instances, found)
    ]
    r, _ = metrics.report(records, {500: "kite", 501: "boat"}, 1)
    assert [r[n] for n in NAMES] == [1] * 5 == [r["definitions"]["kite"][n] for n in NAMES]
    assert r["AUC"] > 0.999 and r["NME"] < 1e-3
    assert r["controls"]["other image"]["mPCK"] < 0.9 and r["controls"]["other text"]["mPCK"] < 0.9
    # A score per image and control, restated for the first one: another image's places, mapped into this one's box.
    (mean, other, exchange), i = found[0], instances[0]
    side, (bx, by, w, h) = max(i.bbox[2:]), i.bbox
    corner = np.array([bx + w / 2 - side / 2, by + h / 2 - side / 2])
    for name, relative in (
        ("mean", mean),
        ("other image", [truths[other.id][k.name] for k in described[500]]),
        ("other text", [truths[i.id][exchange[k].name] for k in described[500]]),
    ):
        expected = pck_in_loops(
            np.array(relative) * side + corner,
            i.keypoints[:, :2].astype(float),
            i.keypoints[:, 2],
            side,
        )
        assert [records[0]["controls"][name][n] for n in NAMES] == pytest.approx(expected)


def grey_at(pixels, point):
    x, y = (int(v * pixels.shape[-1]) for v in point)
    return bool((pixels[:, y, x] == controls.GREY[:, 0, 0]).all())


class Finder:
    """Sees where a keypoint is unless grey covers it. Tells how it was asked."""

    def __init__(self, instance, keypoints):
        affine = data.crop_affine(instance.bbox, 1)
        self.truths = dict(zip(keypoints, data.to_crop(instance.keypoints[:, :2], affine, 1)))
        self.calls = []

    def answer(self, pixels, keypoints, **inference):
        self.calls.append((pixels, keypoints, inference))
        places = [
            (0.0, 0.0) if grey_at(pixels, self.truths[k]) else self.truths[k] for k in keypoints
        ]
        return places, [0.5] * len(keypoints)


def test_occluded_keypoints_are_told_from_those_in_sight(folder):
    instances, names = data.read_split(folder, 1, "test")
    described, look, falls = (
        describe(instances, names, folder / "texts"),
        lambda i: data.load_crop(i, 56)[0],
        0,
    )
    for i in instances:
        model, keypoints = Finder(i, described[i.category]), described[i.category]
        controls = measure(model, i, keypoints, None, look, {"seed": 3}, (0.6, 0.3))["controls"]
        for (pixels, asked, _), share in zip(model.calls[1:], ("30%", "60%"), strict=True):
            seen = [not grey_at(pixels, model.truths[k]) for k in asked]
            assert controls[f"{share} covered"]["PCK@0.05"] == pytest.approx(np.mean(seen))
            in_sight = controls.get(f"{share} covered, keypoints in sight")
            assert (in_sight is not None) == any(seen)
            if any(seen):
                assert list(in_sight["distances"]) == [k.name for k, s in zip(asked, seen) if s]
                assert in_sight["PCK@0.05"] == 1
            falls += not all(seen)
        again = Finder(i, keypoints)
        measure(again, i, keypoints, None, look, {"seed": 3}, (0.3, 0.6))
        assert all(torch.equal(a[0], b[0]) for a, b in zip(model.calls, again.calls, strict=True))
    assert falls > 3


def test_how_to_answer_reaches_the_model_with_a_seed_for_each_image(folder):
    instances, names = data.read_split(folder, 1, "test")
    described, look, seeds = (
        describe(instances, names, folder / "texts"),
        lambda i: data.load_crop(i, 28)[0],
        [],
    )
    for i in instances[:3] * 2:
        model, inference = (
            Finder(i, described[i.category]),
            {"decoding": "top-3", "cumulative": True, "seed": 5},
        )
        record = measure(model, i, described[i.category], None, look, inference)
        ((_, asked, passed),) = model.calls
        assert (
            passed
            == inference
            | {"seed": passed["seed"], "category": i.name, "listed": described[i.category]}
            and inference["seed"] == 5
        )
        seeds.append(passed["seed"])
        assert (
            asked == described[i.category]
        )  # all of them: who is asked does not tell which are labelled
        assert list(record["predictions"]) == [
            k.name for k, v in zip(asked, i.keypoints[:, 2]) if v > 0
        ]
        assert record["PCK@0.05"] == 1  # each answer is compared with its own truth
    assert seeds[:3] == seeds[3:] and len(set(seeds)) == 3
