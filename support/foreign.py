"""Annotations as labelme, CVAT and others (COCO), YOLO-pose and DeepLabCut write them.

Each of READERS fills a Collected from a file or folder. ValueError names the file and the line or
field where a form is broken; what is whole but of no use here is noted as unused.
"""

import csv
import math
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from support.coco import SIDE, find_entry, index_entries, read_numbers
from support.collected import SUFFIXES, Labelled, list_files, tell_part
from support.files import refuse_special
from support.json_files import read_json
from support.quote import cut, quote
from support.shapes import LIST, NAME, NUMBER, TEXT, WHOLE, Maybe, OrNull

REMEDY = "correct it, or take the file away"


def read_text(path):
    refuse_special(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8: save it as UTF-8") from None
    return text.replace("\r\n", "\n")


def read_number(text, where):
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) < 1e6:
        raise ValueError(f"{where}: {quote(text)} is no number of pixels: correct it")
    return number


def state_size(entry, width, height):
    """Two fields of an entry, or () if they are no numbers of pixels."""
    size = entry.get(width), entry.get(height)
    return size if all(map(SIDE.fits, size)) else ()


def count_names(K):
    """Names of keypoints that nobody has named."""
    return [str(number) for number in range(1, K + 1)]


# labelme: a JSON file for each image; points and the rectangle of an object share a group_id.

SHAPE = {"label": TEXT, "points": [(NUMBER, NUMBER)], "shape_type": TEXT}
SHAPE["group_id"] = Maybe(OrNull(WHOLE))
LABELME = {"shapes": [SHAPE], "imagePath": TEXT}


def read_labelme(source, found):
    for path in list_files(source, "*.json"):
        content = read_json(path, LABELME, REMEDY)
        photo = found.find_photo(content["imagePath"], path)
        if photo:
            found.claim(photo, path)
        if not content["shapes"]:
            found.leave_out("image without an object", path)
        size = state_size(content, "imageWidth", "imageHeight")
        for key, shapes in group_shapes(content["shapes"], path, found).items():
            where = f"{path}, {key}"
            boxes = [shape for shape in shapes if shape["shape_type"] == "rectangle"]
            dots = [shape for shape in shapes if shape["shape_type"] == "point"]
            points = {shape["label"]: (*shape["points"][0], 2) for shape in dots}
            if len(boxes) > 1 or len(points) < len(dots):
                found.leave_out("object with two boxes, or two points of one name", where)
            elif photo:
                category = boxes[0]["label"] if boxes else found.category
                names = found.keypoints[category]
                names += [name for name in points if name not in names]
                if all(name.isdecimal() for name in names):
                    names.sort(key=int)
                box = bound(boxes[0]["points"]) if boxes else ()
                found.add(Labelled(photo, category, points, box, size), where)


def group_shapes(shapes, path, found):
    """{object: its shapes}, by their groups.

    Where there is no group and at most one box, all is one object, wherever the points lie.
    Otherwise a box without a group is of the only group that has none and lies all in it, or of the
    only group at all; a point without a group is of the only box that it lies in.
    """
    used = [shape for shape in shapes if shape["shape_type"] in ("point", "rectangle")]
    if len(used) < len(shapes):
        found.leave_out("shapes that are neither point nor rectangle", path)
    groups, boxes, points = {}, [], []
    for shape in used:
        if not shape["points"]:
            raise ValueError(f"{path}: the shape {quote(shape['label'])} is empty: {REMEDY}")
        if shape.get("group_id") is not None:
            groups.setdefault(f"group {shape['group_id']}", []).append(shape)
        else:
            (boxes if shape["shape_type"] == "rectangle" else points).append(shape)
    if not groups and len(boxes) < 2:
        return {"object 1": used} if used else {}
    around = find_boxes(groups, boxes)
    for number, box in enumerate(boxes):
        inside = [key for key, n in around.items() if n == number]
        key = inside[0] if len(inside) == 1 else f"box {number + 1}"
        groups.setdefault(key, []).append(box)
    for point in points:
        inside = [key for key, members in groups.items() if is_in_box(point, members)]
        if len(inside) == 1:
            groups[inside[0]].append(point)
        else:
            found.leave_out("points without a group, in no box or in several", path)
    return groups


