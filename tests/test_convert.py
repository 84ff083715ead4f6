"""support/convert.py and support/foreign.py: what other tools wrote, as data.py reads it."""

import csv
import json
import os
import re
import shlex
import shutil
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import data
from damage import damage_value
from helpers import coco, one_line, photo
from support import check, convert, launch

NAMES = ["left_eye", "right_eye", "tail base"]


class Thing(NamedTuple):
    """An object as a test states it."""

    image: str
    points: dict  # {name: (x, y)}
    box: tuple = ()  # x, y, w, h
    category: str = "object"


def save_photos(folder, things, size=(60, 50)):
    for name in {thing.image for thing in things}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        photo(*size).save(folder / name)


def by_image(things):
    found = {}
    for thing in things:
        found.setdefault(thing.image, []).append(thing)
    return found


def write_labelme(folder, things):
    """As labelme 5 saves it: a file beside each image, an object's shapes share a group."""
    save_photos(folder, things)
    for image, inside in by_image(things).items():
        shapes = []
        for group, thing in enumerate(inside):
            common = {"group_id": group, "description": "", "flags": {}, "mask": None}
            if thing.box:
                x, y, w, h = thing.box
                corners = {"points": [[x, y], [x + w, y + h]], "shape_type": "rectangle"}
                shapes.append({"label": thing.category} | corners | common)
            for name, point in thing.points.items():
                dot = {"label": name, "points": [list(point)], "shape_type": "point"}
                shapes.append(dot | common)
        content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image}
        content |= {"imageData": None, "imageHeight": 50, "imageWidth": 60}
        (folder / image).with_suffix(".json").write_text(json.dumps(content))
    return folder


def write_coco(folder, things):
    """As CVAT exports skeletons: images/default, annotations/person_keypoints_default.json."""
    save_photos(folder / "images/default", things)
    images, annotations = {}, []
    categories = sorted({thing.category for thing in things})
    for id, thing in enumerate(things, 1):
        image = {"id": len(images) + 1, "file_name": thing.image, "width": 60, "height": 50}
        image = images.setdefault(thing.image, image)
        triples = [[*thing.points[n], 2] if n in thing.points else [0, 0, 0] for n in NAMES]
        annotation = {"id": id, "image_id": image["id"], "segmentation": [], "iscrowd": 0}
        annotation["category_id"] = categories.index(thing.category) + 1
        annotation |= {"keypoints": sum(triples, []), "num_keypoints": len(thing.points)}
        annotations.append(annotation | ({"bbox": list(thing.box)} if thing.box else {}))
    content = {"licenses": [], "info": {}, "images": [*images.values()]}
    content["categories"] = [
        {"id": id, "name": name, "supercategory": "", "keypoints": NAMES, "skeleton": [[1, 2]]}
        for id, name in enumerate(categories, 1)
    ]
    path = folder / "annotations/person_keypoints_default.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content | {"annotations": annotations}))
    return folder


YAML = """# Poses
path: ../datasets/x # dataset root dir
train: images/train
val: images/val

# Keypoints
kpt_shape: [3, {dims}] # number of keypoints, number of dims
flip_idx: [1, 0, 2]

# Classes
names:
  0: {category}

kpt_names:
  0:
    - left_eye
    - right_eye
    - tail base
"""


def write_yolo(folder, things, dims=3, subset="train"):
    """As ultralytics reads it: data.yaml, images/train, labels/train."""
    save_photos(folder / "images" / subset, things)
    (folder / "labels" / subset).mkdir(parents=True)
    (folder / "data.yaml").write_text(YAML.format(dims=dims, category=things[0].category))
    for image, inside in by_image(things).items():
        lines = []
        for thing in inside:
            x, y, w, h = thing.box
            values = [(x + w / 2) / 60, (y + h / 2) / 50, w / 60, h / 50]
            for name in NAMES:
                px, py = thing.points.get(name, (0, 0))
                values += [px / 60, py / 50, 2 * (name in thing.points)][:dims]
            lines.append(" ".join(["0", *map(repr, values)]))
        file = (folder / "labels" / subset / image).with_suffix(".txt")
        file.write_text("\n".join(lines) + "\n")
    return folder


