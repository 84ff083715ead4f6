"""Figure 5: the density of a keypoint's place beside a Gaussian heatmap, and the numbers with it.

    finding = make_finding(model, image, box, keypoint)
    draw_density(image, box, keypoint.name, finding.p).save("density.png")
    print("\\n".join(format_finding(finding)))

`python sample.py ... --density NAME` is its command.
"""

from difflib import get_close_matches
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont

import data
from capellm import Codec
from study import density
from support.pictures import SMOOTH

# In pixels: the side of a panel, the space around it, the heights above and below it.
PANEL, MARGIN, HEAD, FOOT = 480, 12, 54, 28

# The Gaussian, relative to the crop: 2 pixels of a heatmap of 64 x 64, as is usual.
SIGMA = 2 / 64

# Names of numbers: places, and negative log-likelihoods of the truth.
PLACES = ("greedy", "mode", "median", "mean", "best for PCK@0.05")
NLL = "NLL of the truth"
RIVAL = "NLL of the truth, Gaussian around the greedy answer"

# matplotlib's inferno, from no density to the peak.
HEAT = ((0, "#000004"), (0.25, "#57106e"), (0.5, "#bc3754"), (0.75, "#f98e09"), (1, "#fcffa4"))

# The arms of the cross in pixels, (middle), (half of width and height): it is open at its centre,
# so that the heat is seen there.
ARMS = (((-10, 0), (4, 1)), ((10, 0), (4, 1)), ((0, -10), (1, 4)), ((0, 10), (1, 4)))


class Finding(NamedTuple):
    """Where the model thinks that a keypoint is.

    keypoint: its name; p: (1000, 1000), see density.py; truth: (x, y) relative to the crop, or
    None; numbers: {name: value}, what the JSON holds: the PLACES are [x, y] in the image's pixels,
    entropy and NLL in nats per unit of area, where the crop's is 1.
    """

    keypoint: str
    p: torch.Tensor
    truth: tuple | None
    numbers: dict


class Panel(NamedTuple):
    """One half of the figure. mass: (1000, 1000)."""

    title: str
    mass: torch.Tensor
    note: str


def find_keypoint(keypoints, name, path, option="--density"):
    """The keypoint of this name. Raises ValueError if the description file has none."""
    names = [keypoint.name for keypoint in keypoints]
    if name in names:
        return keypoints[names.index(name)]
    nearest = ", ".join(map(repr, get_close_matches(name, names, 3, 0)))
    raise ValueError(
        f"{option} {name!r}: {path} has no keypoint of that name; the nearest: {nearest}"
    )


def find_asked(keypoints, args):
    """The keypoint that --density or --explain names, None if neither is given."""
    for option, name in (("--density", args.density), ("--explain", args.explain)):
        if name is not None:
            return find_keypoint(keypoints, name, args.desc, option)
    return None


def parse_truth(text, box):
    """`x,y` in pixels, inside the crop around a box, x, y, w, h. Raises ValueError."""
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise ValueError(
            f"--truth {text!r}: expected two numbers x,y in pixels, such as 113,63"
        ) from None
    with np.errstate(invalid="ignore"):  # NaN and infinity have no code, either
        relative = find_in_crop((x, y), box)
    if not all(Codec.has_code(v) for v in relative):
        (left, top), (right, bottom) = find_in_image([(0, 0), (1, 1)], box)
        raise ValueError(
            f"--truth {text} lies outside of the crop, where x is from {left:g} to {right:g} "
            f"and y from {top:g} to {bottom:g}: there is no density"
        )
    return x, y


def find_in_crop(place, box):
    """A place (x, y) in pixels, relative to the crop around a box."""
    affine = data.make_affine(box, 1)
    return tuple(data.map_to_crop([place], affine, 1)[0].tolist())


def find_in_image(places, box):
    """Places relative to the crop around a box, in the image's pixels, as a list."""
    return data.map_to_image(places, data.make_affine(box, 1), 1).tolist()


def make_finding(model, image, box, keypoint, truth=None, **question):
    """The density of one keypoint's place, and what follows from it: a Finding.

    model: CapeLLM; image: PIL image; box: x, y, w, h in its pixels; truth: x, y in its pixels,
    inside the crop; question: category and listed, as for `CapeLLM.answer`.
    """
    pixels, _ = model.look(image, box)
    (greedy,) = model.answer(pixels, [keypoint], **question).coordinates
    found = density.compute_density(model, pixels, keypoint, **question)
    p = found.p
    best, expected = density.find_best_point(p, 0.05)
    places = (greedy, density.find_mode(p), density.find_median(p), density.find_mean(p), best)
    numbers = {"keypoint": keypoint.name}
    for name, place in zip(PLACES, find_in_image(places, box), strict=True):
        numbers[name] = place
    numbers["expected PCK@0.05"] = expected
    numbers["entropy"] = density.compute_entropy(p)
    numbers["spread"] = found.spread
    numbers["prefixes"] = found.prefixes
    relative = None
    if truth is not None:
        relative = find_in_crop(truth, box)
        numbers["truth"] = truth
        numbers[NLL] = density.compute_nll(p, relative)
        numbers[RIVAL] = float(density.compute_gaussian_nll([greedy], [relative], SIGMA))
    return Finding(keypoint.name, p, relative, numbers)