def find_boxes(groups, boxes):
    """{group without a box: the number of the only box that holds all of it, or of the only one}"""
    found = {}
    is_only = len(groups) == len(boxes) == 1
    for key, members in groups.items():
        if all(shape["shape_type"] == "point" for shape in members):
            holds = [n for n, box in enumerate(boxes) if all(lies_in(box, m) for m in members)]
            if is_only or len(holds) == 1:
                found[key] = holds[0] if holds else 0
    return found


def is_in_box(point, members):
    return any(m["shape_type"] == "rectangle" and lies_in(m, point) for m in members)


def bound(points):
    """The box x, y, w, h around points."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def lies_in(box, shape):
    return bound(box["points"]) == bound([*box["points"], *shape["points"]])


# COCO, as CVAT and others export it: fields that can be done without may be missing.

COCO = {
    "images": [{"id": NAME, "file_name": TEXT}],
    "categories": [{"id": NAME, "name": TEXT, "keypoints": Maybe(OrNull([NAME]))}],
    "annotations": [{"keypoints": Maybe(OrNull(LIST)), "bbox": Maybe(OrNull(LIST))}],
}


def read_coco(source, found):
    for path, part in list_coco(source):
        coco = read_json(path, COCO, "correct it, or export again")
        try:
            images = index_entries("images", coco["images"])
            categories = index_entries("categories", coco["categories"])
        except ValueError as error:
            raise ValueError(f"{path} cannot be used: {error}") from None
        for number, annotation in enumerate(coco["annotations"], 1):
            where = f"{path}, annotation {cut(annotation.get('id', f'number {number}'))}"
            try:
                image = find_entry(images, "images", annotation, "image_id")
                category = find_entry(categories, "categories", annotation, "category_id")
                points = read_coco_points(annotation, category, found, path)
                box = read_coco_box(annotation)
                photo = found.find_photo(image["file_name"], path)
                if photo:
                    found.claim(photo, path)
            except ValueError as error:
                raise ValueError(f"{where} cannot be used: {error}") from None
            if photo:
                size = state_size(image, "width", "height")
                found.add(Labelled(photo, category["name"], points, box, size, part), where)
        annotated = {str(annotation.get("image_id")) for annotation in coco["annotations"]}
        for image in coco["images"]:
            if str(image["id"]) not in annotated:
                found.leave_out("image without an object", image["file_name"])


def list_coco(source):
    """[(file, its part)]: the only file, or those whose names or folders tell a part each."""
    if source.is_file():
        return [(source, "")]
    paths = list_files(source, "*.json")
    if not paths:
        raise ValueError(f"{source} holds no file .json: export COCO keypoints")
    if len(paths) == 1:
        return [(paths[0], "")]
    parts = [tell_part(path.relative_to(source)) for path in paths]
    if "" in parts or len(set(parts)) < len(parts):
        raise ValueError(
            f"{source} holds {len(paths)} files .json, whose names do not tell train, val and test "
            "apart: name the one to convert"
        )
    return list(zip(paths, parts, strict=True))


def read_coco_points(annotation, category, found, path):
    """{name: (x, y, v)} of what is labelled in an annotation."""
    if not annotation.get("keypoints"):
        return {}
    numbers = read_numbers(annotation, "keypoints").tolist()
    named = category.get("keypoints") or count_names(len(numbers) // 3)
    names = [str(name) for name in named]
    if len(numbers) != 3 * len(names):
        raise ValueError(
            f"its keypoints are {len(numbers)} numbers, not x, y, v for each of {len(names)}: "
            "correct it, or the category's names"
        )
    found.name_keypoints(category["name"], names, path)
    triples = zip(names, numbers[::3], numbers[1::3], numbers[2::3], strict=True)
    return {name: (x, y, 2 if v > 1 else 1) for name, x, y, v in triples if v > 0}


def read_coco_box(annotation):
    """x, y, w, h, or () if none is stated."""
    if not annotation.get("bbox"):
        return ()
    box = read_numbers(annotation, "bbox").tolist()
    if len(box) != 4:
        raise ValueError(f"its bbox is {len(box)} numbers, not four: x, y, w, h")
    return tuple(box)


# YOLO-pose: data.yaml, and for images/.../x.jpg a text labels/.../x.txt, a line an object.


class DataYaml(NamedTuple):
    path: Path
    dims: int  # 2: x, y of a keypoint; 3: v, too
    classes: list
    labels: list  # the names of each class's keypoints
    stated: dict  # {part: [what is stated as its images' folder, or as a list of them]}
    bases: list  # the folders that these are said to be in


def read_yolo(source, found):
    data, files = read_data_yaml(source), list_files(source)
    label_files = {p: find_label_file(p, source) for p in files if p.suffix.lower() in SUFFIXES}
    texts = [path for path in files if path.suffix == ".txt"]
    lists = set(texts) - set(label_files.values())
    parts, read = choose_yolo_parts([*label_files], lists, data, source, found)
    for image, file in label_files.items():
        photo = found.read_photo(image)
        if not file.is_file():
            found.leave_out("image without a label file", image)
        elif image not in parts:
            found.leave_out(f"image in none of the lists of {data.path}", image)
        elif photo:
            read_yolo_file(file, data, photo, parts[image], found)
    stems = {path.with_suffix("") for path in files if path.suffix not in (".txt", ".json")}
    for path in sorted(lists - read):
        # Labels of what is no image here lie below `labels`, or beside it.
        if "labels" in path.relative_to(source).parts or path.with_suffix("") in stems:
            found.leave_out("label file without an image", path)


def find_label_file(image, source):
    """labels/.../x.txt of images/.../x.jpg: the innermost folder `images` counts."""
    *folders, name = image.relative_to(source).with_suffix(".txt").parts
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return source.joinpath(*folders, name)


def choose_yolo_parts(images, lists, data, source, found):
    """{image: its part}, and the lists that were read.

    The part is that of the list that names the image, of the innermost folder that data.yaml
    states, or the one that its folders tell. Where a list names what to train on, an image in no
    list and no such folder has none.
    """
    folders = {parent for image in images for parent in image.parents}
    below, listed, read = {}, {}, {}
    for part, stated in data.stated.items():
        for name in stated:
            is_list = name.lower().endswith(".txt")
            place = find_stated(name, data.bases, lists if is_list else folders)
            if place is None:
                kind = "list" if is_list else "folder"
                found.leave_out(f"{part} of {data.path}, which is no {kind} of images here", name)
            elif is_list:
                read[place] = part
                listed = read_yolo_list(place, part, images, data, found) | listed
            else:
                below.setdefault(place, part)
    parts = {}
    for image in images:
        told = [below[parent] for parent in image.parents if parent in below]
        if told:
            parts[image] = told[0]
        elif "train" not in read.values():
            parts[image] = tell_part(image.relative_to(source).parent)
    return parts | listed, set(read)


def read_yolo_list(path, part, images, data, found):
    """{image: part} of a text that names an image a line, as COCO's own lists do."""
    alike = defaultdict(list)
    for image in images:
        alike[image.name].append(image)
    listed = {}
    for line in read_text(path).splitlines():
        if line.strip():
            name = os.path.normpath(line.strip().replace("\\", "/"))
            image = find_stated(name, [path.parent, *data.bases], alike[Path(name).name])
            if image is None:
                found.leave_out(f"line of {path}, which names no image here or several", name)
            else:
                listed[image] = part
    return listed


