"""calibration.py: densities that are known, Gaussians in a loop, intervals by resampling."""

import math
import random
from collections import Counter

import numpy as np
import pytest
import torch

from study import calibration, density, metrics, pairs
from support.descriptions import Keypoint
from test_density import VALUES, mixture

NAMES = {900: "kite", 901: "boat"}


def mass_around(p, place, radius):
    distance = np.hypot(VALUES[:, None] - place[0], VALUES - place[1])
    return float(p[torch.tensor(distance < radius - 1e-9)].sum())


def test_what_follows_from_known_densities(monkeypatch):
    """Two hills, the lower one wider: the likeliest answer is not the best for every threshold."""
    known = {
        "a": mixture((0.3, (0.2, 0.2), 0.004), (0.7, (0.7, 0.6), 0.06)),
        "b": density.make_gaussian((0.4, 0.9), 0.03),
    }

    def answer_known(model, pixels, keypoint):
        return density.Density(known[keypoint.name], 0.125, ord(keypoint.name))

    monkeypatch.setattr(density, "compute_density", answer_known)
    asked, thresholds = [Keypoint(name, "") for name in "ab"], (0.02, 0.2)
    truths = np.array([(0.71, 0.55), (0.4, 1.02)])
    points, numbers = calibration.compare_with_truths(
        None, None, asked, truths, truths / 2, thresholds, random.Random(0)
    )
    assert {len(places) for places in points.values()} == {2}
    assert points["mode"][0] == pytest.approx((0.2, 0.2), abs=0.002)
    assert points["mode"][1] == (0.4, 0.9)
    mean = (0.3 * 0.2 + 0.7 * 0.7, 0.3 * 0.2 + 0.7 * 0.6)
    assert points["mean"][0] == pytest.approx(mean, abs=0.001)
    narrow, wide = points["PCK-optimal"][0]
    assert narrow == pytest.approx((0.2, 0.2), abs=0.01)
    assert wide == pytest.approx((0.7, 0.6), abs=0.02)
    for t, best in zip(thresholds, (narrow, wide), strict=True):
        most = mass_around(known["a"], best, t)
        for name, places in points.items():
            if name != "PCK-optimal":
                assert most >= mass_around(known["a"], places[0], t) - 1e-9
    (smoothed,) = (name for name in points if "smoothed" in name)
    assert math.dist(points[smoothed][1], (0.4, 0.9)) < 0.03

    a, b = numbers["a"], numbers["b"]
    assert a["truth"] == [0.71, 0.55] and a["greedy"] == [0.355, 0.275] and a["spread"] == 0.125
    assert (a["prefixes"], b["prefixes"]) == (ord("a"), ord("b"))
    hill = (0.01**2 + 0.05**2) / (2 * 0.06**2) + math.log(2 * math.pi * 0.06**2)
    assert a["nll"] == pytest.approx(hill - math.log(0.7), abs=0.01)
    # A truth outside of the crop has no density.
    assert b.keys() == {"truth", "greedy", "entropy", "spread", "prefixes"}
    expected = math.log(2 * math.pi * math.e * 0.03**2)
    assert b["entropy"] == pytest.approx(expected, abs=0.02)


def score(distances):
    return metrics.score_distances(list(distances.values()), 100) | {"distances": distances}


def draw_numbers(rng, truth, deviation):
    """What a density says of one keypoint, at random."""
    greedy = (np.array(truth) + rng.normal(0, deviation, 2)).clip(0, 0.999).tolist()
    found = {"truth": truth, "greedy": greedy, "nll": rng.normal(), "entropy": rng.normal()}
    return found | {"level": rng.random(), "spread": rng.random()}


def draw_records(n):
    """Records of two categories of 3 keypoints.

    "PCK-optimal" are answers for each threshold that are half as far off as greedy ones.
    """
    rng, records = np.random.default_rng(6), []
    for i in range(n):
        distances = dict(zip("abc", rng.uniform(0, 40, 3).tolist(), strict=True))
        own = {k: [d / 2] * 5 for k, d in distances.items()}
        truths = zip("abc", rng.uniform(0.1, 0.9, (3, 2)).tolist(), strict=True)
        numbers = {k: draw_numbers(rng, truth, 0.02 + 0.06 * (i % 2)) for k, truth in truths}
        # A truth outside of the crop.
        if i < 4:
            del numbers["b"]["nll"], numbers["b"]["level"]
        r = {"id": i, "category": 900 + i % 2, "size": 100, "controls": {}, **score(distances)}
        points = {"mean": score(distances), "PCK-optimal": score(own)}
        records.append(r | {"density": numbers, "points": points})
    return records


