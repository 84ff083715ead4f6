"""MP-100 on its way to the model: annotations, crops, descriptions, instructions, rounds (Sections 3.2, 3.3, 4.1).

    instances, names = read_split("data/mp100", split=1, part="train")
    keypoints = read_descriptions("descriptions/bird.txt")
    ids, labels = conversation(tokenizer, [(keypoints[0], (0.25, 0.5))])

Nothing here knows the model: an instance becomes pixels, token ids and labels.
"""
import argparse
import functools
import itertools
import json
import math
import os
import random
import unicodedata
import warnings
from collections import Counter, defaultdict
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from tqdm import tqdm

from study.instructions import INSTRUCTIONS, REPLACED, TELL
from support import launch

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
MAX_PIXELS = 100_000_000    # a larger photo is refused before it is decoded
MAX_TOKENS = 2048           # of a pair, [BOS; V; T]: the paper does not say, this is the authors' published code
IGNORE = -100               # the label of a token that carries no loss
HERE = Path(__file__).parent
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, RuntimeError, Image.DecompressionBombError)     # what Pillow raises at it


# ---------------------------------------------------------------- annotations

class Instance(NamedTuple):
    """One annotated object. keypoints: (K, 3) of x, y in image pixels and v > 0 where labelled; bbox: x, y, w, h in pixels;
    size: the image's width and height as annotated; name: its category's; labels: its keypoints' names there, where given."""
    id: int
    image: Path
    category: int
    keypoints: np.ndarray
    bbox: tuple
    size: tuple = ()
    name: str = ""
    labels: tuple = ()


def annotation_file(folder, split=1, part="train"):
    """MP-100 keeps a part in annotations/mp100_split{split}_{part}.json; a folder without such files is one's own, in
    annotations/{part}.json."""
    path, own = (Path(folder) / "annotations" / name for name in (f"mp100_split{split}_{part}.json", f"{part}.json"))
    return own if own.is_file() and not any(path.parent.glob("mp100_split*_*.json")) else path


def unprintable(text):
    """What of a text would garble a terminal: its control and format characters, as U+202E."""
    return [f"U+{ord(c):04X}" for c in text if not c.isprintable() and unicodedata.category(c) != "Zs"]


def read_annotations(folder, split=1, part="train"):
    """Every annotation of one part, in order, as an Instance, its box clipped to the image (w or h <= 0: nothing is left).

    Raises FileNotFoundError or ValueError naming the file and the entry at fault.
    """
    folder, path = Path(folder), annotation_file(folder, split, part)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: a data folder holds images/ and annotations/{path.name}, "
                                f"or annotations/{part}.json where the data is not MP-100's")
    try:
        coco = json.loads(path.read_bytes())
        names = {c["id"]: c["name"] for c in coco["categories"]}
        if wrong := [(id, name) for id, name in names.items() if not isinstance(name, str) or unprintable(f"{id} {name}")]:
            raise ValueError(f"{wrong[0][1]!r} names category {wrong[0][0]!r}")
        for what in ("images", "categories"):
            first = {}
            if twice := [e["id"] for e in coco[what] if first.setdefault(e["id"], e) != e]:
                raise ValueError(f"two {what} have the id {twice[0]!r}: give each its own")
        labels = {c["id"]: tuple(map(str, c.get("keypoints") or ())) for c in coco["categories"]}
        sizes = {}                          # keypoints of a category, by its first annotation: some files leave the list out
        images = {i["id"]: i for i in coco["images"]}
        annotations = list(coco["annotations"])
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise ValueError(f"{path} is no COCO keypoint annotation ({type(e).__name__}: {e})") from None
    instances, ids = [], set()
    for a in annotations:
        try:
            id, name, image = a["id"], names[a["category_id"]], images[a["image_id"]]
            if (who := (id, a["category_id"], a["image_id"])) in ids:       # what answers and random numbers go by
                raise ValueError("another one of its image and category has this id: give each its own")
            ids.add(who)
            if found := unprintable(f"{id} {image['file_name']}"):
                raise ValueError(f"control characters in its id or its image's name: {some(found)}")
            box, points = np.asarray(a["bbox"]), np.asarray(a["keypoints"])
            if box.dtype.kind not in "iuf" or points.dtype.kind not in "iuf":
                raise ValueError("its bbox or keypoints hold something other than numbers")
            with np.errstate(over="ignore"):            # what overflows is refused below
                points = points.astype(np.float32).reshape(-1, 3)
            if len(points) != sizes.setdefault(a["category_id"], len(points)):
                raise ValueError(f"{len(points)} keypoints, others of category {a['category_id']} have {sizes[a['category_id']]}")
            size = image.get("width"), image.get("height")
            if not all(type(n) in (int, float) and 1 <= n <= 1e9 for n in size):
                raise ValueError("its image states no width and height in pixels: export them too")
            x, y, w, h = map(float, box.tolist())
            x0, y0 = max(x, 0.0), max(y, 0.0)
            x1, y1 = min(x + w, size[0]), min(y + h, size[1])
            if not np.isfinite(box).all() or not np.isfinite(points).all():
                raise ValueError("not a finite number")
            file = folder / "images" / image["file_name"]
        except (ValueError, KeyError, TypeError, OverflowError) as e:
            raise ValueError(f"{path}: annotation {a.get('id') if isinstance(a, dict) else a!r} cannot be used "
                             f"({type(e).__name__}: {e})") from None
        instances.append(Instance(id, file, a["category_id"], points, (x0, y0, x1 - x0, y1 - y0), size, name, labels[a["category_id"]]))
    return instances