def find_stated(name, bases, paths):
    """The one of some paths that has a name, seen from the first folder that has it; or whose path
    ends most like the name. None if there is no such one.

    Of a name with folders in it more than the last must be alike.
    """
    for base in bases:
        exact = Path(os.path.normpath(base / name))
        if exact in paths:
            return exact
    wanted = [part for part in Path(name).parts if part not in ("/", "..")]
    for n in range(len(wanted), min(len(wanted), 2) - 1, -1):
        same = [path for path in paths if n and list(path.parts[-n:]) == wanted[-n:]]
        # Of images and val/images the outer one is what `images` means.
        depth = min((len(path.parts) for path in same), default=0)
        outer = [path for path in same if len(path.parts) == depth]
        if same:
            return outer[0] if len(outer) == 1 else None
    return None


def read_yolo_file(file, data, photo, part, found):
    lines = read_text(file).splitlines()
    if not any(line.strip() for line in lines):
        found.leave_out("label file without an object", file)
    for number, line in enumerate(lines, 1):
        where, count = f"{file}, line {number}", len(line.split())
        if count == 5:
            found.leave_out("box without keypoints", where)
        elif count:
            labelled = read_yolo_line(line, where, data, photo, found)
            found.add(labelled._replace(part=part), where)


def read_yolo_line(line, where, data, photo, found):
    """A keypoint with v = 0 or at 0 0 is not labelled; of x, y alone neither is one left of the
    image or above it."""
    values = [read_number(word, where) for word in line.split()]
    expected = 5 + data.dims * len(data.labels[0])
    if len(values) != expected:
        raise ValueError(
            f"{where}: {len(values)} numbers, kpt_shape of {data.path} asks for {expected}: "
            "correct one of them"
        )
    if values[0] not in range(len(data.classes)):
        raise ValueError(f"{where}: {data.path} names no class {values[0]:g}: add it there")
    if max(map(abs, values[1:])) > 3:
        raise ValueError(f"{where}: numbers beyond 3 are not relative to the image: correct it")
    category, names = data.classes[int(values[0])], data.labels[int(values[0])]
    found.name_keypoints(category, names, where)
    (W, H), (cx, cy, w, h) = photo.size, values[1:5]
    points = {}
    for n, name in zip(range(5, expected, data.dims), names, strict=True):
        x, y, v = (*values[n:n + data.dims], 2)[:3]
        is_placed = (x, y) != (0, 0) and (data.dims == 3 or min(x, y) >= 0)
        if is_placed and v > 0:
            points[name] = (x * W, y * H, 2 if v > 1 else 1)
    box = ((cx - w / 2) * W, (cy - h / 2) * H, w * W, h * H)
    return Labelled(photo, category, points, box)


