"""support/coco.py: what annotation files are read, and which are refused in one line."""

import json
import os
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data
from helpers import coco, one_line, read_cells
from support import check
from support.coco import clip_box, list_control_characters
from support.descriptions import describe_categories


def test_read_split(split):
    folder = split(coco(bbox=[-5, 40, 100, 30]))
    instances, names = data.read_split(folder)
    assert [i.id for i in instances] == [0, 1, 2] and names == {1: "skirt"}
    # Clipped to the image.
    assert instances[1].bbox == (0, 40, 60, 10)
    assert instances[0].image == folder / "images" / "skirt" / "0.jpg"
    np.testing.assert_array_equal(instances[2].keypoints[:2], [[17, 15, 2], [20, 20, 2]])
    described = describe_categories(instances, names)
    assert len(described[1]) == 8


@pytest.mark.parametrize(
    "change", [{"keypoints": [0] * 24}, {"bbox": [10, 10, 0, 0]}, {"bbox": [70, 10, 5, 5]}]
)
def test_what_cannot_be_used_is_left_out(split, change):
    folder = split(coco(**change))
    assert [i.id for i in data.read_split(folder)[0]] == [0, 2]
    assert [i.id for i in data.read_annotations(folder)] == [0, 1, 2]


def test_an_id_may_stand_again_on_another_image(split):
    assert [i.id for i in data.read_split(split(coco(id=0)))[0]] == [0, 0, 2]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_id": 77}, "annotation 1 "),
        ({"category_id": 9}, "annotation 1 "),
        ({"id": 0, "image_id": 0}, "annotation 0 .*another one .*this id"),
        ({"id": "a\x1b[2Jb"}, r"annotation 'a\\x1b.2Jb' .*U\+001B"),
        ({"keypoints": [1, 2]}, "annotation 1 "),
        ({"keypoints": [1, 2, 2]}, "annotation 1 .*8"),
        ({"keypoints": [float("inf"), 1, 2] * 8}, "annotation 1 .*finite"),
        ({"keypoints": ["1", 2, 2] * 8}, "annotation 1 .*other than numbers"),
        ({"keypoints": [10**400, 2, 2] * 8}, "annotation 1 .*other than numbers"),
        ({"bbox": [1, 2, 3]}, "annotation 1 "),
        ({"bbox": None}, "annotation 1 "),
        ({"bbox": [0, 0, float("nan"), 9]}, "annotation 1 .*finite"),
        ({"bbox": [0, 0, float("inf"), 9]}, "annotation 1 .*finite"),
        ({"bbox": "5540"}, "annotation 1 .*not a list"),
        ({"bbox": [5, 5, "40", 40]}, "annotation 1 .*other than numbers"),
    ],
)
def test_annotations_that_are_refused(split, change, message):
    with pytest.raises(ValueError, match=message) as error:
        data.read_split(split(coco(**change)))
    assert "mp100_split1_train.json" in one_line(error)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"category_id": 9}, "its category_id 9 is not among the categories"),
        ({"category_id": "1"}, "its category_id is '1', the categories have .* another type"),
        ({"image_id": "1"}, "its image_id is '1', the images have .* another type"),
        ({"image_id": None}, "image_id is null, not a text or a number"),
        ({"id": [1]}, "id is .1., not a text or a number"),
        ({"bbox": [[1], [2, 3], 4, 5]}, "its bbox hold something other than numbers"),
        ({"bbox": [1, 2, 3]}, "its bbox is 3 numbers, not four"),
        ({"keypoints": [1, 2]}, "its keypoints are 2 numbers, not x, y, v for each"),
        ({"keypoints": {"a": 1}}, 'keypoints is {"a": 1}, not a list'),
        ({"id": "i" * 5000, "bbox": None}, "annotation 'iii.*bbox is null, not a list"),
    ],
)
def test_the_field_at_fault_is_named_in_words(split, change, message):
    with pytest.raises(ValueError, match=message) as error:
        data.read_split(split(coco(**change)))
    text = one_line(error).partition("train.json")[2]
    assert len(text) < 400 and not any(word in text for word in PYTHON)


# What Python, numpy and Pillow say, and no reader of ours should have to.
PYTHON = ("Error", "codec", "NoneType", "reshape", "inhomogeneous", "unpack")


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.sampled_from([None, 0, 2, 3]), min_size=2, max_size=6),
    listed=st.sampled_from([0, 3]),
)
def test_annotations_without_keypoints_are_counted_and_the_one_that_differs_is_blamed(
    tmp_path_factory, sizes, listed
):
    """In any order; None: boxes as tools export them beside skeletons, without any keypoints."""
    content, folder = coco(len(sizes)), tmp_path_factory.mktemp("counts")
    if listed:
        content["categories"][0]["keypoints"] = ["a", "b", "c"]
    for annotation, K in zip(content["annotations"], sizes, strict=True):
        annotation["keypoints"] = [15, 15, 2] * (K or 0)
        if K is None:
            del annotation["keypoints"], annotation["bbox"]
    (folder / "annotations").mkdir()
    path = folder / "annotations" / "train.json"
    path.write_text(json.dumps(content))
    given = [K for K in sizes if K]
    if len(set(given)) < 2:
        instances = data.read_annotations(folder)
        assert [i.usable for i in instances] == [bool(K) for K in sizes]
        assert [len(i.keypoints) for i in instances] == [K or 0 for K in sizes]
        return
    expected = 3 if listed else max(given, key=given.count)
    wrong = next(n for n, K in enumerate(sizes) if K and K != expected)
    message = f"annotation {wrong} cannot be used: {sizes[wrong]} keypoints, .* has {expected}"
    with pytest.raises(ValueError, match=message):
        data.read_annotations(folder)


