"""figures.py: the data set it writes, as data.py reads it, and the sides of what it draws."""
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
import drawings.scene as figures

CATEGORIES = data.mp100()["categories"]
BY_NAME = {c["definition"]: c for c in reversed(CATEGORIES)}             # the first category of each definition
TEMPLATES = figures.templates()[0]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures") / "new"
    figures.write_dataset(folder, seed=3, per_category=1)
    return folder


def test_all_categories_in_the_layout_of_mp100(drawn):
    assert sorted(p.name for p in drawn.iterdir()) == ["annotations", "images"]
    assert not drawn.with_name("new.partial").exists()
    seen, tested = {}, []
    for split in range(1, 6):
        parts = {part: data.read_split(drawn, split, part) for part in ("train", "val", "test")}
        assert [len(names) for _, names in parts.values()] == [70, 10, 20]
        categories = [c for _, names in parts.values() for c in names]
        assert sorted(categories) == sorted(c["id"] for c in CATEGORIES)     # the three share nothing and leave nothing out
        tested += parts["test"][1]
        for instances, names in parts.values():
            data.describe(instances, names)                              # as many keypoints as the definition describes
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
        assert (i.keypoints[shown, :2] >= 0).all() and (i.keypoints[shown, :2] <= [width, height]).all()


def test_annotations_are_complete(drawn):
    coco = json.loads((drawn / "annotations" / "mp100_split1_train.json").read_text())
    images = {i["id"]: i for i in coco["images"]}
    assert len(images) == len(coco["annotations"]) == len(coco["categories"]) == 70
    for a in coco["annotations"]:
        image, (x, y, w, h) = images[a["image_id"]], a["bbox"]
        assert w > 8 and h > 8 and x >= 0 and y >= 0 and x + w <= image["width"] + 0.01 and y + h <= image["height"] + 0.01
        assert a["area"] == pytest.approx(w * h, abs=0.5 + 0.01 * (w + h))
        assert a["num_keypoints"] == sum(v > 0 for v in a["keypoints"][2::3])
        assert (drawn / "images" / image["file_name"]).is_file()


def test_the_same_seed_draws_the_same_bytes(drawn, tmp_path):
    for category in CATEGORIES[::9]:
        folder = f"{category['id']}_{category['name']}"
        (tmp_path / "images" / folder).mkdir(parents=True)
        image, annotation = figures.write_image(tmp_path, 3, (category, 0))
        assert (tmp_path / "images" / folder / "0.jpg").read_bytes() == (drawn / "images" / folder / "0.jpg").read_bytes()
        parts = [json.loads((drawn / "annotations" / f"mp100_split1_{part}.json").read_text()) for part in ("train", "val", "test")]
        assert annotation in [a for part in parts for a in part["annotations"]]
        assert image in [i for part in parts for i in part["images"]]
        other = [figures.draw_category(category, seed, index) for seed, index in ((3, 0), (4, 0), (3, 1))]
        assert all(not np.array_equal(other[0][1], o[1]) for o in other[1:])


def sides(name):
    """Indices of a definition's mirrored pairs: [(right, left), ...]."""
    names = [k.name for k in data.read_descriptions(data.HERE / "descriptions" / f"{name}.txt")]
    swap = {"left": "right", "right": "left"}
    mirrored = [re.sub(r"\b(left|right)\b", lambda m: swap[m[0]], n) for n in names]
    return [(i, names.index(m)) for i, (n, m) in enumerate(zip(names, mirrored)) if n != m and re.search(r"\bright\b", n)]


# Most subjects face the viewer unturned. Insects head to the right, seen from above; the front of a table is at its right
# end, and its sides are those of who sits there. Turned head up and front to the viewer, both have their left on the left.
TURNED = {"locust": {"roll": -np.pi / 2}, "fly": {"roll": -np.pi / 2}, "table": {"yaw": -np.pi / 2}}


