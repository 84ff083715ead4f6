"""A file is whole or not there at all."""

import pytest
from PIL import Image

from support.files import write_whole


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "x.txt"
    with write_whole(path) as partial:
        partial.write_text("some")
        assert not path.exists()
    assert path.read_text() == "some"
    assert list(path.parent.iterdir()) == [path]


def test_what_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("before")
    with pytest.raises(OSError, match="disk full"), write_whole(path) as partial:
        partial.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_pillow_learns_the_format_from_the_name(tmp_path):
    with write_whole(tmp_path / "x.jpg") as partial:
        Image.new("RGB", (2, 2)).save(partial)
    with Image.open(tmp_path / "x.jpg") as image:
        assert image.format == "JPEG"
