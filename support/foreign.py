"""Annotations as labelme, CVAT and others (COCO), YOLO-pose and DeepLabCut write them.

Each `read_...` fills a Collected. ValueError names the file and the line or field where a form is
broken; what is whole but of no use here is noted as unused.
"""

import csv
import functools
import math
import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from support import photos
from support.coco import SIDE, find_entry, index_entries, read_numbers
from support.files import find_spelling, refuse_special
from support.json_files import read_json
from support.quote import cut, quote
from support.shapes import LIST, NAME, NUMBER, TEXT, WHOLE, Maybe, OrNull

REMEDY = "correct it, or take the file away"
PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class Photo(NamedTuple):
    path: Path
    stored: tuple  # width, height
    orientation: int  # as EXIF has it

    @property
    def size(self):
        """Width and height as a viewer shows it, which is what these tools annotate."""
        return self.stored[::-1] if self.orientation in photos.SIDEWAYS else self.stored


class Labelled(NamedTuple):
    """One object of a photo."""

    photo: Photo
    category: str
    points: dict  # {keypoint: (x, y, v)} of those that are labelled, in pixels
    box: tuple = ()  # x, y, w, h in pixels, if the tool states one
    size: tuple = ()  # the photo's width and height as annotated, if stated
    part: str = ""  # train, val or test, if the tool states one


@dataclass
class Collected:
    """What was read from below a folder."""

    root: Path
    category: str  # of objects that the tool gives no name
    objects: list = field(default_factory=list)
    # {category: names of its keypoints in order}
    keypoints: dict = field(default_factory=lambda: defaultdict(list))
    known: dict = field(default_factory=dict)  # {path: Photo, or None if it cannot be read}
    # {why not used: {where: None}}
    unused: dict = field(default_factory=lambda: defaultdict(dict))
    # {path of a photo: the name that it is annotated by}, {path of a photo: where}
    named: dict = field(default_factory=dict)
    claimed: dict = field(default_factory=dict)

    def leave_out(self, reason, where):
        self.unused[reason][cut(where)] = None

    def add(self, labelled, where):
        """Note an object, unless nothing says where it is. A box without extent is none."""
        if labelled.box and max(labelled.box[2:]) < 1:
            labelled = labelled._replace(box=())
        places = {point[:2] for point in labelled.points.values()}
        if not places:
            self.leave_out("no labelled keypoint", where)
        elif not labelled.box and len(places) == 1:
            self.leave_out("no box, and a single place labelled", where)
        else:
            self.objects.append(labelled)

    def claim(self, photo, where):
        """ValueError if a photo is annotated elsewhere: a copy would double its objects."""
        other = self.claimed.setdefault(photo.path, where)
        if other != where:
            raise ValueError(
                f"{cut(photo.path)} is annotated twice, in {cut(other)} and {cut(where)}: take one "
                "of them away"
            )

    @functools.cached_property
    def files(self):
        """{file name: paths} of all files below the folder."""
        found = defaultdict(list)
        for path in list_files(self.root):
            found[path.name].append(path)
        return found

    def find_photo(self, name, beside, part="") -> Photo | None:
        """The photo of that name beside a file, or the only one anywhere below, or in that part.

        None, which is noted, if there is none, or several, or Pillow cannot read it. ValueError if
        it already goes by another name.
        """
        # Tools on Windows write backslashes.
        name = os.path.normpath(name.replace("\\", "/"))
        path, end = Path(os.path.normpath(find_spelling(beside, name))), Path(name).parts[-2:]
        if not os.path.isfile(path):
            alike = self.files.get(path.name, [])
            same = [p for p in alike if p.parts[-len(end):] == end] or alike
            if len(same) > 1 and part:
                same = [p for p in same if tell_part(p.relative_to(self.root)) == part]
            if len(same) != 1:
                self.leave_out("several images of that name" if same else "image missing", name)
                return None
            path = same[0]
        other = self.named.setdefault(path, name)
        if other != name:
            raise ValueError(
                f"{cut(path)} is all there is of {quote(other)} and {quote(name)}: add the other "
                "image, or take its annotations away"
            )
        return self.read_photo(path)

    def read_photo(self, path) -> Photo | None:
        """What is known of a photo; None, which is noted, if Pillow cannot read it."""
        if path not in self.known:
            self.known[path] = None
            try:
                with photos.explain_damage(path), Image.open(path) as image:
                    self.known[path] = Photo(path, image.size, photos.read_orientation(image))
            except (OSError, ValueError):
                self.leave_out("image that cannot be read", path)
        return self.known[path]


def list_files(folder, pattern="*"):
    """Files below a folder, sorted; none that is hidden, or lies in a hidden folder."""
    found = []
    for path in sorted(folder.rglob(pattern)):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not is_hidden and path.is_file():
            found.append(path)
    return found


