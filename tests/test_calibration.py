"""calibration.py: densities that are known, Gaussians in a loop, intervals by resampling."""

import math
import random
from collections import Counter

import numpy as np
import pytest
import torch

import data
from study import calibration, density, metrics, pairs, report
from test_density import VALUES, mixture


def studied(n):
    """Records of two categories of 3 keypoints; greedy answers, and answers for each threshold that are half as far off."""
    rng, records = np.random.default_rng(6), []
    for i in range(n):
        distances = dict(zip("abc", rng.uniform(0, 40, 3).tolist()))
        own = {k: [d / 2] * 5 for k, d in distances.items()}
        numbers = {
            k: {
                "truth": t,
                "greedy": (np.array(t) + rng.normal(0, 0.02 + 0.06 * (i % 2), 2))
                .clip(0, 0.999)
                .tolist(),
                "nll": rng.normal(),
                "entropy": rng.normal(),
                "level": rng.random(),
                "spread": rng.random(),
            }
            for k, t in zip("abc", rng.uniform(0.1, 0.9, (3, 2)).tolist())
        }
        if i < 4:  # a truth outside of the crop
            del numbers["b"]["nll"], numbers["b"]["level"]
        score = lambda d: metrics.score_distances([*d.values()], 100) | {"distances": d}
        records.append(
            {
                "id": i,
                "category": 900 + i % 2,
                "size": 100,
                "controls": {},
                **score(distances),
                "density": numbers,
                "points": {"mean": score(distances), "PCK-optimal": score(own)},
            }
        )
    return records


def test_a_study_of_known_densities(monkeypatch):
    """Two hills, the lower one wider: what is the likeliest answer is not the best one for every threshold."""
    known = {
        "a": mixture((0.3, (0.2, 0.2), 0.004), (0.7, (0.7, 0.6), 0.06)),
        "b": density.gaussian((0.4, 0.9), 0.03),
    }
    monkeypatch.setattr(
        density,
        "density",
        lambda model, pixels, name, **_: density.Density(known[name.name], 0.125, ord(name.name)),
    )
    asked, truths, thresholds = (
        [data.Keypoint(n, "") for n in "ab"],
        np.array([(0.71, 0.55), (0.4, 1.02)]),
        (0.02, 0.2),
    )
    points, numbers = calibration.compare_with_truths(
        None, None, asked, truths, truths / 2, thresholds, random.Random(0)
    )
    assert set(map(len, points.values())) == {2}
    assert points["mode"][0] == pytest.approx((0.2, 0.2), abs=0.002) and points["mode"][1] == (
        0.4,
        0.9,
    )
    assert points["mean"][0] == pytest.approx(
        (0.3 * 0.2 + 0.7 * 0.7, 0.3 * 0.2 + 0.7 * 0.6), abs=0.001
    )
    narrow, wide = points["PCK-optimal"][0]
    assert narrow == pytest.approx((0.2, 0.2), abs=0.01) and wide == pytest.approx(
        (0.7, 0.6), abs=0.02
    )
    for t, best in zip(thresholds, (narrow, wide)):

        def inside(place):
            return float(
                known["a"][
                    torch.tensor(np.hypot(VALUES[:, None] - place[0], VALUES - place[1]) < t - 1e-9)
                ].sum()
            )

        assert all(
            inside(best) >= inside(places[0]) - 1e-9
            for name, places in points.items()
            if name != "PCK-optimal"
        )
    (smoothed,) = (name for name in points if "smoothed" in name)
    assert math.dist(points[smoothed][1], (0.4, 0.9)) < 0.03
    assert (
        numbers["a"]["truth"] == [0.71, 0.55]
        and numbers["a"]["greedy"] == [0.355, 0.275]
        and numbers["a"]["spread"] == 0.125
    )
    assert [numbers[n]["prefixes"] for n in "ab"] == [ord("a"), ord("b")]
    expected = math.log(2 * math.pi * 0.06**2) - math.log(0.7) + (0.01**2 + 0.05**2) / (2 * 0.06**2)
    assert numbers["a"]["nll"] == pytest.approx(expected, abs=0.01)
    assert numbers["b"].keys() == {
        "truth",
        "greedy",
        "entropy",
        "spread",
        "prefixes",
    }  # a truth outside has no density
    assert numbers["b"]["entropy"] == pytest.approx(
        math.log(2 * math.pi * math.e * 0.03**2), abs=0.02
    )


