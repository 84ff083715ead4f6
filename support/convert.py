"""Bring photographs annotated with other tools into the layout that data.py reads.

    python -m support.convert labelme PHOTOS FOLDER
    python -m support.convert draft FOLDER FOLDER

labelme, coco (CVAT's, too), yolo (YOLO-pose) and deeplabcut write FOLDER/images, FOLDER/annotations
and drafts of description files, FOLDER/<category>.txt; draft writes these alone, for a data folder.
"""

import argparse
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

from support import check, coco, foreign, launch, options, photos
from support.collected import Collected, settle
from support.descriptions import TODO, simplify_name
from support.quote import cut, quote

MARGIN = 0.15  # around keypoints that have no box, of the longer side
LONGEST_NAME = 255  # bytes, of a file
RARE = 5  # one of so many objects has a keypoint at least, or it is named
FIRST_ID = 1001  # MP-100's categories have smaller ones


def convert(kind, source, out, category="object", every=5):
    """Write what a tool annotated to a new folder, whole or not at all; return lines to print.

    category: of objects that the tool gives no name; every: one of so many images is to validate,
    0: none.
    """
    check_places(kind, source, out)
    source, out = settle(source), out.resolve()
    found = Collected(find_root(source), category)
    foreign.READERS[kind](source, found)
    unused = [f"not used: {text}" for text in describe_notes(found.unused)]
    if not found.objects:
        raise ValueError("; ".join([f"{source} holds no object of use", *unused]))
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent)) / out.name
    try:
        lines = write_folder(found, partial, every)
        if out.is_dir():
            out.rmdir()
        partial.rename(out)
    except ValueError as error:
        raise ValueError(f"nothing is written: {error}".replace(str(partial), str(out))) from None
    finally:
        shutil.rmtree(partial.parent, ignore_errors=True)
    return lines + describe_notes(found.doubtful) + unused


def check_places(kind, source, out):
    """ValueError or FileNotFoundError if a tool's output, or the new folder, is nothing such."""
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} holds something already: name a folder that is new, or empty")
    if not source.exists():
        raise FileNotFoundError(f"{source} is missing: name what the tool wrote")
    if source.is_file() and zipfile.is_zipfile(source):
        raise ValueError(f"{source} is an archive: unpack it, and name the folder")
    if kind in ("labelme", "yolo") and not source.is_dir():
        raise ValueError(f"{source} is no folder: name the one that holds it")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{out} lies in {source}, which it would be read with: name one outside")


def find_root(source):
    """The folder that images are looked for in: beside `annotations`, where that is the source."""
    folder = source if source.is_dir() else source.parent
    if folder.resolve().name == "annotations":
        return settle(folder.resolve().parent)
    return folder


def describe_notes(notes):
    """Lines about {what is to be said: where}."""
    lines = []
    for text, places in notes.items():
        lines.append(f"{text} ({len(places)}): {launch.list_first([*places])}")
    return lines


def write_folder(found, out, every):
    """Annotations, drafts and images, which are read back at the end; return lines to print."""
    counts = Counter(each.category for each in found.objects)
    clean = clean_names(counts, "categories")
    categories = {}
    for id, name in enumerate(sorted(counts), FIRST_ID):
        labels = clean_names(found.keypoints[name], f"keypoints of {quote(name)}").values()
        categories[name] = {"id": id, "name": clean[name], "keypoints": [*labels]}
    lines = []
    for name, entry in categories.items():
        K = len(entry["keypoints"])
        lines.append(f"{cut(entry['name'])}: {counts[name]} objects, {K} keypoints")
        lines += list_rare(found, name, counts[name])
    boxless = sum(not each.box for each in found.objects)
    if boxless:
        box = f"that of their keypoints, {MARGIN:.0%} of its longer side wider at each edge"
        lines.append(f"box: {boxless} objects have none and get {box}")
    files = name_files(found)
    lines += copy_images(files, list_turned(found), out / "images")
    parts, line = choose_parts(found, files, every)
    for part in coco.PARTS:
        objects = [each for each in found.objects if parts[each.photo.path] == part]
        if objects:
            content = format_part(objects, found, files, categories)
            path = out / "annotations" / f"{part}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content, allow_nan=False))
    drafts = {entry["name"]: entry["keypoints"] for entry in categories.values()}
    write_drafts(drafts, out)
    for part in check.list_parts(out, 1):
        coco.read_coco(coco.find_annotations(out, 1, part), out / "images")
    return [*lines, line]


def list_rare(found, category, objects):
    """A line about keypoints that few objects have: a slip of the pen is one, too."""
    labelled = Counter(
        name for each in found.objects if each.category == category for name in each.points
    )
    rare = [name for name in found.keypoints[category] if labelled[name] * RARE < objects]
    if not rare:
        return []
    shown = launch.list_first([f"{quote(name)} ({labelled[name]} of {objects})" for name in rare])
    return [f"labelled in few of them (a misspelt name?): {shown}"]


def clean_names(names, what):
    """{name: as a description file can hold it, and be called}. ValueError if two are alike."""
    clean = {}
    for name in names:
        clean[name] = " ".join(re.sub(r"[:/\\]", " ", name).split()).lstrip("#. ")
    first = {}
    for name in names:
        if not clean[name]:
            raise ValueError(f"{what}: {quote(name)} is no name: rename it")
        simple = simplify_name(clean[name])
        if simple in first:
            both = f"{quote(first[simple])} and {quote(name)}"
            raise ValueError(f"{what}: {both} are alike: rename one")
        first[simple] = name
    return clean


