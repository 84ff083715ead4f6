"""MP-100 on its way to the model: annotations, crops, descriptions, instructions, rounds (Sections 3.2, 3.3, 4.1).

    instances = read_split("data/mp100", split=1, part="train")
    keypoints = read_descriptions("descriptions/bird.txt")
    ids, labels = conversation(tokenizer, [(keypoints[0], (0.25, 0.5))])

Nothing here knows the model: an instance becomes pixels, token ids and labels.
"""
import json
import os
import random
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
MAX_PIXELS = 100_000_000    # a larger photo is refused before it is decoded
IGNORE = -100               # the label of a token that carries no loss
HERE = Path(__file__).parent


# ---------------------------------------------------------------- annotations

class Instance(NamedTuple):
    """One annotated object. keypoints: (K, 3) of x, y in image pixels and v > 0 where labelled; bbox: x, y, w, h in pixels."""
    id: int
    image: Path
    category: int
    keypoints: np.ndarray
    bbox: tuple


def read_split(folder, split=1, part="train"):
    """The instances of one part of an MP-100 split, in the annotation's order, and the names of their categories.

    Returns (list[Instance], {category id: name}). Boxes are clipped to the image; instances without a labelled keypoint
    or with an empty box are left out. Raises FileNotFoundError or ValueError naming the file and the entry at fault.
    """
    path = Path(folder) / "annotations" / f"mp100_split{split}_{part}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: a data folder holds annotations/mp100_split{split}_{part}.json and images/")
    try:
        coco = json.loads(path.read_bytes())
        names = {c["id"]: c["name"] for c in coco["categories"]}
        sizes = {}                          # keypoints of a category, by its first annotation: some files leave the list out
        images = {i["id"]: i for i in coco["images"]}
        annotations = list(coco["annotations"])
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{path} is no COCO keypoint annotation ({type(e).__name__}: {e})") from None
    instances, found = [], {}
    for a in annotations:
        try:
            id, name, image = a["id"], names[a["category_id"]], images[a["image_id"]]
            points = np.asarray(a["keypoints"], np.float32).reshape(-1, 3)
            if len(points) != sizes.setdefault(a["category_id"], len(points)):
                raise ValueError(f"{len(points)} keypoints, others of category {a['category_id']} have {sizes[a['category_id']]}")
            x, y, w, h = map(float, a["bbox"])
            x0, y0 = max(x, 0.0), max(y, 0.0)
            x1, y1 = min(x + w, image["width"]), min(y + h, image["height"])
            if not np.isfinite([x0, y0, x1, y1]).all() or not np.isfinite(points).all():
                raise ValueError("not a finite number")
            file = Path(folder) / "images" / image["file_name"]
        except (ValueError, KeyError, TypeError) as e:
            raise ValueError(f"{path}: annotation {a.get('id') if isinstance(a, dict) else a!r} cannot be used "
                             f"({type(e).__name__}: {e})") from None
        if x1 > x0 and y1 > y0 and (points[:, 2] > 0).any():
            instances.append(Instance(id, file, a["category_id"], points, (x0, y0, x1 - x0, y1 - y0)))
            found[a["category_id"]] = name
    return instances, found


# --------------------------------------------------------------- descriptions

class Keypoint(NamedTuple):
    name: str
    description: str


def read_descriptions(path):
    """A description file: UTF-8, one `name: description` a line, `#` starts a comment line. Returns list[Keypoint]."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: a description file holds one 'name: description' line a keypoint")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = e.object[:e.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8") from None
    keypoints, lines = [], {}
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, colon, description = (part.strip() for part in line.partition(":"))
        if not name or not colon:
            raise ValueError(f"{path}, line {number}: expected 'name: description', found {line[:60]!r}")
        if name in lines:
            raise ValueError(f"{path}, line {number}: {name!r} stands on line {lines[name]} already; names must differ")
        if not (name + description).isprintable():
            raise ValueError(f"{path}, line {number}: control characters; keep plain text")
        lines[name] = number
        keypoints.append(Keypoint(name, description))
    if not keypoints:
        raise ValueError(f"{path} describes no keypoint: write one 'name: description' line for each")
    return keypoints


def mp100():
    """MP-100's facts (descriptions/mp100.json): {"categories": [...], "splits": {"1": {"train": [ids], ...}, ...}}."""
    return json.loads((HERE / "descriptions" / "mp100.json").read_bytes())


def describe(instances, names, folder=HERE / "descriptions"):
    """{category id: list[Keypoint]} for the categories of `instances`, each from `<definition or category name>.txt`.

    Two MP-100 categories share the name `face`, so id and name together find the definition.
    """
    definitions = {(c["id"], c["name"]): c["definition"] for c in mp100()["categories"]}
    sizes = {i.category: len(i.keypoints) for i in instances}
    described = {}
    for id, name in names.items():
        path = Path(folder) / f"{definitions.get((id, name), name)}.txt"
        described[id] = read_descriptions(path)
        if len(described[id]) != sizes[id]:
            raise ValueError(f"{path} describes {len(described[id])} keypoints, category {id} ({name}) has {sizes[id]}")
    return described


