"""metrics.py: against loops in plain Python, numerical integration and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study import metrics
from support.coco import Instance

T = (0.05, 0.10, 0.15, 0.20, 0.25)


def pck_in_loops(predictions, truths, visible, size, thresholds=T):
    fractions = []
    for t in thresholds:
        hits = [
            math.dist(p, q) < t * size for p, q, v in zip(predictions, truths, visible) if v > 0
        ]
        fractions.append(sum(hits) / len(hits))
    return fractions


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(points, points, points, points, st.sampled_from([0, 1, 2])),
        min_size=1,
        max_size=20,
    ),
    st.integers(1, 300),
)
def test_pck_equals_plain_loops(rows, size):
    rows = [(*rows[0][:4], 2), *rows[1:]]  # one visible, at least
    predictions, truths, visible = (
        [r[:2] for r in rows],
        [r[2:4] for r in rows],
        [r[4] for r in rows],
    )
    expected = pck_in_loops(predictions, truths, visible, size)
    found = metrics.pck(predictions, truths, visible, size, T)
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert (np.diff(found) >= 0).all()
    distances = [math.dist(p, q) for p, q, v in zip(predictions, truths, visible) if v > 0]
    one = metrics.score_distances(distances, size)
    assert [one[f"PCK@{t:.2f}"] for t in T] == pytest.approx(expected, abs=1e-12)
    assert one["mPCK"] == pytest.approx(sum(expected) / 5)
    assert one["NME"] == pytest.approx(sum(d / size for d in distances) / len(distances))


def test_pck_moves_and_scales_with_the_image():
    rng = np.random.default_rng(0)
    truths, visible = rng.uniform(0, 200, (300, 2)), rng.integers(0, 3, 300)
    predictions = truths + rng.normal(0, 20, truths.shape)
    found = metrics.pck(predictions, truths, visible, 200, T)
    assert 0 < found[0] < found[-1] < 1
    for scale, shift in ((1, (64.0, -32.0)), (4, (0.0, 0.0)), (0.5, (8.0, 1024.0))):
        moved = metrics.pck(
            predictions * scale + shift, truths * scale + shift, visible, 200 * scale, T
        )
        assert moved.tolist() == found.tolist()


def test_exactly_at_the_threshold_does_not_count():
    truths = np.array([[10.0, 20.0]])
    for step in ((5, 0), (0, -5), (3, 4)):
        at = truths + step
        assert metrics.pck(at, truths, [1], 100, (0.05,)).tolist() == [0]
        assert metrics.pck(truths + np.array(step) * 0.999, truths, [1], 100, (0.05,)).tolist() == [
            1
        ]
    with pytest.raises(ValueError, match="at least one visible"):
        metrics.pck(truths, truths, [0], 100, (0.05,))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 60), min_size=1, max_size=12), st.floats(20, 200))
def test_auc_is_the_integral_of_pck(distances, size):
    thresholds = (np.arange(5000) + 0.5) * 0.25 / 5000  # the midpoint rule
    curve = metrics.pck(
        [(d, 0) for d in distances],
        np.zeros((len(distances), 2)),
        np.ones(len(distances)),
        size,
        thresholds,
    )
    assert metrics.score_distances(distances, size)["AUC"] == pytest.approx(curve.mean(), abs=2e-4)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 60)] * 5), min_size=1, max_size=10), st.integers(20, 200))
def test_an_answer_for_each_threshold_is_scored_at_its_own(rows, size):
    found = metrics.score_distances(rows, size)
    each = [metrics.score_distances([row[n] for row in rows], size) for n in range(5)]
    assert [found[m] for m in metrics.PCK] == [s[m] for m, s in zip(metrics.PCK, each)]
    assert found["mPCK"] == pytest.approx(np.mean([s[m] for m, s in zip(metrics.PCK, each)]))
    assert [found[m] for m in ("AUC", "NME")] == pytest.approx(
        [np.mean([s[m] for s in each]) for m in ("AUC", "NME")]
    )


def record(category, value, **more):
    return {"category": category, "controls": {}} | dict.fromkeys(metrics.METRICS, value) | more


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.integers(1, 40), st.integers(0, 2)), min_size=1, max_size=30
    )
)
def test_a_weight_is_so_many_copies(rows):
    weighted = metrics.average_records([record(c, v, weight=w) for v, w, c in rows])
    repeated = metrics.average_records([record(c, v) for v, w, c in rows for _ in range(w)])
    assert [weighted[c] for c in metrics.COLUMNS] == pytest.approx(
        [repeated[c] for c in metrics.COLUMNS]
    )


def test_intervals_are_those_of_a_mean():
    values = np.random.default_rng(3).normal(0.5, 0.1, 900).tolist()
    found = metrics.find_intervals([record(n % 3, v) for n, v in enumerate(values)])
    half = 1.96 * np.std(values) / math.sqrt(len(values))  # the normal approximation
    assert found["PCK@0.20"] == pytest.approx(
        [np.mean(values) - half, np.mean(values) + half], abs=half / 8
    )
    assert found["mPCK over categories"] == pytest.approx(
        found["mPCK"], abs=half / 4
    )  # three categories of 300
    assert metrics.find_intervals([record(n % 3, v) for n, v in enumerate(values)]) == found
    assert metrics.find_intervals([record(1, 0.25)] * 5)["AUC"] == [0.25, 0.25]


def test_the_interval_over_categories_knows_small_ones():
    """Of a mean of category means, against the normal approximation with unbiased variances, where most have two images."""
    rng = np.random.default_rng(7)
    sizes = [2] * 30 + [3] * 10 + [50]
    values = [rng.normal(0.5, 0.1, n) for n in sizes]
    records = [record(c, v) for c, each in enumerate(values) for v in each]
    low, high = metrics.find_intervals(records)["mPCK over categories"]
    half = 1.96 * math.sqrt(sum(v.var(ddof=1) / len(v) for v in values)) / len(values)
    mean = np.mean([v.mean() for v in values])
    assert [low, high] == pytest.approx([mean - half, mean + half], abs=half / 8)
    one = metrics.find_intervals(
        [*records, record(99, 0.5)]
    )  # a category of one image: nobody knows how much it would vary
    assert one.keys() == {*metrics.METRICS}
    table = metrics.report([*records, record(99, 0.5)], {c: f"c{c}" for c in range(100)}, 1)[1]
    assert table.count("- 95% interval") == 2 and len({len(row) for row in table.splitlines()}) == 1


def test_a_weighty_image_widens_the_interval():
    values = [0.0, 1.0] * 50
    plain, heavy = (
        metrics.find_intervals(
            [record(1, v, weight=w if n == 0 else 1) for n, v in enumerate(values)]
        )["PCK@0.05"]
        for w in (1, 60)
    )
    assert heavy[1] - heavy[0] > 1.5 * (plain[1] - plain[0])
