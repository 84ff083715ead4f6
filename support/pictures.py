"""Pictures of a photo's keypoints, of the images of an evaluation, of the images of a data folder.

    draw_keypoints(image, [(12, 30), (50, 31)], ["left eye", "right eye"]).save("eyes.png")

Nothing here knows the model or the data: what loads an instance comes as an argument.
"""

import io
import math
from colorsys import hsv_to_rgb
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from support.coco import get_sorted_id
from support.photos import PIXEL_MEAN, PIXEL_STD

# Pillow's lines and discs have hard edges: all is drawn so many times larger, then averaged.
SMOOTH = 2

# A photo with its keypoints. Its longest side in pixels: a smaller one is enlarged, a larger one
# reduced. Up to NAMED keypoints carry their names, more carry numbers that a legend explains.
SMALLEST_SIDE, LARGEST_SIDE = 768, 1600
NAMED = 20
# Characters of a name; and lines of a legend, however low the photo is.
LONGEST_NAME, LEAST_LINES = 60, 10

# The sheet of an evaluation, in pixels: the side of a tile, the space between tiles, the heights
# of its key, of a row's title and of what is written below a tile; and how many tiles make a row.
TILE, GAP, KEY, TITLE, CAPTION = 272, 14, 34, 30, 58
TILES_IN_ROW = 4
TRUTH_COLOUR, ANSWER_COLOUR = (50, 150, 255), (255, 140, 0)

# The contact sheet: the height of the line above a tile, and a tile's side, in pixels; and how many
# categories it shows at most.
LINE, THUMB = 14, 160
MOST_SHOWN = 400


def check_picture_name(option, path):
    """ValueError, before any work, if the suffix of a picture's path is of no format for it."""
    format = Image.registered_extensions().get(path.suffix.lower())
    try:
        # Some formats are only for pictures in black and white.
        Image.new("RGB", (1, 1)).save(io.BytesIO(), format or "")
    except (OSError, KeyError, ValueError):
        raise ValueError(
            f"{option} {path}: no picture format is called {path.suffix or 'nothing'!r}; "
            "use .png or .jpg"
        ) from None


# A photo with its keypoints.


class Style(NamedTuple):
    """How points and labels look. radius: of a point, in pixels; framed: labels have its colour."""

    radius: float
    font: ImageFont.FreeTypeFont
    framed: bool


def draw_keypoints(image, points, names, box=None, circles=None):
    """The photo with its keypoints, a new RGB image; with a box only its surroundings.

    image: PIL image; points: rows that start with x, y in its pixels; names: one for each point;
    box: x, y, w, h in pixels, drawn as a thin frame; circles: of each point a radius in pixels, or
    None, drawn faintly.
    """
    points = np.array([point[:2] for point in points], float).reshape(-1, 2)
    names = [cut_name(name) for name in names]
    low, high = choose_view(image.size, points, box)
    scale = SMOOTH * choose_scale(max(high - low))
    picture = cut_out(image, low, high, scale)
    points = (points - low) * scale
    colours = choose_colours(len(names))
    # What is a pixel wide in a picture 768 pixels long.
    unit = max(picture.size) / SMALLEST_SIDE
    if box is not None:
        corners = np.array([box[:2], np.add(box[:2], box[2:])], float)
        corners = ((corners - low) * scale).ravel().tolist()
        pen = ImageDraw.Draw(picture, "RGBA")
        pen.rectangle(corners, None, (255, 255, 255, 170), round(unit))
    circles = circles or [None] * len(points)
    draw_circles(picture, points, circles, scale, colours, unit)
    if len(names) <= NAMED:
        style = Style(4.5 * unit, ImageFont.load_default(14 * unit), framed=True)
        draw_points(picture, points, names, colours, style, unit)
    else:
        style = Style(3 * unit, ImageFont.load_default(10 * unit), framed=False)
        numbers = [str(i + 1) for i in range(len(names))]
        draw_points(picture, points, numbers, colours, style, unit)
        picture = add_legend(picture, names, colours, unit)
    return picture.reduce(SMOOTH)


def cut_name(name):
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}\u2026"