def tell_part(text):
    """train, val or test, if a name holds one of these words, "" if none or several."""
    words = re.split("[^a-z]+", str(text).lower())
    parts = {PARTS[word] for word in words if word in PARTS}
    return parts.pop() if len(parts) == 1 else ""


def read_text(path):
    refuse_special(path)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8: save it as UTF-8") from None


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
        photo = found.find_photo(content["imagePath"], path.parent)
        if photo:
            found.claim(photo, path)
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
                box = bound(boxes[0]["points"]) if boxes else ()
                found.add(Labelled(photo, category, points, box, size), where)


def group_shapes(shapes, path, found):
    """{object: its shapes}, by their groups.

    Without a group a box is of the only group that has none and lies all in it, a point of the only
    box that it lies in.
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
        return {"box 1": used} if used else {}
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
    """{group without a box: the number of the only box that holds all of it}"""
    found = {}
    for key, members in groups.items():
        if all(shape["shape_type"] == "point" for shape in members):
            holds = [n for n, box in enumerate(boxes) if all(lies_in(box, m) for m in members)]
            if len(holds) == 1:
                found[key] = holds[0]
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
        where, coco = path, read_json(path, COCO, "correct it, or export again")
        try:
            images = index_entries("images", coco["images"])
            categories = index_entries("categories", coco["categories"])
            for number, annotation in enumerate(coco["annotations"], 1):
                where = f"{path}, annotation {cut(annotation.get('id', f'number {number}'))}"
                image = find_entry(images, "images", annotation, "image_id")
                category = find_entry(categories, "categories", annotation, "category_id")
                points = read_coco_points(annotation, category, found)
                box = read_numbers(annotation, "bbox").tolist() if annotation.get("bbox") else ()
                if box and len(box) != 4:
                    raise ValueError(f"its bbox is {len(box)} numbers, not four: x, y, w, h")
                photo = found.find_photo(image["file_name"], path.parent, part)
                size = state_size(image, "width", "height")
                if photo:
                    found.claim(photo, path)
                    box = tuple(box)
                    labelled = Labelled(photo, category["name"], points, box, size, part)
                    found.add(labelled, where)
        except ValueError as error:
            raise ValueError(f"{where} cannot be used: {error}") from None


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
            f"{source} holds {len(paths)} files .json, whose names do not tell train, val, test: "
            "name the one to convert"
        )
    return list(zip(paths, parts, strict=True))


def read_coco_points(annotation, category, found):
    """{name: (x, y, v)} of what is labelled in an annotation."""
    if not annotation.get("keypoints"):
        return {}
    numbers = read_numbers(annotation, "keypoints").tolist()
    names = found.keypoints[category["name"]]
    if not names:
        names += map(str, category.get("keypoints") or count_names(len(numbers) // 3))
    if len(numbers) != 3 * len(names):
        raise ValueError(
            f"its keypoints are {len(numbers)} numbers, not x, y, v for each of {len(names)}: "
            "correct it, or the category's names"
        )
    triples = zip(names, numbers[::3], numbers[1::3], numbers[2::3], strict=True)
    return {name: (x, y, 2 if v > 1 else 1) for name, x, y, v in triples if v > 0}


# YOLO-pose: data.yaml, and for images/.../x.jpg a text labels/.../x.txt, a line an object.


class DataYaml(NamedTuple):
    path: Path
    dims: int  # 2: x, y of a keypoint; 3: v, too
    classes: list
    labels: list  # the names of each class's keypoints
    folders: dict  # {part: folders of its images}

    def tell_part(self, image):
        """The part of an image, a path below the data set: by these folders, or its own."""
        for part, folders in self.folders.items():
            if any(f"/{folder}/" in f"/{image.as_posix()}" for folder in folders):
                return part
        return tell_part(image.parent)


def read_yolo(source, found):
    data = read_data_yaml(source)
    for image in list_files(source):
        if image.suffix.lower() not in SUFFIXES:
            continue
        inside = image.relative_to(source)
        *folders, name = inside.with_suffix(".txt").parts
        if "images" in folders:
            folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
        file, photo = source.joinpath(*folders, name), found.read_photo(image)
        if not file.is_file():
            found.leave_out("image without a label file", image)
        elif photo:
            text, part = read_text(file), data.tell_part(inside)
            if not text.strip():
                found.leave_out("label file without an object", file)
            for number, line in enumerate(text.splitlines(), 1):
                where, count = f"{file}, line {number}", len(line.split())
                if count == 5:
                    found.leave_out("box without keypoints", where)
                elif count:
                    labelled = read_yolo_line(line, where, data, photo, found)
                    found.add(labelled._replace(part=part), where)


def read_yolo_line(line, where, data, photo, found):
    """A keypoint with v = 0, or at 0 0, or left of the image or above it, is not labelled."""
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
    found.keypoints[category] = names
    (W, H), (cx, cy, w, h) = photo.size, values[1:5]
    points = {}
    for n, name in zip(range(5, expected, data.dims), names, strict=True):
        x, y, v = (*values[n:n + data.dims], 2)[:3]
        if min(x, y) >= 0 and max(x, y) > 0 and v > 0:
            points[name] = (x * W, y * H, 2 if v > 1 else 1)
    box = ((cx - w / 2) * W, (cy - h / 2) * H, w * W, h * H)
    return Labelled(photo, category, points, box)


def read_data_yaml(source):
    for path in sorted([*list_files(source, "*.yaml"), *list_files(source, "*.yml")]):
        text = read_text(path)
        shape = read_items(text, "kpt_shape", path)
        if not shape:
            continue
        classes = read_items(text, "names", path)
        if not re.fullmatch(r"[1-9]\d{0,2} [23]", " ".join(shape)) or not classes:
            raise ValueError(f"{path}: write `kpt_shape: [keypoints, 2 or 3]` and `names: [class]`")
        K = int(shape[0])
        labels = read_items(text, "kpt_names", path) or count_names(K)
        if len(labels) == K:
            labels *= len(classes)
        if len(labels) != K * len(classes):
            raise ValueError(f"{path}: kpt_names are {len(labels)}, kpt_shape says {K}: correct it")
        labels = [labels[n:n + K] for n in range(0, len(labels), K)]
        folders = {part: list_yaml_folders(text, part, path) for part in ("train", "val", "test")}
        return DataYaml(path, int(shape[1]), classes, labels, folders)
    raise ValueError(f"{source} holds no data.yaml with kpt_shape: add it")


# A quoted text, a mapping's number, or what stands between commas, brackets and line ends.
YAML_ITEM = re.compile(
    r"""(?P<key>["']?\d+["']?\s*:(?=\s|$))|"(?P<double>[^"\n]*)"|'(?P<single>[^'\n]*)'"""
    r"""|(?P<bare>[^\s,\[\]{}"'][^,\n\[\]{}]*)""",
    re.MULTILINE,
)


def read_items(text, key, path):
    """The items of a list or a numbered mapping in YAML; those of lists in it one by one."""
    match = re.search(rf"^{key}:(.*(?:\n(?:[ \t-].*)?)*)", text, re.MULTILINE)
    if not match:
        return []
    body = re.sub(r"(^|\s)#.*", "", match[1])
    body = re.sub(r"^\s*(- +)+", "", body, flags=re.MULTILINE)
    items, numbers = [], []
    for item in YAML_ITEM.finditer(body):
        if item["key"]:
            numbers.append(int(item["key"].strip("\"': \t")))
        else:
            items.append((item["double"] or item["single"] or item["bare"] or "").strip())
    if numbers != list(range(len(numbers))):
        raise ValueError(f"{path}: {key} is numbered {numbers}: number it from 0, in order")
    return [item for item in items if item]


def list_yaml_folders(text, part, path):
    """The folders of a part's images, without what leads there from elsewhere."""
    folders = []
    for item in read_items(text, part, path):
        folder = os.path.normpath(item.replace("\\", "/"))
        folders.append(re.sub(r"^(\.\./)*/?", "", folder))
    return [folder for folder in folders if folder not in ("", ".", "..")]


# DeepLabCut: CollectedData_<scorer>.csv, beside its images.


def read_deeplabcut(source, found):
    paths = [source] if source.is_file() else list_files(source, "CollectedData_*.csv")
    # Which DeepLabCut collects there from the others.
    paths = [path for path in paths if "training-datasets" not in path.parts]
    if not paths or len({path.parent for path in paths}) < len(paths):
        raise ValueError(f"{source} needs one CollectedData_*.csv a folder, not none or several")
    for path in paths:
        rows = list(csv.reader(read_text(path).splitlines()))
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
    for c in range(first, len(row), 2):
        # What is labelled once an image, beside several animals.
        category = "single" if individuals[c] == "single" else found.category
        if bodyparts[c] not in found.keypoints[category]:
            found.keypoints[category].append(bodyparts[c])
        points = animals.setdefault((individuals[c], category), {})
        if {row[c].lower(), row[c + 1].lower()} - {"", "nan"}:
            points[bodyparts[c]] = (read_number(row[c], where), read_number(row[c + 1], where), 2)
    photo = found.find_photo("/".join(row[:first]), path.parent)
    if photo:
        found.claim(photo, where)
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
