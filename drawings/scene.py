"""MP-100 redrawn: the same 100 categories, keypoints and splits as drawings, so that everything runs with no download.

MP-100 (Xu et al. 2022; Sec. 4.1 of the paper) is gathered from eleven sources under eleven licences. This file draws
a stand-in in its layout: COCO annotations of the five splits, keypoints in MP-100's order, hidden ones as 0, 0, 0.
Each figure is a small 3D scene of balls, limbs, sheets and lines, turned, projected orthographically and painted back
to front; creatures.py and goods.py hold one template per keypoint definition. The same seed draws the same images.

    python -m drawings.scene --out data/figures                  # 20,000 images in a few minutes
    python -m drawings.scene --sheet sheet.png                   # one image each of 40 categories, keypoints dotted

Axes of a figure: x to the right, y down, z towards the viewer, about 1 in size. Unturned it faces the viewer, so the
subject's own right is at negative x.
"""
import argparse
import json
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from data import mp100, run

TOLERANCE = 0.04   # how far in front of a keypoint, in object units, a part must lie to hide it
SUPERSAMPLE = 2
TEXTURES = {"stripes": 0.075, "bands": 0.16, "check": 0.13, "dots": 0.09, "spots": 0.07, "patches": 0.13}  # spacing
ANGLES = np.arange(24) * np.pi / 12
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)                                       # (24, 2)
FRONT, REAR = CIRCLE[np.arange(-6, 7)], CIRCLE[6:19]    # its halves at +x and at -x


@dataclass
class Part:
    """A primitive in object units. texture: None, a name, or (name, second colour); names: TEXTURES."""
    kind: str
    points: np.ndarray              # (n, 3)
    size: object                    # ball: (3, 3) axes as columns; limb: the two radii; line: width
    colour: tuple
    bias: float = 0.0
    texture: object = None
    outline: object = None
    boxed: bool = True              # whether the object's box encloses it


def ball(centre, radii, colour, rot=None, bias=0.0, texture=None):
    """Ellipsoid with half axes `radii` along the columns of `rot` (3, 3)."""
    axes = np.diag(radii) if rot is None else np.asarray(rot) * np.asarray(radii)
    return Part("ball", np.array([centre], float), axes, colour, bias, texture)


def limb(a, b, ra, rb, colour, bias=0.0, texture=None):
    """Tapered capsule from a (3) with radius ra to b (3) with radius rb."""
    return Part("limb", np.array([a, b], float), (ra, rb), colour, bias, texture)


def sheet(points, colour, smooth=False, bias=0.0, texture=None, outline=None):
    """Filled polygon through `points` (n, 3); smooth: through a closed Catmull-Rom curve."""
    points = np.asarray(points, float)
    if smooth:
        before, after, later = (np.roll(points, k, 0) for k in (1, -1, -2))
        t = np.linspace(0, 1, 6)[:-1, None, None]
        points = 0.5 * (2 * points + (after - before) * t + (2 * before - 5 * points + 4 * after - later) * t ** 2
                        + (3 * points - before - 3 * after + later) * t ** 3)               # (5, n, 3)
        points = points.transpose(1, 0, 2).reshape(-1, 3)
    return Part("sheet", points, None, colour, bias, texture, outline)


def line(points, width, colour, bias=0.0):
    """Stroked polyline through `points` (n, 3), width in object units."""
    return Part("line", np.asarray(points, float), width, colour, bias)


def shade(colour, factor):
    """The colour made darker (factor < 1) or lighter."""
    return tuple(int(min(255, max(0, c * factor))) for c in colour)


def rotation(yaw=0.0, pitch=0.0, roll=0.0):
    """(3, 3): turn by yaw (positive: the face goes to image right), tilt by pitch (positive: seen from above), roll."""
    (cy, cp, cr), (sy, sp, sr) = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    return (np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
            @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]))