def usable(instance):
    """Is a keypoint labelled, and anything left of the box?"""
    return min(instance.bbox[2:]) > 0 and bool((instance.keypoints[:, 2] > 0).any())


def read_split(folder, split=1, part="train"):
    """The usable instances of one part, see read_annotations, and the names of their categories {category id: name}."""
    instances = [i for i in read_annotations(folder, split, part) if usable(i)]
    return instances, {i.category: i.name for i in instances}


# --------------------------------------------------------------- descriptions

class Keypoint(NamedTuple):
    name: str
    description: str


def plain(name):
    """A name as it is compared: without regard to case, underscores and how accents are stored."""
    return unicodedata.normalize("NFC", " ".join(name.casefold().replace("_", " ").split()))


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
        line = " ".join(line.split())                   # tabs and no-break spaces are spaces
        if not line or line.startswith("#"):
            continue
        name, colon, description = (part.strip() for part in line.partition(":"))
        if not name or not colon:
            raise ValueError(f"{path}, line {number}: expected 'name: description', found {line[:60]!r}")
        if found := unprintable(line):
            raise ValueError(f"{path}, line {number}: control characters ({some(found)}); keep plain text")
        if plain(name) in lines:
            raise ValueError(f"{path}, line {number}: {name!r} stands on line {lines[plain(name)]} already; names must differ")
        lines[plain(name)] = number
        keypoints.append(Keypoint(name, description))
    if not keypoints:
        raise ValueError(f"{path} describes no keypoint: write one 'name: description' line for each")
    return keypoints


def read_mp100():
    """MP-100's facts (descriptions/mp100.json): {"categories": [...], "splits": {"1": {"train": [ids], ...}, ...}}."""
    return json.loads((HERE / "descriptions" / "mp100.json").read_bytes())


