"""controls.py: mean places, exchanges and occlusion against direct computations."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import data
import evaluations
from study import controls
from support.photos import PIXEL_MEAN, PIXEL_STD


@pytest.fixture
def folder(tmp_path):
    return evaluations.write_kites_and_boats(tmp_path / "data")


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.text(max_size=5))
def test_derange_has_no_fixed_point(n, seed):
    to = controls.derange(range(n), seed)
    assert sorted(to) == sorted(to.values()) == list(range(n))
    assert all(a != b for a, b in to.items())
    assert to == controls.derange(range(n), seed)


def test_mean_is_the_mean_over_training_or_says_that_it_is_not(folder):
    instances, _ = evaluations.read_test(folder)
    found, untrained = evaluations.prepare_controls(folder)
    assert untrained == ["boat"]
    sources = {
        500: data.read_split(folder, 1, "train")[0],
        501: [i for i in instances if i.category == 501],
    }
    for instance, control in zip(instances, found, strict=True):
        for j in range(len(instance.keypoints)):
            places = []
            for i in sources[instance.category]:
                (x, y, v), (bx, by, w, h) = i.keypoints[j], i.bbox
                if v > 0:
                    # Relative to the square around the box's centre.
                    relative = np.array([x - (bx + w / 2), y - (by + h / 2)]) / max(w, h)
                    places.append(relative + 0.5)
            assert control.mean[j] == pytest.approx(np.mean(places, 0), abs=1e-6)


def test_a_keypoint_never_labelled_in_training_has_the_mean_of_the_next_part():
    box = (0.0, 0.0, 10.0, 10.0)
    first = data.Instance(1, None, 1, np.array([[2, 4, 1], [9, 9, 0]], np.float32), box)
    second = data.Instance(2, None, 1, np.array([[6, 6, 1], [5, 3, 1]], np.float32), box)
    found = controls.average_places([[first], [], [second]])
    assert found == pytest.approx(np.array([[0.2, 0.4], [0.5, 0.3]]))


def test_controls_exchange_within_the_definition(folder):
    instances, described = evaluations.read_test(folder)
    found, _ = evaluations.prepare_controls(folder)
    assert {control.other.id for control in found} == {i.id for i in instances}
    for instance, control in zip(instances, found, strict=True):
        assert control.other.id != instance.id and control.other.category == instance.category
        exchange = control.exchange
        assert set(exchange) == set(exchange.values()) == set(described[instance.category])
        assert all(a != b for a, b in exchange.items())


sides = st.floats(1, 300)


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(sides, sides),
    st.integers(28, 120),
    st.lists(st.floats(0.05, 0.9), min_size=1, max_size=4),
    st.integers(),
)
def test_covers_hold_their_share_of_the_box(wh, size, shares, seed):
    w, h = (max(1, round(size * n / max(wh))) for n in wh)
    x, y = (size - w) // 2, (size - h) // 2
    found = list(controls.draw_covers((5, 7, *wh), size, shares, random.Random(seed)))
    assert [share for share, _ in found] == sorted(shares)
    for share, mask in found:
        covered = mask[y : y + h, x : x + w].mean()
        # Exceeded by a row of the widest rectangle, at most.
        assert share <= covered <= share + 0.4 / h + 1 / (w * h)
    for (_, smaller), (_, larger) in zip(found, found[1:], strict=False):
        assert (larger | ~smaller).all()


def test_what_is_covered_is_grey_and_found():
    mask = np.zeros((10, 10), bool)
    mask[2:4, 6:9] = True
    pixels = torch.randn(3, 10, 10)
    covered = controls.cover_pixels(pixels, mask)
    assert torch.equal(covered[:, ~mask], pixels[:, ~mask])
    grey = covered * PIXEL_STD + PIXEL_MEAN
    assert torch.allclose(grey[:, mask], torch.tensor(0.5))
    points = np.array([(0.65, 0.25), (0.25, 0.65), (0.89, 0.39), (0.91, 0.3), (1.65, 0.25)])
    assert controls.find_covered(mask, points).tolist() == [True, False, True, False, False]