def read_data_yaml(source):
    """The only file that has kpt_shape and names, or of several that say the same the first."""
    found, incomplete = [], None
    for path in sorted([*list_files(source, "*.yaml"), *list_files(source, "*.yml")]):
        text = read_text(path)
        if not re.search(r"^kpt_shape\s*:", text, re.MULTILINE):
            continue
        if re.search(r"^names\s*:", text, re.MULTILINE):
            found.append(parse_data_yaml(path, text))
        else:
            incomplete = path
    if not found and incomplete:
        raise ValueError(f"{incomplete}: it has kpt_shape, but no `names: [class]`: add it")
    if not found:
        raise ValueError(f"{source} holds no data.yaml with kpt_shape: add it")
    for other in found[1:]:
        # But for where it is, and what it calls the folder of all.
        if other[1:5] != found[0][1:5]:
            raise ValueError(f"{found[0].path} and {other.path} tell different kpt_shape, names or "
                             "parts: convert one data set at a time")
    return found[0]


def parse_data_yaml(path, text):
    shape, classes = read_items(text, "kpt_shape", path), read_items(text, "names", path)
    if not re.fullmatch(r"[1-9]\d{0,2} [23]", " ".join(shape)) or not classes:
        raise ValueError(f"{path}: write `kpt_shape: [keypoints, 2 or 3]` and `names: [class]`")
    K = int(shape[0])
    labels = read_items(text, "kpt_names", path) or count_names(K)
    if len(labels) == K:
        labels *= len(classes)
    if len(labels) != K * len(classes):
        raise ValueError(f"{path}: kpt_names are {len(labels)}, kpt_shape says {K}: correct it")
    labels = [labels[n:n + K] for n in range(0, len(labels), K)]
    stated = {part: read_paths(text, part, path) for part in ("train", "val", "test")}
    bases = [path.parent / name for name in [*read_paths(text, "path", path), "."]]
    return DataYaml(path, int(shape[1]), classes, labels, stated, bases)


def read_paths(text, key, path):
    return [os.path.normpath(name.replace("\\", "/")) for name in read_items(text, key, path)]


# What stands in a list or mapping of YAML: a comment, a mapping's number, a quoted text, a sign, or
# a plain text up to a comma, bracket, comment or line end.
YAML_TOKEN = re.compile(
    r"""\s+|(?P<comment>(?<!\S)\#[^\n]*)|(?P<number>["']?\d+["']?\s*:(?!\S))"""
    r"""|"(?P<double>[^"\n]*)"|'(?P<single>(?:[^'\n]|'')*)'|(?P<sign>-(?!\S)|[,\[\]{}])"""
    r"""|(?P<plain>(?:(?!\s\#)[^,\n\[\]{}])+)"""
)
# Signs that begin what is more than a plain text, and a colon that ends a name.
YAML_MORE = re.compile(r"[&*!|>%@`?:\"']|.*:(\s|$)")