def describe(instances, names, folder=HERE / "descriptions"):
    """{category id: list[Keypoint]} for the categories of `instances`, each from `<definition or category name>.txt`.

    Two MP-100 categories share the name `face`, so id and name together find the definition. Where the annotations of a category
    that is not MP-100's name its keypoints, the file must name the same in the same order, but for case and underscores.
    """
    definitions = {(c["id"], c["name"]): c["definition"] for c in read_mp100()["categories"]}
    sizes, labels = ({i.category: of(i) for i in instances} for of in (lambda i: len(i.keypoints), lambda i: i.labels))
    paths = {id: Path(folder) / f"{definitions.get((id, name), name)}.txt" for id, name in names.items()}
    if missing := sorted({str(path) for path in paths.values() if not path.is_file()}):
        raise FileNotFoundError(f"{some(missing)} {'is' if len(missing) == 1 else 'are'} missing: a category needs a description "
                                "file of its definition's or its own name, with one 'name: description' line a keypoint")
    described = {}
    for id, path in paths.items():
        described[id] = read_descriptions(path)
        if len(described[id]) != sizes[id]:
            raise ValueError(f"{path} describes {len(described[id])} keypoints, category {id} ({names[id]}) has {sizes[id]}")
        own = labels[id] if (id, names[id]) not in definitions else ()
        if own and len(own) != sizes[id]:
            raise ValueError(f"the annotations of category {id} ({names[id]}) name {len(own)} keypoints and hold {sizes[id]}: "
                             "correct the category's list of keypoints")
        for n, (label, keypoint) in enumerate(zip(own, described[id])):
            if plain(label) != plain(keypoint.name) and not all(map(str.isdigit, own)):             # numbers are no names
                raise ValueError(f"{path}: keypoint {n + 1} is {keypoint.name!r}, the annotations of category {id} ({names[id]}) name it "
                                 f"{label!r}: bring the lines into the annotations' order, or change one of the names")
    return described


# ------------------------------------------------------ checks before training

ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}             # marks that end a file, or nearly
PROBLEMS = ("missing", "unreadable", "other size", "empty box", "no keypoint", "keypoint outside")


def some(texts):
    """The first five, for a message."""
    return ", ".join(texts[:5]) + f" and {len(texts) - 5} more" * (len(texts) > 5)


def factor(stored, annotated):
    """The stored image's size over the annotated one, where it is the same both ways but for rounding to pixels, or None."""
    if not annotated or tuple(stored) == tuple(annotated):
        return 1.0
    f = max(stored) / max(annotated)
    return f if all(abs(s - f * a) <= 1 for s, a in zip(stored, annotated)) else None


def turned(image, annotated):
    """What to say of an image that fits its annotations only as a viewer shows it, else ""."""
    fits = factor(image.size[::-1], annotated) and image.getexif().get(0x112) in (5, 6, 7, 8)
    return ": annotated upright, stored turned: apply the EXIF rotation to the files" if fits else ""


def fault(path, size):
    """What is wrong with an image file: (one of PROBLEMS or "scaled", what a message shows), or (None, None).

    Verified: the file is there, Pillow reads its header, its size is the annotated one, it is not cut short. Only a file
    without its format's end mark is decoded to see; other damage shows when training reads it.
    """
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 1024))
            tail = file.read()
            with Image.open(file) as image:
                if image.format not in ENDS or ENDS[image.format] not in tail:
                    image.load()
                hint = turned(image, size) if image.size != size else ""
    except FileNotFoundError:
        return "missing", str(path)
    except DAMAGE:
        return "unreadable", str(path)
    if image.size == size:
        return None, None
    return ("scaled" if (f := factor(image.size, size)) else "other size",
            f"x {f:.3g}" if f else f"{path} ({image.width} x {image.height}, annotated {size[0]} x {size[1]}{hint})")


