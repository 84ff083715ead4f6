"""COCO keypoint annotations, each checked, and named if it cannot be used."""

import json
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from support.launch import list_first

PARTS = ("train", "val", "test")


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
    def usable(self):
        """Whether a keypoint is labelled, and anything is left of the box."""
        return min(self.bbox[2:]) > 0 and bool((self.keypoints[:, 2] > 0).any())


def find_annotations(folder, split=1, part="train"):
    """annotations/mp100_split{split}_{part}.json, or one's own annotations/{part}.json.

    FileNotFoundError if neither is there.
    """
    annotations = Path(folder) / "annotations"
    path = annotations / f"mp100_split{split}_{part}.json"
    own = annotations / f"{part}.json"
    if own.is_file() and not any(annotations.glob("mp100_split*_*.json")):
        return own
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: a data folder holds images/ and annotations/{path.name}, "
            f"or annotations/{part}.json if the data is not MP-100's"
        )
    return path


def list_control_characters(text):
    """The characters that would garble a terminal: control and format characters, as U+202E."""
    return [
        f"U+{ord(c):04X}" for c in text if not c.isprintable() and unicodedata.category(c) != "Zs"
    ]


def read_coco(path, folder) -> list[Instance]:
    """All annotations of a file, in order, of images in a folder.

    ValueError naming the file and the entry at fault.
    """
    try:
        coco = json.loads(path.read_bytes())
        refuse_double_ids("images", coco["images"])
        refuse_double_ids("categories", coco["categories"])
        categories = {c["id"]: read_category(c) for c in coco["categories"]}
        images = {image["id"]: image for image in coco["images"]}
        annotations = list(coco["annotations"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is no COCO keypoint annotation ({type(error).__name__}: {error})"
        ) from None
    instances, known, sizes = [], set(), {}
    for annotation in annotations:
        try:
            instance = read_instance(annotation, categories, images, folder)
            refuse_double_entry(annotation, known)
            # Some files leave the list of a category's keypoints out: its first annotation counts.
            K = len(instance.keypoints)
            others = sizes.setdefault(instance.category, K)
            if K != others:
                raise ValueError(
                    f"{K} keypoints, others of category {instance.category} have {others}"
                )
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            who = annotation.get("id") if isinstance(annotation, dict) else annotation
            raise ValueError(
                f"{path}: annotation {who!r} cannot be used ({type(error).__name__}: {error})"
            ) from None
        instances.append(instance)
    return instances


def read_category(category):
    """Its name, and the names of its keypoints, if the file has them."""
    id, name = category["id"], category["name"]
    if not isinstance(name, str) or list_control_characters(f"{id} {name}"):
        raise ValueError(f"{name!r} names category {id!r}")
    return name, tuple(str(label) for label in category.get("keypoints") or ())


def refuse_double_ids(what, entries):
    first = {}
    for entry in entries:
        if first.setdefault(entry["id"], entry) != entry:
            raise ValueError(f"two {what} have the id {entry['id']!r}: give each its own")


def refuse_double_entry(annotation, known):
    # Answers and random numbers go by these three.
    key = annotation["id"], annotation["category_id"], annotation["image_id"]
    if key in known:
        raise ValueError("another one of its image and category has this id: give each its own")
    known.add(key)


def read_instance(annotation, categories, images, folder):
    """One annotation, its box clipped to the image (w or h <= 0: nothing is left)."""
    id = annotation["id"]
    category = annotation["category_id"]
    image = images[annotation["image_id"]]
    name, labels = categories[category]
    found = list_control_characters(f"{id} {image['file_name']}")
    if found:
        raise ValueError(f"control characters in its id or its image's name: {list_first(found)}")
    box = np.asarray(annotation["bbox"])
    points = np.asarray(annotation["keypoints"])
    if box.dtype.kind not in "iuf" or points.dtype.kind not in "iuf":
        raise ValueError("its bbox or keypoints hold something other than numbers")
    # What overflows is refused below.
    with np.errstate(over="ignore"):
        points = points.astype(np.float32).reshape(-1, 3)
    width, height = image.get("width"), image.get("height")
    for side in (width, height):
        if type(side) not in (int, float) or not 1 <= side <= 1e9:
            raise ValueError("its image states no width and height in pixels: export them too")
    x, y, w, h = map(float, box.tolist())
    if not np.isfinite(box).all() or not np.isfinite(points).all():
        raise ValueError("not a finite number")
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + w, width), min(y + h, height)
    bbox = (left, top, right - left, bottom - top)
    file = folder / image["file_name"]
    return Instance(id, file, category, points, bbox, (width, height), name, labels)