def project(part, turn):
    """Outline (n, 2), texture axes (2, 2), points and size of a part after the turn (3, 3)."""
    points, size, axes = part.points @ turn.T, part.size, turn[:2, :2].T
    outline = points[:, :2]
    if part.kind == "ball":                      # the outline of an ellipsoid is the ellipse of P Sigma P^T
        size = turn @ part.size                                                              # (3, 3)
        covariance = size[:2] @ size[:2].T
        root = np.linalg.cholesky(covariance + 1e-9 * np.eye(2))
        outline = points[0, :2] + CIRCLE @ root.T
        axes = size[:2].T[np.argsort(-(size[:2] ** 2).sum(0))[:2]]
    elif part.kind == "limb":
        (a, b), (ra, rb) = points[:, :2], size
        along, length = b - a, np.hypot(*(b - a))
        if length <= abs(ra - rb) + 1e-6:
            outline = (a if ra > rb else b) + CIRCLE * max(ra, rb)
        else:
            u = along / length
            frame = np.stack([u, [-u[1], u[0]]])                                             # (2, 2)
            outline = np.concatenate([b + FRONT @ frame * rb,
                                      a + REAR @ frame * ra])
            axes = frame
    return outline, axes, points, size


def inside(points, polygon):
    """Which of `points` (K, 2) lie inside `polygon` (n, 2): even-odd rule. Returns (K,) bool."""
    (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, 0).T
    x, y = points[:, :1], points[:, 1:]
    crosses = (y0 > y) != (y1 > y)                                                           # (K, n)
    return (crosses & (x < x0 + (y - y0) * (x1 - x0) / np.where(y1 == y0, 1, y1 - y0))).sum(1) % 2 == 1


def hidden_by(part, projected, keypoints):
    """Which turned keypoints (K, 3) lie clearly behind a projected ball, limb or sheet. Returns (K,) bool."""
    outline, _, points, size = projected
    xy, z = keypoints[:, :2], keypoints[:, 2]
    if part.kind == "ball":                      # compare with the middle of the chord, so that surfaces hide only
        sigma = size @ size.T                    # what is on the far side
        inverse = np.linalg.inv(sigma[:2, :2] + 1e-9 * np.eye(2))
        offset = xy - points[0, :2]
        middle = points[0, 2] + offset @ inverse @ sigma[:2, 2]
        return ((offset @ inverse * offset).sum(1) < 0.95) & (middle > z + TOLERANCE)
    if part.kind == "limb":                      # behind its axis, or behind the ball at either end
        (a, b), along = points[:, :2], points[1] - points[0]
        t = np.clip((xy - a) @ along[:2] / (along[:2] @ along[:2] + 1e-9), 0, 1)             # (K,)
        off = np.hypot(*(xy - a - t[:, None] * along[:2]).T)
        hidden = (off < size[0] + t * (size[1] - size[0])) & (points[0, 2] + t * along[2] > z + TOLERANCE)
        for end, radius in zip(points, size):
            hidden |= (np.hypot(*(xy - end[:2]).T) < radius) & (end[2] > z + radius + TOLERANCE)
        return hidden
    plane, *_ = np.linalg.lstsq(np.c_[points[:, :2], np.ones(len(points))], points[:, 2], rcond=None)
    depth = np.clip(xy @ plane[:2] + plane[2], points[:, 2].min(), points[:, 2].max())
    middle = outline.mean(0)                 # what lies on the rim belongs to the sheet
    return inside(xy, middle + 0.95 * (outline - middle)) & (depth > z + TOLERANCE)