def summary(instances, faults):
    """A Markdown table that counts instances: all, then each category with a problem; below it annotations at fault.
    faults: {image: what fault returns}."""
    counts, columns, scaled = defaultdict(Counter, all=Counter()), ("instances", "usable", *PROBLEMS), defaultdict(Counter)
    at_fault = defaultdict(list)
    for i in instances:
        problem, labelled = faults[i.image][0], i.keypoints[i.keypoints[:, 2] > 0, :2]
        if problem == "scaled":
            scaled[f"{i.name} ({i.category})"][faults[i.image][1]] += 1
        holds = {"instances": True, "usable": usable(i) and problem in (None, "scaled"), problem: True, "empty box": min(i.bbox[2:]) <= 0,
                 "no keypoint": not len(labelled), "keypoint outside": ((labelled < 0) | (labelled > i.size)).any()}
        for row in ("all", f"{i.name} ({i.category})"):
            counts[row].update(column for column in holds if holds[column])
        for column in PROBLEMS[3:]:                        # those of annotations, not of images
            at_fault[column] += [str(i.id)] * bool(holds[column])
    lines = [f"| {'':30} | {' | '.join(columns)} |", f"|{'-' * 32}|" + "".join("-" * len(c) + "-:|" for c in columns)]
    lines += [f"| {row:30} | {' | '.join(f'{n[c]:{len(c)}}' for c in columns)} |"
              for row, n in counts.items() if row == "all" or any(n[p] for p in PROBLEMS)]
    lines += [f"{column}: annotations {some(ids)}" for column, ids in at_fault.items() if ids]
    lines += [f"{row}: stored images are the annotated ones {', '.join(f'{f} ({n})' for f, n in found.most_common(5))}; annotations follow"
              for row, found in scaled.items()]
    return "\n".join(lines)


def inspect(folders, split=1, part="train", descriptions=HERE / "descriptions"):
    """Compare the annotations of data folders with the disk: (all instances, {category id: list[Keypoint]}, {image: fault}).
    Raises FileNotFoundError or ValueError naming missing description files and categories that share an id."""
    instances, names, described = [], {}, {}
    for folder in folders:
        more = read_annotations(folder, split, part)
        for i in more:
            if names.setdefault(i.category, i.name) != i.name:
                raise ValueError(f"category {i.category} is {i.name} in {folder}, {names[i.category]} elsewhere: change an id")
        chosen = [i for i in more if usable(i)]
        described |= describe(chosen, {i.category: i.name for i in chosen}, descriptions)
        instances += more
    files, quiet = {i.image: i.size for i in instances}, int(os.environ.get("RANK", 0)) > 0
    with ThreadPool(16) as pool, warnings.catch_warnings(action="ignore"):
        found = pool.imap(lambda file: fault(*file), files.items(), chunksize=16)
        faults = dict(zip(files, tqdm(found, "checking images", len(files), unit="image", delay=1, leave=False, disable=quiet)))
    return instances, described, faults


def complaint(faults):
    """What is wrong with the images, in one line, or ""."""
    shown = {p: [text for problem, text in faults.values() if problem == p] for p in PROBLEMS}
    return "; ".join(f"{len(texts)} of {len(faults)} images {p}: {some(texts)}" for p, texts in shown.items() if texts)


def check(folders, split=1, part="train", descriptions=HERE / "descriptions", skip_missing=False):
    """What training does before its first step, see inspect: (usable instances, {category id: list[Keypoint]}, summary).
    Raises ValueError naming images missing, unreadable or of another size than annotated, after printing the summary, unless
    skip_missing leaves them out."""
    instances, described, faults = inspect(folders, split, part, descriptions)
    table = summary(instances, faults)
    if (text := complaint(faults)) and not skip_missing:
        if int(os.environ.get("RANK", 0)) == 0:
            print(table)
        raise ValueError(f"{text}. Correct the data, or go on without these images: --skip-missing")
    good = [i for i in instances if usable(i) and faults[i.image][0] in (None, "scaled")]
    return good, described, table


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

    def point(self, x, y):
        """Token ids of `[0.abc,0.def]`."""
        x, y = ([self.ids[d] for d in self.digits(v)] for v in (x, y))
        return self.open + x + self.comma + y + self.close

    def encode(self, x, y):
        """Token ids of the whole answer, the end-of-text token included."""
        return self.point(x, y) + [self.eos_id]


# --------------------------------------------------------------- instructions

@functools.lru_cache(16384)                             # the same questions are asked of thousands of images
def encode(tokenizer, text, start):
    return (tokenizer.encode if start else tokenizer.encode_continuation)(text)


