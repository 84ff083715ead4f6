"""Figure 5: heat where the mass is, a cross where the truth is; no truth outside of the crop."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from study import density, figure5


@pytest.mark.parametrize("x, y", [(0.25, 0.75), (0.6, 0.1)])
def test_a_cross_marks_the_truth_in_both_halves_and_the_gaussian_is_around_it(x, y):
    photo = Image.new("RGB", (200, 100), "grey")
    p = density.make_gaussian((0.8, 0.6), 0.02)
    truth = figure5.PANEL * np.array([x, y])
    page = np.asarray(figure5.draw_density(photo, (20, 10, 80, 80), "spot", p, (x, y)), float)
    plain = np.asarray(figure5.draw_density(photo, (20, 10, 80, 80), "spot", p), float)
    for n, warmest in enumerate(((0.8, 0.6), (x, y))):
        left, top = 12 + n * (12 + figure5.PANEL), 54
        half, before = (
            each[top : top + figure5.PANEL, left : left + figure5.PANEL] for each in (page, plain)
        )
        white, dark = (half > 240).all(2), (half < 15).all(2)
        assert not ((before > 240) | (before < 15)).all(2).any()
        for mask, reach in ((white, 14), (dark, 15)):
            spots = np.argwhere(mask)[:, ::-1] + 0.5
            assert np.abs(spots.mean(0) - truth).max() < 0.6
            assert np.abs(spots - truth).max(0) == pytest.approx((reach, reach), abs=1.1)
        # White has dark near it everywhere.
        for r, c in np.argwhere(white):
            assert dark[r - 3 : r + 4, c - 3 : c + 4].any()
        warm = (half[..., 0] - half[..., 2] > 60) & ~white & ~dark
        middle = np.argwhere(warm).mean(0)[::-1] + 0.5
        assert np.abs(middle - figure5.PANEL * np.array(warmest)).max() < 3
        # The cross is open: it does not hide the heat.
        r, c = truth[::-1].astype(int)
        assert warm[r, c] == (n == 1)


@pytest.mark.parametrize("box", [(0, 0, 200, 100), (60, -30, 20, 90), (150, 80, 400, 700)])
@pytest.mark.parametrize("x, y", [(0.25, 0.75), (0.6, 0.1)])
def test_heat_lies_where_the_mass_is(box, x, y):
    """The photo is grey, so warm pixels are heat. Also if the crop is larger than the photo."""
    p = density.make_gaussian((x, y), 0.02)
    picture = np.asarray(
        figure5.draw_density(Image.new("RGB", (200, 100), "grey"), box, "spot", p), float
    )
    top, margin = 54, 12
    for left in (margin, 2 * margin + figure5.PANEL):
        half = picture[top : top + figure5.PANEL, left : left + figure5.PANEL]
        warm = half[..., 0] - half[..., 2] > 60  # red without blue
        middle = np.argwhere(warm).mean(0)[::-1] + 0.5
        assert warm.any() and np.abs(middle - figure5.PANEL * np.array([x, y])).max() < 3


def test_a_truth_is_two_numbers_inside_the_crop():
    # The box made square is x from 1 to 31, y from 6 to 36.
    box = (4, 6, 24, 30)
    assert figure5.parse_truth("16.5, 21", box) == (16.5, 21)
    assert figure5.find_in_crop((16, 21), box) == pytest.approx((0.5, 0.5))
    assert figure5.find_in_image([(0.5, 0.5), (0, 1)], box) == [[16, 21], [1, 36]]
    for text in ("0.9,21", "31,21", "16,5.9", "16,36", "nan,21", "inf,21"):
        with pytest.raises(ValueError, match=f"--truth {text} lies outside of the crop"):
            figure5.parse_truth(text, box)
    for text in ("", "16", "16,21,3", "16,two"):
        with pytest.raises(ValueError, match="expected two numbers x,y in pixels"):
            figure5.parse_truth(text, box)


def test_a_keypoint_is_found_by_its_name():
    keypoints = [SimpleNamespace(name=name) for name in ("left eye", "right eye", "tail")]
    assert figure5.find_keypoint(keypoints, "right eye", "d.txt") is keypoints[1]
    with pytest.raises(ValueError, match="--density 'left ear': d.txt has no .* 'left eye'"):
        figure5.find_keypoint(keypoints, "left ear", "d.txt")