def write_deeplabcut(folder, things, columns=3):
    """As DeepLabCut saves several animals: labeled-data/<video>/CollectedData_<scorer>.csv."""
    video = folder / "labeled-data" / "video"
    save_photos(video, things)
    most = max(map(len, by_image(things).values()))
    cells = [(f"animal{n}", name, c) for n in range(most) for name in NAMES for c in "xy"]
    empty = [""] * (columns - 1)
    rows = [["scorer", *empty, *["me"] * len(cells)]]
    for n, title in enumerate(["individuals", "bodyparts", "coords"]):
        rows.append([title, *empty, *[cell[n] for cell in cells]])
    for image, inside in by_image(things).items():
        place = ["labeled-data", "video", image]
        row = place if columns == 3 else ["\\".join(place)]
        for n in range(most):
            points = inside[n].points if n < len(inside) else {}
            row = row + [v for name in NAMES for v in points.get(name, ("", ""))]
        rows.append(row)
    with open(video / "CollectedData_me.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


WRITERS = {
    "labelme": write_labelme,
    "coco": write_coco,
    "yolo": write_yolo,
    "deeplabcut": write_deeplabcut,
}


def read_back(out):
    """[(image's name, {keypoint: (x, y)}, box)] of all parts, as data.py reads them."""
    found = []
    for part in check.list_parts(out, 1):
        for i in data.read_annotations(out, part=part):
            labelled = zip(i.labels, i.keypoints, strict=True)
            points = {name: tuple(point[:2]) for name, point in labelled if point[2] > 0}
            found.append((i.image.name, points, i.bbox))
    return found


def same(a, b):
    return a.keys() == b.keys() and all(np.allclose(a[n], b[n], atol=1e-3) for n in a)


def assert_kept(things, found):
    """Each thing is there once, with its points, and its box if the tool wrote one."""
    left = list(found)
    for thing in things:
        (match,) = [each for each in left if each[0] == thing.image and same(each[1], thing.points)]
        if thing.box:
            np.testing.assert_allclose(match[2], thing.box, atol=1e-3)
        left.remove(match)
    assert left == []


PLACE = st.tuples(st.floats(1, 59).map(lambda x: round(x, 3)), st.floats(1, 49))


@st.composite
def draw_things(draw):
    """Objects of two to three keypoints, at different places, in up to six images."""
    things = []
    for n in range(draw(st.integers(1, 8))):
        keep = draw(st.lists(st.sampled_from(NAMES), min_size=2, unique=True))
        points = {name: draw(PLACE) for name in sorted(keep)}
        points[sorted(keep)[0]] = (n + 1.5, 7.25)
        points[sorted(keep)[1]] = (n + 1.5, 17.25)
        things.append(Thing(f"{draw(st.integers(0, 5))}.png", points, (n, 2.0, 20.0, 30.0), "dog"))
    return things


@pytest.mark.parametrize("kind", WRITERS)
@settings(deadline=None, max_examples=12)
@given(things=draw_things(), every=st.sampled_from([0, 2, 5]))
def test_points_come_back_from_each_form(tmp_path_factory, kind, things, every):
    if kind == "deeplabcut":
        things = [thing._replace(box=(), category="object") for thing in things]
    folder = tmp_path_factory.mktemp(kind)
    source = WRITERS[kind](folder / "source", things)
    convert.convert(kind, source, folder / "out", every=every)
    assert_kept(things, read_back(folder / "out"))
    assert sorted(os.listdir(folder)) == ["out", "source"]


THINGS = [
    Thing(f"{n}.png", {"left_eye": (10 + n, 12.5), "tail base": (30, 40 - n)}, (5, 5, 40, 40))
    for n in range(12)
]
BARE = [thing._replace(box=()) for thing in THINGS]


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """call("labelme source out") runs the command in an empty folder and returns what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(words):
        monkeypatch.setattr("sys.argv", ["convert", *shlex.split(words)])
        convert.main()
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("kind", WRITERS)
def test_the_command(call, tmp_path, kind):
    """What it writes passes the check, once the draft is filled in."""
    WRITERS[kind](tmp_path / "source", BARE if kind == "deeplabcut" else THINGS)
    shown = call(f"{kind} source out")
    lines = [line for line in shown.splitlines() if line.startswith("not used: ")]
    said = "not used: val of source/data.yaml, which is no folder of images here (1): images/val"
    assert "object: 12 objects, " in shown and lines == ([said] if kind == "yolo" else [])
    # Also where YOLO's only folder is that to train on.
    assert "12 images: 10 train, 2 val (one of 5 to validate, see --val)" in shown
    assert ("box: 12 objects have none and get" in shown) == (kind == "deeplabcut")
    path = tmp_path / "out" / "object.txt"
    with pytest.raises(ValueError, match="line 2: TODO is to be replaced: say what"):
        check.read_folders(["out"], descriptions="out")
    path.write_text(path.read_text().replace("TODO", "somewhere"))
    instances, described = check.read_folders(["out"], descriptions="out")
    assert {i.category for i in instances} == {1001} == set(described)
    usable, _ = check.check_images(instances)
    assert len(usable) == len(instances) == 10
    with pytest.raises(ValueError, match="out holds something already"):
        call(f"{kind} source out")


def test_no_part_to_validate(call, tmp_path):
    write_labelme(tmp_path / "source", THINGS)
    assert "12 images: 12 train (none to validate)" in call("labelme source out --val 0")
    assert not (tmp_path / "out/annotations/val.json").exists()
    with pytest.raises(ValueError, match="--val 1: give 0 for none, or 2"):
        call("labelme source other --val 1")
    shown = call("labelme source few --val 13")
    assert "12 images: 12 train (too few for --val 13: none to validate)" in shown


def test_parts_of_yolo_are_kept(call, tmp_path):
    write_yolo(tmp_path / "source", THINGS[:8])
    (tmp_path / "more").mkdir()
    write_yolo(tmp_path / "more/x", THINGS[8:], subset="valid")
    for folder in ("images", "labels"):
        os.rename(tmp_path / "more/x" / folder / "valid", tmp_path / "source" / folder / "valid")
    how = "as the tool's folders have it, whatever --val says"
    assert f"12 images: 8 train, 4 val ({how})" in call("yolo source out --val 2")
    assert len(data.read_annotations(tmp_path / "out", part="val")) == 4


@pytest.mark.parametrize(
    "file, images",
    [
        ("annotations/person_keypoints_{}.json", "images/{}"),
        ("{}/_annotations.coco.json", "{}"),
    ],
)
def test_parts_of_coco_are_kept(call, tmp_path, file, images):
    """As CVAT exports a project with subsets, and as others do; names of images come back."""
    source = tmp_path / "source"
    parts = {"Train": THINGS[:8], "Validation": THINGS[4:8]}
    for part, things in parts.items():
        path = write_coco(tmp_path / part, things)
        (source / file.format(part)).parent.mkdir(parents=True, exist_ok=True)
        os.rename(next(path.rglob("*.json")), source / file.format(part))
        shutil.copytree(path / "images/default", source / images.format(part), dirs_exist_ok=True)
    assert "12 images: 8 train, 4 val (as the tool's" in call("coco source out")
    for part, things in zip(("train", "val"), parts.values(), strict=True):
        found = data.read_annotations(tmp_path / "out", part=part)
        assert sorted(i.image.name for i in found) == sorted(t.image for t in things)
        assert len({i.image for i in found}) == len(things)
    os.rename(source / file.format("Train"), source / "other.json")
    with pytest.raises(ValueError, match="source holds 2 files .json, whose names do not tell"):
        call("coco source other")


@pytest.mark.parametrize(
    "folder, said, val",
    [
        ("set_b", "val: ../set_b/images # to validate", 4),
        ("valves", "val: images/val", 2),
        ("val2017", "", 4),
        ("set_b", "train: [set_b/images, images/train]\nval: set_b/images", 2),
        ("set_b", "train: .\nval: D:\\sets\\set_b\\images", 4),
        ("inner", "train: images\nval: images/inner", 4),
    ],
)
def test_parts_as_data_yaml_tells_them(call, tmp_path, folder, said, val):
    """A folder whose name only begins like a part is none: every fifth image is to validate."""
    source = write_yolo(tmp_path / "source", THINGS[:8])
    text = re.sub("(train|val):.*\n", "", (source / "data.yaml").read_text())
    (source / "data.yaml").write_text(f"{text}{said}\n")
    more = write_yolo(tmp_path / "more", THINGS[8:], subset=folder)
    for kind in ("images", "labels"):
        target = source / folder / kind if folder == "set_b" else source / kind / folder
        target.parent.mkdir(exist_ok=True)
        os.rename(more / kind / folder, target)
    call("yolo source out")
    assert len(data.read_annotations(tmp_path / "out", part="val")) == val


LINES = [f"./images/all/{n}.png" for n in range(12)]


@pytest.fixture
def list_yolo(tmp_path):
    """list_yolo(stated, {file: lines}): a data set whose data.yaml states lists of images."""
    source = write_yolo(tmp_path / "source", THINGS, subset="all")

    def write(stated, lists):
        text = re.sub("(path|train|val):.*\n", "", YAML.format(dims=3, category="object"))
        (source / "data.yaml").write_text(text + stated)
        for name, lines in lists.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_text("\r\n".join(lines))
        return source

    return write


def read_part(out, part):
    """The numbers of a part's images."""
    return {int(i.image.stem) for i in data.read_annotations(out, part=part)}


def test_parts_as_lists_of_yolo_tell_them(call, list_yolo, tmp_path):
    """As COCO's own data set has them; an image in a second list stays in the first's part."""
    windows = [line.replace("./", "D:\\set\\").replace("/", "\\") for line in LINES[:4]]
    lists = {"labels/train.txt": [*LINES[3:10], ""], "lists/val.txt": windows}
    stated = "train: labels/train.txt\nval: lists/val.txt\n"
    source = list_yolo(stated, lists)
    shown = call("yolo source out").splitlines()
    said = "image in none of the lists of source/data.yaml (2): source/images/all/10.png, "
    assert [line for line in shown if line.startswith("not used: ")] == [
        f"not used: {said}source/images/all/11.png"
    ]
    assert read_part(tmp_path / "out", "train") == set(range(3, 10))
    assert read_part(tmp_path / "out", "val") == {0, 1, 2}
    (source / "labels/train.txt").unlink()
    said = "not used: train of source/data.yaml, which is no list of images here (1): "
    assert f"{said}labels/train.txt" in call("yolo source other").splitlines()
    assert read_part(tmp_path / "other", "val") == {0, 1, 2, 3}


def test_a_line_of_a_list_names_no_namesake(call, list_yolo, tmp_path):
    """Of images of one name that where the line says; none if there is none, or . alone."""
    source = list_yolo("train: a.txt\nval: b.txt\n", {"a.txt": LINES[1:4], "b.txt": LINES[4:6]})
    shutil.copytree(source / "images/all", source / "images/old")
    shutil.copytree(source / "labels/all", source / "labels/old")
    with (source / "a.txt").open("a") as file:
        file.write("\n./images/gone/4.png\n./\n5.png\n")
    shown = call("yolo source out")
    said = "line of source/a.txt, which names no image here or several (3): images/gone/4.png, ., "
    assert f"not used: {said}5.png" in shown.splitlines()
    assert "image in none of the lists of source/data.yaml (19): " in shown
    assert read_part(tmp_path / "out", "train") == {1, 2, 3}
    assert read_part(tmp_path / "out", "val") == {4, 5}


def test_lists_where_path_says(call, list_yolo, tmp_path):
    """Of several the one below `path`; a list's own folder is where its `./` begins."""
    lists = {"a/train.txt": LINES[:2], "b/train.txt": [f".{line}" for line in LINES[2:9]]}
    source = list_yolo("path: b\ntrain: train.txt\nval: val.txt\n", lists)
    (source / "b/val.txt").write_text("../images/all/9.png")
    (source / "val.txt").write_text(LINES[2])
    call("yolo source out")
    assert read_part(tmp_path / "out", "train") == set(range(2, 9))
    assert read_part(tmp_path / "out", "val") == {9}


def test_none_to_train_on(call, tmp_path):
    source = write_yolo(tmp_path / "source", THINGS, subset="testing")
    text = re.sub("(train|val):.*\n", "", (source / "data.yaml").read_text())
    (source / "data.yaml").write_text(text)
    assert "12 images: 12 test (as the tool's folders have it, whatever --val says; none to train" \
        in call("yolo source out")


# What each form leaves open.


@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_a_box_without_extent_is_none(call, tmp_path, kind):
    """As some tools write it of an object whose keypoints alone were annotated."""
    bare = [thing._replace(box=(0, 0, 0, 0)) for thing in THINGS]
    WRITERS[kind](tmp_path / "source", bare)
    assert "box: 12 objects have none and get" in call(f"{kind} source out")
    assert_kept([thing._replace(box=()) for thing in THINGS], read_back(tmp_path / "out"))


def write_shapes(folder, *shapes, name="a"):
    """A labelme file of (label, group, points) about a photo: of a point, or a rectangle."""
    folder.mkdir(exist_ok=True)
    photo(60, 50).save(folder / f"{name}.jpg")
    entries = []
    for label, group, *points in shapes:
        kind = {1: "point", 2: "rectangle", 3: "polygon"}[len(points)]
        entries.append({"label": label, "group_id": group, "points": points, "shape_type": kind})
    content = {"shapes": entries, "imagePath": f"..\\gone\\{name}.jpg"}
    (folder / f"{name}.json").write_text(json.dumps(content))


def test_labelme_without_groups(call, tmp_path):
    """A box takes the points in it; where there is one or none, all points are of one object."""
    source = tmp_path / "source"
    eye, tail, other = ("eye", None, [3, 4]), ("tail", None, [9, 8]), ("eye", None, [33, 34])
    write_shapes(source, ("cat", None, [12, 9], [1, 2]), tail, eye, name="a")
    write_shapes(source, tail, eye, name="b")
    boxes = [("cat", None, [1, 2], [12, 9]), ("cat", None, [30, 2], [40, 49])]
    write_shapes(source, *boxes, eye, tail, other, ("tail", None, [20, 20]), name="c")
    shown = call("labelme source out --val 0")
    assert "cat: 3 objects, 2 keypoints\nobject: 1 objects, 2 keypoints" in shown
    assert "points without a group, in no box or in several (1): source/c.json" in shown
    found = read_back(tmp_path / "out")
    points = {"eye": (3, 4), "tail": (9, 8)}
    assert found[0] == ("a.jpg", points, (1, 2, 11, 7))
    # 0.15 of its longer side around
    np.testing.assert_allclose(found[1][2], (2.1, 3.1, 7.8, 5.8))
    assert found[2:] == [
        ("c.jpg", points, (1, 2, 11, 7)), ("c.jpg", {"eye": (33, 34)}, (30, 2, 10, 47)),
    ]


def test_labelme_leaves_out_what_is_ambiguous(call, tmp_path):
    source = tmp_path / "source"
    write_shapes(source, ("eye", 1, [1, 2]), ("tail", 1, [9, 8]), ("eye", None, [3, 4]), name="a")
    write_shapes(source, ("eye", 2, [1, 2]), ("eye", 2, [9, 8]), name="b")
    write_shapes(source, ("eye", None, [1, 2]), ("leaf", None, [1, 2], [3, 4], [5, 2]), name="c")
    write_shapes(source, ("eye", None, [1, 2]), ("tail", None, [3, 2]), name="d")
    (source / "d.jpg").unlink()
    write_shapes(source, ("eye", None, [1, 2]), ("tail", None, [3, 2]), name="e")
    (source / "e.jpg").write_text("no image")
    lines = call("labelme source out").splitlines()
    assert lines[0] == "object: 1 objects, 2 keypoints"
    for line in (
        "not used: points without a group, in no box or in several (1): source/a.json",
        "not used: object with two boxes, or two points of one name (1): source/b.json, group 2",
        "not used: shapes that are neither point nor rectangle (1): source/c.json",
        "not used: no box, and a single place labelled (1): source/c.json, object 1",
        "not used: image missing (1): ../gone/d.jpg",
        "not used: image that cannot be read (1): source/e.jpg",
    ):
        assert line in lines
    (source / "a.json").unlink()
    with pytest.raises(ValueError, match="source holds no object of use; not used: ") as error:
        call("labelme source other")
    one_line(error)
    assert sorted(os.listdir(tmp_path)) == ["out", "source"]


def test_labelme_boxes_with_and_without_groups(call, tmp_path):
    """A box without a group is of the group that lies in it; loose points of the box around."""
    source = tmp_path / "source"
    boxes = [("cat", None, [1, 2], [12, 9]), ("cat", None, [30, 2], [40, 49])]
    near = [("eye", 1, [3, 4]), ("tail", 1, [9, 8])]
    far = [("eye", 2, [33, 4]), ("tail", 2, [39, 8])]
    write_shapes(source, *far, *boxes, *near, name="a")
    grouped = [(label, group, *corners) for group, (label, _, *corners) in enumerate(boxes)]
    loose = [(label, None, point) for label, _, point in near + far]
    write_shapes(source, *grouped, *loose, name="b")
    # Two boxes around one group: neither is its own.
    write_shapes(source, *near, boxes[0], ("cat", None, [0, 0], [20, 20]), name="c")
    shown = call("labelme source out --val 0")
    assert "cat: 4 objects, 2 keypoints\nobject: 1 objects, 2 keypoints" in shown
    found = read_back(tmp_path / "out")
    left = {"eye": (3, 4), "tail": (9, 8)}
    expected = [("a.jpg", left, (1, 2, 11, 7)), ("b.jpg", left, (1, 2, 11, 7))]
    right = {"eye": (33, 4), "tail": (39, 8)}
    expected += [("a.jpg", right, (30, 2, 10, 47)), ("b.jpg", right, (30, 2, 10, 47))]
    assert sorted(found[:4], key=str) == sorted(expected, key=str)
    assert found[4][:2] == ("c.jpg", left)


def write_apart(root, labels, photographs, things):
    """labelme's files in one folder, the photographs that they name in another."""
    write_labelme(root / labels, things)
    (root / photographs).mkdir(parents=True)
    way = os.path.relpath(root / photographs, root / labels).replace("/", "\\")
    for path in sorted((root / labels).glob("*.json")):
        content = json.loads(path.read_text())
        os.rename(root / labels / content["imagePath"], root / photographs / content["imagePath"])
        content["imagePath"] = f"{way}\\{content['imagePath']}"
        path.write_text(json.dumps(content))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    "labels, photographs, source",
    [
        ("all/labels", "all/photos", "all"),
        ("labels", "photos", "labels"),
        ("labels/a/b", "photos", "labels/a/b"),
        ("labels/a/b", "photos", "labels"),
    ],
)
def test_photographs_that_lie_elsewhere(
    call, tmp_path, monkeypatch, labels, photographs, source, orientation
):
    """They are copied below the new folder and nowhere else, and stay as they are."""
    write_apart(tmp_path, labels, photographs, THINGS)
    exif = Image.Exif()
    exif[0x112] = orientation
    photo(50, 60).save(tmp_path / photographs / "3.png", exif=exif)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    if source == "labels":
        # As one would type it there.
        monkeypatch.chdir(tmp_path / source)
        call("labelme . ../out")
    else:
        call(f"labelme {source} out")
    assert {p: p.read_bytes() for p in before} == before
    new = [p for p in tmp_path.rglob("*") if p.is_file() and p not in before]
    assert len(new) == 12 + 3 and all(p.is_relative_to(tmp_path / "out") for p in new)
    assert_kept(THINGS, read_back(tmp_path / "out"))