def test_points_of_densities_and_their_gain():
    records = draw_records(40)
    found = calibration.average_points(records)
    assert list(found) == ["greedy", "mean", "PCK-optimal", "PCK-optimal minus greedy"]
    assert found["greedy"] == found["mean"]
    halves = []
    for r in records:
        distances = [d / 2 for d in r["distances"].values()]
        halves.append({**r, **metrics.score_distances(distances, 100)})
    half, gain = metrics.average_records(halves), found["PCK-optimal minus greedy"]
    for column in metrics.COLUMNS:
        assert found["PCK-optimal"][column] == pytest.approx(half[column])
        assert gain[column] == pytest.approx(half[column] - found["greedy"][column])
    assert gain["intervals"].keys() == set(metrics.METRICS)
    for metric, (low, high) in gain["intervals"].items():
        assert low - 1e-9 <= gain[metric] <= high + 1e-9
    each = [r["points"]["PCK-optimal"]["PCK@0.10"] - r["PCK@0.10"] for r in records]
    low, high = gain["intervals"]["PCK@0.10"]
    assert high - low == pytest.approx(2 * 1.96 * np.std(each) / math.sqrt(len(each)), rel=0.15)


def test_points_of_densities_count_as_pairs():
    records, expected = draw_records(40), []
    supports = Counter({frozenset("ab"): 2, frozenset("c"): 1})
    weighted = [pairs.score_pairs(r, supports) for r in records]
    for r in records:
        a, b, c = r["distances"].values()
        expected.append((2 * np.mean([a, b]) + c) / 3 / 200)
    found = calibration.average_points(weighted)
    assert found["PCK-optimal"]["NME"] == pytest.approx(np.mean(expected))
    assert {r["weight"] for r in weighted} == {3}


def list_inside(record):
    return [keypoint for keypoint in record["density"].values() if "nll" in keypoint]


def nll_under_gaussian(keypoint, sigma):
    return density.compute_nll(density.make_gaussian(keypoint["greedy"], sigma), keypoint["truth"])


def test_densities_compared_with_gaussians():
    records = draw_records(16)
    found = calibration.compare_with_gaussians(records, NAMES)
    numbers = [(r["category"], keypoint) for r in records for keypoint in list_inside(r)]
    assert (found["truths"], found["truths outside of the crop"]) == (len(numbers), 4) == (44, 4)
    for name in ("nll", "entropy", "spread"):
        assert found[name] == pytest.approx(np.mean([k[name] for _, k in numbers]))
    for q in (0.5, 0.68, 0.9, 0.95):
        assert found["holds"][q] == sum(k["level"] < q for _, k in numbers) / len(numbers)

    def loop(kite, boat):
        """The mean NLL under Gaussians of these deviations."""
        sigma = {900: kite, 901: boat}
        return np.mean([nll_under_gaussian(k, sigma[c]) for c, k in numbers])

    one, each = found["Gaussian"], found["Gaussian of each definition"]
    kite, boat = each["sigma"]["kite"], each["sigma"]["boat"]
    assert kite == pytest.approx(0.02, rel=0.4) and boat == pytest.approx(0.08, rel=0.4)
    assert kite < one["sigma"] < boat
    assert one["nll"] == pytest.approx(loop(one["sigma"], one["sigma"]), abs=0.002)
    assert each["nll"] == pytest.approx(loop(kite, boat), abs=0.002)
    assert each["nll"] < one["nll"] - 0.1
    assert one["difference"] == pytest.approx(found["nll"] - one["nll"])
    # No other deviation suits the truths better.
    for factor in (0.97, 1.03):
        assert loop(factor * one["sigma"], factor * one["sigma"]) > one["nll"] - 1e-4


def test_intervals_draw_an_image_with_all_of_its_truths():
    records = draw_records(16)
    found = calibration.compare_with_gaussians(records, NAMES)
    one = found["Gaussian"]
    images = []
    for r in records:
        rows = []
        for k in list_inside(r):
            difference = k["nll"] - nll_under_gaussian(k, one["sigma"])
            rows.append((k["nll"], k["level"] < 0.9, difference))
        images.append(rows)
    rng, means = random.Random(1), []
    for _ in range(4000):
        drawn = rng.choices(images, k=len(images))
        means.append(np.mean([row for rows in drawn for row in rows], 0))
    expected = np.percentile(means, [2.5, 97.5], 0).T
    intervals = (
        found["intervals"]["nll"],
        found["intervals"]["holds"][0.9],
        one["interval of the difference"],
    )
    for interval, ends, share in zip(intervals, expected, (0.1, 0.15, 0.1), strict=True):
        assert interval == pytest.approx(ends, abs=share * (ends[1] - ends[0]))


def test_without_a_truth_inside_of_its_crop_nothing_is_compared():
    records = draw_records(5)
    for r in records:
        for keypoint in r["density"].values():
            keypoint.pop("nll", None)
    found = calibration.compare_with_gaussians(records, NAMES)
    assert found == {"truths": 0, "truths outside of the crop": 15}