def test_points_of_densities_and_their_gain():
    records = studied(40)
    found, table = calibration.average_points(records)
    assert list(found) == ["greedy", "mean", "PCK-optimal", "PCK-optimal minus greedy"]
    assert found["greedy"] == found["mean"]
    half = metrics.average_records(
        [
            {**r, **metrics.score_distances([d / 2 for d in r["distances"].values()], 100)}
            for r in records
        ]
    )
    for c in metrics.COLUMNS:
        assert found["PCK-optimal"][c] == pytest.approx(half[c])
        low, high = found["PCK-optimal minus greedy"]["intervals"][c]
        gain = half[c] - found["greedy"][c]
        assert (
            found["PCK-optimal minus greedy"][c] == pytest.approx(gain)
            and low - 1e-9 <= gain <= high + 1e-9
        )
    each = [r["points"]["PCK-optimal"]["PCK@0.10"] - r["PCK@0.10"] for r in records]
    low, high = found["PCK-optimal minus greedy"]["intervals"]["PCK@0.10"]
    assert high - low == pytest.approx(2 * 1.96 * np.std(each) / math.sqrt(len(each)), rel=0.15)
    (row,) = (row for row in table.splitlines() if row.startswith("| PCK-optimal minus greedy"))
    assert f"{100 * np.mean(each):.1f} |" in row
    weighted = [
        pairs.score_pairs(r, Counter({frozenset("ab"): 2, frozenset("c"): 1})) for r in records
    ]
    pairs, _ = calibration.average_points(weighted)
    expected = [
        (2 * np.mean([r["distances"][k] for k in "ab"]) + r["distances"]["c"]) / 3 / 200
        for r in records
    ]
    assert pairs["PCK-optimal"]["NME"] == pytest.approx(np.mean(expected)) and {
        r["weight"] for r in weighted
    } == {3}


def test_densities_compared_with_gaussians():
    records = studied(16)
    found, table = calibration.compare_with_gaussians(records, {900: "kite", 901: "boat"})
    numbers = [(r["category"], k) for r in records for k in r["density"].values() if "nll" in k]
    assert (found["truths"], found["truths outside of the crop"]) == (len(numbers), 4) == (44, 4)
    for n in ("nll", "entropy", "spread"):
        assert found[n] == pytest.approx(np.mean([k[n] for _, k in numbers]))
    for q in (0.5, 0.68, 0.9, 0.95):
        share = sum(k["level"] < q for _, k in numbers) / len(numbers)
        assert found["holds"][q] == share and f"{100 * share:.1f} |" in table

    def loop(sigma):  # {category: sigma}
        return np.mean(
            [density.nll(density.gaussian(k["greedy"], sigma[c]), k["truth"]) for c, k in numbers]
        )

    one, each = found["Gaussian"], found["Gaussian of each definition"]
    kite, boat = each["sigma"]["kite"], each["sigma"]["boat"]
    assert (
        kite == pytest.approx(0.02, rel=0.4)
        and boat == pytest.approx(0.08, rel=0.4)
        and kite < one["sigma"] < boat
    )
    assert one["nll"] == pytest.approx(loop({900: one["sigma"], 901: one["sigma"]}), abs=0.002)
    assert (
        each["nll"] == pytest.approx(loop({900: kite, 901: boat}), abs=0.002)
        and each["nll"] < one["nll"] - 0.1
    )
    assert one["difference"] == pytest.approx(found["nll"] - one["nll"])
    # Intervals over images, in a loop: every draw's mean is over all keypoints of the images drawn.
    each_nll = [
        [
            (
                k["nll"],
                k["level"] < 0.9,
                k["nll"] - density.nll(density.gaussian(k["greedy"], one["sigma"]), k["truth"]),
            )
            for k in r["density"].values()
            if "nll" in k
        ]
        for r in records
    ]
    rng = random.Random(1)
    drawn = [
        np.mean([row for image in rng.choices(each_nll, k=len(records)) for row in image], 0)
        for _ in range(4000)
    ]
    for n, (interval, wide) in enumerate(
        (
            (found["intervals"]["nll"], 0.1),
            (found["intervals"]["holds"][0.9], 0.15),
            (one["interval of the difference"], 0.1),
        )
    ):
        expected = np.percentile([row[n] for row in drawn], [2.5, 97.5])
        assert interval == pytest.approx(expected, abs=wide * (expected[1] - expected[0]))
        factor, digits = (100, 1) if n == 1 else (1, 2)
        assert f"{factor * interval[0]:.{digits}f} |" in table
    for other in (0.97, 1.03):  # no other deviation suits the truths better
        assert loop(dict.fromkeys((900, 901), other * one["sigma"])) > one["nll"] - 1e-4
    for r in records:
        for k in r["density"].values():
            k.pop("nll", None)
    assert (
        "not compared" in calibration.compare_with_gaussians(records, {900: "kite", 901: "boat"})[1]
    )