@pytest.mark.parametrize("what", ["bbox", "keypoints"])
def test_relative_coordinates_are_refused(split, what):
    content = coco()
    for annotation in content["annotations"]:
        rows = np.reshape(annotation[what], (-1, 4 if what == "bbox" else 3)).astype(float)
        rows[:, :2] /= 60
        if what == "bbox":
            rows[:, 2:] /= 60
        annotation[what] = rows.ravel().tolist()
    with pytest.raises(ValueError, match="train.json: all .* lie within one pixel: .* multiply"):
        data.read_split(split(content))


@settings(deadline=None)
@given(
    start=st.floats(-90, 90) | st.sampled_from([0, 60, 1e300, -1e300, 5e-324]),
    length=st.floats(0, 90) | st.sampled_from([0, 1, 5e-324, 1e-300, 1e300]),
    other=st.sampled_from([0, 20]),
)
def test_a_box_is_usable_if_a_pixel_of_it_is_left(start, length, other):
    """The longer side counts, as for the crop; whatever the numbers, the crop is finite."""
    bbox = clip_box(np.array([start, 5, length, other], float), (60, 50))
    left = min(start + length, 60) - max(start, 0)
    is_left = left > 0 or (length == 0 and 0 <= start <= 60)
    points = np.array([[5, 5, 2]], np.float32)
    instance = data.Instance(1, "x", 1, points, bbox, (60, 50))
    assert instance.usable == (is_left and max(left, other) >= 1)
    if instance.usable:
        assert bbox == (max(start, 0), 5, left, other)
        places = data.map_to_crop(points[:, :2], data.make_affine(bbox, 28), 28)
        assert np.isfinite(places).all()


FORMS = ("NFC", "NFD")


@pytest.mark.parametrize("folder_form", FORMS)
@pytest.mark.parametrize("file_form", FORMS)
@pytest.mark.parametrize("said", FORMS)
def test_accents_may_be_stored_either_way(split, said, folder_form, file_form):
    """Names of images and, of each part of a path, of description files."""
    content = coco()
    content["images"][1]["file_name"] = unicodedata.normalize(said, "K\u00e4fer/\u1ec7 1.png")
    folder = split(content)
    there = folder / "images" / unicodedata.normalize(folder_form, "K\u00e4fer")
    there.mkdir(parents=True)
    there = there / unicodedata.normalize(file_form, "\u1ec7 1.png")
    there.write_text("here")
    assert data.read_annotations(folder)[1].image.read_text() == "here"
    texts = folder / unicodedata.normalize(file_form, "K\u00e4fer.txt")
    texts.write_text("nose:\n")
    name = unicodedata.normalize(said, "K\u00e4fer")
    instance = data.read_annotations(folder)[0]._replace(category=900, keypoints=np.ones((1, 3)))
    described = describe_categories([instance], {900: name}, folder)
    assert [k.name for k in described[900]] == ["nose"]


def test_an_annotation_without_id_is_refused(split):
    content = coco()
    del content["annotations"][1]["id"]
    with pytest.raises(ValueError, match="annotation None") as error:
        data.read_split(split(content))
    assert "mp100_split1_train.json" in one_line(error)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"images": [], "categories": [], "annotations": null}',
        '{"images": [{}], "categories": [], "annotations": []}',
        "[" * 10**6,
    ],
)
def test_files_that_are_no_annotation(split, content):
    with pytest.raises(ValueError, match="is no COCO keypoint annotation") as error:
        data.read_split(split(content))
    assert "mp100_split1_train.json" in one_line(error)


@pytest.mark.parametrize("content", [b"\xff", b'{"images": [' + b"\x80]", b"{1}", b"9" * 5000])
def test_damaged_files_are_said_to_be_so_in_words(split, content):
    folder = split("")
    (folder / "annotations" / "mp100_split1_train.json").write_bytes(content)
    with pytest.raises(ValueError, match="is no COCO keypoint annotation: this is no ") as error:
        data.read_split(folder)
    assert not any(word in one_line(error) for word in PYTHON)


def test_a_pipe_is_refused(split):
    folder = split("")
    path = folder / "annotations" / "mp100_split1_train.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="train.json is no regular file"):
        data.read_split(folder)