def name_files(found):
    """{photo: its name in images/}, ordered by path, all different."""
    root = found.root.resolve()
    files, taken = {}, set()
    for path in sorted({each.photo.path for each in found.objects}):
        name, whole = path.name, path.parent.resolve() / path.name
        # One that lies elsewhere keeps its name alone: a path to it could lead out of images/.
        if whole.is_relative_to(root):
            name = whole.relative_to(root).as_posix().removeprefix("images/")
        # A copy need not have signs that no annotation file may name.
        name = wanted = "".join(c if c.isprintable() else "_" for c in name)
        number = 0
        while name in taken:
            number += 1
            name = f"{number}-{wanted}"
        files[path] = name
        taken.add(name)
    return files


def choose_parts(found, files, every):
    """{photo: train, val or test}, and a line about it.

    What the tool's files and folders say of parts counts, if more than that all is to train on.
    """
    parts = {each.photo.path: each.part for each in found.objects}
    if set(parts.values()) - {"", "train"}:
        how = "as the tool's folders have it, whatever --val says"
    else:
        how = f"one of {every} to validate, see --val" if every else "none to validate"
        if len(files) < every:
            how = f"too few for --val {every}: none to validate"
        for number, path in enumerate(files, 1):
            if every and number % every == 0:
                parts[path] = "val"
    parts = {path: part or "train" for path, part in parts.items()}
    n = Counter(parts.values())
    if not n["train"]:
        how += "; none to train on"
    shown = ", ".join(f"{n[part]} {part}" for part in coco.PARTS if n[part])
    return parts, f"{len(parts)} images: {shown} ({how})"


def list_turned(found):
    """The photos that EXIF turns, but for those annotated as they are stored."""
    turned = {each.photo.path for each in found.objects if each.photo.orientation != 1}
    for each in found.objects:
        fits = photos.find_factor(each.photo.size, each.size)
        if each.size and not fits and photos.find_factor(each.photo.stored, each.size):
            turned.discard(each.photo.path)
    return turned


def copy_images(files, turned, folder):
    for path, name in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if path in turned:
            try:
                photos.open_image(path).save(target, quality=95)
            except ValueError as error:
                raise ValueError(f"{path}: it cannot be saved upright ({error})") from None
        else:
            shutil.copyfile(path, target)
    if not turned:
        return []
    shown = launch.list_first([cut(path) for path in sorted(turned)])
    return [f"turned: {len(turned)} photographs are copied upright, as tools show them: {shown}"]


def format_part(objects, found, files, categories):
    """The COCO annotations of some objects, numbered from 1."""
    images, annotations = {}, []
    for id, (photo, name, points, box, size, _) in enumerate(objects, 1):
        width, height = size or photo.size
        image = {"id": len(images) + 1, "file_name": files[photo.path]}
        image = images.setdefault(photo.path, image | {"width": width, "height": height})
        triples = [points.get(label, (0, 0, 0)) for label in found.keypoints[name]]
        annotations.append({
            "id": id,
            "image_id": image["id"],
            "category_id": categories[name]["id"],
            "bbox": box or enlarge([point[:2] for point in points.values()]),
            "keypoints": [number for triple in triples for number in triple],
        })
    content = {"images": [*images.values()], "annotations": annotations}
    return content | {"categories": [*categories.values()]}


def enlarge(points):
    """The box x, y, w, h around points, and a margin."""
    x, y, w, h = foreign.bound(points)
    margin = MARGIN * max(w, h)
    return x - margin, y - margin, w + 2 * margin, h + 2 * margin


def write_drafts(named, folder):
    """A description file for each of {category: keypoints' names} that has none; return lines."""
    lines = []
    for category, labels in named.items():
        path = folder / f"{category}.txt"
        if path.parent != folder or len(os.fsencode(path.name)) > LONGEST_NAME:
            raise ValueError(f"category {quote(category)} cannot name a file: rename it")
        if os.path.lexists(path):
            lines.append(f"{cut(path)} is there already: left as it is")
            continue
        # Names that are numbers are to be filled in, too.
        names = [f"{TODO} {n}" if n.isdigit() else n.replace("_", " ") for n in labels]
        text = f"# {category}: say at each {TODO} what the keypoint is, and where it lies.\n"
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "".join(f"{name}: {TODO}\n" for name in names), encoding="utf-8")
        lines.append(f"{cut(path)}: fill in what is marked {TODO}")
    return lines


def draft(folder, out):
    """Drafts for a data folder, from its annotations' names."""
    named = {}
    for part in check.list_parts(folder, 1):
        for i in coco.read_coco(coco.find_annotations(folder, 1, part), folder / "images"):
            if len(i.keypoints):
                named.setdefault(i.name, i.labels or foreign.count_names(len(i.keypoints)))
    return write_drafts(named, out)


def main():
    parser = options.Parser(
        description="Bring annotated photographs into the layout of a data folder. Images are "
        "copied; nothing is overwritten.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "kind", choices=[*foreign.READERS, "draft"],
        help="the tool; or drafts of description files alone, for a data folder",
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the folder, or file, it wrote")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new data folder")
    parser.add_argument(
        "--category", default="object", metavar="NAME",
        help="what an object is called that the tool gives no name",
    )
    parser.add_argument(
        "--val", type=int, default=5, metavar="N",
        help="every N-th image goes to annotations/val.json; 0: none",
    )
    a = parser.parse_args()
    if a.val < 0 or a.val == 1:
        raise ValueError(f"--val {a.val}: give 0 for none, or 2 or more")
    if a.kind == "draft":
        lines = draft(a.source, a.out)
    else:
        lines = convert(a.kind, a.source, a.out, a.category, a.val)
        lines += [
            f"images are copied to {a.out}/images; fill in what is marked {TODO} in {a.out}/*.txt, "
            f"then: python data.py --check {a.out} --descriptions {a.out}"
        ]
    print("\n".join(lines))


if __name__ == "__main__":
    launch.run("support.convert", main)