@pytest.mark.parametrize("name", sorted(name for name in BY_NAME if sides(name)))
def test_the_subjects_right_is_on_the_images_left(name):
    """What faces the viewer shows its left on the right: in every drawing on average, and nearly always for each pair."""
    def frontal(rng, look):
        parts, keypoints, _ = TEMPLATES[name](rng, look)
        return parts, keypoints, dict(yaw=0.0, pitch=0.0, roll=0.0) | TURNED.get(name, {})

    gaps, side = [], -1 if name in TURNED else 1
    for seed in range(6):
        _, keypoints, _ = figures.draw(frontal, {}, np.random.default_rng(seed))
        pairs = [(r, l) for r, l in sides(name) if keypoints[r, 2] and keypoints[l, 2]]
        gaps.append([side * (keypoints[l, 0] - keypoints[r, 0]) for r, l in pairs])
    assert sum(map(len, gaps)) >= 3 and all(np.mean(g) > 0 for g in gaps if g)
    assert np.mean([d > 0 for g in gaps for d in g]) > 0.85


@settings(deadline=None)
@given(st.floats(-7, 7), st.floats(-7, 7), st.floats(-7, 7))
def test_rotation_is_one(yaw, pitch, roll):
    turn = figures.rotation(yaw, pitch, roll)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)


def test_directions():
    """z is towards the viewer, y down: a positive yaw turns the face to image right, a positive pitch shows the top."""
    face, top = np.array([0, 0, 1.0]), np.array([0, -1.0, 0])
    assert (figures.rotation(yaw=0.5) @ face)[0] > 0.4
    assert (figures.rotation(pitch=0.5) @ top)[2] > 0.4 and (figures.rotation(pitch=0.5) @ face)[1] > 0.4


@settings(deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(3, 9))
def test_inside_equals_the_sign_of_every_edge(seed, n):
    """Of a convex polygon, where inside means on the same side of all edges."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, n))
    polygon, points = np.stack([np.cos(angles), np.sin(angles)], 1) * [2, 1], rng.uniform(-2, 2, (50, 2))
    edges, offsets = np.roll(polygon, -1, 0) - polygon, points[:, None] - polygon
    expected = (edges[:, 0] * offsets[..., 1] - edges[:, 1] * offsets[..., 0] > 0).all(1)
    np.testing.assert_array_equal(figures.inside(points, polygon), expected)


def test_what_lies_behind_is_hidden():
    """A ball hides a keypoint behind it and none in front, beside or on its near side; so does a limb along its axis."""
    turn = figures.rotation(0.3, -0.2, 0.1)
    behind, front, beside = np.array([0, 0, -1.0]), np.array([0, 0, 1.0]), np.array([2.0, 0, -1])
    for part in (figures.ball((0, 0, 0), (0.3, 0.4, 0.5), (9, 9, 9)), figures.limb((-0.5, 0, 0), (0.5, 0.1, 0.1), 0.3, 0.2, (9, 9, 9)),
                 figures.sheet([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)], (9, 9, 9))):
        hidden = figures.hidden_by(part, figures.project(part, turn), np.array([behind, front, beside]))
        assert hidden.tolist() == [True, False, False], part.kind


@pytest.mark.parametrize("arguments, message", [
    (["--out", "{}"], "is not an empty folder: remove it or give another --out"),
    (["--out", "{}/keep"], "is not an empty folder"), ([], "nothing to do")])
def test_what_is_refused(tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "keep").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["figures.py", *(a.format(tmp_path) for a in arguments)])
    with pytest.raises(SystemExit) as exit:
        runpy.run_module("drawings.scene", run_name="__main__")
    error = capsys.readouterr().err
    assert exit.value.code == 2 and message in error and "Traceback" not in error
    assert [p.name for p in tmp_path.iterdir()] == ["keep"] and (tmp_path / "keep").read_text() == "mine"


def test_the_contact_sheet(tmp_path):
    figures.write_sheet(tmp_path / "sheet.png", seed=1)
    with Image.open(tmp_path / "sheet.png") as sheet:
        cells = np.asarray(sheet.convert("RGB")).reshape(5, 200, 8, 200, 3)
        red = (cells == (255, 0, 0)).all(-1).sum((1, 3))
    assert sheet.size == (1600, 1000) and (red > 0).all()                # every cell has its keypoints dotted
