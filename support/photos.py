"""Image files as users hand them over, and as they are compared with their annotations."""

import struct
import warnings
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image, ImageOps

# DINOv2 expects pixels in [0, 1] minus this mean, divided by this deviation.
PIXEL_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
PIXEL_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
# What Pillow raises at a damaged file.
DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error,
    Image.DecompressionBombError,
)
MAX_PIXELS = 100_000_000  # a larger photo is refused before it is decoded
ORIENTATION = 0x112  # the EXIF tag
SIDEWAYS = (5, 6, 7, 8)  # its values that exchange width and height


def open_image(path):
    """Any still that Pillow reads, as RGB, upright as a viewer shows it.

    16 and 32 bits a pixel are spread over 8; what is transparent is shown on white. Raises
    FileNotFoundError or ValueError naming the file.
    """
    try:
        # Pillow's warnings are of what is refused here, or harmless.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"{path} is {image.width} x {image.height} pixels, "
                    f"more than {MAX_PIXELS:,}: reduce it first"
                )
            image.seek(0)
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I") or image.mode == "F":
                image = spread_over_bytes(image)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image)
            return image.convert("RGB")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path} has more than {MAX_PIXELS:,} pixels: reduce it first") from None
    except (OSError, SyntaxError, EOFError, RuntimeError, struct.error) as error:
        raise ValueError(f"{path} is no image that Pillow can read ({error})") from None


def spread_over_bytes(image):
    """A grey image of 16 or 32 bits a pixel, in 8 bits."""
    values = np.nan_to_num(np.asarray(image, np.float32))
    top = 255.0
    if image.mode.startswith("I;16") or values.max() > 255:
        top = 65535.0
    if image.mode == "F" and values.max() <= 1:
        top = 1.0
    return Image.fromarray((values.clip(0, top) * (255 / top)).astype(np.uint8))


@contextmanager
def open_annotated(instance):
    """Open the image of an Instance, as it is stored.

    Raises FileNotFoundError or ValueError naming the file and the annotation, also if its size is
    not the annotated one times some factor, and if it proves damaged while it is read.
    """
    try:
        with Image.open(instance.image) as image:
            fault = describe_other_size(image, instance.size)
            if not fault:
                yield image
                return
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{instance.image} is missing, needed by annotation {instance.id}"
        ) from None
    except DAMAGE as error:
        raise ValueError(
            f"{instance.image} is no image that Pillow can read ({error}): replace the file and "
            f"go on with --resume, or remove annotation {instance.id} and start anew"
        ) from None
    raise ValueError(f"{instance.image} is {fault}")


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
    upright = image.size[::-1]
    try:
        sideways = image.getexif().get(ORIENTATION) in SIDEWAYS
    except DAMAGE:
        # Damaged EXIF says nothing.
        sideways = False
    if sideways and find_factor(upright, annotated):
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