def write(tokenizer, codec, turn, words, point=None):
    """A turn as (ids of the question, ids of the answer with its end-of-text token). The words are data: no special token
    comes out of them, nor out of what they say between braces."""
    ids = []
    for n, template in enumerate(turn):
        if not words.get("description", True):          # the user gave none
            template = template.replace(TELL, " Please provide its coordinates.").replace(", because {because}", ".")
        first, *more = (part.format(**words) for part in template.split("{point}"))
        if n and first:
            first = f" {first}"                         # text follows `ASSISTANT:` after a space, coordinates at once
        ids.append(list(encode(tokenizer, first, n == 0)))
        for part in more:
            ids[-1] += codec.point(*point) + encode(tokenizer, part, False)
    return ids[0], ids[1] + [codec.eos_id] if turn[1] else []


def fill(keypoint, replaced=False):
    """The words of a round."""
    description = REPLACED if replaced else keypoint.description
    return {"name": keypoint.name, "description": description, "because": description[:1].lower() + description[1:]}


def opening(tokenizer, codec, instruction, category, keypoints, asked):
    """(ids, labels) of what stands before the rounds. keypoints: all of the category's; asked: those of this conversation."""
    words = {"category": category.replace("_", " "), "list": ", ".join(k.name for k in keypoints), "asked": ", ".join(k.name for k in asked)}
    ids, labels = [], []
    for turn in INSTRUCTIONS[instruction].opening:
        q, a = write(tokenizer, codec, turn, words)
        ids += q + a
        labels += [IGNORE] * len(q) + a
    return ids, labels


def question(tokenizer, keypoint, instruction="base"):
    """Token ids of one question, as asked at inference."""
    chosen = INSTRUCTIONS[instruction]
    return write(tokenizer, None, (chosen.rounds[0][0], ""), fill(keypoint, chosen.replaced == 1))[0]


def conversation(tokenizer, codec, rounds, instruction="base", category="object", keypoints=(), rng=None):
    """Rounds of (Keypoint, (x, y)) as (ids, labels): labels are the ids on answer tokens and IGNORE elsewhere.

    category and keypoints, all of its keypoints, are for the opening; rng draws phrasings and replaced descriptions.
    """
    chosen = INSTRUCTIONS[instruction]
    ids, labels = opening(tokenizer, codec, instruction, category, keypoints, [k for k, _ in rounds])
    for keypoint, point in rounds:
        turn = rng.choice(chosen.rounds) if len(chosen.rounds) > 1 and rng else chosen.rounds[0]
        replaced = rng.random() < chosen.replaced if 0 < chosen.replaced < 1 and rng else chosen.replaced == 1
        q, a = write(tokenizer, codec, turn, fill(keypoint, replaced), point)
        ids += q + a
        labels += [IGNORE] * len(q) + a
    return ids, labels


def fixed_rounds(indices, k, rng, lengths, room):
    """Shuffle keypoint indices into groups of k, the last one filled up with keypoints already used (Section 3.3)."""
    order = rng.sample(list(indices), len(indices))
    groups = [order[i:i + k] for i in range(0, len(order), k)]
    missing = k - len(groups[-1])
    if len(groups) > 1:
        groups[-1] += rng.sample(order[:-len(groups[-1])], missing)
    else:
        groups[0] += [rng.choice(order) for _ in range(missing)]
    return groups


def dynamic_rounds(indices, k, rng, lengths, room):
    """Shuffle keypoint indices into groups of varying size, each keypoint in one (Section 3.3).

    A size is uniform in 1 ... as many as are left and fit: lengths[j] tokens for keypoint j, room for all of a group. Where
    all n fit, the groups are distributed as the cycles of a random permutation: on average 1/s of each size s = 1 ... n, so
    that a keypoint is in a group of each size equally often.
    """
    order, groups = rng.sample(list(indices), len(indices)), []
    while order:
        size = rng.randint(1, sum(tokens <= room for tokens in itertools.accumulate(lengths[j] for j in order)))
        groups.append(order[:size])
        order = order[size:]
    return groups


def locllm_rounds(indices, k, rng, lengths, room):
    """One random subset of k keypoint indices, or of all where there are fewer: LocLLM's way (Section 3.3)."""
    return [rng.sample(list(indices), min(k, len(indices)))]