def test_a_photograph_is_annotated_once(call, tmp_path):
    write_apart(tmp_path / "source", "labels", "photos", THINGS)
    shutil.copytree(tmp_path / "source/labels", tmp_path / "source/.ipynb_checkpoints")
    assert "12 images: 10 train, 2 val" in call("labelme source out")
    shutil.copytree(tmp_path / "source/labels", tmp_path / "source/labels_old")
    message = "photos/0.png is annotated twice, in source/labels/0.json and source/labels_old/0.j"
    with pytest.raises(ValueError, match=message) as error:
        call("labelme source other")
    one_line(error)


def test_two_names_are_not_one_photograph(call, tmp_path):
    """Of two videos' frames of one name only one is there."""
    things = [Thing(f"{v}/0.png", THINGS[0].points, THINGS[0].box) for v in "ab"]
    write_coco(tmp_path / "source", things)
    call("coco source out --val 0")
    (tmp_path / "source/images/default/b/0.png").unlink()
    message = "a/0.png is all there is of 'a/0.png' and 'b/0.png': add the other"
    with pytest.raises(ValueError, match=message) as error:
        call("coco source other")
    one_line(error)


def test_photographs_by_the_paths_of_another_machine(call, tmp_path):
    """Found by name, where it is the only one."""
    write_coco(tmp_path / "source", THINGS)

    def move(content):
        for image in content["images"]:
            image["file_name"] = f"D:\\old\\{image['file_name']}"

    change_coco(tmp_path / "source", move)
    call("coco source out")
    assert_kept(THINGS, read_back(tmp_path / "out"))
    twin = tmp_path / "source/again/3.png"
    twin.parent.mkdir()
    photo(60, 50).save(twin)
    # Of two the one in the folder that the file is named after: person_keypoints_default.json.
    shown = call("coco source other")
    assert "found in another folder than it is said to be (12): D:/old/0.png, " in shown
    assert_kept(THINGS, read_back(tmp_path / "other"))
    os.rename(tmp_path / "source/images/default", tmp_path / "source/images/all")
    assert "several images of that name (1): D:/old/3.png" in call("coco source third")


