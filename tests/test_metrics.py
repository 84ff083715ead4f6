"""metrics.py: against loops in plain Python, numerical integration and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluations import T, pck_in_loops, record
from study import metrics
from support.coco import Instance

coordinate = st.integers(-50, 250).map(float)
point = st.tuples(coordinate, coordinate)
keypoint = st.tuples(point, point, st.sampled_from([0, 1, 2]))


@settings(max_examples=60, deadline=None)
@given(st.lists(keypoint, min_size=1, max_size=20), st.integers(1, 300))
def test_pck_equals_plain_loops(rows, size):
    # One is visible, at least.
    rows = [(*rows[0][:2], 2), *rows[1:]]
    predictions, truths, visible = zip(*rows, strict=True)
    expected = pck_in_loops(predictions, truths, visible, size)
    distances = [math.dist(p, q) for p, q, v in rows if v > 0]
    found = metrics.score_distances(distances, size)
    fractions = [found[f"PCK@{t:.2f}"] for t in T]
    assert fractions == pytest.approx(expected, abs=1e-12) and (np.diff(fractions) >= 0).all()
    assert found["mPCK"] == pytest.approx(sum(expected) / 5)
    assert found["NME"] == pytest.approx(sum(d / size for d in distances) / len(distances))


@settings(max_examples=20, deadline=None)
@given(st.lists(keypoint, min_size=1, max_size=20), st.floats(10, 300), st.floats(10, 300))
def test_answers_are_scored_in_pixels_of_the_image(rows, w, h):
    """Relative to the square around the box, as answers are: the same as in the image itself."""
    rows = [(*rows[0][:2], 2), *rows[1:]]
    predictions, truths, visible = (np.array(column) for column in zip(*rows, strict=True))
    keypoints = np.concatenate([truths, visible[:, None]], 1)
    instance = Instance(1, None, 1, keypoints.astype(np.float32), (20.0, 30.0, w, h))
    side = max(w, h)
    corner = np.array([20 + w / 2 - side / 2, 30 + h / 2 - side / 2])
    answers = ((predictions - corner) / side)[visible > 0]
    distances = [math.dist(p, q) for p, q, v in rows if v > 0]
    assert metrics.measure_distances(instance, answers) == pytest.approx(distances, abs=1e-9)
    found = metrics.score_answers(instance, answers)
    assert found["NME"] == pytest.approx(np.mean(distances) / side)
    assert found["PCK@0.20"] == pytest.approx(
        np.mean(metrics.measure_distances(instance, answers) < 0.2 * side)
    )


def test_pck_scales_with_the_image():
    distances = np.abs(np.random.default_rng(0).normal(0, 20, 300))
    found = metrics.score_distances(distances, 200)
    assert 0 < found["PCK@0.05"] < found["PCK@0.25"] < 1
    for scale in (1, 4, 0.5):
        assert metrics.score_distances(distances * scale, 200 * scale) == found


def test_exactly_at_the_threshold_does_not_count():
    assert metrics.score_distances([5.0], 100)["PCK@0.05"] == 0
    assert metrics.score_distances([4.999], 100)["PCK@0.05"] == 1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 60), min_size=1, max_size=12), st.floats(20, 200))
def test_auc_is_the_integral_of_pck(distances, size):
    # The midpoint rule.
    thresholds = (np.arange(5000) + 0.5) * 0.25 / 5000
    curve = [sum(d < t * size for d in distances) / len(distances) for t in thresholds]
    found = metrics.score_distances(distances, size)["AUC"]
    assert found == pytest.approx(np.mean(curve), abs=2e-4)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 60)] * 5), min_size=1, max_size=10), st.integers(20, 200))
def test_an_answer_for_each_threshold_is_scored_at_its_own(rows, size):
    found = metrics.score_distances(rows, size)
    each = [metrics.score_distances([row[n] for row in rows], size) for n in range(5)]
    own = [scores[metric] for metric, scores in zip(metrics.PCK, each, strict=True)]
    assert [found[metric] for metric in metrics.PCK] == own
    assert found["mPCK"] == pytest.approx(np.mean(own))
    for metric in ("AUC", "NME"):
        assert found[metric] == pytest.approx(np.mean([scores[metric] for scores in each]))


row = st.tuples(st.floats(0, 1), st.integers(1, 40), st.integers(0, 2))


@settings(max_examples=20, deadline=None)
@given(st.lists(row, min_size=1, max_size=30))
def test_a_weight_is_so_many_copies(rows):
    weighted = metrics.average_records([record(c, v, weight=w) for v, w, c in rows])
    repeated = metrics.average_records([record(c, v) for v, w, c in rows for _ in range(w)])
    for column in metrics.COLUMNS:
        assert weighted[column] == pytest.approx(repeated[column])


def test_averages_over_images_and_over_categories():
    records = [record(7, 1.0), record(7, 0.5), record(7, 0.0), record(9, 0.1)]
    records[3]["controls"]["mean"] = dict.fromkeys(metrics.METRICS, 0.7)
    found = metrics.average_records(records)
    assert found["mPCK"] == found["AUC"] == pytest.approx(1.6 / 4)
    assert found["mPCK over categories"] == pytest.approx((0.5 + 0.1) / 2)
    assert (found["instances"], found["categories"]) == (4, 2)
    mean = found["controls"]["mean"]
    assert (mean["instances"], mean["categories"]) == (1, 1)
    assert mean["NME"] == mean["mPCK over categories"] == pytest.approx(0.7)


def test_intervals_are_those_of_a_mean():
    values = np.random.default_rng(3).normal(0.5, 0.1, 900).tolist()
    records = [record(n % 3, v) for n, v in enumerate(values)]
    found = metrics.find_intervals(records)
    # The normal approximation.
    mean, half = np.mean(values), 1.96 * np.std(values) / math.sqrt(len(values))
    assert found["PCK@0.20"] == pytest.approx([mean - half, mean + half], abs=half / 8)
    assert found.keys() == set(metrics.METRICS) and metrics.find_intervals(records) == found
    assert metrics.find_intervals([record(1, 0.25)] * 5)["AUC"] == [0.25, 0.25]


def test_a_weighty_image_widens_the_interval():
    widths = []
    for weight in (1, 60):
        records = [record(1, n % 2) for n in range(100)]
        records[0]["weight"] = weight
        low, high = metrics.find_intervals(records)["PCK@0.05"]
        widths.append(high - low)
    plain, heavy = widths
    assert heavy > 1.5 * plain
