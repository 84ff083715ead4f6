"""support/convert.py and support/foreign.py: what other tools wrote, as data.py reads it."""

import csv
import json
import os
import re
import shlex
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import data
from helpers import one_line, photo
from support import check, convert, foreign, launch

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
    assert "object: 12 objects, " in shown and "not used" not in shown
    if kind == "yolo":
        assert "12 images: 12 train (as the tool's folders have it)" in shown
    else:
        assert "12 images: 10 train, 2 val (every 5th to validate, see --val)" in shown
    assert ("12 objects have none; taken is" in shown) == (kind == "deeplabcut")
    path = tmp_path / "out" / "object.txt"
    with pytest.raises(ValueError, match="line 2: TODO is to be replaced: say what"):
        check.read_folders(["out"], descriptions="out")
    path.write_text(path.read_text().replace("TODO", "somewhere"))
    instances, described = check.read_folders(["out"], descriptions="out")
    assert {i.category for i in instances} == {1001} == set(described)
    usable, _ = check.check_images(instances)
    assert len(usable) == len(instances) == (12 if kind == "yolo" else 10)
    with pytest.raises(ValueError, match="out holds something already"):
        call(f"{kind} source out")


def test_no_part_to_validate(call, tmp_path):
    write_labelme(tmp_path / "source", THINGS)
    assert "12 images: 12 train (none to validate)" in call("labelme source out --val 0")
    assert not (tmp_path / "out/annotations/val.json").exists()
    with pytest.raises(ValueError, match="--val 1: 0 for none, 2 or more"):
        call("labelme source other --val 1")


def test_parts_of_yolo_are_kept(call, tmp_path):
    write_yolo(tmp_path / "source", THINGS[:8])
    (tmp_path / "more").mkdir()
    write_yolo(tmp_path / "more/x", THINGS[8:], subset="valid")
    for folder in ("images", "labels"):
        os.rename(tmp_path / "more/x" / folder / "valid", tmp_path / "source" / folder / "valid")
    assert "12 images: 8 train, 4 val (as the tool's folders have it)" in call("yolo source out")
    assert len(data.read_annotations(tmp_path / "out", part="val")) == 4
