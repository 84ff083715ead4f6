"""The drawings: the data set, as data.py reads it, and the sides of what is drawn."""

import json
import re
import runpy
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import data
from drawings.catalogue import TEMPLATES
from drawings.dataset import write_dataset, write_image, write_overview
from drawings.scene import draw_category, draw_template, find_hidden_by
from drawings.shapes import Viewpoint, ball, find_inside, limb, polygon, project, rotation
from support.descriptions import describe_categories
from support.files import ROOT

CATEGORIES = data.read_mp100()["categories"]
DEFINITIONS = {category["definition"] for category in CATEGORIES}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures") / "new"
    write_dataset(folder, seed=3, per_category=1)
    return folder


def test_all_categories_in_the_layout_of_mp100(drawn):
    assert sorted(p.name for p in drawn.iterdir()) == ["annotations", "images"]
    assert not drawn.with_name("new.partial").exists()
    seen, tested = {}, []
    for split in range(1, 6):
        parts = {part: data.read_split(drawn, split, part) for part in ("train", "val", "test")}
        assert [len(names) for _, names in parts.values()] == [70, 10, 20]
        categories = [c for _, names in parts.values() for c in names]
        # The three share nothing and leave nothing out.
        assert sorted(categories) == sorted(c["id"] for c in CATEGORIES)
        tested += parts["test"][1]
        for instances, names in parts.values():
            # As many keypoints as the definition describes.
            describe_categories(instances, names)
            for i in instances:
                assert seen.setdefault(i.id, i)._replace(keypoints=0) == i._replace(keypoints=0)
    assert len(seen) == len(set(tested)) == len(tested) == 100
    facts = {c["id"]: c for c in CATEGORIES}
    for i in seen.values():
        with Image.open(i.image) as image:
            width, height = image.size
            assert image.mode == "RGB" and image.format == "JPEG" and np.asarray(image).std() > 5
        shown = i.keypoints[:, 2] > 0
        assert len(shown) == facts[i.category]["keypoints"] and set(i.keypoints[:, 2]) <= {0, 2}
        assert (i.keypoints[~shown] == 0).all() and shown.sum() * 3 >= len(shown)
        xy = i.keypoints[shown, :2]
        assert (xy >= 0).all() and (xy <= [width, height]).all()


def test_annotations_are_complete(drawn):
    coco = json.loads((drawn / "annotations" / "mp100_split1_train.json").read_text())
    images = {i["id"]: i for i in coco["images"]}
    assert len(images) == len(coco["annotations"]) == len(coco["categories"]) == 70
    for a in coco["annotations"]:
        image, (x, y, w, h) = images[a["image_id"]], a["bbox"]
        assert w > 8 and h > 8 and x >= 0 and y >= 0
        assert x + w <= image["width"] + 0.01 and y + h <= image["height"] + 0.01
        assert a["area"] == pytest.approx(w * h, abs=0.5 + 0.01 * (w + h))
        assert a["num_keypoints"] == sum(v > 0 for v in a["keypoints"][2::3])
        assert (drawn / "images" / image["file_name"]).is_file()


def test_the_same_seed_draws_the_same_bytes(drawn, tmp_path):
    for category in CATEGORIES[::9]:
        folder = f"{category['id']}_{category['name']}"
        (tmp_path / "images" / folder).mkdir(parents=True)
        image, annotation = write_image(tmp_path, 3, (category, 0))
        path = f"images/{folder}/0.jpg"
        assert (tmp_path / path).read_bytes() == (drawn / path).read_bytes()
        images, annotations = [], []
        for part in ("train", "val", "test"):
            coco = json.loads((drawn / "annotations" / f"mp100_split1_{part}.json").read_text())
            images += coco["images"]
            annotations += coco["annotations"]
        assert image in images and annotation in annotations
        drawing = draw_category(category, 3, 0)
        for seed, index in ((4, 0), (3, 1)):
            other = draw_category(category, seed, index)
            assert not np.array_equal(drawing.keypoints, other.keypoints)


def sides(name):
    """Indices of a definition's mirrored pairs: [(right, left), ...]."""
    names = [k.name for k in data.read_descriptions(ROOT / "descriptions" / f"{name}.txt")]
    swap = {"left": "right", "right": "left"}
    pairs = []
    for i, name in enumerate(names):
        mirrored = re.sub(r"\b(left|right)\b", lambda match: swap[match[0]], name)
        if name != mirrored and re.search(r"\bright\b", name):
            pairs.append((i, names.index(mirrored)))
    return pairs


