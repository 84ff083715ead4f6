"""COCO keypoint annotations, each checked, and named if it cannot be used."""

import unicodedata
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from support.files import find_spelling, refuse_special
from support.json_files import decode_json
from support.launch import list_first
from support.quote import quote
from support.shapes import LIST, NAME, TEXT, between, check_shape

PARTS = ("train", "val", "test")
LISTS = ("images", "categories", "annotations")
SIDE = between(1, 1e9)  # pixels
# Spelling in Persian, Hindi and emoji, and marks of direction that WhatsApp writes into names.
JOINERS = "\u200c\u200d\u200e\u200f\u061c"


class Instance(NamedTuple):
    """One annotated object of an image."""

    id: int
    image: Path
    category: int
    keypoints: np.ndarray  # (K, 3): x, y in pixels of the image, and v > 0 if labelled
    bbox: tuple  # x, y, w, h in pixels, clipped to the image
    size: tuple = ()  # the image's width and height as annotated
    name: str = ""  # of the category
    labels: tuple = ()  # the keypoints' names in the annotations, if given

    @property
    def has_box(self):
        """Whether a pixel is left of the box. It may be flat: a crop takes the longer side."""
        return min(self.bbox[2:]) >= 0 and max(self.bbox[2:]) >= 1

    @property
    def usable(self):
        """Whether a keypoint is labelled, and anything is left of the box."""
        return self.has_box and bool((self.keypoints[:, 2] > 0).any())


def find_annotations(folder, split=1, part="train"):
    """annotations/mp100_split{split}_{part}.json, or one's own annotations/{part}.json.

    FileNotFoundError if neither is there.
    """
    annotations = Path(folder) / "annotations"
    path = annotations / f"mp100_split{split}_{part}.json"
    own = annotations / f"{part}.json"
    is_own = any(annotations.glob("*.json")) and not any(annotations.glob("mp100_split*_*.json"))
    if is_own and not own.exists():
        raise FileNotFoundError(
            f"{own} is missing: of data that is not MP-100's, annotations/ holds train.json, and "
            "val.json or test.json to measure: see eval.py --part"
        )
    if is_own:
        return own
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: a data folder holds images/ and annotations/{path.name}, "
            f"or annotations/{part}.json if the data is not MP-100's"
        )
    return path


def list_control_characters(text):
    """The characters that would garble a terminal: control and format characters, as U+202E."""
    return [
        f"U+{ord(c):04X}"
        for c in text
        if not c.isprintable() and c not in JOINERS and unicodedata.category(c) != "Zs"
    ]


def read_coco(path, folder) -> list[Instance]:
    """All annotations of a file, in order, of images in a folder.

    ValueError naming the file and the entry at fault.
    """
    refuse_special(path)
    try:
        coco = decode_json(path.read_bytes())
        lists = {name: get_field(coco, name, LIST) for name in LISTS}
        images = index_entries("images", lists["images"])
        categories = index_entries("categories", lists["categories"])
        categories = {id: read_category(entry) for id, entry in categories.items()}
    except ValueError as error:
        raise ValueError(f"{path} is no COCO keypoint annotation: {error}") from None
    instances, known = [], set()
    for annotation in lists["annotations"]:
        try:
            instances.append(read_instance(annotation, categories, images, Path(folder)))
            refuse_double_entry(annotation, known)
        except ValueError as error:
            who = annotation.get("id") if isinstance(annotation, dict) else annotation
            raise ValueError(f"{path}: annotation {quote(who)} cannot be used: {error}") from None
    refuse_unequal_counts(path, instances)
    refuse_relative(path, instances)
    return instances


def get_field(entry, name, kind):
    """A field of an entry. ValueError if it is missing, or of another kind."""
    check_shape(entry, {name: kind})
    return entry[name]


def index_entries(what, entries):
    """{id: entry}. ValueError if an id stands for two that differ."""
    found = {}
    for entry in entries:
        id = get_field(entry, "id", NAME)
        if found.setdefault(id, entry) != entry:
            raise ValueError(f"two {what} have the id {quote(id)}: give each its own")
    return found


def find_entry(listed, what, annotation, field):
    """What an annotation refers to. ValueError if it is not listed."""
    id = get_field(annotation, field, NAME)
    if id in listed:
        return listed[id]
    if str(id) in map(str, listed):
        raise ValueError(
            f"its {field} is {quote(id)}, the {what} have the same as another type: "
            "write all ids as numbers, or all as text"
        )
    raise ValueError(f"its {field} {quote(id)} is not among the {what}: list it, or remove this")


def get_sorted_id(id):
    """What ids are sorted by: a file may have numbers and text."""
    return isinstance(id, str), id


