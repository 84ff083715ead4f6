"""Draws an image of a category: pose a figure, paint its parts back to front, hide its keypoints.

    image, keypoints, box = draw_category(category, seed=0, index=0)

The same seed draws the same image. shapes.py has the axes, catalogue.py the templates.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from drawings.catalogue import find_template
from drawings.shapes import CIRCLE, Texture, find_inside, project, rotation, shade

TOLERANCE = 0.04  # how far in front of a keypoint, in object units, a part must lie to hide it
SUPERSAMPLE = 2
SPACINGS = {  # between the marks of a texture, in object units
    "stripes": 0.075,
    "bands": 0.16,
    "check": 0.13,
    "dots": 0.09,
    "spots": 0.07,
    "patches": 0.13,
}


class Spots(NamedTuple):
    """A texture of spots, in units of their spacing."""

    jitter: float  # of their places
    radius: float
    spread: float  # of the radius


SPOTS = {
    "dots": Spots(0, 0.28, 0),
    "spots": Spots(0.25, 0.27, 0.08),
    "patches": Spots(0.2, 0.4, 0.08),
}


class Backdrop(NamedTuple):
    name: str
    grid: int  # random colours from side to side, blown up to the image
    spread: float  # of these colours


BACKDROPS = (
    Backdrop("plain", 1, 0),
    Backdrop("gradient", 2, 25),
    Backdrop("blobs", 7, 18),
    Backdrop("horizon", 2, 12),
    Backdrop("texture", 2, 10),
    Backdrop("grain", 48, 12),
)


class Canvas(NamedTuple):
    """Where a figure comes to lie in an image: at pixel xy * scale + shift."""

    size: np.ndarray  # (W, H), whole numbers
    scale: float
    shift: np.ndarray  # (2,)

    def enlarge(self, factor):
        return Canvas(self.size * factor, self.scale * factor, self.shift * factor)


class Extent(NamedTuple):
    """The corners of the object's box in object units."""

    low: np.ndarray  # (2,)
    high: np.ndarray  # (2,)


class Drawing(NamedTuple):
    image: Image.Image
    keypoints: np.ndarray  # (K, 3): x, y in pixels and 2; 0, 0, 0 where hidden
    box: np.ndarray  # (4,): x, y, w, h in pixels


# Pose.


def choose_canvas(rng, extent, boxed):
    """Size, scale and place at random; one object in twenty is cut off by the frame. `boxed`:
    whether the box holds all parts; else room is left for those beside it."""
    sides = np.array([192, 192 * rng.uniform(0.8, 1.25)])
    size = sides[:: rng.choice([1, -1])] * rng.uniform(0.9, 1.15)
    size = size.round().astype(int)
    fill = rng.uniform(0.62, 0.97) if boxed else rng.uniform(0.5, 0.8)
    low, high = extent
    scale = fill * (size / (high - low)).min()
    off_frame = 0.3 if rng.random() < 0.05 else 0
    room = size - scale * (high - low)
    shift = room * rng.uniform(0.05 - off_frame, 0.95 + off_frame, 2) - scale * low
    shift += off_frame * rng.uniform(-0.4, 0.4, 2) * size
    return Canvas(size, scale, shift)


def choose_box(rng, extent, canvas):
    """The object's box in pixels (4,): a little loose, as annotators draw it, within the image."""
    low, high = (corner * canvas.scale + canvas.shift for corner in extent)
    margin = rng.uniform(0, 0.12, (2, 2)) * (extent.high - extent.low) * canvas.scale
    corner = np.maximum(low - margin[0], 0)
    return np.concatenate([corner, np.minimum(high + margin[1], canvas.size) - corner])


# Paint.


def paint_polygon(pen, outline, colour):
    pen.polygon(outline.ravel().tolist(), fill=colour)


def paint_stripes(marks, centre, extent, along, across, step, steps, width):
    """White lines along one direction, a step apart across it."""
    pen = ImageDraw.Draw(marks)
    for at in centre + step * steps[:, None] * across:
        ends = [*(at - along * extent), *(at + along * extent)]
        pen.line(ends, fill=255, width=max(1, int(width)))