def paint_texture(image, outline, axes, texture, colour, scale, rng):
    """Draw a texture (see Part) inside `outline` (n, 2), all in pixels, along `axes`."""
    name, second = texture if isinstance(texture, tuple) else (texture, shade(colour, 0.55 if sum(colour) > 200 else 2))
    low, high = np.floor(outline.min(0)).astype(int), np.ceil(outline.max(0)).astype(int) + 1
    low, high = np.maximum(low, 0), np.minimum(high, image.size)
    if (high - low < 2).any():
        return
    mask, marks = Image.new("L", tuple(high - low), 0), Image.new("L", tuple(high - low), 0)
    ImageDraw.Draw(mask).polygon((outline - low).ravel().tolist(), fill=255)
    pen, centre, extent = ImageDraw.Draw(marks), (outline.min(0) + outline.max(0)) / 2 - low, np.ptp(outline, 0).max()
    u = axes[0] / max(np.hypot(*axes[0]), 1e-6)
    v = np.array([-u[1], u[0]])
    step = scale * TEXTURES[name]
    reach = int(min(0.7 * extent / step + 1, 12))
    steps = np.arange(-reach, reach + 1)
    if name in ("stripes", "bands", "check"):
        for across, along in ((u, v), (v, u))[:1 + (name == "check")]:
            for at in centre + step * steps[:, None] * across:
                pen.line([*(at - along * extent), *(at + along * extent)], fill=255,
                         width=max(1, int(step * (0.35 if name == "check" else 0.5))))
    else:
        jitter, radius, spread = {"dots": (0, 0.28, 0), "spots": (0.25, 0.27, 0.08), "patches": (0.2, 0.4, 0.08)}[name]
        i, j = np.meshgrid(steps, steps)
        at = centre + step * ((i + j % 2 / 2)[..., None] * u + j[..., None] * v
                              + rng.uniform(-jitter, jitter, (*i.shape, 2)))
        for x, y in at[((at > -step) & (at < high - low + step)).all(2)]:
            r = step * (radius + spread * rng.uniform(-1, 1))
            if name == "patches":
                pen.polygon(([x, y] + r * rng.uniform(0.8, 1.3, (6, 1)) * CIRCLE[::4]).ravel().tolist(), fill=255)
            else:
                pen.ellipse([x - r, y - r, x + r, y + r], fill=255)
    image.paste(second, tuple(int(c) for c in low), Image.composite(marks, Image.new("L", mask.size, 0), mask))


def paint(image, parts, projected, scale, shift, rng):
    """Paint projected parts back to front: near parts lighter, outlines darker than the fill."""
    pen = ImageDraw.Draw(image)
    depth = [float(points[:, 2].sum()) / len(points) for _, _, points, _ in projected]
    for i in sorted(range(len(parts)), key=lambda i: depth[i] + parts[i].bias):
        part, (outline, axes, points, _) = parts[i], projected[i]
        xy = outline * scale + shift
        flat = xy.ravel().tolist()
        colour = shade(part.colour, 1 + 0.25 * min(max(depth[i], -0.6), 0.2))
        if part.kind == "line":
            pen.line(flat, fill=colour, width=max(1, round(part.size * scale)), joint="curve")
            continue
        pen.polygon(flat, fill=colour)
        if part.kind == "ball" and np.ptp(xy, 0).min() > 30:   # light from above
            middle = points[0, :2] * scale + shift
            pen.polygon((middle + (xy - middle) * 0.72 - [0, 0.13 * np.ptp(xy[:, 1])]).ravel().tolist(),
                        fill=shade(colour, 1.06))
        if part.texture:
            paint_texture(image, xy, axes * scale, part.texture, colour, scale, rng)
        pen.line(flat + flat[:2], fill=part.outline or shade(colour, 0.72), width=SUPERSAMPLE)