@pytest.mark.parametrize("kind", WRITERS)
def test_folders_that_are_links(call, tmp_path, kind):
    """They are read as if they lay there; the source may be one itself."""
    WRITERS[kind](tmp_path / "elsewhere", BARE if kind == "deeplabcut" else THINGS)
    (tmp_path / "source").mkdir()
    for path in (tmp_path / "elsewhere").iterdir():
        (tmp_path / "source" / path.name).symlink_to(path)
    (tmp_path / "source/loop").symlink_to(tmp_path / "source")
    (tmp_path / "link").symlink_to(tmp_path / "source")
    for number, source in enumerate(("source", "link", "link/../source")):
        assert "object: 12 objects" in call(f"{kind} {source} out{number}")
        found = read_back(tmp_path / f"out{number}")
        assert_kept(BARE if kind == "deeplabcut" else THINGS, found)


def test_a_link_is_left_where_it_leads(call, tmp_path):
    """`..` of a photograph's path begins at the linked folder, not at the link."""
    write_apart(tmp_path / "real", "labels", "photos", THINGS)
    decoys = tmp_path / "photos"
    save_photos(decoys, [thing._replace(points={}) for thing in THINGS], size=(9, 9))
    (tmp_path / "link").symlink_to(tmp_path / "real/labels")
    call("labelme link out --val 0")
    copied = {Image.open(path).size for path in (tmp_path / "out/images").rglob("*.png")}
    assert copied == {(60, 50)}


def test_from_inside_annotations(call, tmp_path, monkeypatch):
    write_coco(tmp_path / "source", THINGS)
    monkeypatch.chdir(tmp_path / "source/annotations")
    for number, source in enumerate((".", "person_keypoints_default.json")):
        call(f"coco {source} {tmp_path}/out{number}")
        assert_kept(THINGS, read_back(tmp_path / f"out{number}"))


def test_folders_of_several_levels(call, tmp_path):
    """Names that differ in the outermost of three folders alone."""
    things = [Thing(f"cam{n}/day1/1.png", THINGS[0].points, (5, 5, 40, 40)) for n in (1, 2)]
    write_coco(tmp_path / "source", things)
    os.rename(tmp_path / "source/images/default", tmp_path / "source/images/other")
    call("coco source out --val 0")
    files = [str(i.image) for i in data.read_split("out")[0]]
    assert files == [f"out/images/other/cam{n}/day1/1.png" for n in (1, 2)]
    change_coco(tmp_path / "source", lambda content: content["annotations"].pop(1))
    shutil.rmtree(tmp_path / "source/images/other/cam1")
    line = "found in another folder than it is said to be (1): cam1/day1/1.png"
    assert line in call("coco source other --val 0").splitlines()