def paint_spots(marks, centre, u, v, step, steps, pattern, rng):
    """Discs, or ragged patches, on a grid whose rows are shifted by half a step in turn."""
    pen, spots = ImageDraw.Draw(marks), SPOTS[pattern]
    i, j = np.meshgrid(steps, steps)
    jitter = rng.uniform(-spots.jitter, spots.jitter, (*i.shape, 2))
    grid = centre + step * ((i + j % 2 / 2)[..., None] * u + j[..., None] * v + jitter)
    seen = ((grid > -step) & (grid < np.array(marks.size) + step)).all(2)
    for x, y in grid[seen]:
        radius = step * (spots.radius + spots.spread * rng.uniform(-1, 1))
        if pattern == "patches":
            paint_polygon(pen, [x, y] + radius * rng.uniform(0.8, 1.3, (6, 1)) * CIRCLE[::4], 255)
        else:
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)


def paint_texture(image, outline, grain, texture, colour, scale, rng):
    """Paint a texture inside `outline` (n, 2), in pixels, along `grain` (2, 2); a texture without
    a colour of its own takes a shade of `colour`. scale: pixels per object unit."""
    second = texture.colour or shade(colour, 0.55 if sum(colour) > 200 else 2)
    low = np.maximum(np.floor(outline.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(outline.max(0)).astype(int) + 1, image.size)
    if (high - low < 2).any():
        return
    size = tuple(high - low)
    centre = (outline.min(0) + outline.max(0)) / 2 - low
    extent = np.ptp(outline, 0).max()
    u = grain[0] / max(np.hypot(*grain[0]), 1e-6)
    v = np.array([-u[1], u[0]])
    step = scale * SPACINGS[texture.pattern]
    reach = int(min(0.7 * extent / step + 1, 12))
    steps = np.arange(-reach, reach + 1)

    marks = Image.new("L", size, 0)
    if texture.pattern in SPOTS:
        paint_spots(marks, centre, u, v, step, steps, texture.pattern, rng)
    elif texture.pattern == "check":
        paint_stripes(marks, centre, extent, v, u, step, steps, step * 0.35)
        paint_stripes(marks, centre, extent, u, v, step, steps, step * 0.35)
    else:
        paint_stripes(marks, centre, extent, v, u, step, steps, step * 0.5)
    inside = Image.new("L", size, 0)
    paint_polygon(ImageDraw.Draw(inside), outline - low, 255)
    inside = Image.composite(marks, Image.new("L", size, 0), inside)
    image.paste(second, tuple(int(corner) for corner in low), inside)


def paint_part(image, projection, depth, canvas, rng):
    """Near parts are lighter, outlines darker than the fill."""
    pen, part = ImageDraw.Draw(image), projection.part
    outline = projection.outline * canvas.scale + canvas.shift
    colour = shade(part.colour, 1 + 0.25 * min(max(depth, -0.6), 0.2))
    flat = outline.ravel().tolist()
    if part.kind == "line":
        width = max(1, round(part.width * canvas.scale))
        pen.line(flat, fill=colour, width=width, joint="curve")
        return
    pen.polygon(flat, fill=colour)
    if part.kind == "ball" and np.ptp(outline, 0).min() > 30:  # light from above
        middle = projection.points[0, :2] * canvas.scale + canvas.shift
        lit = middle + (outline - middle) * 0.72 - [0, 0.13 * np.ptp(outline[:, 1])]
        paint_polygon(pen, lit, shade(colour, 1.06))
    if part.texture:
        grain = projection.grain * canvas.scale
        paint_texture(image, outline, grain, part.texture, colour, canvas.scale, rng)
    pen.line(flat + flat[:2], fill=part.outline or shade(colour, 0.72), width=SUPERSAMPLE)


def paint_parts(image, projections, canvas, rng):
    """Paint back to front. Depth is that of the middle of a part's points."""
    depths = [float(p.points[:, 2].sum()) / len(p.points) for p in projections]
    orders = [depth + p.part.bias for depth, p in zip(depths, projections, strict=True)]
    for i in np.argsort(orders, kind="stable"):
        paint_part(image, projections[i], depths[i], canvas, rng)


def choose_blob(size, rng, smallest, largest):
    """A random ellipse, box or ragged polygon in an image of `size`, as its outline (n, 2)."""
    radii = max(size) * rng.uniform(smallest, largest, 2)
    kind = rng.integers(3)
    ragged = CIRCLE[::3] * rng.uniform(0.5, 1.2, (8, 1))
    unit = [CIRCLE, CIRCLE[3::6], ragged][kind]
    turn = rotation(roll=rng.uniform(0, np.pi))[:2, :2]
    return unit * radii @ turn.T + rng.uniform(0, 1, 2) * size


def paint_grid(size, rng, n, base, spread):
    """An image of n x n random colours around `base`, blown up."""
    grid = np.clip(base + rng.normal(0, spread, (n, n, 3)), 0, 255).astype(np.uint8)
    half = [side // 2 for side in size]
    small = Image.fromarray(grid).resize(half, Image.Resampling.BILINEAR)
    return small.resize(size, Image.Resampling.NEAREST)


def paint_background(size, rng):
    """A random backdrop of `size` (W, H) with some clutter."""
    backdrop = BACKDROPS[rng.integers(len(BACKDROPS))]
    base = rng.uniform(50, 225) + rng.normal(0, 25, 3)
    image = paint_grid(size, rng, backdrop.grid, base, backdrop.spread)
    if backdrop.name == "horizon":
        level = int(size[1] * rng.uniform(0.3, 0.8))
        ground = paint_grid(size, rng, 5, rng.uniform(40, 220) + rng.normal(0, 25, 3), 10)
        image.paste(ground.crop((0, level, *size)), (0, level))
    if backdrop.name == "texture":
        corners = np.array([[0, 0], [size[0], 0], size, [0, size[1]]])
        turn = rotation(roll=rng.uniform(0, np.pi))
        texture = Texture(rng.choice(list(SPACINGS)), shade(base, 0.85))
        scale = max(size) * rng.uniform(0.9, 2)
        paint_texture(image, corners, turn[:2, :2], texture, base, scale, rng)
    for _ in range(rng.integers(0, 8)):
        outline = choose_blob(size, rng, 0.03, 0.16)
        paint_polygon(ImageDraw.Draw(image), outline, shade(base + rng.normal(0, 35, 3), 1))
    return image


# Hide.


def find_hidden_by(projection, keypoints):
    """Which turned keypoints (K, 3) lie clearly behind a part. Returns (K,) bool."""
    if projection.part.kind == "ball":
        return find_behind_ball(projection, keypoints)
    if projection.part.kind == "limb":
        return find_behind_limb(projection, keypoints)
    if projection.part.kind == "polygon":
        return find_behind_polygon(projection, keypoints)
    return np.zeros(len(keypoints), bool)  # a line is too thin to hide anything


def find_behind_ball(projection, keypoints):
    """Behind the middle of the chord, so that a surface hides only what is on the far side."""
    xy, z = keypoints[:, :2], keypoints[:, 2]
    sigma = projection.axes @ projection.axes.T
    inverse = np.linalg.inv(sigma[:2, :2] + 1e-9 * np.eye(2))
    centre = projection.points[0]
    offset = xy - centre[:2]
    middle = centre[2] + offset @ inverse @ sigma[:2, 2]
    return ((offset @ inverse * offset).sum(1) < 0.95) & (middle > z + TOLERANCE)


def find_behind_limb(projection, keypoints):
    """Behind its axis, or behind the ball at either end."""
    xy, z = keypoints[:, :2], keypoints[:, 2]
    start, end = projection.points
    start_radius, end_radius = projection.part.radii
    along = end - start
    t = (xy - start[:2]) @ along[:2] / (along[:2] @ along[:2] + 1e-9)
    t = np.clip(t, 0, 1)  # (K,): from the start to the end
    distance = np.hypot(*(xy - start[:2] - t[:, None] * along[:2]).T)
    covered = distance < start_radius + t * (end_radius - start_radius)
    hidden = covered & (start[2] + t * along[2] > z + TOLERANCE)
    for middle, radius in ((start, start_radius), (end, end_radius)):
        covered = np.hypot(*(xy - middle[:2]).T) < radius
        hidden |= covered & (middle[2] > z + radius + TOLERANCE)
    return hidden


def find_behind_polygon(projection, keypoints):
    """Behind the plane through its corners; what lies on the rim belongs to the polygon."""
    xy, z = keypoints[:, :2], keypoints[:, 2]
    points, outline = projection.points, projection.outline
    flat = np.column_stack([points[:, :2], np.ones(len(points))])
    plane, *_ = np.linalg.lstsq(flat, points[:, 2], rcond=None)
    depth = np.clip(xy @ plane[:2] + plane[2], points[:, 2].min(), points[:, 2].max())
    middle = outline.mean(0)
    return find_inside(xy, middle + 0.95 * (outline - middle)) & (depth > z + TOLERANCE)


def find_hidden(projections, keypoints):
    """Which turned keypoints (K, 3) lie behind any part. Returns (K,) bool."""
    hidden = np.zeros(len(keypoints), bool)
    xy, z = keypoints[:, :2], keypoints[:, 2]
    for projection in projections:
        low, high = projection.outline.min(0), projection.outline.max(0)
        near = ((xy >= low) & (xy <= high)).all(1) & (z < projection.find_top())
        if near.any():
            hidden[near] |= find_hidden_by(projection, keypoints[near])
    return hidden


# An image.


def measure_extent(projections):
    """The box around the parts that count for it."""
    boxed = [p.outline for p in projections if p.part.boxed]
    low = np.min([outline.min(0) for outline in boxed], 0)
    return Extent(low, np.max([outline.max(0) for outline in boxed], 0))


def paint_cover(image, canvas, extent, rng):
    """Paint something random in front of the object. Returns its outline (n, 2) in pixels."""
    cover = choose_blob(canvas.size, rng, 0.05, 0.14)
    cover += rng.uniform(*extent) * canvas.scale + canvas.shift - cover.mean(0)
    colour = shade(rng.uniform(30, 240, 3), 1)
    paint_polygon(ImageDraw.Draw(image), cover * SUPERSAMPLE, colour)
    return cover


def draw_template(template, rng):
    """One Drawing of a template(rng) -> Figure. Repeats until a third of the keypoints is seen."""
    while True:
        figure = template(rng)
        turn = rotation(*figure.view)
        projections = [project(part, turn) for part in figure.parts]
        keypoints = np.asarray(figure.keypoints, float) @ turn.T  # (K, 3)
        extent = measure_extent(projections)
        canvas = choose_canvas(rng, extent, all(part.boxed for part in figure.parts))
        large = canvas.enlarge(SUPERSAMPLE)
        image = paint_background(tuple(large.size.tolist()), rng)
        paint_parts(image, projections, large, rng)

        xy = keypoints[:, :2] * canvas.scale + canvas.shift
        hidden = ((xy < 0) | (xy >= canvas.size)).any(1)
        hidden |= find_hidden(projections, keypoints)
        if rng.random() < 0.15:
            hidden |= find_inside(xy, paint_cover(image, canvas, extent, rng))
        if (~hidden).sum() * 3 >= len(hidden):
            break
    box = choose_box(rng, extent, canvas)
    keypoints = np.column_stack([xy, np.full(len(xy), 2)])
    keypoints[hidden] = 0
    return Drawing(image.reduce(SUPERSAMPLE), keypoints, box)


def draw_category(category, seed, index):
    """The index-th Drawing of a category, an entry of descriptions/mp100.json."""
    rng = np.random.default_rng([seed, category["id"], index])
    return draw_template(find_template(category), rng)