def choose_view(size, points, box):
    """Two corners (x, y) of what is shown of a photo of this size (width, height).

    Twice the box as a square, so that points stay apart, or the whole photo; and all points, as
    answers may lie outside of the photo.
    """
    low, high = np.zeros(2), np.array(size, float)
    if box is not None:
        box = np.array(box, float)
        centre = box[:2] + box[2:] / 2
        reach = box[2:].max()
        low = np.maximum(low, centre - reach)
        high = np.minimum(high, centre + reach)
    low = np.floor(np.min([low, *points], 0))
    high = np.ceil(np.max([high, *points], 0))
    return low, high


def choose_scale(side):
    """How many times larger a view whose longest side is so many pixels is shown."""
    if side > SMALLEST_SIDE:
        return min(1, LARGEST_SIDE / side)
    return round(SMALLEST_SIDE / side)


def cut_out(image, low, high, scale):
    """The part of an image between two corners, resized; black outside of the image."""
    low, high = low.astype(int), high.astype(int)
    size = [max(1, round(side * scale)) for side in (high - low).tolist()]
    page = Image.new("RGB", size)
    # What lies outside is never made at full size: around a wide photo it may be thousands of times
    # larger than the photo.
    inner_low, inner_high = low.clip(0, image.size), high.clip(0, image.size)
    if (inner_high > inner_low).all():
        part = image.convert("RGB").crop((*inner_low.tolist(), *inner_high.tolist()))
        part_size = [max(1, round(side * scale)) for side in part.size]
        place = ((inner_low - low) * scale).round().astype(int)
        # A photo of few lines may round to beyond the edge.
        place = np.minimum(place, np.subtract(size, part_size)).tolist()
        page.paste(part.resize(part_size, Image.Resampling.BICUBIC), place)
    return page


def choose_colours(count):
    """So many hues around the colour wheel, as (red, green, blue) of 0 to 255."""
    colours = []
    for i in range(count):
        colour = hsv_to_rgb(i / count, 0.85, 1)
        colours.append(tuple(round(255 * c) for c in colour))
    return colours


def draw_circles(picture, points, radii, scale, colours, unit):
    """Draw around points (K, 2) circles of radii that scale enlarges, where they are not None."""
    pen = ImageDraw.Draw(picture, "RGBA")
    for point, radius, colour in zip(points.tolist(), radii, colours, strict=True):
        if radius is not None:
            pen.circle(point, radius * scale, (*colour, 14), (*colour, 120), round(1.5 * unit))


def draw_points(picture, points, labels, colours, style, unit):
    """Draw points and their labels on a picture. points: (K, 2) in its pixels."""
    pen = ImageDraw.Draw(picture, "RGBA")
    padding = 3 * unit
    sizes = np.array([style.font.getbbox(label, anchor="lt")[2:] for label in labels]) + 2 * padding
    places = place_labels(points, sizes, picture.size, style.radius)
    for point, place, colour in zip(points, places, colours, strict=True):
        nearest = point.clip(place[:2], place[2:])
        # A line leads to a label that is not beside its point.
        if np.hypot(*nearest - point) > 3 * style.radius:
            pen.line([*point, *nearest], colour, round(1.5 * unit))
        frame = colour if style.framed else None
        pen.rounded_rectangle(place.tolist(), 3 * unit, (0, 0, 0, 165), frame, round(0.7 * unit))
    for point, colour in zip(points, colours, strict=True):
        pen.circle(point.tolist(), style.radius + 2 * unit, (0, 0, 0, 150))
        pen.circle(point.tolist(), style.radius + unit, "white")
        pen.circle(point.tolist(), style.radius, colour)
    for place, label in zip(places, labels, strict=True):
        pen.text((place[:2] + place[2:]) / 2, label, "white", style.font, "mm")


def place_labels(points, sizes, canvas, radius):
    """For each label a rectangle x0, y0, x1, y1 near its point: (K, 4).

    points: (K, 2); sizes: (K, 2), width and height of each label; canvas: width and height of the
    picture; radius: of a point; all in pixels. Labels are placed one after the other. Each takes
    the cheapest of 12 directions at 12 distances: near is cheap, hiding a point or an earlier
    label costs, leaving the picture costs more.
    """
    rings, angles = np.meshgrid(np.arange(12), np.arange(0, 2 * np.pi, np.pi / 6), indexing="ij")
    rings, angles = rings.ravel(), angles.ravel()
    directions = np.stack([np.cos(angles), np.sin(angles)], 1)
    distances = (1.8 + 2 * rings[:, None]) * radius
    taken = np.concatenate([points - radius, points + radius], 1)
    for point, size in zip(points, np.array(sizes), strict=True):
        centres = point + directions * (distances + size / 2)
        options = np.concatenate([centres - size / 2, centres + size / 2], 1)  # (144, 4)
        outside = np.maximum(-options[:, :2], 0) + np.maximum(options[:, 2:] - canvas, 0)
        hidden = measure_overlap(options, taken).sum(1)
        cost = rings + 4 * hidden / radius**2 + 10 * outside.sum(1) / radius
        taken = np.concatenate([taken, options[cost.argmin(), None]])
    return taken[len(points) :]


