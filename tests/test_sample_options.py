"""What sample.py may be asked for: a box inside the photo, a device that is there."""

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from support import sample_options

lengths = st.floats(1, 500)


@example(-0.5, -0.5, 1.2, 1.2)
@given(st.floats(-300, 600), st.floats(-300, 600), lengths, lengths)
def test_a_box_is_what_it_has_in_common_with_the_photo(x, y, w, h):
    """It is refused if that is less than a pixel wide and high."""
    size = 400, 300
    common = [min(x + w, size[0]) - max(x, 0), min(y + h, size[1]) - max(y, 0)]
    assume(all(abs(length) > 1e-6 and abs(length - 1) > 1e-6 for length in common))
    if min(common) < 0 or max(common) < 1:
        with pytest.raises(ValueError, match="no part inside the image, which is 400 x 300 pixels"):
            sample_options.parse_box(f"{x},{y},{w},{h}", size)
        return
    left, top, width, height = sample_options.parse_box(f"{x},{y},{w},{h}", size)
    assert (left, top) == (max(x, 0), max(y, 0)) and width > 0 and height > 0
    assert left + width == pytest.approx(min(x + w, size[0]))
    assert top + height == pytest.approx(min(y + h, size[1]))


@pytest.mark.parametrize(
    "cuda, mps, fastest", [(True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_the_fastest_device_that_is_there(monkeypatch, cuda, mps, fastest):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert sample_options.choose_device() == fastest
    assert sample_options.choose_device("cpu") == "cpu"
    for name, there in (("cuda", cuda), ("mps", mps)):
        if there:
            assert sample_options.choose_device(name) == name
        else:
            expected = f"--device {name} is not available here; use "
            with pytest.raises(ValueError, match=expected):
                sample_options.choose_device(name)
