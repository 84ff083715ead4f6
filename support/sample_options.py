"""What a user may ask of sample.py: a device, a box, files to write. It says no in one line."""

import torch
from PIL import Image


def choose_device(name=None):
    """The device of this name, or the fastest one. Raises ValueError if it is not available."""
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if name is None:
        return available[0]
    if name not in available:
        raise ValueError(f"--device {name} is not available here; use {' or '.join(available)}")
    return name


def parse_box(text, size):
    """`x,y,w,h` in pixels, clipped to an image of size (width, height), as MP-100's boxes are.

    Returns (x, y, w, h). Raises ValueError if that is no box or lies outside of the image.
    """
    try:
        x, y, w, h = map(float, text.split(","))
    except ValueError:
        raise ValueError(
            f"--box {text!r}: expected four numbers x,y,w,h in pixels, such as 86,40,54,53"
        ) from None
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + w, float(size[0])), min(y + h, float(size[1]))
    # True for NaN, too.
    if not (right > left and bottom > top):
        raise ValueError(
            f"--box {text} (x,y,w,h) has no part inside the image, "
            f"which is {size[0]} x {size[1]} pixels"
        )
    return left, top, right - left, bottom - top


def check_files(image, desc, out, json):
    """Raises ValueError if a file would be overwritten, or a picture has no known format."""
    files = [path.resolve() for path in (image, desc, out, json) if path is not None]
    if len(set(files)) < len(files):
        raise ValueError(
            "--image, --desc, --out and --json name one file twice: choose another --out or --json"
        )
    if Image.registered_extensions().get(out.suffix.lower()) not in Image.SAVE:
        raise ValueError(
            f"--out {out}: no picture format is called {out.suffix or 'nothing'!r}; "
            "use .png or .jpg"
        )