def measure_overlap(a, b):
    """The areas that rectangles a (A, 4) and b (B, 4) have in common: (A, B)."""
    low = np.maximum(a[:, None, :2], b[:, :2])
    high = np.minimum(a[:, None, 2:], b[:, 2:])
    return (high - low).clip(0).prod(2)


def add_legend(picture, names, colours, unit):
    """The picture with columns of colours, numbers and names at its right."""
    font = ImageFont.load_default(12 * unit)
    line = 18 * unit
    fitting = max(LEAST_LINES, int(picture.height / line - 1))
    columns = math.ceil(len(names) / fitting)
    rows = math.ceil(len(names) / columns)
    starts = range(0, len(names), rows)
    widths = []
    for start in starts:
        longest = max(font.getlength(name) for name in names[start : start + rows])
        widths.append(longest + 50 * unit)
    left = picture.width + 10 * unit
    height = max(picture.height, round((rows + 1) * line))
    page = Image.new("RGB", (round(left + sum(widths)), height), "white")
    page.paste(picture)
    pen = ImageDraw.Draw(page)
    for start, width in zip(starts, widths, strict=True):
        for i in range(start, min(start + rows, len(names))):
            y = (i - start + 1) * line
            pen.circle((left + 4 * unit, y), 4 * unit, colours[i])
            pen.text((left + 30 * unit, y), str(i + 1), "black", font, "rm")
            pen.text((left + 36 * unit, y), names[i], "black", font, "lm")
        left += width
    return page


# Sheets of many images.


class Sheet(NamedTuple):
    """page: an RGB image; faults: what is wrong with the images whose tiles are empty."""

    page: Image.Image
    faults: list


def draw_sheet(measured, load_crop):
    """The best, median and worst of an evaluation's images, truth joined to answer (Figure 3).

    measured: a list of (Instance, record); a record holds "NME", "PCK@0.20" and
    "predictions": {name: (x, y) in pixels} of the labelled keypoints, in order; load_crop:
    data.load_crop. An image that cannot be read leaves its tile empty. Returns a Sheet.
    """
    rows = choose_rows(measured)
    columns = max(2, len(rows["best"]))
    width = columns * (TILE + GAP) + GAP
    height = KEY + len(rows) * (TITLE + TILE + CAPTION)
    page = Image.new("RGB", (SMOOTH * width, SMOOTH * height), "white")
    pen = ImageDraw.Draw(page)
    draw_key(pen, width)
    faults = []
    for row, (title, shown) in enumerate(rows.items()):
        top = KEY + row * (TITLE + TILE + CAPTION)
        draw_text(pen, GAP, top + 14, title, 18)
        for column, (instance, record) in enumerate(shown):
            left = GAP + column * (TILE + GAP)
            try:
                tile = draw_tile(instance, record, load_crop)
            except (ValueError, FileNotFoundError) as error:
                faults.append(str(error))
                continue
            page.paste(tile, (SMOOTH * left, SMOOTH * (top + TITLE)))
            score = f"error {record['NME']:.3f}, PCK@0.20 {100 * record['PCK@0.20']:.0f}%"
            draw_text(pen, left, top + TITLE + TILE + 12, instance.name)
            draw_text(pen, left, top + TITLE + TILE + 30, score)
    return Sheet(page.reduce(SMOOTH), faults)