def background(size, rng):
    """A random backdrop (W, H): plain, gradient, soft blobs, horizon or stripes, with grain and clutter."""
    def soft(n, base, spread):                   # a random n x n grid of colours blown up
        grid = np.clip(base + rng.normal(0, spread, (n, n, 3)), 0, 255).astype(np.uint8)
        small = Image.fromarray(grid).resize([side // 2 for side in size], Image.Resampling.BILINEAR)
        return small.resize(size, Image.Resampling.NEAREST)
    kind, base = rng.integers(6), rng.uniform(50, 225) + rng.normal(0, 25, 3)
    image = soft([1, 2, 7, 2, 2, 48][kind], base, [0, 25, 18, 12, 10, 12][kind])
    if kind == 3:
        level = int(size[1] * rng.uniform(0.3, 0.8))
        image.paste(soft(5, rng.uniform(40, 220) + rng.normal(0, 25, 3), 10).crop((0, level, *size)), (0, level))
    if kind == 4:
        corners, turn = np.array([[0, 0], [size[0], 0], size, [0, size[1]]]), rotation(roll=rng.uniform(0, np.pi))
        paint_texture(image, corners, turn[:2, :2], (rng.choice(list(TEXTURES)), shade(base, 0.85)), base,
                      max(size) * rng.uniform(0.9, 2), rng)
    for _ in range(rng.integers(0, 8)):
        outline, colour = blob(size, rng, 0.03, 0.16), shade(base + rng.normal(0, 35, 3), 1)
        ImageDraw.Draw(image).polygon(outline.ravel().tolist(), fill=colour)
    return image


def blob(size, rng, smallest, largest):
    """A random ellipse, box or ragged polygon in an image of `size`, as its outline (n, 2)."""
    r = max(size) * rng.uniform(smallest, largest, 2)
    kind = rng.integers(3)
    unit = [CIRCLE, CIRCLE[3::6], CIRCLE[::3] * rng.uniform(0.5, 1.2, (8, 1))][kind]
    turn = rotation(roll=rng.uniform(0, np.pi))[:2, :2]
    return unit * r @ turn.T + rng.uniform(0, 1, 2) * size


def draw(template, look, rng):
    """One image of a category: a PIL image, keypoints (K, 3) in pixels with v in {0, 2}, and bbox [x, y, w, h]."""
    while True:                                  # until a third of the keypoints can be seen
        parts, keypoints, view = template(rng, look)
        turn = rotation(**view)
        projected = [project(part, turn) for part in parts]
        keypoints = np.asarray(keypoints, float) @ turn.T                                    # (K, 3)
        lows, highs = (np.array([f(p[0], 0) for p in projected]) for f in (np.min, np.max))  # (parts, 2)
        low, high = (f(ends[[part.boxed for part in parts]], 0) for f, ends in ((np.min, lows), (np.max, highs)))

        size = np.array([192, 192 * rng.uniform(0.8, 1.25)])[::rng.choice([1, -1])] * rng.uniform(0.9, 1.15)
        size = size.round().astype(int)                                                      # (W, H)
        fill = rng.uniform(0.62, 0.97) if all(part.boxed for part in parts) else rng.uniform(0.5, 0.8)
        scale = fill * (size / (high - low)).min()
        off_frame = 0.3 if rng.random() < 0.05 else 0
        shift = (size - scale * (high - low)) * rng.uniform(0.05 - off_frame, 0.95 + off_frame, 2) - scale * low
        shift += off_frame * rng.uniform(-0.4, 0.4, 2) * size
        image = background(tuple(int(c) for c in size * SUPERSAMPLE), rng)
        paint(image, parts, projected, scale * SUPERSAMPLE, shift * SUPERSAMPLE, rng)

        xy = keypoints[:, :2] * scale + shift
        hidden = ((xy < 0) | (xy >= size)).any(1)
        near = ((keypoints[:, :2] >= lows[:, None]) & (keypoints[:, :2] <= highs[:, None])).all(2)   # (parts, K)
        tops = [flat[2][:, 2].max() + (np.linalg.norm(flat[3][2]) if part.kind == "ball" else 0)
                for part, flat in zip(parts, projected)]
        near &= keypoints[:, 2] < np.array(tops)[:, None]
        for part, flat, among in zip(parts, projected, near):
            if among.any() and part.kind != "line":        # lines are too thin to hide anything
                hidden[among] |= hidden_by(part, flat, keypoints[among])
        if rng.random() < 0.15:                  # an occluder somewhere in front of the object
            cover = blob(size, rng, 0.05, 0.14)
            cover += rng.uniform(low, high) * scale + shift - cover.mean(0)
            colour = shade(rng.uniform(30, 240, 3), 1)
            ImageDraw.Draw(image).polygon((cover * SUPERSAMPLE).ravel().tolist(), fill=colour)
            hidden |= inside(xy, cover)
        if (~hidden).sum() * 3 >= len(hidden):
            break
    margin = rng.uniform(0, 0.12, (2, 2)) * (high - low) * scale
    corner = np.maximum(low * scale + shift - margin[0], 0)
    bbox = np.r_[corner, np.minimum(high * scale + shift + margin[1], size) - corner]
    return image.reduce(SUPERSAMPLE), np.c_[np.where(hidden[:, None], 0, xy), np.where(hidden, 0, 2)], bbox


def templates():
    """The templates {definition: function} and the looks {category name: dict} of both kinds of things."""
    from drawings import animals as creatures  # here, because they import the primitives above
    from drawings import clothes as goods
    return {**creatures.TEMPLATES, **goods.TEMPLATES}, {**creatures.LOOKS, **goods.LOOKS}


def draw_category(category, seed, index):
    """The index-th image of a category, as `draw` returns it."""
    functions, looks = templates()
    rng = np.random.default_rng([seed, category["id"], index])
    return draw(functions[category["definition"]], looks.get(category["name"], {}), rng)


def write_image(out, seed, task):
    """Draw and save image task = (category, index) below `out`. Returns its COCO image and annotation."""
    category, index = task
    image, keypoints, bbox = draw_category(category, seed, index)
    name = f"{category['id']}_{category['name']}/{index}.jpg"
    image.save(out / "images" / name, quality=88)
    number = category["id"] * 1_000_000 + index
    return ({"id": number, "file_name": name, "height": image.height, "width": image.width},
            {"id": number, "image_id": number, "category_id": category["id"], "iscrowd": 0,
             "keypoints": keypoints.ravel().round(2).tolist(), "num_keypoints": int((keypoints[:, 2] > 0).sum()),
             "bbox": bbox.round(2).tolist(), "area": round(float(bbox[2] * bbox[3]), 2)})


def write_dataset(out, seed=0, per_category=200):
    """Write images/ and annotations/ of all categories and splits into the new folder `out`. ValueError if it is not empty."""
    out, facts = Path(out), mp100()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder: remove it or give another --out")
    temporary = out.with_name(out.name + ".partial")
    for category in facts["categories"]:
        (temporary / "images" / f"{category['id']}_{category['name']}").mkdir(parents=True, exist_ok=True)
    tasks = [(category, index) for category in facts["categories"] for index in range(per_category)]
    with Pool(2) as pool:
        records = list(tqdm(pool.imap(partial(write_image, temporary, seed), tasks, chunksize=25),
                            total=len(tasks), unit="image"))
    (temporary / "annotations").mkdir(exist_ok=True)
    for split, subsets in facts["splits"].items():
        for subset, ids in subsets.items():
            chosen = [(image, annotation) for image, annotation in records if annotation["category_id"] in ids]
            coco = {"images": [image for image, _ in chosen], "annotations": [annotation for _, annotation in chosen],
                    "categories": [{"supercategory": c["supercategory"], "id": c["id"], "name": c["name"],
                                    "keypoints": [str(k) for k in range(c["keypoints"])], "skeleton": c["skeleton"]}
                                   for c in facts["categories"] if c["id"] in ids]}
            (temporary / "annotations" / f"mp100_split{split}_{subset}.json").write_text(json.dumps(coco))
    if out.exists():
        out.rmdir()
    temporary.rename(out)


def write_sheet(path, seed=0):
    """Save a contact sheet of 40 categories with a small dot on each visible keypoint."""
    facts = mp100()
    firsts = {c["definition"]: c for c in reversed(facts["categories"])}.values()    # one of each definition
    others = [c for c in facts["categories"] if c not in firsts]
    chosen = sorted([*firsts, *others[::7]][:40], key=lambda c: c["id"])
    page = Image.new("RGB", (8 * 200, 5 * 200), "white")
    for i, category in enumerate(chosen):
        image, keypoints, _ = draw_category(category, seed, 0)
        factor = 192 / max(image.size)
        image = image.resize([round(side * factor) for side in image.size], Image.Resampling.LANCZOS)
        pen = ImageDraw.Draw(image)
        for x, y in keypoints[keypoints[:, 2] > 0, :2] * factor:
            pen.ellipse([x - 2, y - 2, x + 2, y + 2], fill="red", outline="white")
        page.paste(image, (i % 8 * 200 + (200 - image.width) // 2, i // 8 * 200 + (200 - image.height) // 2))
    page.save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="folder to write; must be new or empty")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-category", type=int, default=200, help="images of each category")
    parser.add_argument("--sheet", type=Path, help="draw a contact sheet into this file")
    args = parser.parse_args()
    if not (args.out or args.sheet):
        parser.error("nothing to do: give --out FOLDER or --sheet FILE.png")
    if args.sheet:
        write_sheet(args.sheet, args.seed)
    if args.out:
        write_dataset(args.out, args.seed, args.per_category)


if __name__ == "__main__":
    run("figures.py", main)