# Most subjects face the viewer unturned. Insects head to the right, seen from above; the front of a
# table is at its right end, and its sides are those of who sits there. Turned head up and front to
# the viewer, both have their left on the left.
STRAIGHT = Viewpoint(yaw=0.0, pitch=0.0, roll=0.0)
TURNED = {
    "locust": STRAIGHT._replace(roll=-np.pi / 2),
    "fly": STRAIGHT._replace(roll=-np.pi / 2),
    "table": STRAIGHT._replace(yaw=-np.pi / 2),
}


@pytest.mark.parametrize("name", sorted(name for name in DEFINITIONS if sides(name)))
def test_the_subjects_right_is_on_the_images_left(name):
    """What faces the viewer shows its left on the right: in every drawing on average, and nearly
    always for each pair."""

    def build_frontal(rng):
        return TEMPLATES[name](rng)._replace(view=TURNED.get(name, STRAIGHT))

    gaps, sign = [], -1 if name in TURNED else 1
    for seed in range(6):
        drawing = draw_template(build_frontal, np.random.default_rng(seed))
        x, shown = drawing.keypoints[:, 0], drawing.keypoints[:, 2] > 0
        pairs = [pair for pair in sides(name) if shown[list(pair)].all()]
        gaps.append([sign * (x[left] - x[right]) for right, left in pairs])
    assert sum(map(len, gaps)) >= 3 and all(np.mean(g) > 0 for g in gaps if g)
    assert np.mean([d > 0 for g in gaps for d in g]) > 0.85


@settings(deadline=None)
@given(st.floats(-7, 7), st.floats(-7, 7), st.floats(-7, 7))
def test_rotation_is_one(yaw, pitch, roll):
    turn = rotation(yaw, pitch, roll)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)


def test_directions():
    """z is towards the viewer, y down: a positive yaw turns the face to image right, a positive
    pitch shows the top."""
    face, top = np.array([0, 0, 1.0]), np.array([0, -1.0, 0])
    assert (rotation(yaw=0.5) @ face)[0] > 0.4
    assert (rotation(pitch=0.5) @ top)[2] > 0.4 and (rotation(pitch=0.5) @ face)[1] > 0.4


@settings(deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(3, 9))
def test_inside_equals_the_sign_of_every_edge(seed, n):
    """Of a convex polygon, where inside means on the same side of all edges."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, n))
    corners = np.stack([np.cos(angles), np.sin(angles)], 1) * [2, 1]
    points = rng.uniform(-2, 2, (50, 2))
    edges, offsets = np.roll(corners, -1, 0) - corners, points[:, None] - corners
    expected = (edges[:, 0] * offsets[..., 1] - edges[:, 1] * offsets[..., 0] > 0).all(1)
    np.testing.assert_array_equal(find_inside(points, corners), expected)


def test_what_lies_behind_is_hidden():
    """A ball hides a keypoint behind it and none in front or beside it; so do a limb and a
    polygon."""
    turn, black = rotation(0.3, -0.2, 0.1), (9, 9, 9)
    behind, front, beside = [0, 0, -1.0], [0, 0, 1.0], [2.0, 0, -1]
    square = [(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)]
    parts = (
        ball((0, 0, 0), (0.3, 0.4, 0.5), black),
        limb((-0.5, 0, 0), (0.5, 0.1, 0.1), 0.3, 0.2, black),
        polygon(square, black),
    )
    for part in parts:
        hidden = find_hidden_by(project(part, turn), np.array([behind, front, beside]))
        assert hidden.tolist() == [True, False, False], part.kind


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--out", "{}"], "is not an empty folder: remove it or give another --out"),
        (["--out", "{}/keep"], "is not an empty folder"),
        ([], "nothing to do"),
        (["--out", "{}/new", "--per-category", "0"], "--per-category: 0 is no positive number"),
        (["--out", "{}/new", "--per-category", "9" * 6], "at most 100,000"),
        (["--out", "{}/new", "--seed", "-1"], "--seed -1"),
        (["--sheet", "{}/keep", "--out", "{}/new"], "no picture format is called 'nothing'"),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "keep").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["drawings", *(a.format(tmp_path) for a in arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("drawings", run_name="__main__")
    error = capsys.readouterr().err
    assert end.value.code == 2 and message in error and "Traceback" not in error
    assert [p.name for p in tmp_path.iterdir()] == ["keep"]
    assert (tmp_path / "keep").read_text() == "mine"


def test_the_contact_sheet(tmp_path):
    write_overview(tmp_path / "sheet.png", seed=1)
    with Image.open(tmp_path / "sheet.png") as sheet:
        cells = np.asarray(sheet.convert("RGB")).reshape(5, 200, 8, 200, 3)
        red = (cells == (255, 0, 0)).all(-1).sum((1, 3))
    # Every cell has its keypoints dotted.
    assert sheet.size == (1600, 1000) and (red > 0).all()