def test_no_photograph_takes_another_s_place(call, tmp_path):
    """images/1.png and 1.png have one name in the new folder, as a third has that it could get."""
    source = tmp_path / "source"
    source.mkdir()
    names = ["images/1.png", "1.png", "1-1.png", "images/1-1.png"]
    for number, name in enumerate(names):
        write_shapes(source / f"a{number}", ("eye", None, [1, 2]), ("tail", None, [9, 8]))
        content = json.loads((source / f"a{number}/a.json").read_text())
        path = source / name
        path.parent.mkdir(exist_ok=True)
        photo(60, 50, seed=number).save(path)
        (source / f"a{number}/a.json").write_text(json.dumps(content | {"imagePath": f"../{name}"}))
    assert "object: 4 objects" in call("labelme source out --val 0")
    found = {path.read_bytes() for path in (tmp_path / "out/images").rglob("*.png")}
    assert found == {(source / name).read_bytes() for name in names}


def test_what_would_be_read_again_is_refused(call, tmp_path):
    write_labelme(tmp_path / "source", THINGS)
    with pytest.raises(ValueError, match="source/out lies in source, .*: name one outside"):
        call("labelme source source/out")


def test_one_box_and_one_group_are_one_object(call, tmp_path):
    """Also where a point sticks out."""
    shapes = [("dog", None, [1, 2], [12, 9]), ("eye", 1, [3, 4]), ("tail", 1, [14, 8])]
    write_shapes(tmp_path / "source", *shapes)
    assert "dog: 1 objects, 2 keypoints" in call("labelme source out")


