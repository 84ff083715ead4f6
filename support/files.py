"""Write a file so that what stands under its name is whole.

    with write_whole(Path("out/answers.json")) as partial:
        partial.write_text("{}")
"""

from contextlib import contextmanager
from pathlib import Path

# The folder of the project: nano/, descriptions/ and the commands lie in it.
ROOT = Path(__file__).parents[1]


def refuse_special(path):
    """ValueError if something stands there that is no file: reading a pipe would wait for ever."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no regular file: move it away, or name another")


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