def read_category(category):
    """Its name, and the names of its keypoints, if the file has them."""
    id, name = category["id"], get_field(category, "name", TEXT)
    if list_control_characters(f"{id} {name}"):
        raise ValueError(f"control characters in the name {quote(name)} of category {quote(id)}")
    labels = []
    if category.get("keypoints") is not None:
        labels = get_field(category, "keypoints", LIST)
    return name, tuple(str(label) for label in labels)


def refuse_double_entry(annotation, known):
    # Answers and random numbers go by these three.
    key = annotation["id"], annotation["category_id"], annotation["image_id"]
    if key in known:
        raise ValueError("another one of its image and category has this id: give each its own")
    known.add(key)


def read_instance(annotation, categories, images, folder):
    """One annotation, its box clipped to the image (w or h < 0: nothing is left).

    Tools export boxes beside skeletons: without keypoints it has K = 0, and its box is not read.
    """
    id = get_field(annotation, "id", NAME)
    image = find_entry(images, "images", annotation, "image_id")
    name, labels = find_entry(categories, "categories", annotation, "category_id")
    file = get_field(image, "file_name", TEXT)
    found = list_control_characters(f"{id} {file}")
    if found:
        raise ValueError(f"control characters in its id or its image's name: {list_first(found)}")
    size = image.get("width"), image.get("height")
    for side in size:
        if not SIDE.fits(side):
            raise ValueError("its image states no width and height in pixels: export them too")
    points, bbox = np.zeros((0, 3), np.float32), (0.0, 0.0, 0.0, 0.0)
    if annotation.get("keypoints"):
        points = read_numbers(annotation, "keypoints").astype(np.float32)
        if points.size % 3:
            raise ValueError(f"its keypoints are {points.size} numbers, not x, y, v for each")
        box = read_numbers(annotation, "bbox")
        if box.size != 4:
            raise ValueError(f"its bbox is {box.size} numbers, not four: x, y, w, h")
        points, bbox = points.reshape(-1, 3), clip_box(box, size)
    path = find_spelling(folder, file)
    category = annotation["category_id"]
    return Instance(id, path, category, points, bbox, size, name, labels)


def read_numbers(annotation, name):
    """The numbers of a field, in a row."""
    values = get_field(annotation, name, LIST)
    try:
        numbers = np.asarray(values)
    except ValueError:
        # Lists of unequal lengths.
        numbers = np.asarray(None)
    if numbers.dtype.kind not in "iuf":
        raise ValueError(f"its {name} hold something other than numbers: {quote(values)}")
    # What overflows is refused.
    with np.errstate(over="ignore"):
        is_finite = np.isfinite(numbers.astype(np.float32)).all()
    if not is_finite:
        raise ValueError(f"its {name} hold what is not a finite number: {quote(values)}")
    return numbers.ravel()


def clip_box(box, size):
    """(x, y, w, h) of what lies within an image of size (width, height).

    Where nothing does, w or h is negative: a flat box is not an empty one.
    """
    starts, lengths = box[:2].tolist(), box[2:].tolist()
    clipped = []
    for start, length, end in zip(starts, lengths, size, strict=True):
        low, high = max(float(start), 0.0), min(float(start) + length, end)
        is_flat = length == 0 and low == high
        clipped.append((low, high - low if low < high or is_flat else -1.0))
    (x, w), (y, h) = clipped
    return x, y, w, h


def refuse_unequal_counts(path, instances):
    """ValueError naming an annotation with another number of keypoints than its category has.

    That is the number of names that the category lists if any annotation has it, else that of most.
    """
    counts = defaultdict(Counter)
    for i in instances:
        if len(i.keypoints):
            counts[i.category][len(i.keypoints)] += 1
    for i in instances:
        of_category, K = counts[i.category], len(i.keypoints)
        expected = len(i.labels)
        if K and expected not in of_category:
            expected = of_category.most_common(1)[0][0]
        if K and K != expected:
            raise ValueError(
                f"{path}: annotation {quote(i.id)} cannot be used: {K} keypoints, category "
                f"{quote(i.category)} has {expected}"
            )


def refuse_relative(path, instances):
    """ValueError if boxes or keypoints are relative to their images, not in pixels."""
    labelled = [i for i in instances if (i.keypoints[:, 2] > 0).any() and max(i.size) > 1]
    if not labelled:
        return
    boxes = np.array([i.bbox for i in labelled])
    points = np.concatenate([i.keypoints[i.keypoints[:, 2] > 0, :2] for i in labelled])
    for what, values in (("boxes", boxes), ("keypoints", points)):
        # Pixels that lie so close are mostly whole numbers.
        if values.max() <= 1 and (values % 1).any():
            raise ValueError(
                f"{path}: all {what} lie within one pixel: if they are relative, multiply them by "
                "the width and height of their image"
            )
