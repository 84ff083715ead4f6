"""What the vision encoder makes of a photo and of drawings: step 2 of docs/walkthrough.md."""

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from scripts import lesson
from study import explain
from support.pictures import SMOOTH, choose_colours, make_picture


class Features(NamedTuple):
    """Of the photo and the drawings: features (B, h, w, C), and their colours (B, h, w, 3)."""

    drawn: list
    pixels: torch.Tensor  # (B, 3, H, W)
    features: torch.Tensor
    colours: torch.Tensor
    share: float  # of the variance, in the colours


@functools.cache
@torch.inference_mode()
def find_features(model, photo, category, indices) -> Features:
    """The first three principal components of all patches' features together, as colours.

    photo: (3, H, W); the drawings are those of a category with these indices.
    """
    drawn = [lesson.draw(model, category, index) for index in indices]
    pixels = torch.stack([photo, *(one.pixels for one in drawn)])
    features = model.vision(pixels)  # (B, N, C)
    centred = (features - features.mean((0, 1))).flatten(0, 1)  # (B N, C)
    _, size, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:3] * axes[:3].sum(1, keepdim=True).sign()
    colours = centred @ axes.T
    low, high = colours.quantile(0.02, 0), colours.quantile(0.98, 0)
    colours = ((colours - low) / (high - low)).clamp(0, 1)
    side = math.isqrt(features.shape[1])
    share = float((size[:3] ** 2).sum() / (size**2).sum())
    colours = colours.view(len(pixels), side, side, 3)
    return Features(drawn, pixels, features.unflatten(1, (side, side)), colours, share)


def find_patch(grid, place):
    """Row and column of the patch that holds a place (x, y)."""
    x, y = (min(int(value * grid), grid - 1) for value in place)
    return y, x


def match(features, place, n):
    """Row and column of the patch of image n whose feature is most like that of a photo's place."""
    grid = features.features.shape[1]
    wanted = features.features[0][find_patch(grid, place)]
    likeness = torch.cosine_similarity(features.features[n], wanted, -1)
    return divmod(int(likeness.argmax()), grid)


def draw_features(features, places):
    """Crops above, colours below; framed: the patches of places in the photo, and those most alike.

    places: {name: (x, y)}, relative to the photo's crop.
    """
    grid, count, gap = features.features.shape[1], len(features.pixels), explain.GAP
    side = (explain.WIDTH - (count + 1) * gap) // count
    page, pen = explain.start_row(explain.HEAD + 2 * side + 2 * gap + explain.LINE)
    frames = dict(zip(places, choose_colours(len(places)), strict=True))
    for n in range(count):
        left = gap + n * (side + gap)
        title = "each framed patch is the one most like the photo's" if n else "the photo"
        explain.write(pen, left, explain.HEAD / 2, title, 12)
        colours = Image.fromarray((255 * features.colours[n]).byte().numpy())
        explain.paste(page, make_picture(features.pixels[n]), left, explain.HEAD, side)
        below = explain.HEAD + side + gap
        explain.paste(page, colours, left, below, side, Image.Resampling.NEAREST)
        for name, place in places.items():
            row, column = match(features, place, n) if n else find_patch(grid, place)
            corner = np.array([left + column * side / grid, explain.HEAD + row * side / grid])
            explain.outline(pen, (*corner, *(corner + side / grid)), frames[name], 2)
    for n, name in enumerate(places):
        x = gap + n * (explain.WIDTH - gap) / len(places)
        explain.draw_key(pen, x, page.height / SMOOTH - explain.LINE / 2, frames[name], name)
    return page.reduce(SMOOTH)
