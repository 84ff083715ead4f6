"""Image files as users hand them over, and as they are compared with their annotations."""

import warnings
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from support.files import is_special
from support.quote import cut

# DINOv2 expects pixels in [0, 1] minus this mean, divided by this deviation.
PIXEL_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
PIXEL_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
MAX_PIXELS = 100_000_000  # a larger photo is refused before it is decoded
# Pillow warns of images that are larger, and refuses those of twice as many.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

ORIENTATION = 0x112  # the EXIF tag
# Its values, and what a viewer does to what is stored. 1: nothing.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # those that exchange width and height


def open_image(path):
    """Any still that Pillow reads, as RGB, upright as a viewer shows it.

    Raises FileNotFoundError or ValueError naming the file.
    """
    # Pillow's warnings are of what is refused here, or harmless.
    with warnings.catch_warnings(action="ignore"), explain_damage(path), Image.open(path) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        turn = TURNS.get(read_orientation(image))
        pixels = convert_to_rgb(image)
        return pixels if turn is None else pixels.transpose(turn)


def open_annotated(instance, side, size):
    """An Instance's image as it is stored, RGB, and how many times larger it is than annotated.

    side, size: of the crop that is wanted, in annotated pixels and in its own; a JPEG much larger
    than the crop is decoded at 1/2, 1/4 or 1/8: still fine enough. Raises FileNotFoundError or
    ValueError naming the file and the annotation, also if its size is not the annotated one times
    some factor.
    """
    remedy = (
        f": replace the file and go on with --resume, or remove annotation {cut(instance.id)} and "
        "start anew"
    )
    needed = f", needed by annotation {cut(instance.id)}"
    with (
        warnings.catch_warnings(action="ignore"),
        explain_damage(instance.image, needed, remedy),
        Image.open(instance.image) as image,
    ):
        fault = describe_other_size(image, instance.size)
        if not fault:
            factor = find_factor(image.size, instance.size)
            if side * factor > 2 * size:
                factor /= draft_jpeg(image, size / (side * factor))
            return convert_to_rgb(image), factor
    raise ValueError(f"{cut(instance.image)} is {fault}")


@contextmanager
def explain_damage(path, needed="", remedy=""):
    """Whatever Pillow raises becomes a FileNotFoundError or ValueError that names the file.

    needed: why a file that is missing is needed; remedy: what to do about one that is damaged.
    """
    try:
        if is_special(path):
            raise OSError("no regular file")
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{cut(path)} is missing{needed}") from None
    except Image.DecompressionBombError:
        raise ValueError(
            f"{cut(path)} has more than {MAX_PIXELS:,} pixels: reduce it first"
        ) from None
    # Its many readers raise as many exceptions: SyntaxError, struct.error, ZeroDivisionError ...
    except Exception as error:
        reason = cut(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "its format is not known"
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise ValueError(
            f"{cut(path)} is no image that Pillow can read ({reason}){remedy}"
        ) from None


def convert_to_rgb(image):
    """An open image as RGB: what training, evaluation and sample.py see of its pixels.

    16 and 32 bits a pixel are spread over 8; what is transparent is shown on white.
    """
    image.load()
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        image = spread_over_bytes(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def read_orientation(image):
    """The EXIF orientation of an open image, 1 if there is none or it is damaged."""
    # Pillow turns these itself.
    if image.format == "TIFF":
        return 1
    try:
        orientation = image.getexif().get(ORIENTATION)
        return orientation if orientation in TURNS else 1
    except Exception:
        # Damaged EXIF says nothing: the pixels may be whole.
        return 1


def spread_over_bytes(image):
    """A grey image of 16 or 32 bits a pixel, in 8 bits."""
    values = np.nan_to_num(np.asarray(image, np.float32))
    top = 255.0
    if image.mode.startswith("I;16") or values.max() > 255:
        top = 65535.0
    if image.mode == "F" and values.max() <= 1:
        top = 1.0
    return Image.fromarray((values.clip(0, top) * (255 / top)).astype(np.uint8))


def draft_jpeg(image, scale):
    """Decode an open JPEG at a reduced size, not below this scale; return the divisor."""
    full = max(image.size)
    wanted = [max(1, int(side * scale)) for side in image.size]
    image.draft("RGB", tuple(wanted))
    # `Image.draft` rounds sizes up.
    return round(full / max(image.size))


def find_factor(stored, annotated):
    """How many times larger the stored (width, height) is than the annotated one.

    None if the factor is not the same both ways, up to rounding to pixels. Without an annotated
    size the factor is 1.
    """
    if not annotated or tuple(stored) == tuple(annotated):
        return 1.0
    factor = max(stored) / max(annotated)
    fits = all(abs(s - factor * a) <= 1 for s, a in zip(stored, annotated, strict=True))
    return factor if fits else None


def hint_at_rotation(image, annotated):
    """What to say of an image that fits its annotations only as a viewer shows it, else ""."""
    if read_orientation(image) in SIDEWAYS and find_factor(image.size[::-1], annotated):
        return ": annotated upright, stored turned: apply the EXIF rotation to the files"
    return ""


def describe_other_size(image, annotated):
    """What is wrong with the size of an image, "" if its annotations fit or can be scaled."""
    if find_factor(image.size, annotated):
        return ""
    hint = hint_at_rotation(image, annotated) or ": correct the annotation or the image"
    return (
        f"{image.width} x {image.height} pixels, "
        f"annotated as {annotated[0]} x {annotated[1]}{hint}"
    )