def read_items(text, key, path):
    """The items of a list or a numbered mapping in YAML; those of lists in it one by one.

    ValueError about what is more than that: this is no reader of YAML.
    """
    match = re.search(rf"^{key}\s*:(.*(?:\n(?:[ \t#-].*)?)*)", text, re.MULTILINE)
    if not match:
        return []
    items, numbers, dashes = [], [], 0
    for token in YAML_TOKEN.finditer(match[1]):
        kind = token.lastgroup
        dashes += token[0] == "-"
        if kind == "number":
            numbers.append(int(token[0].strip("\"': \t")))
        elif kind in ("double", "single", "plain"):
            item = token[kind].replace("''", "'") if kind == "single" else token[kind]
            is_more = kind == "plain" and YAML_MORE.match(item)
            if is_more or not item.strip() or (kind == "double" and "\\" in item):
                raise ValueError(f"{path}: {key} holds {quote(token[0])}: write plain texts")
            items.append(item.strip())
    if numbers != list(range(len(numbers))):
        raise ValueError(f"{path}: {key} is numbered {numbers}: number it from 0, in order")
    entries = dashes + len(numbers)
    if key == "names" and entries and entries != len(items):
        raise ValueError(
            f"{path}: names has {entries} entries and {len(items)} texts: put one with a comma or "
            "bracket into quotes"
        )
    return items


# DeepLabCut: CollectedData_<scorer>.csv, beside its images.


def read_deeplabcut(source, found):
    paths = [source]
    if source.is_dir():
        paths = list_files(source, "CollectedData_*.csv")
        # Which DeepLabCut collects there from the others.
        paths = [p for p in paths if "training-datasets" not in p.relative_to(source).parts]
    if not paths or len({path.parent for path in paths}) < len(paths):
        raise ValueError(f"{source} needs one CollectedData_*.csv a folder, not none or several")
    for path in paths:
        try:
            rows = list(csv.reader(read_text(path).splitlines()))
        except csv.Error as error:
            raise ValueError(f"{path} is no table: {error}: export it again") from None
        titles = ("scorer", "individuals", "bodyparts", "coords")
        header = {row[0]: row for row in rows[:4] if row and row[0] in titles}
        coords = header.get("coords", [])
        first = coords.index("x") if "x" in coords else 0
        if not first or set(coords[first::2]) != {"x"} or set(coords[first + 1::2]) != {"y"}:
            raise ValueError(f"{path}: its row `coords` is not x, y in turn: export it again")
        for number, row in enumerate(rows, 1):
            if number > len(header) and any(row):
                read_frame(row, header, first, path, number, found)


def read_frame(row, header, first, path, number, found):
    """The objects of a line, one for each individual."""
    where = f"{path}, line {number}"
    bodyparts = header.get("bodyparts", [])
    individuals = header.get("individuals", [""] * len(bodyparts))
    if not len(row) == len(bodyparts) == len(individuals) == len(header["coords"]):
        raise ValueError(f"{where}: not as many columns as `coords` has: export it again")
    animals = {}
    several = len(set(individuals[first:])) > 1
    for c in range(first, len(row), 2):
        # What is labelled once an image, beside several animals.
        category = "single" if several and individuals[c] == "single" else found.category
        if bodyparts[c] not in found.keypoints[category]:
            found.keypoints[category].append(bodyparts[c])
        points = animals.setdefault((individuals[c], category), {})
        if {row[c].lower(), row[c + 1].lower()} - {"", "nan"}:
            points[bodyparts[c]] = (read_number(row[c], where), read_number(row[c + 1], where), 2)
    photo = found.find_photo("/".join(row[:first]), path)
    if photo:
        found.claim(photo, where)
    if len(animals) > 1 and not any(animals.values()):
        found.leave_out("image without an object", where)
    for (_, category), points in animals.items():
        # Of several animals most are not there.
        if photo and (points or len(animals) == 1):
            found.add(Labelled(photo, category, points), where)


READERS = {
    "labelme": read_labelme,
    "coco": read_coco,
    "yolo": read_yolo,
    "deeplabcut": read_deeplabcut,
}
