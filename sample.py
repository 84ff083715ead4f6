"""Find keypoints in one photo from their text descriptions (Section 3.1): a table, a picture and, where asked, JSON.

    python sample.py --image examples/astronaut.jpg --desc descriptions/human_face_68.txt --box 86,40,54,53
    python sample.py ... --density "nose tip"       # where the model thinks that this keypoint may be
    python sample.py ... --density "nose tip" --truth 113,63        # beside a Gaussian around the true place (Figure 5)
"""
import argparse
import json
from colorsys import hsv_to_rgb
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont

from support import launch
import data
from study import density
from capellm import CapeLLM, Codec
from decode import DECODING
from support import photos

SMALL, LARGE = 768, 1600    # pixels of the longest side: a smaller photo is enlarged, a larger one reduced
NAMED = 20                  # up to so many keypoints carry their names, more carry numbers and a legend
PANEL = 480                 # pixels of a side of each half of Figure 5
SIGMA = 2 / 64              # relative to the crop, of the Gaussian in Figure 5: 2 pixels of a heatmap of 64 x 64, as is usual
HEAT = ((0, "#000004"), (0.25, "#57106e"), (0.5, "#bc3754"), (0.75, "#f98e09"), (1, "#fcffa4"))     # matplotlib's inferno
SMOOTH = 2                  # drawn so much larger, then averaged: Pillow's lines and discs have hard edges


def parse_box(text, size):
    """`x,y,w,h` in pixels, clipped to an image of size (width, height), as the boxes of MP-100 are. Raises ValueError."""
    try:
        x, y, w, h = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"--box {text!r}: expected four numbers x,y,w,h in pixels, such as 86,40,54,53") from None
    x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + w, float(size[0])), min(y + h, float(size[1]))
    if not (x1 > x0 and y1 > y0):                       # NaN, too
        raise ValueError(f"--box {text} (x,y,w,h) has no part inside the image, which is {size[0]} x {size[1]} pixels")
    return x0, y0, x1 - x0, y1 - y0


def parse_truth(text, square):
    """`x,y` in pixels, inside the crop around the box `square`. Raises ValueError."""
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"--truth {text!r}: expected two numbers x,y in pixels, such as 113,63") from None
    affine = data.crop_affine(square, 1)
    if not all(map(Codec.has_code, data.to_crop([(x, y)], affine, 1)[0])):                     # NaN, too
        (left, top), (right, bottom) = data.to_image(np.array([(0, 0), (1, 1)]), affine, 1).tolist()
        raise ValueError(f"--truth {text} lies outside of the crop, where x is from {left:g} to {right:g} and y from {top:g} to "
                         f"{bottom:g}: there is no density")
    return x, y


def draw(image, points, names, box=None):
    """The photo with its keypoints, a new RGB image; with a box its surroundings alone, so that points stay apart.

    image: PIL image; points: rows starting with x, y in its pixels; names: one for each point; box: x, y, w, h in pixels.
    """
    points = np.array([p[:2] for p in points], float).reshape(-1, 2)
    low, high = np.zeros(2), np.array(image.size, float)
    if box:
        box = np.array(box, float)
        centre, around = box[:2] + box[2:] / 2, box[2:].max()
        low, high = np.maximum(low, centre - around), np.minimum(high, centre + around)
    low, high = np.floor(np.min([low, *points], 0)), np.ceil(np.max([high, *points], 0))    # answers may lie beyond
    scale = SMOOTH * (min(1, LARGE / max(high - low)) if max(high - low) > SMALL else round(SMALL / max(high - low)))
    photo = image.convert("RGB").crop([int(v) for v in (*low, *high)])
    photo = photo.resize([max(1, round(side * scale)) for side in photo.size], Image.Resampling.BICUBIC)
    points = (points - low) * scale
    colours = [tuple(round(255 * c) for c in hsv_to_rgb(i / len(names), 0.85, 1)) for i in range(len(names))]
    pen, u = ImageDraw.Draw(photo, "RGBA"), max(photo.size) / SMALL      # u: a pixel, were the picture 768 pixels long
    if box is not None:
        pen.rectangle([*(box[:2] - low) * scale, *(box[:2] + box[2:] - low) * scale], None, (255, 255, 255, 170), round(u))
    labels = names if (named := len(names) <= NAMED) else [str(i + 1) for i in range(len(names))]
    r, font = (4.5 * u, ImageFont.load_default(14 * u)) if named else (3 * u, ImageFont.load_default(10 * u))
    places = place(points, [font.getbbox(t, anchor="lt")[2:] for t in labels], photo.size, r, 3 * u)
    for point, rectangle, colour in zip(points, places, colours):
        nearest = point.clip(rectangle[:2], rectangle[2:])
        if np.hypot(*nearest - point) > 3 * r:          # a line to a label that is not beside its point
            pen.line([*point, *nearest], colour, round(1.5 * u))
        pen.rounded_rectangle(rectangle.tolist(), 3 * u, (0, 0, 0, 165), colour if named else None, round(0.7 * u))
    for point, colour in zip(points, colours):
        for radius, fill in ((r + 2 * u, (0, 0, 0, 150)), (r + u, "white"), (r, colour)):
            pen.circle(point.tolist(), radius, fill)
    for rectangle, label in zip(places, labels):
        pen.text((rectangle[:2] + rectangle[2:]) / 2, label, "white", font, "mm")
    return (photo if named else legend(photo, names, colours, u)).reduce(SMOOTH)