ROUNDS = {"fixed": fixed_rounds, "dynamic": dynamic_rounds, "locllm": locllm_rounds}


def augmentation(rng):
    """The authors' augmentation: scale x clip(1 + 0.3 N(0, 1), 0.7, 1.3); rotation within 40 degrees, half of the time."""
    scale = min(max(1 + 0.3 * rng.gauss(0, 1), 0.7), 1.3)
    angle = np.deg2rad(rng.uniform(-40, 40)) if rng.random() < 0.5 else 0.0
    return scale, angle


def load_crop(instance, size, scale=1.0, angle=0.0):
    """An instance's pixels (3, size, size) and keypoints (K, 3): x, y relative to the crop and v > 0 where it can be asked.

    Pixels are read as stored, EXIF rotation ignored: MP-100 was annotated on the raw pixels. An image stored larger or smaller
    than annotated, by one factor, is resampled as if it were not.
    """
    affine = crop_affine(instance.bbox, size, scale, angle)
    try:
        with Image.open(instance.image) as image:
            if not (f := factor(image.size, instance.size)):
                hint = turned(image, instance.size) or ": correct the annotation or the image"
                wrong = f"{image.width} x {image.height} pixels, annotated as {instance.size[0]} x {instance.size[1]}{hint}"
            elif (side := max(instance.bbox[2:]) * scale * f) > 2 * size:   # JPEG: decode at 1/2, 1/4, 1/8, still fine enough
                full = max(image.size)
                image.draft("RGB", tuple(max(1, int(n * size / side)) for n in image.size))
                pixels = crop(image.convert("RGB"), affine * f / round(full / max(image.size)), size)   # draft rounds sizes up
            else:
                pixels = crop(image.convert("RGB"), affine * f, size)
    except FileNotFoundError:
        raise FileNotFoundError(f"{instance.image} is missing, needed by annotation {instance.id}") from None
    except DAMAGE as e:
        raise ValueError(f"{instance.image} is no image that Pillow can read ({e}): replace the file and go on with --resume, or "
                         f"remove annotation {instance.id} and start anew") from None
    if not f:
        raise ValueError(f"{instance.image} is {wrong}")
    points = np.concatenate([to_crop(instance.keypoints[:, :2], affine, size), instance.keypoints[:, 2:]], 1)
    points[:, 2] *= Codec.has_code(points[:, :2]).all(1)
    return pixels, points