# --------------------------------------------------------------------- images

def open_image(path):
    """Any still that Pillow reads as RGB, upright as a viewer shows it: for photos that a user hands over."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:   # its warnings: refused or harmless
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{path} is {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}: reduce it first")
            image.seek(0)
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I") or image.mode == "F":         # 16 or 32 bits a pixel: spread over 8
                values = np.nan_to_num(np.asarray(image, np.float32))
                top = 65535.0 if image.mode.startswith("I;16") or values.max() > 255 else 255.0
                top = 1.0 if image.mode == "F" and values.max() <= 1 else top
                image = Image.fromarray((values.clip(0, top) * (255 / top)).astype(np.uint8))
            if image.has_transparency_data:                             # what is transparent is shown on white
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return image.convert("RGB")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path} has more than {MAX_PIXELS:,} pixels: reduce it first") from None
    except (OSError, SyntaxError, EOFError, RuntimeError) as e:
        raise ValueError(f"{path} is no image that Pillow can read ({e})") from None


def crop_affine(bbox, size, scale=1.0, angle=0.0):
    """The 2x3 matrix from crop pixels to image pixels, for the box made square around its centre (longest side).

    bbox: x, y, w, h in pixels; size: the crop's side in pixels; scale > 1 shows more; angle in radians.
    """
    x, y, w, h = bbox
    s = max(w, h) * scale / size
    c, d = s * np.cos(angle), s * np.sin(angle)
    cx, cy = x + w / 2, y + h / 2
    return np.array([[c, -d, cx - (c - d) * size / 2], [d, c, cy - (d + c) * size / 2]])


def crop(image, affine, size):
    """Pixels (3, size, size), normalised as DINOv2 expects. Bilinear; much larger originals are box-averaged first."""
    reduce = int(np.hypot(affine[0, 0], affine[1, 0]))
    if reduce > 1:
        image, affine = image.reduce(reduce), affine / reduce
    image = image.transform((size, size), Image.Transform.AFFINE, affine.ravel(), Image.Resampling.BILINEAR)
    return (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 - MEAN) / STD


def to_image(points, affine, size):
    """Relative crop coordinates (K, 2) to image pixels."""
    return np.asarray(points) * size @ affine[:, :2].T + affine[:, 2]


def to_crop(points, affine, size):
    """Image pixels (K, 2) to relative crop coordinates; inside the crop they lie in [0, 1)."""
    return (np.asarray(points) - affine[:, 2]) @ np.linalg.inv(affine[:, :2]).T / size


# ----------------------------------------------------------- the digit codec

class Codec:
    """Coordinates as tokens: `[0.abc,0.def]`, three decimals each (Section 3.1, Eq. 6).

    y in [0, 0.9995) has the code round(1000 y) in 0 ... 999, written over K = 3 digit tokens or over one token of the
    1000 three-digit ones; the inverse is code / 1000, so the error is at most 0.0005. What lies outside has no code.
    """
    def __init__(self, tokenizer, K=3):
        self.K, self.base = K, 1000 if K == 1 else 10
        self.ids = tokenizer.digit3_ids if K == 1 else tokenizer.digit_ids
        if K not in (1, 3) or self.ids is None:
            raise ValueError(f"coordinates cannot be factorised over K = {K} tokens with this tokenizer; use K = 3")
        self.open, self.comma, self.close = map(tokenizer.encode_continuation, ("[0.", ",0.", "]"))
        self.eos_id = tokenizer.eos_id

    @staticmethod
    def has_code(y):
        return (0 <= y) & (y < 0.9995)

    def digits(self, y):
        """The K digit values of a coordinate."""
        if not self.has_code(y):
            raise ValueError(f"{y} has no code: coordinates lie in [0, 0.9995)")
        n = min(int(np.floor(1000 * y + 0.5)), 999)     # 999.5 after rounding, where y is the last number below 0.9995
        return [n // self.base ** k % self.base for k in reversed(range(self.K))]

    def value(self, digits):
        """The coordinate that K digit values stand for: the inverse of `digits` to 0.0005."""
        n = 0
        for d in digits:
            n = n * self.base + int(d)
        return n / 1000

    def encode(self, x, y):
        """Token ids of the whole answer, its brackets and the end-of-text token included."""
        x, y = ([self.ids[d] for d in self.digits(v)] for v in (x, y))
        return self.open + x + self.comma + y + self.close + [self.eos_id]


# --------------------------------------------------------------- instructions

# One round of the base instruction; the answer follows at once (Section 3.2, Figures 2 and 6).
QUESTION = ("USER: Can you identify location of {name} on the object? {description} "
            "With this description, please provide its coordinates. ASSISTANT:")
BARE = "USER: Can you identify location of {name} on the object? Please provide its coordinates. ASSISTANT:"     # no description


def question(tokenizer, keypoint):
    """Token ids of one question. The user's words are data: no special token comes out of them."""
    template = QUESTION if keypoint.description else BARE
    return tokenizer.encode(template.format(name=keypoint.name, description=keypoint.description))