def place(points, sizes, canvas, r, pad):
    """For each label a rectangle x0, y0, x1, y1 near its point that hides the least: (K, 4). sizes: w, h of each."""
    ring, angle = (v.ravel() for v in np.meshgrid(np.arange(12), np.arange(0, 2 * np.pi, np.pi / 6), indexing="ij"))
    direction, distance = np.stack([np.cos(angle), np.sin(angle)], 1), (1.8 + 2 * ring[:, None]) * r
    taken = np.concatenate([points - r, points + r], 1)                                             # the points themselves
    for point, size in zip(points, np.array(sizes) + 2 * pad):
        centre = point + direction * (distance + size / 2)                                          # (options, 2)
        option = np.concatenate([centre - size / 2, centre + size / 2], 1)                          # (options, 4)
        overlap = np.minimum(option[:, None, 2:], taken[:, 2:]) - np.maximum(option[:, None, :2], taken[:, :2])
        outside = np.maximum(-option[:, :2], 0) + np.maximum(option[:, 2:] - canvas, 0)
        cost = ring + 4 * overlap.clip(0).prod(2).sum(1) / r ** 2 + 10 * outside.sum(1) / r
        taken = np.concatenate([taken, option[cost.argmin(), None]])
    return taken[len(points):]


def legend(photo, names, colours, u):
    """The picture with columns of numbers and names at its right."""
    font, line, x = ImageFont.load_default(12 * u), 18 * u, photo.width + 10 * u
    rows = -(-len(names) // -(-len(names) // max(1, int(photo.height / line - 1))))                 # columns of equal length
    columns = [range(i, min(i + rows, len(names))) for i in range(0, len(names), rows)]
    widths = [max(font.getlength(names[i]) for i in column) + 50 * u for column in columns]
    page = Image.new("RGB", (round(x + sum(widths)), photo.height), "white")
    page.paste(photo)
    pen = ImageDraw.Draw(page)
    for column, width in zip(columns, widths):
        for y, i in enumerate(column, 1):
            pen.circle((x + 4 * u, y * line), 4 * u, colours[i])
            pen.text((x + 30 * u, y * line), str(i + 1), "black", font, "rm")
            pen.text((x + 36 * u, y * line), names[i], "black", font, "lm")
        x += width
    return page


def draw_density(image, box, name, p, truth=None):
    """Figure 5: the crop under p (see density.py), and under a Gaussian of fixed variance around the truth, where it is known,
    else around the best answer for PCK@0.05.

    image: PIL image; box: x, y, w, h in its pixels; truth: x, y relative to the crop, shown as a cross. Each half is coloured
    from 0 to its own peak, at the resolution of two digits, 1% of the crop. Returns an RGB image.
    """
    side, margin, top, foot = SMOOTH * PANEL, SMOOTH * 12, SMOOTH * 54, SMOOTH * 28
    affine = data.crop_affine(box, side)
    shrink = max(1, int(affine[0, 0]))
    photo = image.convert("L").reduce(shrink)
    photo = photo.transform((side, side), Image.Transform.AFFINE, (affine / shrink).ravel(), Image.Resampling.BICUBIC)
    photo = np.asarray(photo, float)[..., None] * 0.8
    centre, expected = density.best(p, 0.05)
    around = "the truth, the cross" if truth else f"the best point for PCK@0.05 (expected: {expected:.0%})"
    halves = (("CapeLLM: p(x, y) over its digits", p,
               f"90% of the mass lies in {density.region(p, 0.9).double().mean():.1%} of the crop"),
              ("Gaussian of fixed variance", density.gaussian(truth or centre, SIGMA),
               f"sigma {SIGMA:.1%} of the crop, around {around}"))
    page = Image.new("RGB", (3 * margin + 2 * side, top + side + foot), "white")
    pen, large, small = ImageDraw.Draw(page), ImageFont.load_default(SMOOTH * 17), ImageFont.load_default(SMOOTH * 13)
    pen.text((page.width / 2, SMOOTH * 15), name, "black", large, "mm")
    for x, (title, mass, note) in zip((margin, 2 * margin + side), halves):
        heat = Image.fromarray(mass.T.float().numpy()).reduce(density.SIDE // 100).resize((side, side), Image.Resampling.BICUBIC)
        heat = (np.asarray(heat) / np.max(heat)).clip(0)[..., None]
        colour = [np.interp(heat, [h for h, _ in HEAT], [ImageColor.getrgb(c)[i] for _, c in HEAT]) for i in range(3)]
        alpha = np.minimum(1, 3 * heat)
        page.paste(Image.fromarray((photo * (1 - alpha) + np.concatenate(colour, 2) * alpha).astype(np.uint8)), (x, top))
        for rim, ink in ((1.5, "black"), (0, "white")) if truth else ():    # a cross, open in its middle: heat is seen there
            for dx, dy in ((-10, 0), (10, 0), (0, -10), (0, 10)):           # the middles of its arms, 8 long and 2 wide
                arm = np.array([x, top]) + side * np.array(truth) + SMOOTH * np.array([dx, dy])
                reach = SMOOTH * (np.array([4, 1] if dx else [1, 4]) + rim)
                pen.rectangle([*arm - reach, *arm + reach - 1], ink)        # Pillow's rectangles include their end
        pen.text((x + side / 2, SMOOTH * 40), title, "black", small, "mm")
        pen.text((x, top + side + SMOOTH * 14), note, "black", small, "lm")
    return page.reduce(SMOOTH)


def write(path, save):
    """Write beside, then rename: what stands under the name is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        save(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def named(keypoints, name, path):
    """The keypoint of this name. ValueError where the description file has none."""
    if name in (names := [k.name for k in keypoints]):
        return keypoints[names.index(name)]
    nearest = ", ".join(map(repr, get_close_matches(name, names, 3, 0)))
    raise ValueError(f"--density {name!r}: {path} has no keypoint of that name; the nearest: {nearest}")


def answers(model, image, box, keypoints, **how):
    """(picture, what goes into the JSON, lines to print) of all keypoints."""
    found, names = model.locate(image, keypoints, box, **how), [k.name for k in keypoints]
    width = max(len("keypoint"), *map(len, names))
    lines = [f"{'keypoint':<{width}}  {'x':>7}  {'y':>7}  probability"]
    lines += [f"{name:<{width}}  {x:7.1f}  {y:7.1f}  {probability:11.4f}" for name, (x, y, probability) in zip(names, found)]
    return draw(image, found, names, box), {"keypoints": [{"name": n, **p._asdict()} for n, p in zip(names, found)]}, lines


def distribution(model, image, box, keypoint, truth=None, **question):
    """The same of the density of one keypoint. truth: x, y in pixels, inside the crop; question: as for `CapeLLM.answer`."""
    pixels, square = model.look(image, box)[0], box or (0, 0, *image.size)
    (greedy,), _ = model.answer(pixels, [keypoint], **question)
    found = density.compute_density(model, pixels, keypoint, **question)
    best, expected = density.best(found.p, 0.05)
    places = {n: f(found.p) for n, f in (("mode", density.mode), ("median", density.median), ("mean", density.mean))}
    places = {"greedy": greedy, **places, "best for PCK@0.05": best}
    places = {n: data.to_image(p, data.crop_affine(square, 1), 1).tolist() for n, p in places.items()}
    numbers = {"expected PCK@0.05": expected, "entropy": density.entropy(found.p),
               "spread": found.spread, "prefixes": found.prefixes}
    lines = [f"{keypoint.name:<17}  {'x':>7}  {'y':>7}", *(f"{n:<17}  {x:7.1f}  {y:7.1f}" for n, (x, y) in places.items()),
             f"expected PCK@0.05 {expected:.3f}, {found.prefixes} prefixes read, no probability wrong by more than "
             f"{found.spread:.3f}", f"in nats per unit of area, where the crop's is 1: entropy {numbers['entropy']:.2f}"]
    if relative := truth and tuple(data.to_crop([truth], data.crop_affine(square, 1), 1)[0].tolist()):
        nll, rival = density.nll(found.p, relative), float(density.gaussian_nll([greedy], [relative], SIGMA))
        numbers |= {"truth": truth, "NLL of the truth": nll, "NLL of the truth, Gaussian around the greedy answer": rival}
        lines[-1] += (f", negative log-likelihood of the truth {nll:.2f}; {rival:.2f} under a Gaussian around the greedy answer, "
                      f"sigma {SIGMA:.1%} of the crop")
    return draw_density(image, square, keypoint.name, found.p, relative), {"keypoint": keypoint.name, **places, **numbers}, lines


def main():
    p = argparse.ArgumentParser(description="Find keypoints in one photo from their text descriptions.")
    p.add_argument("--image", type=Path, required=True, metavar="FILE", help="the photo")
    p.add_argument("--desc", type=Path, required=True, metavar="FILE", help="'name: description' lines, as in descriptions/")
    p.add_argument("--model", type=Path, default=data.HERE / "nano", metavar="FOLDER", help="a model folder (default: nano)")
    p.add_argument("--box", metavar="x,y,w,h", help="the object, in pixels of the upright photo (default: all of it)")
    p.add_argument("--out", type=Path, metavar="FILE",
                   help="the picture (default: out/<name of the photo>_keypoints.png, or _density.png)")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers as JSON")
    p.add_argument("--decoding", choices=DECODING, default="greedy", help="how an answer's digits are chosen (default: greedy)")
    p.add_argument("--seed", type=int, default=0, help="of the decodings that draw (default: 0)")
    p.add_argument("--cumulative", nargs="?", const=True, default=False, choices=["confidence"],
                   help="each question follows the earlier answers; with 'confidence' the surest first")
    p.add_argument("--density", metavar="NAME", help="show instead where this keypoint may be, over all answers at once")
    p.add_argument("--truth", metavar="x,y", help="where it is, in pixels: shown and compared with the density (Figure 5)")
    p.add_argument("--device", choices=["cpu", "cuda", "mps"], help="default: cuda or mps where available, else cpu")
    a = p.parse_args()
    out = a.out or Path("out") / f"{a.image.stem}_{'keypoints' if a.density is None else 'density'}.png"
    if len({f.resolve() for f in (a.image, a.desc, out, a.json) if f}) < 3 + bool(a.json):
        raise ValueError("--image, --desc, --out and --json name one file twice: choose another --out or --json")
    if Image.registered_extensions().get(out.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"--out {out}: no picture format is called {out.suffix or 'nothing'!r}; use .png or .jpg")
    if a.density is not None and (a.cumulative or a.decoding != "greedy"):
        raise ValueError("--density covers every answer to its question: leave --decoding and --cumulative out")
    if a.truth is not None and a.density is None:
        raise ValueError("--truth is compared with the density of one keypoint: name it with --density, or leave --truth out")
    devices = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if (device := a.device or devices[0]) not in devices:
        raise ValueError(f"--device {device} is not available here; use {' or '.join(devices)}")
    keypoints, image = data.read_descriptions(a.desc), photos.open_image(a.image)
    keypoint = None if a.density is None else named(keypoints, a.density, a.desc)
    box = None if a.box is None else parse_box(a.box, image.size)
    truth = None if a.truth is None else parse_truth(a.truth, box or (0, 0, *image.size))
    print(f"loading {a.model} on {device}", flush=True)     # large models load for a while
    model = CapeLLM.from_pretrained(a.model, torch.float32 if device == "cpu" else torch.bfloat16, device)
    if keypoint:
        picture, result, lines = distribution(model, image, box, keypoint, truth, category=a.desc.stem, listed=keypoints)
    else:
        picture, result, lines = answers(model, image, box, keypoints, decoding=a.decoding, cumulative=a.cumulative, seed=a.seed,
                                         category=a.desc.stem)
    write(out, picture.save)
    if a.json:
        result = {"image": str(a.image), "model": str(a.model), "box": box or (0, 0, *image.size), **result}
        write(a.json, lambda f: f.write_text(json.dumps(result, indent=1) + "\n"))
    print("\n".join(lines))
    print(f"written: {', '.join(str(f) for f in (out, a.json) if f)}")


if __name__ == "__main__":
    launch.run("sample.py", main)
