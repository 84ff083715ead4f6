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
from support.descriptions import DESCRIPTIONS, describe_categories, list_thin
from support.files import write_whole
from support.launch import list_first
from support.options import Parser
from support.pictures import check_picture_name, draw_contact_sheet
from support.quote import cut, quote

# Marks near the end of a whole file.
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
OF_IMAGES = ("missing", "unreadable", "other size")
# "keypoint outside": of its image; "outside the box": of its crop, so that it is never asked.
OF_ANNOTATIONS = ("empty box", "no keypoint", "keypoint outside", "outside the box")
COUNTED = ("instances", "usable", *OF_IMAGES, *OF_ANNOTATIONS)


class Finding(NamedTuple):
    """What is wrong with an image: one of OF_IMAGES, or "scaled", or nothing, and what a message
    shows; and whether a viewer turns it."""

    problem: str = ""
    text: str = ""
    is_turned: bool = False


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
                    f"category {quote(i.category)} is {cut(i.name)} in {folder}, "
                    f"{cut(names[i.category])} elsewhere: change an id"
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
    findings = examine_images(instances)
    table = format_counts(instances, findings)
    complaint = format_complaint(findings)
    if complaint and not skip_missing:
        if int(os.environ.get("RANK", 0)) == 0:
            print(table)
        raise ValueError(
            f"{complaint}. Correct the data, or go on without these images: --skip-missing"
        )
    return Checked([i for i in instances if can_be_used(i, findings)], table)


def examine_images(instances):
    """{(image, annotated size): Finding}: annotations may differ in what they say of an image."""
    files = list({(i.image, i.size): None for i in instances})
    quiet = int(os.environ.get("RANK", 0)) > 0
    with ThreadPool(16) as pool, warnings.catch_warnings(action="ignore"):
        found = pool.imap(lambda item: examine_image(*item), files, chunksize=16)
        progress = tqdm(
            found, "checking images", len(files), unit="image", delay=1, leave=False, disable=quiet
        )
        return dict(zip(files, progress, strict=True))


def examine_image(path, size) -> Finding:
    """Check that a file is there, whole, readable and as large as annotated.

    Only a file without its format's end mark is decoded to see; other damage shows when training
    reads it.
    """
    try:
        with photos.explain_damage(path), open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 1024))
            tail = file.read()
            with Image.open(file) as image:
                is_turned = photos.read_orientation(image) != 1
                if image.format not in ENDS or ENDS[image.format] not in tail:
                    image.load()
                return compare_size(path, image, size)._replace(is_turned=is_turned)
    except FileNotFoundError:
        return Finding("missing", cut(path))
    except ValueError:
        return Finding("unreadable", cut(path))


def compare_size(path, image, size) -> Finding:
    if image.size == size:
        return Finding()
    factor = photos.find_factor(image.size, size)
    if factor:
        return Finding("scaled", f"x {factor:.3g}")
    stored = f"{image.width} x {image.height}"
    annotated = f"{size[0]} x {size[1]}"
    hint = photos.hint_at_rotation(image, size)
    return Finding("other size", f"{cut(path)} ({stored}, annotated {annotated}{hint})")


def get_finding(instance: Instance, findings) -> Finding:
    return findings[instance.image, instance.size]


def can_be_used(instance: Instance, findings):
    return instance.usable and get_finding(instance, findings).problem not in OF_IMAGES


def list_columns(instance, findings):
    """The COUNTED columns of the table that count an instance."""
    problem = get_finding(instance, findings).problem
    labelled = instance.keypoints[instance.keypoints[:, 2] > 0, :2]
    columns = ["instances"]
    if can_be_used(instance, findings):
        columns.append("usable")
    if problem in OF_IMAGES:
        columns.append(problem)
    # Where there are no keypoints at all, the box is not read.
    if len(instance.keypoints) and not instance.has_box:
        columns.append("empty box")
    if not len(labelled):
        columns.append("no keypoint")
    if ((labelled < 0) | (labelled > instance.size)).any():
        columns.append("keypoint outside")
    if instance.has_box and is_outside_box(labelled, instance.bbox).any():
        columns.append("outside the box")
    return columns