def conversation(tokenizer, codec, rounds):
    """Rounds of (Keypoint, (x, y)) as (ids, labels): labels are the ids on answer tokens and IGNORE elsewhere."""
    ids, labels = [], []
    for keypoint, (x, y) in rounds:
        q, a = question(tokenizer, keypoint), codec.encode(x, y)
        ids += q + a
        labels += [IGNORE] * len(q) + a
    return ids, labels


def fixed_rounds(indices, k, rng):
    """Shuffle keypoint indices into groups of k, the last one filled up with keypoints already used (Section 3.3)."""
    order = rng.sample(list(indices), len(indices))
    groups = [order[i:i + k] for i in range(0, len(order), k)]
    missing = k - len(groups[-1])
    if len(groups) > 1:
        groups[-1] += rng.sample(order[:-len(groups[-1])], missing)
    else:
        groups[0] += [rng.choice(order) for _ in range(missing)]
    return groups


def augmentation(rng):
    """The authors' augmentation: scale x clip(1 + 0.3 N(0, 1), 0.7, 1.3); rotation within 40 degrees, half of the time."""
    scale = min(max(1 + 0.3 * rng.gauss(0, 1), 0.7), 1.3)
    angle = np.deg2rad(rng.uniform(-40, 40)) if rng.random() < 0.5 else 0.0
    return scale, angle


def load_crop(instance, size, scale=1.0, angle=0.0):
    """An instance's pixels (3, size, size) and keypoints (K, 3): x, y relative to the crop and v > 0 where it can be asked.

    Pixels are read as stored, EXIF rotation ignored: MP-100 was annotated on the raw pixels.
    """
    affine = crop_affine(instance.bbox, size, scale, angle)
    try:
        with Image.open(instance.image) as image:
            side = max(instance.bbox[2:]) * scale
            if side > 2 * size:                        # JPEG: decode at 1/2, 1/4, 1/8 where that is still fine enough
                full = max(image.size)
                image.draft("RGB", tuple(max(1, int(n * size / side)) for n in image.size))
                pixels = crop(image.convert("RGB"), affine / round(full / max(image.size)), size)   # draft rounds sizes up
            else:
                pixels = crop(image.convert("RGB"), affine, size)
    except FileNotFoundError:
        raise FileNotFoundError(f"{instance.image} is missing, needed by annotation {instance.id}") from None
    except (OSError, SyntaxError) as e:
        raise ValueError(f"{instance.image} is no image that Pillow can read ({e})") from None
    points = np.concatenate([to_crop(instance.keypoints[:, :2], affine, size), instance.keypoints[:, 2:]], 1)
    points[:, 2] *= Codec.has_code(points[:, :2]).all(1)
    return pixels, points


class Pairs(torch.utils.data.Dataset):
    """(image, rounds) pairs of one epoch of fixed-round training: every visible keypoint of every image asked once, in groups of k.

    Groups and augmentation depend on (seed, epoch, instance) alone. An item is (pixels (3, S, S), ids, labels); where the
    augmentation moves all of a group's keypoints out of the crop, the image is taken without augmentation.
    """
    def __init__(self, instances, described, tokenizer, codec, size, k=4, seed=42, augment=True):
        self.instances, self.described, self.tokenizer, self.codec = instances, described, tokenizer, codec
        self.size, self.k, self.seed, self.augment = size, k, seed, augment
        self.askable = []                              # keypoints that are labelled and inside the plain crop
        for i in instances:
            inside = Codec.has_code(to_crop(i.keypoints[:, :2], crop_affine(i.bbox, size), size)).all(1)
            self.askable.append(np.flatnonzero(inside & (i.keypoints[:, 2] > 0)).tolist())
        self.set_epoch(0)

    def set_epoch(self, epoch):
        self.pairs = []
        for n, instance in enumerate(self.instances):
            rng = random.Random(f"{self.seed} {epoch} {instance.category} {instance.id}")
            if len(self.askable[n]):
                self.pairs += [(n, group, rng.random()) for group in fixed_rounds(self.askable[n], self.k, rng)]
        random.Random(f"{self.seed} {epoch}").shuffle(self.pairs)

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, i):
        n, group, seed = self.pairs[i]
        instance, rng = self.instances[n], random.Random(seed)
        pixels, points = load_crop(instance, self.size, *(augmentation(rng) if self.augment else ()))
        if not (points[group, 2] > 0).any():
            pixels, points = load_crop(instance, self.size)
        rounds = [(self.described[instance.category][j], points[j, :2]) for j in group if points[j, 2] > 0]
        return pixels, *conversation(self.tokenizer, self.codec, rounds)


def run(name, main):
    """Call main() as the command `name`: bad input or a full disk is one line on stderr and exit code 2, Ctrl-C is 130."""
    try:
        main()
    except (ValueError, OSError) as e:                  # FileNotFoundError is an OSError
        print(f"{name}: {' '.join(str(e).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
