"""A data folder against the disk: what is missing, damaged or annotated for another size.

    python data.py --check data/mp100       # prints tables, draws one image of each category

Training checks the same before its first step.
"""

import argparse
import os
import warnings
from collections import Counter, defaultdict
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from support import photos
from support.coco import PARTS, Instance, find_annotations, read_coco
from support.descriptions import DESCRIPTIONS, describe_categories
from support.launch import list_first
from support.pictures import draw_contact_sheet

# Marks near the end of a whole file.
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
OF_IMAGES = ("missing", "unreadable", "other size")
OF_ANNOTATIONS = ("empty box", "no keypoint", "keypoint outside")
COUNTED = ("instances", "usable", *OF_IMAGES, *OF_ANNOTATIONS)


class Fault(NamedTuple):
    """What is wrong with an image: one of OF_IMAGES, or "scaled", and what a message shows."""

    problem: str
    text: str


class Checked(NamedTuple):
    """Instances that can be used, and the table of `format_counts`."""

    instances: list
    table: str


def read_folders(folders, split=1, part="train", descriptions=DESCRIPTIONS):
    """All instances of some data folders, and {category id: list[Keypoint]} of usable ones."""
    instances, names, described = [], {}, {}
    for folder in folders:
        more = read_coco(find_annotations(folder, split, part), Path(folder) / "images")
        for i in more:
            if names.setdefault(i.category, i.name) != i.name:
                raise ValueError(
                    f"category {i.category} is {i.name} in {folder}, "
                    f"{names[i.category]} elsewhere: change an id"
                )
        usable = [i for i in more if i.usable]
        described |= describe_categories(usable, {i.category: i.name for i in usable}, descriptions)
        instances += more
    return instances, described


def check_images(instances, skip_missing=False) -> Checked:
    """What training does before its first step.

    ValueError naming images that are missing, unreadable or of another size than annotated, after
    printing the table, unless skip_missing leaves them out.
    """
    faults = find_faults(instances)
    table = format_counts(instances, faults)
    complaint = format_complaint(faults)
    if complaint and not skip_missing:
        if int(os.environ.get("RANK", 0)) == 0:
            print(table)
        raise ValueError(
            f"{complaint}. Correct the data, or go on without these images: --skip-missing"
        )
    return Checked([i for i in instances if can_be_used(i, faults)], table)


def find_faults(instances):
    """{image: Fault, or None if it is as annotated}."""
    files = {i.image: i.size for i in instances}
    quiet = int(os.environ.get("RANK", 0)) > 0
    with ThreadPool(16) as pool, warnings.catch_warnings(action="ignore"):
        found = pool.imap(lambda item: find_fault(*item), files.items(), chunksize=16)
        progress = tqdm(
            found, "checking images", len(files), unit="image", delay=1, leave=False, disable=quiet
        )
        return dict(zip(files, progress, strict=True))


def find_fault(path, size) -> Fault | None:
    """Check that a file is there, whole, readable and as large as annotated.

    Only a file without its format's end mark is decoded to see; other damage shows when training
    reads it.
    """
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 1024))
            tail = file.read()
            with Image.open(file) as image:
                if image.format not in ENDS or ENDS[image.format] not in tail:
                    image.load()
                return compare_size(path, image, size)
    except FileNotFoundError:
        return Fault("missing", str(path))
    except photos.DAMAGE:
        return Fault("unreadable", str(path))


def compare_size(path, image, size) -> Fault | None:
    if image.size == size:
        return None
    factor = photos.find_factor(image.size, size)
    if factor:
        return Fault("scaled", f"x {factor:.3g}")
    stored = f"{image.width} x {image.height}"
    annotated = f"{size[0]} x {size[1]}"
    hint = photos.hint_at_rotation(image, size)
    return Fault("other size", f"{path} ({stored}, annotated {annotated}{hint})")


def can_be_used(instance: Instance, faults):
    fault = faults[instance.image]
    return instance.usable and (fault is None or fault.problem == "scaled")