def is_outside_box(points, bbox):
    """Which of the points (n, 2) lie outside of the box made square, as crops are: (n,)."""
    x, y, w, h = bbox
    side = max(w, h)
    relative = (points - [x + w / 2, y + h / 2]) / side + 0.5
    return ((relative < 0) | (relative >= 1)).any(1)


def format_counts(instances, findings):
    """A Markdown table that counts instances: all, and each category with a problem.

    Below it stand the annotations at fault, the factors of scaled images, and images that viewers
    turn.
    """
    counts = defaultdict(Counter, all=Counter())
    scaled = defaultdict(Counter)
    at_fault = defaultdict(list)
    for i in instances:
        category = cut(f"{i.name} ({i.category})")
        columns = list_columns(i, findings)
        counts["all"].update(columns)
        counts[category].update(columns)
        for column in columns:
            if column in OF_ANNOTATIONS:
                at_fault[column].append(cut(i.id))
        finding = get_finding(i, findings)
        if finding.problem == "scaled":
            scaled[category][finding.text] += 1
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
    return "\n".join(lines + describe_turned(findings))


def describe_turned(findings):
    """A line about the images that a viewer turns, if there are any."""
    turned = {path: cut(path) for (path, _), finding in findings.items() if finding.is_turned}
    if not turned:
        return []
    return [
        f"turned: {len(turned)} images have an EXIF rotation ({list_first([*turned.values()])}), "
        "which training ignores: if they were annotated upright, apply it to the files"
    ]


def format_complaint(findings):
    """What is wrong with the images, in one line, or ""."""
    parts = []
    images = {path for path, _ in findings}
    for problem in OF_IMAGES:
        texts = {f.text: None for f in findings.values() if f.problem == problem}
        if texts:
            shown = list_first(list(texts))
            parts.append(f"{len(texts)} of {len(images)} images {problem}: {shown}")
    return "; ".join(parts)


def main(load_crop):
    """The command `python data.py --check`. load_crop: of data.py."""
    parser = Parser(
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
    check_picture_name("--out", a.out)
    parts = list_parts(a.check, a.split)
    read = {part: read_folders([a.check], a.split, part, a.descriptions) for part in parts}
    usable, findings, wrong, described = [], {}, [], {}
    for part, (instances, more) in read.items():
        found = examine_images(instances)
        print(f"{part}\n{format_counts(instances, found)}\n")
        good = [i for i in instances if can_be_used(i, found)]
        if not good:
            path = find_annotations(a.check, a.split, part)
            wrong.append(f"{path} holds no usable instance")
        findings |= found
        usable += good
        described |= {(i.category, i.name): more[i.category] for i in good}
    print_thin(described)
    complaint = format_complaint(findings)
    if complaint:
        wrong.insert(0, complaint)
    if usable:
        wrong += write_contact_sheet(a.out, usable, load_crop)
    if wrong:
        raise ValueError("; ".join(wrong))


def print_thin(described):
    """Lines about descriptions that tell too little. described: {(id, name): keypoints}."""
    thin = []
    for (_, name), keypoints in described.items():
        thin += [f"{cut(name)}: {text}" for text in list_thin(keypoints)]
    if thin:
        print(f"thin: {len(thin)} descriptions may not do to tell keypoints apart:")
        print("\n".join(f"  {text}" for text in thin), end="\n\n")


def write_contact_sheet(path, instances, load_crop):
    """Draw one image of each category; return texts that say what went wrong."""
    sheet = draw_contact_sheet(instances, load_crop)
    try:
        with write_whole(path) as partial:
            sheet.page.save(partial)
    except (OSError, ValueError) as error:
        return [*sheet.faults, f"{path}: the contact sheet cannot be written ({cut(error)})"]
    print(f"one image of each category: {path}")
    return sheet.faults


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
