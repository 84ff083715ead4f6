"""Write a file so that what stands under its name is whole; find and read only what is a file.

    with write_whole(Path("out/answers.json")) as partial:
        partial.write_text("{}")
"""

import os
import unicodedata
from contextlib import contextmanager
from pathlib import Path

# The folder of the project: nano/, descriptions/ and the commands lie in it.
ROOT = Path(__file__).parents[1]


def is_special(path):
    """Whether a path leads to something that is no file: a folder, a pipe, a device."""
    return os.path.exists(path) and not os.path.isfile(path)


def refuse_special(path):
    """ValueError if something stands there that is no file: reading a pipe would wait for ever."""
    if is_special(path):
        raise ValueError(f"{path} is no regular file: move it away, or name another")


def find_spelling(folder, name):
    """folder / name, or what stands there under a name that differs only in how accents are stored.

    Systems store an accented letter as one character or as two, and look the same.
    """
    path = Path(folder)
    if name.isascii() or os.path.exists(path / name):
        return path / name
    for part in Path(name).parts:
        spellings = [part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD"))]
        there = [spelling for spelling in spellings if os.path.exists(path / spelling)]
        path = path / (there or spellings)[0]
    return path


@contextmanager
def write_whole(path):
    """A name beside `path` to write to: renamed when the block is done, removed if it fails.

    The name keeps the suffix, from which Pillow learns the format. Missing folders are made.
    Raises OSError if the disk is full or `path` cannot be written, ValueError if it is a pipe.
    """
    refuse_special(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
