"""support/coco.py: what annotation files are read, and which are refused in one line."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data
from helpers import coco, one_line, read_cells
from support import check
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
    "change", [{"keypoints": [0] * 24}, {"bbox": [10, 10, 0, 20]}, {"bbox": [70, 10, 5, 5]}]
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
        ({"bbox": "5540"}, "annotation 1 .*other than numbers"),
        ({"bbox": [5, 5, "40", 40]}, "annotation 1 .*other than numbers"),
    ],
)
def test_annotations_that_are_refused(split, change, message):
    with pytest.raises(ValueError, match=message) as error:
        data.read_split(split(coco(**change)))
    assert "mp100_split1_train.json" in one_line(error)


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
    message = "mp100_split1_val.json is missing.* or annotations/val.json"
    with pytest.raises(FileNotFoundError, match=message) as error:
        data.read_split(folder, part="val")
    one_line(error)
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
        table = check.format_counts(everything, check.find_faults(everything))
    except (ValueError, FileNotFoundError) as error:
        text = str(error)
        assert "\n" not in text and (str(folder) in text or ".txt" in text)
        return
    for i in instances:
        assert np.isfinite(i.keypoints).all() and min(i.bbox[2:]) > 0
        assert len(described[i.category]) == len(i.keypoints)
    counted = read_cells(table)["all"]
    assert counted["instances"] == counted["missing"] == len(everything)
    assert counted["usable"] == 0
    assert table.replace("\n", "").isprintable()