def format_finding(finding):
    """A Finding as lines to print."""
    numbers = finding.numbers
    lines = [f"{finding.keypoint:<17}  {'x':>7}  {'y':>7}"]
    for name in PLACES:
        x, y = numbers[name]
        lines.append(f"{name:<17}  {x:7.1f}  {y:7.1f}")
    lines.append(
        f"expected PCK@0.05 {numbers['expected PCK@0.05']:.3f}, "
        f"{numbers['prefixes']} prefixes read, "
        f"no probability wrong by more than {numbers['spread']:.3f}"
    )
    last = f"in nats per unit of area, where the crop's is 1: entropy {numbers['entropy']:.2f}"
    if finding.truth is not None:
        last += (
            f", negative log-likelihood of the truth {numbers[NLL]:.2f}; "
            f"{numbers[RIVAL]:.2f} under a Gaussian around the greedy answer, "
            f"sigma {SIGMA:.1%} of the crop"
        )
    return [*lines, last]


def draw_density(image, box, name, p, truth=None):
    """Figure 5: the crop under p, and under a Gaussian of fixed variance. Returns an RGB image.

    image: PIL image; box: x, y, w, h in its pixels; p: (1000, 1000), see density.py; truth: x, y
    relative to the crop, shown as a cross. The Gaussian is around the truth if it is known, else
    around the best answer for PCK@0.05. Each half is coloured from 0 to its own peak, at the
    resolution of two digits, 1% of the crop.
    """
    side = SMOOTH * PANEL
    margin, top, foot = SMOOTH * MARGIN, SMOOTH * HEAD, SMOOTH * FOOT
    page = Image.new("RGB", (3 * margin + 2 * side, top + side + foot), "white")
    pen = ImageDraw.Draw(page)
    large, small = ImageFont.load_default(SMOOTH * 17), ImageFont.load_default(SMOOTH * 13)
    pen.text((page.width / 2, SMOOTH * 15), name, "black", large, "mm")
    photo = crop_grey(image, box, side)
    left = margin
    for panel in choose_panels(p, truth):
        page.paste(paint_heat(photo, panel.mass), (left, top))
        if truth is not None:
            draw_cross(pen, np.array([left, top]) + side * np.array(truth))
        pen.text((left + side / 2, SMOOTH * 40), panel.title, "black", small, "mm")
        pen.text((left, top + side + SMOOTH * 14), panel.note, "black", small, "lm")
        left += side + margin
    return page.reduce(SMOOTH)


def choose_panels(p, truth):
    """What the two halves show: the density and the Gaussian."""
    if truth is None:
        centre, expected = density.find_best_point(p, 0.05)
        around = f"the best point for PCK@0.05 (expected: {expected:.0%})"
    else:
        centre = truth
        around = "the truth, the cross"
    share = density.find_region(p, 0.9).double().mean()
    region = f"90% of the mass lies in {share:.1%} of the crop"
    gaussian = f"sigma {SIGMA:.1%} of the crop, around {around}"
    return (
        Panel("CapeLLM: p(x, y) over its digits", p, region),
        Panel("Gaussian of fixed variance", density.make_gaussian(centre, SIGMA), gaussian),
    )


def crop_grey(image, box, side):
    """The crop around a box, (side, side, 1), in greys of 0 to 255, darkened so that heat shows."""
    affine = data.make_affine(box, side)
    shrink = max(1, int(affine[0, 0]))
    grey = image.convert("L").reduce(shrink)
    matrix = (affine / shrink).ravel()
    grey = grey.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return 0.8 * np.asarray(grey, float)[..., None]


def paint_heat(photo, mass):
    """The photo (S, S, 1) under the colours of a mass (1000, 1000), clear where there is none."""
    heat = Image.fromarray(mass.T.float().numpy()).reduce(density.GRID // 100)
    heat = heat.resize(photo.shape[:2], Image.Resampling.BICUBIC)
    return colour_heat(photo, np.asarray(heat))


def colour_heat(photo, heat):
    """The photo (S, S, 1) under the colours of a heat (S, S), from 0 to its own peak."""
    heat = (heat / heat.max()).clip(0)[..., None]
    stops = [stop for stop, _ in HEAT]
    colours = np.array([ImageColor.getrgb(colour) for _, colour in HEAT])
    colour = np.concatenate([np.interp(heat, stops, channel) for channel in colours.T], 2)
    alpha = np.minimum(1, 3 * heat)
    return Image.fromarray((photo * (1 - alpha) + colour * alpha).astype(np.uint8))


def draw_cross(pen, centre):
    """A white cross with a black rim, its arms 8 pixels long and 2 wide."""
    for rim, colour in ((1.5, "black"), (0, "white")):
        for middle, half in ARMS:
            arm = centre + SMOOTH * np.array(middle)
            reach = SMOOTH * (np.array(half) + rim)
            # Pillow's rectangles include their end.
            pen.rectangle([*(arm - reach), *(arm + reach - 1)], colour)