@pytest.mark.parametrize("what, key", [("images", "file_name"), ("categories", "name")])
def test_ids_that_stand_for_two_things_are_refused(split, what, key):
    """Merged exports that each count from 1. The same entry twice does no harm."""
    content = coco()
    content[what].append(dict(content[what][1]))
    assert len(data.read_split(split(content))[0]) == 3
    content[what][-1][key] = "other"
    message = f"two {what} have the id {content[what][1]['id']}: give each its own"
    with pytest.raises(ValueError, match=message) as error:
        data.read_split(split(content))
    assert "mp100_split1_train.json" in one_line(error)


@pytest.mark.parametrize("what, key", [("categories", "name"), ("images", "file_name")])
@pytest.mark.parametrize("character", ["\x1b[31m", "\u202e", "\n", "\u2028", "\ud800"])
def test_names_that_would_garble_a_terminal_are_refused(split, what, key, character):
    content = coco()
    content[what][1][key] += character
    with pytest.raises(ValueError) as error:
        data.read_split(split(content))
    assert one_line(error).isprintable()


def test_names_with_unusual_spaces_are_read(split):
    """As macOS names screenshots."""
    content = coco()
    # As WhatsApp does; and Persian, and an emoji of two people.
    content["images"][2]["file_name"] = "\u200eW \u06cc\u200c\u062e \U0001f468\u200d\U0001f469.jpg"
    content["images"][1]["file_name"] = "Foto\u202fvon\u00a0\u00e9t\u00e9.png"
    assert len(data.read_split(split(content))[0]) == 3


def test_a_missing_part(split):
    with pytest.raises(FileNotFoundError, match="mp100_split1_val.json") as error:
        data.read_split(split(coco()), part="val")
    one_line(error)


def test_ones_own_annotations(split):
    """annotations/train.json is read where there is nothing of MP-100's, and only there."""
    folder = split(coco())
    own = folder / "annotations" / "train.json"
    own.write_text(json.dumps(coco(5)))
    assert len(data.read_split(folder)[0]) == 3
    message = "mp100_split2_train.json is missing.* or annotations/train.json"
    with pytest.raises(FileNotFoundError, match=message) as error:
        data.read_split(folder, 2)
    one_line(error)
    (folder / "annotations" / "mp100_split1_train.json").unlink()
    for number in (1, 2):
        assert len(data.read_split(folder, number)[0]) == 5
    message = r"annotations/val.json is missing.* see eval.py --part"
    with pytest.raises(FileNotFoundError, match=message) as error:
        data.read_split(folder, part="val")
    assert "mp100_split" not in one_line(error)
    own.write_text(json.dumps(coco(bbox=None)))
    with pytest.raises(ValueError, match="annotations/train.json: annotation 1 "):
        data.read_split(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"width": None},
        {"width": "60"},
        {"width": 10**400},
        {"width": True},
        {"width": 0.5},
        {"width": 2e9},
        {"height": 0},
        {"height": float("inf")},
        {"height": float("nan")},
    ],
)
def test_images_must_state_their_size(split, change):
    content = coco()
    content["images"][1] |= change
    message = "annotation 1 .*its image states no width and height"
    with pytest.raises(ValueError, match=message) as error:
        data.read_split(split(content))
    one_line(error)
    content["images"][1].pop("height")
    with pytest.raises(ValueError, match=message):
        data.read_split(split(content))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, -1, 10**20, 10**400])
    | st.floats()
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def list_paths(value, path=()):
    """The paths of all values inside of a JSON value."""
    items = []
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    paths = []
    for key, inner in items:
        paths += [(*path, key), *list_paths(inner, (*path, key))]
    return paths


def change_content(content, changes):
    """Put other values somewhere: changes are (which place, value)."""
    for number, value in changes:
        paths = list_paths(content)
        if not paths:
            return
        *way, last = paths[number % len(paths)]
        inner = content
        for key in way:
            inner = inner[key]
        inner[last] = value


@settings(deadline=None, max_examples=300)
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), JSON), min_size=1, max_size=3))
def test_any_change_to_annotations_is_read_or_one_line(tmp_path_factory, changes):
    content, folder = coco(), tmp_path_factory.getbasetemp() / "fuzz"
    change_content(content, changes)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "annotations" / "mp100_split1_train.json").write_text(json.dumps(content))
    try:
        instances, names = data.read_split(folder)
        described = describe_categories(instances, names)
        everything, _ = check.read_folders([folder])
        table = check.format_counts(everything, check.examine_images(everything))
    except (ValueError, FileNotFoundError) as error:
        text = str(error)
        assert "\n" not in text and (str(folder) in text or ".txt" in text)
        return
    for i in instances:
        assert np.isfinite(i.keypoints).all() and min(i.bbox[2:]) >= 0 and max(i.bbox[2:]) >= 1
        assert len(described[i.category]) == len(i.keypoints)
    counted = read_cells(table)["all"]
    assert counted["instances"] == counted["missing"] == len(everything)
    assert counted["usable"] == 0
    assert list_control_characters(table.replace("\n", "")) == []