class Pairs(torch.utils.data.Dataset):
    """(image, rounds) pairs of one epoch of training: a strategy of ROUNDS groups every image's visible keypoints anew.

    k: rounds of a pair (fixed, locllm); trunk: tokens before the conversation, 1 + patches; instruction: of INSTRUCTIONS;
    share: images are shuffled, not pairs, and all pairs of an image have the same augmentation. Groups and augmentation depend
    on (seed, epoch, instance) alone; dynamic rounds change the number of pairs with the epoch. An item is (pixels (3, S, S),
    ids, labels); where the augmentation moves all of a group's keypoints out of the crop, the image is taken without it.
    Raises ValueError where a pair can exceed MAX_TOKENS.
    """
    def __init__(self, instances, described, tokenizer, codec, size, k=4, seed=42, augment=True, rounds="fixed", trunk=257,
                 instruction="base", share=False):
        self.instances, self.described, self.tokenizer, self.codec = instances, described, tokenizer, codec
        self.size, self.k, self.seed, self.augment, self.rounds, self.instruction = size, k, seed, augment, rounds, instruction
        self.share, self.crop = share, (None, None)     # (view, what it led to): loaded once for pairs that share it
        if k < 1:
            raise ValueError(f"--k {k}: a conversation has one round or more")
        names = {i.category: i.name for i in instances}
        self.opening = {c: len(opening(tokenizer, codec, instruction, name, described[c], described[c])[0])
                        for c, name in names.items()}
        self.room = {c: MAX_TOKENS - trunk - tokens for c, tokens in self.opening.items()}
        longest = lambda k: max(sum(map(len, write(tokenizer, codec, turn, fill(k, replaced), (0, 0))))
                                for turn in INSTRUCTIONS[instruction].rounds for replaced in {False, INSTRUCTIONS[instruction].replaced > 0})
        self.lengths = {c: [longest(keypoint) for keypoint in described[c]] for c in names}
        self.askable = []                              # keypoints that are labelled and inside the plain crop
        for i in instances:
            inside = Codec.has_code(to_crop(i.keypoints[:, :2], crop_affine(i.bbox, size), size)).all(1)
            self.askable.append(np.flatnonzero(inside & (i.keypoints[:, 2] > 0)).tolist())
            longest = sorted((self.lengths[i.category][j] for j in self.askable[-1]), reverse=True)
            if rounds == "fixed":
                longest += longest[:1] * (k - len(longest))     # what fills a group up
            n = 1 if rounds == "dynamic" else k
            if (tokens := trunk + self.opening[i.category] + sum(longest[:n])) > MAX_TOKENS:
                raise ValueError(f"{n} keypoints of category {i.category} ({i.name}) and the image can take {tokens} tokens, "
                                 f"more than {MAX_TOKENS}: {'lower --k or ' * (n > 1)}shorten its descriptions")
        self.set_epoch(0)

    def set_epoch(self, epoch):
        images, self.groups = [], {}                    # groups: {(n, seed): all groups of instance n's pairs that have it}
        for n, instance in enumerate(self.instances):
            rng = random.Random(f"{self.seed} {epoch} {instance.category} {instance.id}")
            if len(self.askable[n]):
                groups = ROUNDS[self.rounds](self.askable[n], self.k, rng, self.lengths[instance.category],
                                             self.room[instance.category])
                seeds = [rng.random()] * len(groups) if self.share else [rng.random() for _ in groups]
                images.append([(n, group, (n, seed)) for group, seed in zip(groups, seeds)])
        order = images if self.share else [[pair] for pairs in images for pair in pairs]
        random.Random(f"{self.seed} {epoch}").shuffle(order)
        self.pairs = [pair for pairs in order for pair in pairs]
        for _, group, view in self.pairs:
            self.groups.setdefault(view, []).append(group)

    def name(self, i):
        """Which sample item i is, for messages."""
        instance = self.instances[self.pairs[i][0]]
        return f"{instance.image} (annotation {instance.id}, {instance.name})"

    def tokens(self, i):
        """How many tokens item i's conversation has at most; nothing is loaded."""
        n, group, _ = self.pairs[i]
        c = self.instances[n].category
        return self.opening[c] + sum(self.lengths[c][j] for j in group)

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, i):
        n, group, (_, seed) = self.pairs[i]
        instance, view = self.instances[n], self.pairs[i][-1]
        if view != self.crop[0]:
            pixels, points = load_crop(instance, self.size, *(augmentation(random.Random(seed)) if self.augment else ()))
            if not all((points[g, 2] > 0).any() for g in self.groups[view]):
                pixels, points = load_crop(instance, self.size)
            self.crop = view, (pixels, points)
        pixels, points = self.crop[1]
        keypoints, rng = self.described[instance.category], random.Random(f"{seed} {group}")
        rounds = [(keypoints[j], points[j, :2]) for j in group if points[j, 2] > 0]
        return pixels, *conversation(self.tokenizer, self.codec, rounds, self.instruction, instance.name, keypoints, rng)


# ------------------------------------------------------------------ a look at it

def show(tokenizer, keypoints, instruction, category):
    """A conversation about the first two keypoints as the model reads it, what carries loss in «», its tokens apart."""
    seed = next(s for s in itertools.count() if (r := random.Random(s)).random() < 0.5 <= r.random())   # replaces one
    rounds = [(k, (0.123 + 0.2 * n, 0.456)) for n, k in enumerate(keypoints[:2])]
    ids, labels = conversation(tokenizer, Codec(tokenizer), rounds, instruction, category, keypoints, random.Random(seed))
    text, answers = "", 0
    for counts, run in itertools.groupby(zip(ids, labels), lambda token: token[1] != IGNORE):
        run = [id for id, _ in run]
        answers += counts * len(run)
        words = ["<end of text>" if id == tokenizer.eos_id else tokenizer.decode([id]) for id in run]
        text += f" «{'|'.join(words)}»\n" if counts else tokenizer.decode(run)
    return f"<start> <image> {text}\n{len(ids)} tokens after the image, {answers} of them count for the loss"