def choose_rows(measured):
    """{"best": those of least error, "median": ..., "worst": ...}, up to TILES_IN_ROW of each."""
    ranked = sorted(measured, key=get_error)
    # From three images on, none is shown twice.
    count = max(1, min(TILES_IN_ROW, len(ranked) // 3))
    middle = (len(ranked) - count) // 2
    return {
        "best": ranked[:count],
        "median": ranked[middle : middle + count],
        "worst": ranked[len(ranked) - count :],
    }


def get_error(pair):
    """The error of an (instance, record)."""
    return pair[1]["NME"]


def draw_text(pen, x, y, text, size=13, anchor="lm"):
    """A line of text on a sheet, at a place and in a size of its final pixels."""
    font = ImageFont.load_default(SMOOTH * size)
    pen.text((SMOOTH * x, SMOOTH * y), text, "black", font, anchor)


def draw_key(pen, width):
    """What the colours of a sheet mean, and its errors."""
    for x, colour, text in ((GAP, TRUTH_COLOUR, "truth"), (GAP + 70, ANSWER_COLOUR, "answer")):
        pen.circle((SMOOTH * (x + 6), SMOOTH * 18), SMOOTH * 6, colour)
        draw_text(pen, x + 17, 18, text)
    error = "error: mean distance / longer side of the box"
    draw_text(pen, width - GAP, 18, error, anchor="rm")


def draw_tile(instance, record, load_crop):
    """An instance's crop with truths and answers, SMOOTH times as large as it will be shown."""
    truths = instance.keypoints[instance.keypoints[:, 2] > 0, :2]
    answers = np.reshape(list(record["predictions"].values()), (-1, 2))
    # The answers are given as keypoints, too, so that load_crop takes both into the crop.
    both = np.concatenate([truths, answers])
    labelled = np.ones((len(both), 1))
    instance = instance._replace(keypoints=np.concatenate([both, labelled], 1))
    pixels, points = load_crop(instance, SMOOTH * TILE, 1.1)
    tile = make_picture(pixels)
    both = SMOOTH * TILE * points[:, :2]
    truths, answers = both[: len(truths)].tolist(), both[len(truths) :].tolist()
    pen = ImageDraw.Draw(tile)
    for width, colour in ((4, "black"), (2, "white")):
        for truth, answer in zip(truths, answers, strict=True):
            pen.line([*truth, *answer], colour, SMOOTH * width)
    radius = 4 if len(truths) <= NAMED else 2.5
    for points, colour in ((truths, TRUTH_COLOUR), (answers, ANSWER_COLOUR)):
        for point in points:
            pen.circle(point, SMOOTH * (radius + 1), "black")
            pen.circle(point, SMOOTH * radius, colour)
    return tile


def make_picture(pixels):
    """Pixels (3, H, W), normalised as DINOv2 expects them, as a PIL image."""
    colours = (255 * (pixels * PIXEL_STD + PIXEL_MEAN)).round().clamp(0, 255).byte()
    return Image.fromarray(colours.permute(1, 2, 0).numpy())


def draw_contact_sheet(instances, load_crop):
    """One image of each category, its crop with the labelled keypoints. Returns a Sheet.

    instances: list of Instance; load_crop: data.load_crop. An image that cannot be read leaves its
    tile empty.
    """
    first, faults = {}, []
    for instance in instances:
        first.setdefault(instance.category, instance)
    categories = sorted(first, key=get_sorted_id)[:MOST_SHOWN]
    columns = math.ceil(len(categories) ** 0.5)
    rows = math.ceil(len(categories) / columns)
    page = Image.new("RGB", (columns * THUMB, rows * (LINE + THUMB)), "white")
    pen = ImageDraw.Draw(page)
    for n, category in enumerate(categories):
        row, column = divmod(n, columns)
        left, top = column * THUMB, row * (LINE + THUMB)
        title = f"{category} {first[category].name}"
        pen.text((left + 2, top + 1), title[: THUMB // 6], "black")
        try:
            pixels, points = load_crop(first[category], THUMB)
        except (ValueError, FileNotFoundError) as error:
            faults.append(str(error))
            continue
        tile = make_picture(pixels)
        tile_pen = ImageDraw.Draw(tile)
        inside = ((points[:, :2] >= 0) & (points[:, :2] <= 1)).all(1)
        for x, y in THUMB * points[inside & (points[:, 2] > 0), :2]:
            tile_pen.ellipse((x - 2, y - 2, x + 2, y + 2), "red", "white")
        page.paste(tile, (left, top + LINE))
    return Sheet(page, faults)