def test_images_without_an_object_are_named(call, tmp_path):
    write_labelme(tmp_path / "l", THINGS)
    (path,) = (tmp_path / "l").glob("3.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"shapes": []}))
    assert "not used: image without an object (1): l/3.json" in call("labelme l out1")
    write_coco(tmp_path / "c", THINGS)
    change_coco(tmp_path / "c", lambda content: content["annotations"].pop(3))
    assert "not used: image without an object (1): 3.png" in call("coco c out2")
    write_deeplabcut(tmp_path / "d", [*BARE, *BARE[:1]])
    (path,) = (tmp_path / "d").rglob("*.csv")
    lines = path.read_text().splitlines()
    lines[7] = ",".join(lines[7].split(",")[:3] + [""] * 12)
    path.write_text("\n".join(lines))
    table = "d/labeled-data/video/CollectedData_me.csv"
    shown = call("deeplabcut d out3")
    assert f"not used: image without an object (1): {table}, line 8" in shown


def test_one_category_has_one_order_of_keypoints(call, tmp_path):
    """Two files, or two entries, of one name."""
    write_coco(tmp_path / "source", THINGS)

    def double(content):
        (first,) = content["categories"]
        content["categories"].append(first | {"id": 2, "keypoints": NAMES[::-1]})
        content["annotations"][5]["category_id"] = 2

    change_coco(tmp_path / "source", double)
    with pytest.raises(ValueError, match="'object' lists other keypoints than before, or in anot"):
        call("coco source out")


def test_a_slip_of_the_pen_is_named(call, tmp_path):
    things = [*THINGS, Thing("13.png", {"lefteye": (3, 3), "tail base": (9, 30)})]
    write_labelme(tmp_path / "source", things)
    line = "labelled in few of them (a misspelt name?): 'lefteye' (1 of 13)"
    assert line in call("labelme source out").splitlines()


def change_coco(folder, change):
    path = folder / "annotations/person_keypoints_default.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_coco_with_what_may_be_missing(call, tmp_path):
    """Boxes, sizes, names, counts; a file alone; annotations without keypoints."""
    write_coco(tmp_path / "source", THINGS)

    def reduce(content):
        for annotation in content["annotations"]:
            for name in ("bbox", "iscrowd", "num_keypoints", "segmentation"):
                annotation.pop(name)
        content["annotations"][3].pop("id")
        content["annotations"].append({"id": 77, "image_id": 1, "category_id": 1})
        for image in content["images"]:
            image.pop("width")
            image["height"] = 0
        content["categories"][0]["keypoints"] = None

    path = change_coco(tmp_path / "source", reduce)
    shown = call("coco source out")
    where = "source/annotations/person_keypoints_default.json, annotation 77"
    assert f"not used: no labelled keypoint (1): {where}" in shown
    bare = [thing._replace(points=dict(zip("13", thing.points.values(), strict=True)))
            for thing in BARE]
    assert_kept(bare, read_back(tmp_path / "out"))
    draft = (tmp_path / "out/object.txt").read_text().splitlines()
    assert draft[1:] == ["TODO 1: TODO", "TODO 2: TODO", "TODO 3: TODO"]
    # Images are found from the file's own folder on.
    os.rename(path, tmp_path / "source/images/all.json")
    call("coco source/images/all.json other")
    assert_kept(bare, read_back(tmp_path / "other"))


def test_images_of_one_name_in_two_folders(call, tmp_path):
    things = [Thing(f"{folder}/1.png", {"left_eye": (1, 2), "tail base": (n, 9)}, (1, 2, 30, 40))
              for n, folder in enumerate("ab", 10)]
    write_coco(tmp_path / "source", things)
    call("coco source/annotations/person_keypoints_default.json out --val 0")
    files = [str(i.image) for i in data.read_split("out")[0]]
    assert files == ["out/images/default/a/1.png", "out/images/default/b/1.png"]
    for thing in things:
        stored = (tmp_path / "source/images/default" / thing.image).read_bytes()
        assert (tmp_path / "out/images/default" / thing.image).read_bytes() == stored


@pytest.mark.parametrize("columns", [1, 3])
def test_deeplabcut(call, tmp_path, columns):
    """One animal: three rows on top; the path in one column or three."""
    write_deeplabcut(tmp_path / "source", BARE, columns)
    (path,) = (tmp_path / "source").rglob("*.csv")
    lines = path.read_text().splitlines()
    nothing = lines[4].split(",")[:columns] + ["NaN"] * 6
    path.write_text("\n".join([lines[0], *lines[2:4], ",".join(nothing), *lines[5:]]))
    shown = call("deeplabcut source out --category mouse")
    assert "mouse: 11 objects, 3 keypoints" in shown
    assert f"not used: no labelled keypoint (1): {path.relative_to(tmp_path)}, line 4" in shown
    assert_kept(BARE[1:], read_back(tmp_path / "out"))
    call(f"deeplabcut {path} other")
    assert_kept(BARE[1:], read_back(tmp_path / "other"))


def test_copies_that_deeplabcut_makes_are_left_alone(call, tmp_path):
    """Of a whole project: training-datasets holds all annotations again."""
    write_deeplabcut(tmp_path / "source", BARE)
    (path,) = (tmp_path / "source").rglob("*.csv")
    copy = tmp_path / "source/training-datasets/iteration-0/x/CollectedData_me.csv"
    copy.parent.mkdir(parents=True)
    copy.write_text(path.read_text())
    assert "object: 12 objects, 3 keypoints" in call("deeplabcut source out")
    path.write_text(f"{path.read_text()}{path.read_text().splitlines()[-1]}\n")
    with pytest.raises(ValueError, match="is annotated twice, in .*line 16 and .*line 17: take"):
        call("deeplabcut source other")


def test_deeplabcut_labels_some_things_once(call, tmp_path):
    write_deeplabcut(tmp_path / "source", [*BARE, *BARE])
    (path,) = (tmp_path / "source").rglob("*.csv")
    path.write_text(path.read_text().replace("animal1", "single"))
    shown = call("deeplabcut source out")
    assert "object: 12 objects, 3 keypoints\n" in shown
    assert "single: 12 objects, 3 keypoints\n" in shown
    assert sorted(os.listdir("out")) == ["annotations", "images", "object.txt", "single.txt"]


@pytest.mark.parametrize(
    "text",
    [
        "kpt_shape: [3, 2]\nnames: ['object']\nkpt_names: [[left_eye, right_eye, tail base]]",
        "names:\n- object\nkpt_shape:\n- 3\n- 2\nkpt_names:\n- left_eye\n- right_eye\n- tail base",
        'names: {0: "object"}\r\nkpt_shape: [3,2] # x\r\n\r\nkpt_names:\r\n  0: [left_eye, '
        "right_eye,\r\n      tail base]\r\n",
        "names: {'0': object}\nkpt_shape: [3, 2]\nkpt_names:\n  - - left_eye\n    - right_eye\n"
        "    - 'tail base'\n",
    ],
)
def test_data_yaml_in_other_styles(call, tmp_path, text):
    write_yolo(tmp_path / "source", THINGS, dims=2)
    (tmp_path / "source/data.yaml").write_text(text)
    call("yolo source out")
    assert_kept(THINGS, read_back(tmp_path / "out"))


def test_labels_without_an_image_are_named(call, tmp_path):
    write_yolo(tmp_path / "source", THINGS)
    os.rename(tmp_path / "source/images/train/3.png", tmp_path / "source/images/train/3.jfif")
    shown = call("yolo source out")
    assert "not used: label file without an image (1): source/labels/train/3.txt" in shown


def test_the_file_that_describes_a_yolo_data_set(call, tmp_path):
    """Not a model's; not one of two that contradict each other."""
    write_yolo(tmp_path / "source", THINGS)
    (tmp_path / "source/a.yaml").write_text("kpt_shape: [17, 3]\nbackbone: []\n")
    (tmp_path / "source/b.yaml").write_text((tmp_path / "source/data.yaml").read_text())
    assert "object: 12 objects" in call("yolo source out")
    for text in ("names: [cat]", "names: [object]\ntrain: images"):
        (tmp_path / "source/b.yaml").write_text(f"kpt_shape: [3, 3]\n{text}\n")
        with pytest.raises(ValueError, match="b.yaml and source/data.yaml tell different kpt_shap"):
            call("yolo source other")


@pytest.mark.parametrize(
    "names, expected",
    [
        ("\r\n\r\n  0: dog\r\n", "dog"),
        ("\n# classes\n- dog\n", "dog"),
        (" ['dog # big'] # or so", "dog # big"),
        (" ['bird''s']", "bird's"),
        (" [dog#1]", "dog#1"),
    ],
)
def test_names_in_other_styles(call, tmp_path, names, expected):
    write_yolo(tmp_path / "source", THINGS)
    (tmp_path / "source/data.yaml").write_text(f"kpt_shape: [3, 3]\nnames:{names}\n")
    assert call("yolo source out").startswith(f"{expected}: 12 objects")


@pytest.mark.parametrize(
    "names", [" {dog: 0}", " ['', dog]", " &all [dog]", ' ["a\\"b"]', " !!seq [dog]", " >\n  dog"]
)
def test_names_that_are_more_than_a_list_are_refused(call, tmp_path, names):
    write_yolo(tmp_path / "source", THINGS)
    (tmp_path / "source/data.yaml").write_text(f"kpt_shape: [3, 3]\nnames:{names}\n")
    with pytest.raises(ValueError, match="data.yaml: names holds .*: write plain texts") as error:
        call("yolo source out")
    one_line(error)


@pytest.mark.parametrize(
    "names, n", [("\n  0: dog, big\n  1: cat", 3), ("\n- dog [old]", 2), ("\n  0:\n  1: dog", 1)]
)
def test_names_that_are_not_one_an_entry_are_refused(call, tmp_path, names, n):
    write_yolo(tmp_path / "source", THINGS)
    (tmp_path / "source/data.yaml").write_text(f"kpt_shape: [3, 3]\nnames:{names}\n")
    with pytest.raises(ValueError, match=f"names has . entries and {n} texts: put one with a comm"):
        call("yolo source out")


def test_keypoints_of_yolo_at_the_edge(call, tmp_path):
    """What is labelled left of the image is kept, as what is right of it; with x and y alone it is
    not labelled."""
    write_yolo(tmp_path / "source", THINGS[:1])
    file = tmp_path / "source/labels/train/0.txt"
    file.write_text("0 0.5 0.5 0.5 0.5 -0.01 0.3 2 1.01 0.3 2 0 0 2\n")
    call("yolo source out --val 0")
    ((_, points, _),) = read_back(tmp_path / "out")
    assert same(points, {"left_eye": (-0.6, 15), "right_eye": (60.6, 15)})
    text = YAML.format(dims=2, category="object")
    (tmp_path / "source/data.yaml").write_text(text)
    file.write_text("0 0.5 0.5 0.5 0.5 -0.01 0.3 1.01 0.3 0.5 0.5\n")
    call("yolo source other --val 0")
    ((_, points, _),) = read_back(tmp_path / "other")
    assert same(points, {"right_eye": (60.6, 15), "tail base": (30, 25)})


def test_numbered_points_of_labelme_are_in_order(call, tmp_path):
    """Not as they were clicked."""
    numbers = {"right_eye": "10", "left_eye": "9", "tail base": "2"}
    things = []
    for thing in THINGS:
        clicked = reversed(thing.points.items())
        things.append(thing._replace(points={numbers[name]: p for name, p in clicked}))
    things[0].points["10"] = (20, 20)
    write_labelme(tmp_path / "source", things)
    call("labelme source out")
    assert data.read_split(tmp_path / "out")[0][0].labels == ("2", "9", "10")


@pytest.mark.parametrize("kind", ["labelme", "coco"])
def test_an_image_without_a_name_is_missing(call, tmp_path, kind):
    write_labelme(tmp_path / "source", THINGS[:2])
    if kind == "coco":
        write_coco(tmp_path / "source", THINGS[:2])
        change_coco(tmp_path / "source", lambda content: content["images"][0].update(file_name=""))
    else:
        path = tmp_path / "source/0.json"
        path.write_text(path.read_text().replace('"0.png"', '""'))
    source = "source/annotations" if kind == "coco" else "source"
    assert "not used: image missing (1): ." in call(f"{kind} {source} out").splitlines()


def test_a_namesake_of_a_missing_photograph_is_named(call, tmp_path):
    """Beside the annotation file other photographs lie."""
    write_labelme(tmp_path / "source/a", THINGS)
    photo(60, 50).save(tmp_path / "source/3.png")
    (tmp_path / "source/a/3.png").unlink()
    line = "found in another folder than it is said to be (1): 3.png"
    assert line in call("labelme source out").splitlines()


def test_labels_beside_what_is_no_image_here(call, tmp_path):
    write_yolo(tmp_path / "source", THINGS)
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in [*(tmp_path / "source").rglob("*.png"), *(tmp_path / "source").rglob("*.txt")]:
        os.rename(path, flat / path.name)
    os.rename(tmp_path / "source/data.yaml", flat / "data.yaml")
    os.rename(flat / "3.png", flat / "3.heic")
    assert "not used: label file without an image (1): flat/3.txt" in call("yolo flat out")


def test_quoted_names_may_hold_commas(call, tmp_path):
    write_yolo(tmp_path / "source", THINGS, dims=2)
    text = "kpt_shape: [3, 2]\nnames: {0: 'dog, big', 1: \"cat: small\"}\n"
    names = "kpt_names: ['eye, left', 'eye, right', tail]\n"
    (tmp_path / "source/data.yaml").write_text(text + names)
    assert "dog, big: 12 objects, 3 keypoints" in call("yolo source out")
    assert set(read_back(tmp_path / "out")[0][1]) == {"eye, left", "tail"}


def test_yolo_of_two_classes(call, tmp_path):
    write_yolo(tmp_path / "source", THINGS)
    (tmp_path / "source/data.yaml").write_text("names: [cat, dog]\nkpt_shape: [3, 3]\n")
    for name in "34":
        path = tmp_path / f"source/labels/train/{name}.txt"
        path.write_text(f"1{path.read_text()[1:]}")
    (tmp_path / "source/labels/train/5.txt").unlink()
    (tmp_path / "source/labels/train/6.txt").write_text("\n")
    with (tmp_path / "source/labels/train/7.txt").open("a") as file:
        file.write("0 0.5 0.5 0.2 0.2\n")
    shown = call("yolo source out")
    assert "cat: 8 objects, 3 keypoints\n" in shown
    assert "dog: 2 objects, 3 keypoints\n" in shown
    assert "label file without an object (1): source/labels/train/6.txt" in shown
    assert "box without keypoints (1): source/labels/train/7.txt, line 2" in shown
    assert "image without a label file (1): source/images/train/5.png" in shown


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("kind", WRITERS)
def test_photographs_are_copied_as_tools_show_them(call, tmp_path, kind, orientation):
    """Stored turned, but annotated as a viewer shows it: 60 x 50."""
    WRITERS[kind](tmp_path / "source", BARE if kind == "deeplabcut" else THINGS)
    (file,) = (tmp_path / "source").rglob("3.png")
    shown = photo(60, 50)
    turn = {1: None, 3: Image.ROTATE_180, 6: Image.ROTATE_90, 8: Image.ROTATE_270}[orientation]
    exif = Image.Exif()
    exif[0x112] = orientation
    (shown if turn is None else shown.transpose(turn)).save(file, exif=exif)
    said = call(f"{kind} source out")
    assert ("turned: 1 photographs are copied upright" in said) == (orientation > 1)
    assert_kept(BARE if kind == "deeplabcut" else THINGS, read_back(tmp_path / "out"))
    (copied,) = (tmp_path / "out").rglob("3.png")
    assert check.examine_image(copied, (60, 50)) == check.Finding()
    np.testing.assert_array_equal(np.array(Image.open(copied)), np.array(shown))


def test_photographs_annotated_as_they_are_stored(call, tmp_path):
    write_coco(tmp_path / "source", THINGS)
    exif = Image.Exif()
    exif[0x112] = 6
    file = tmp_path / "source/images/default/3.png"
    photo(60, 50).save(file, exif=exif)
    assert "turned" not in call("coco source out")
    (copied,) = (tmp_path / "out").rglob("3.png")
    assert copied.read_bytes() == file.read_bytes()


def test_names_that_no_file_could_have(call, tmp_path):
    """A colon ends a name in a description file, a slash leads into another folder."""
    source = tmp_path / "source"
    write_shapes(source, ("a/../b", 1, [1, 2], [30, 40]), ("#1: tip", 1, [3, 4]))
    call("labelme source out --val 0")
    assert sorted(os.listdir(tmp_path / "out")) == ["a .. b.txt", "annotations", "images"]
    text = (tmp_path / "out/a .. b.txt").read_text()
    assert text == (
        "# a .. b: say at each TODO what the keypoint is, and where it lies.\n1 tip: TODO\n"
    )
    assert read_back(tmp_path / "out")[0][1] == {"1 tip": (3, 4)}
    for label in ("Left_Eye", "::", ""):
        write_shapes(source, ("left eye", 1, [1, 2]), (label, 1, [3, 4]))
        message = "nothing is written: keypoints of 'object': '.*' (is no name|are alike): rename"
        with pytest.raises(ValueError, match=message) as error:
            call("labelme source other")
        one_line(error)
        assert sorted(os.listdir(tmp_path)) == ["out", "source"]


# Damage.


def damage_text(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    "kind, file, old, new, message",
    [
        ("labelme", "3.json", '"shapes": [', '"shapes": ', "3.json: this is no JSON from column"),
        ("labelme", "3.json", '"shapes"', '"forms"', "3.json: shapes is missing: correct it"),
        ("labelme", "3.json", "12.5", '"x"', r'3.json: shapes\[1\].points\[0\]\[1\] is "x", not a'),
        ("labelme", "3.json", "12.5", "NaN", "3.json: it holds nan, which is no"),
        ("labelme", "3.json", "[[13, 12.5]]", "[]", "3.json: the shape 'left_eye' is empty"),
        ("coco", "*.json", '"images"', '"image"', "default.json: images is missing"),
        ("coco", "*.json", '"image_id": 3', '"image_id": 99', "annotation 3 cannot be used: its i"),
        ("coco", "*.json", "12.5", '"x"', "annotation 1 cannot be used: its keypoints hold"),
        ("coco", "*.json", "12.5, 2", "12.5", "annotation 1 cannot be used: its keypoints are 8"),
        ("coco", "*.json", "[5, 5, 40, 40]", "[5, 5]", "annotation 1 .* its bbox is 2 numbers"),
        ("coco", "*.json", '"id": 2', '"id": 1', "default.json .* two images have the id 1"),
        ("yolo", "3.txt", "0.25", "x", "3.txt, line 1: 'x' is no number of pixels"),
        ("yolo", "3.txt", " 2", "", "3.txt, line 1: 13 numbers, kpt_shape of .*data.yaml asks for"),
        ("yolo", "3.txt", "0 ", "7 ", "3.txt, line 1: .*data.yaml names no class 7"),
        ("yolo", "3.txt", "0.25", "25", "3.txt, line 1: numbers beyond 3 are not relative"),
        ("yolo", "data.yaml", "kpt_shape", "shape", "source holds no data.yaml with kpt_shape"),
        ("yolo", "data.yaml", "[3, 3]", "[3]", r"data.yaml: write `kpt_shape: \[keypoints"),
        ("yolo", "data.yaml", "  0: obj", "  1: x\n  0: y", r"names is numbered \[1, 0\]: number"),
        ("yolo", "data.yaml", "- right_eye", "", "data.yaml: kpt_names are 2, kpt_shape says 3"),
        ("deeplabcut", "*.csv", "coords", "coord", "its row `coords` is not x, y in turn"),
        ("deeplabcut", "*.csv", ",x,y", ",y,x", "its row `coords` is not x, y in turn"),
        ("deeplabcut", "*.csv", "bodyparts", "parts", "line 4: not as many columns as `coords`"),
        ("deeplabcut", "*.csv", "12.5", "12,5", "_me.csv, line 5: not as many columns as `coords`"),
        ("deeplabcut", "*.csv", "12.5", "x", "_me.csv, line 5: 'x' is no number of pixels"),
        ("deeplabcut", "*.csv", "12.5", "", "_me.csv, line 5: '' is no number of pixels"),
    ],
)
def test_damage_is_named(call, tmp_path, kind, file, old, new, message):
    source = WRITERS[kind](tmp_path / "source", BARE if kind == "deeplabcut" else THINGS)
    (path,) = source.rglob(file)
    damage_text(path, old, new)
    with pytest.raises(ValueError, match=message) as error:
        call(f"{kind} source out")
    assert len(one_line(error)) < 400
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("bad", ["nothing", "empty", "pipe", "bytes"])
def test_sources_that_are_none(call, tmp_path, kind, bad):
    source = tmp_path / "source"
    suffix = {"labelme": ".json", "coco": ".json", "yolo": ".yaml", "deeplabcut": "_x.csv"}[kind]
    if bad != "nothing":
        source.mkdir()
    if bad == "pipe":
        os.mkfifo(source / f"CollectedData{suffix}")
    elif bad == "bytes":
        (source / f"CollectedData{suffix}").write_bytes(b"\xff\xfe")
    with pytest.raises((ValueError, FileNotFoundError), match="source") as error:
        call(f"{kind} source out")
    one_line(error)
    assert not (tmp_path / "out").exists()


def test_a_table_that_is_none(call, tmp_path):
    """One quote that is not closed makes all that follows one cell."""
    write_deeplabcut(tmp_path / "source", BARE)
    (path,) = (tmp_path / "source").rglob("*.csv")
    path.write_text(path.read_text() + '"' + "x" * 200_000)
    with pytest.raises(ValueError, match="_me.csv is no table: field larger than .*: export it"):
        call("deeplabcut source out")


def test_a_file_in_place_of_its_folder(call, tmp_path):
    write_yolo(tmp_path / "source", THINGS)
    with pytest.raises(ValueError, match="source/data.yaml is no folder: name the one that holds"):
        call("yolo source/data.yaml out")


def test_an_archive_in_place_of_its_folder(call, tmp_path):
    """As CVAT's export is downloaded."""
    write_coco(tmp_path / "source", THINGS)
    shutil.make_archive(str(tmp_path / "source"), "zip", tmp_path / "source")
    with pytest.raises(ValueError, match="source.zip is an archive: unpack it, and name the fold"):
        call("coco source.zip out")


def test_two_scorers_of_one_video(call, tmp_path):
    write_deeplabcut(tmp_path / "source", BARE)
    (path,) = (tmp_path / "source").rglob("*.csv")
    path.with_name("CollectedData_you.csv").write_text(path.read_text())
    with pytest.raises(ValueError, match="one CollectedData_.*.csv a folder, not none or several"):
        call("deeplabcut source out")


@settings(deadline=None, max_examples=150)
@given(rng=st.randoms(use_true_random=False), kind=st.sampled_from(["labelme", "coco"]))
def test_damaged_json_is_a_line_or_is_read(tmp_path_factory, rng, kind):
    """And what is written can be read."""
    folder = tmp_path_factory.mktemp("damaged")
    source = WRITERS[kind](folder / "source", THINGS[:2])
    path = sorted(source.rglob("*.json"))[0]
    path.write_bytes(damage_value(rng, json.loads(path.read_text())))
    try:
        convert.convert(kind, source, folder / "out")
    except (ValueError, OSError) as error:
        assert "\n" not in str(error) and len(str(error)) < 1500
        assert os.listdir(folder) == ["source"]
    else:
        read_back(folder / "out")


@settings(deadline=None, max_examples=150)
@given(rng=st.randoms(use_true_random=False), kind=st.sampled_from(["yolo", "deeplabcut"]))
def test_damaged_text_is_a_line_or_is_read(tmp_path_factory, rng, kind):
    """A piece is lost, or doubled, or something else stands there."""
    folder = tmp_path_factory.mktemp("damaged")
    source = WRITERS[kind](folder / "source", THINGS[:3])
    path = rng.choice([p for s in ("csv", "yaml", "txt") for p in sorted(source.rglob(f"*.{s}"))])
    text = path.read_bytes()
    start, end = sorted(rng.sample(range(len(text)), 2))
    odd = [b"", b"\xff", b"\0", b"\n", b",", b"nan", b"-1 ", b"1e999", b'"', b"9" * 5000]
    end = rng.choice([start, min(end, start + 5), end])
    path.write_bytes(text[:start] + rng.choice(odd) + text[end:])
    try:
        convert.convert(kind, source, folder / "out")
    except (ValueError, OSError) as error:
        assert "\n" not in str(error) and len(str(error)) < 1500
        assert os.listdir(folder) == ["source"]
    else:
        read_back(folder / "out")


def test_bad_input_is_a_line_and_exit_code_2(tmp_path, monkeypatch, capsys):
    source = write_labelme(tmp_path / "source", THINGS)
    (source / "3.json").write_text("{")
    monkeypatch.setattr("sys.argv", ["convert", "labelme", str(source), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as end:
        launch.run("support.convert", convert.main)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"support.convert: {source}/3.json: this is no JSON")


def test_a_full_disk_leaves_nothing(call, tmp_path, monkeypatch):
    write_labelme(tmp_path / "source", THINGS)

    def fail(path, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", fail)
    (tmp_path / "out").mkdir()
    with pytest.raises(OSError, match="No space left"):
        call("labelme source out")
    assert sorted(os.listdir(tmp_path)) == ["out", "source"] and os.listdir("out") == []


# Drafts.


def test_drafts_of_a_data_folder(call, tmp_path):
    """Of categories that have no file yet."""
    write_labelme(tmp_path / "source", THINGS)
    call("labelme source out")
    text = (tmp_path / "out/object.txt").read_text()
    assert text.splitlines()[1:] == ["left eye: TODO", "tail base: TODO"]
    assert call("draft out out") == "out/object.txt is there already: left as it is\n"
    assert call("draft out texts") == "texts/object.txt: fill in what is marked TODO\n"
    assert (tmp_path / "texts/object.txt").read_text() == text
    with pytest.raises(FileNotFoundError, match="train.json"):
        call("draft source texts")


def test_drafts_stay_in_their_folder(call, split):
    """MP-100's names no keypoints; a name could lead elsewhere."""
    content = coco()
    folder = split(content)
    assert call(f"draft {folder} texts") == "texts/skirt.txt: fill in what is marked TODO\n"
    content["categories"][0]["name"] = "../skirt"
    split(content)
    with pytest.raises(ValueError, match="category '../skirt' cannot name a file: rename it"):
        call(f"draft {folder} texts")