def list_columns(instance, faults):
    """The COLUMNS of the table that count an instance."""
    fault = faults[instance.image]
    labelled = instance.keypoints[instance.keypoints[:, 2] > 0, :2]
    columns = ["instances"]
    if can_be_used(instance, faults):
        columns.append("usable")
    if fault and fault.problem in OF_IMAGES:
        columns.append(fault.problem)
    if min(instance.bbox[2:]) <= 0:
        columns.append("empty box")
    if not len(labelled):
        columns.append("no keypoint")
    if ((labelled < 0) | (labelled > instance.size)).any():
        columns.append("keypoint outside")
    return columns


def format_counts(instances, faults):
    """A Markdown table that counts instances: all, and each category with a problem.

    Below it stand the annotations at fault and the factors of scaled images.
    """
    counts = defaultdict(Counter, all=Counter())
    scaled = defaultdict(Counter)
    at_fault = defaultdict(list)
    for i in instances:
        category = f"{i.name} ({i.category})"
        columns = list_columns(i, faults)
        counts["all"].update(columns)
        counts[category].update(columns)
        for column in columns:
            if column in OF_ANNOTATIONS:
                at_fault[column].append(str(i.id))
        fault = faults[i.image]
        if fault and fault.problem == "scaled":
            scaled[category][fault.text] += 1
    lines = [f"| {'':30} | {' | '.join(COUNTED)} |"]
    lines.append(f"|{'-' * 32}|" + "".join("-" * len(c) + "-:|" for c in COUNTED))
    for row, numbers in counts.items():
        if row == "all" or any(numbers[problem] for problem in COUNTED[2:]):
            cells = [f"{numbers[column]:{len(column)}}" for column in COUNTED]
            lines.append(f"| {row:30} | {' | '.join(cells)} |")
    for column in OF_ANNOTATIONS:
        if at_fault[column]:
            lines.append(f"{column}: annotations {list_first(at_fault[column])}")
    for row, factors in scaled.items():
        shown = ", ".join(f"{factor} ({n})" for factor, n in factors.most_common(5))
        lines.append(f"{row}: stored images are the annotated ones {shown}; annotations follow")
    return "\n".join(lines)


def format_complaint(faults):
    """What is wrong with the images, in one line, or ""."""
    parts = []
    for problem in OF_IMAGES:
        texts = [fault.text for fault in faults.values() if fault and fault.problem == problem]
        if texts:
            parts.append(f"{len(texts)} of {len(faults)} images {problem}: {list_first(texts)}")
    return "; ".join(parts)


def main(load_crop):
    """The command `python data.py --check`. load_crop: of data.py."""
    parser = argparse.ArgumentParser(
        description="Look at the data before training: compare annotations with images.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--check", required=True, metavar="FOLDER", help="the data folder")
    parser.add_argument(
        "--split", type=int, default=1, help="MP-100 split; the parts of any one hold all images"
    )
    parser.add_argument(
        "--descriptions", default=str(DESCRIPTIONS), metavar="FOLDER",
        help="folder of <definition or category>.txt",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/check.png"), metavar="FILE",
        help="contact sheet: one image of each category, its keypoints dotted",
    )
    a = parser.parse_args()
    if a.out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"--out {a.out}: the contact sheet is written as .png or .jpg")
    usable, faults, wrong = [], {}, []
    for part in list_parts(a.check, a.split):
        instances, _ = read_folders([a.check], a.split, part, a.descriptions)
        found = find_faults(instances)
        print(f"{part}\n{format_counts(instances, found)}\n")
        good = [i for i in instances if can_be_used(i, found)]
        if not good:
            path = find_annotations(a.check, a.split, part)
            wrong.append(f"{path} holds no usable instance")
        faults |= found
        usable += good
    if usable:
        a.out.parent.mkdir(parents=True, exist_ok=True)
        draw_contact_sheet(usable, load_crop).save(a.out)
        print(f"one image of each category: {a.out}")
    complaint = format_complaint(faults)
    if complaint:
        wrong.insert(0, complaint)
    if wrong:
        raise ValueError("; ".join(wrong))


def list_parts(folder, split):
    """The parts that a data folder holds annotations of; FileNotFoundError if there are none."""
    parts = []
    for part in PARTS:
        try:
            find_annotations(folder, split, part)
            parts.append(part)
        except FileNotFoundError:
            continue
    if not parts:
        find_annotations(folder, split, "train")
    return parts