def contact_sheet(instances, path, side=160):
    """One image of each category, its crop with the keypoints that are labelled."""
    first = {i.category: i for i in reversed(instances)}
    columns = math.ceil(len(first) ** 0.5)
    sheet = Image.new("RGB", (columns * side, math.ceil(len(first) / columns) * (side + 14)), "white")
    pen = ImageDraw.Draw(sheet)
    for n, (_, i) in enumerate(sorted(first.items())):
        pixels, points = load_crop(i, side)
        x, y = n % columns * side, n // columns * (side + 14)
        picture = ((pixels * STD + MEAN).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
        sheet.paste(Image.fromarray(picture), (x, y + 14))
        pen.text((x + 2, y + 1), f"{i.category} {i.name}"[:side // 6], "black")
        for px, py in points[points[:, 2] > 0, :2] * side:
            pen.ellipse((x + px - 2, y + 12 + py, x + px + 2, y + 16 + py), "red", "white")
    sheet.save(path)


def main():
    p = argparse.ArgumentParser(description="Look at the data before training: what is there, and what the model reads.",
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", metavar="FOLDER", help="compare a data folder's annotations with its images and descriptions")
    what.add_argument("--show", metavar="CATEGORY", help="print a conversation about an MP-100 category (name or id) or a description file")
    p.add_argument("--split", type=int, default=1, help="MP-100 split; the parts of any one hold all images")
    p.add_argument("--descriptions", default=str(HERE / "descriptions"), metavar="FOLDER", help="folder of <definition or category>.txt")
    p.add_argument("--out", type=Path, default=Path("out/check.png"), metavar="FILE", help="contact sheet of --check")
    p.add_argument("--instruction", default="base", choices=INSTRUCTIONS)
    p.add_argument("--llm", default=str(HERE / "nano" / "llm"), metavar="FOLDER", help="whose tokenizer --show uses")
    a = p.parse_args()
    if a.show is not None:
        from support.tokenizer import Tokenizer
        named = [c for c in read_mp100()["categories"] if a.show in (c["name"], str(c["id"]))]
        if len(named) > 1:
            found = " and ".join(f"{c['id']} ({c['definition']})" for c in named)
            raise ValueError(f"--show {a.show}: {found} have this name; give an id")
        definition, category = (named[0]["definition"], named[0]["name"]) if named else (a.show, Path(a.show).stem)
        path = next((f for f in (Path(a.show), Path(a.descriptions) / f"{definition}.txt") if f.is_file()), None)
        if not path:
            raise ValueError(f"--show {a.show}: no category of MP-100, nor a file in {a.descriptions}")
        print(show(Tokenizer.from_pretrained(a.llm), read_descriptions(path), a.instruction, category))
        return
    if a.out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"--out {a.out}: the contact sheet is written as .png or .jpg")
    good, faults, wrong = [], {}, []
    for part in [p for p in ("train", "val", "test") if annotation_file(a.check, a.split, p).is_file()] or ["train"]:
        instances, _, found = inspect([a.check], a.split, part, a.descriptions)
        print(f"{part}\n{summary(instances, found)}\n")
        usables = [i for i in instances if usable(i) and found[i.image][0] in (None, "scaled")]
        wrong += [f"{annotation_file(a.check, a.split, part)} holds no usable instance"] * (not usables)
        faults |= found
        good += usables
    if good:
        a.out.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(good, a.out)
        print(f"one image of each category: {a.out}")
    if text := "; ".join(filter(None, [complaint(faults), *wrong])):
        raise ValueError(text)


if __name__ == "__main__":
    launch.run("data.py", main)
