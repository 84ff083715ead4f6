"""support/descriptions.py: description files, and how they are matched with categories."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data
from capellm import Codec
from helpers import coco, one_line
from support.coco import list_control_characters
from support.descriptions import DESCRIPTIONS, describe_categories, list_thin


def test_description_files(desc):
    expected = [
        data.Keypoint("left eye", "The eye: round."),
        data.Keypoint("nez", "\u00e9t\u00e9"),
        data.Keypoint("tail", ""),
    ]
    text = "# a comment\n\nleft eye: The eye: round.\n  # another\nnez :\u00e9t\u00e9  \ntail:\n"
    assert data.read_descriptions(desc(text)) == expected
    assert data.read_descriptions(desc(text.rstrip())) == expected
    # As Windows saves it: a byte order mark, and two characters at each line's end.
    windows = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()
    assert data.read_descriptions(desc(windows)) == expected
    # As old systems save it, and what other systems end lines with.
    for end in ("\r", "\x85", "\u2028", "\u2029"):
        assert data.read_descriptions(desc(text.replace("\n", end))) == expected
    # Tabs and no-break spaces.
    spaces = text.replace(" eye:", "\u00a0eye:\t").replace(" round", "\u202f \tround")
    assert data.read_descriptions(desc(spaces)) == expected


@pytest.mark.parametrize(
    "content, message",
    [
        (
            "nose: x\n\nno colon here\n",
            "line 3: expected 'name: description', found 'no colon here'",
        ),
        ("nose: x\n: nameless\n", "line 2: expected 'name: description'"),
        ("# c\nnose: x\neye: y\r\nnose: z", "line 4: 'nose' stands on line 2 already"),
        (b"nose: x\neye: \xff\xfe\n", "line 2: not UTF-8"),
        (b"\xef\xbb\xbfnose: x\n\neye: \xff", "line 3: not UTF-8"),
        (b"nose: x\r\r\neye: \xff", "line 3: not UTF-8"),
        ("\u200d: x", "line 1: expected 'name: description'"),
        ("left\u200c eye: x\nleft eye: y", "line 2: 'left eye' stands on line 1 already"),
        ("nose: x\neye: a\x00b", r"line 2: control characters .U\+0000.; keep"),
        ("a: b\u202ec\x1b", r"line 1: .*.U\+202E, U\+001B."),
        ("Left  eye: x\neye: y\nleft_Eye: z", "line 3: 'left_Eye' stands on line 1 already"),
        ("n\u00e9z: x\nNE\u0301Z: y", "line 2: .* stands on line 1 already"),
        ("stra\u00dfe: x\nSTRASSE: y", "line 2: .* stands on line 1"),
        ("", "describes no keypoint"),
        ("# only\n\n", "describes no keypoint"),
        ("# TODO\nnose: tip\neye: TODO", "line 3: TODO is to be replaced: say what"),
        ("TODO 1: tip", "line 1: TODO is to be replaced"),
    ],
)
def test_description_files_that_are_refused(desc, content, message):
    with pytest.raises(ValueError, match=message) as error:
        data.read_descriptions(desc(content))
    assert "desc.txt" in one_line(error)


def test_a_missing_description_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="desc.txt is missing") as error:
        data.read_descriptions(tmp_path / "desc.txt")
    one_line(error)


def write_instance(category, K, name="", labels=()):
    """An instance of K keypoints; nothing but its category, name and labels counts."""
    file, points = Path("x"), np.ones((K, 3))
    return data.Instance(category, file, category, points, (0, 0, 1, 1), (9, 9), name, labels)


@pytest.mark.parametrize(
    "n, message", [(2, "c1.txt is missing"), (9, "c1.txt, .*c5.txt and 3 more are missing")]
)
def test_all_missing_description_files_are_named(tmp_path, n, message):
    """Five of them, and the number of the others."""
    (tmp_path / "c0.txt").write_text("nose:\n")
    instances = [write_instance(900 + i, 1) for i in range(n)]
    names = {900 + i: f"c{i}" for i in range(n)}
    described = describe_categories(instances[:1], {900: "c0"}, tmp_path)
    assert described == {900: [data.Keypoint("nose", "")]}
    with pytest.raises(FileNotFoundError, match=message) as error:
        describe_categories(instances, names, tmp_path)
    assert "c6.txt" not in one_line(error)


def test_a_file_that_several_categories_need_is_named_once(tmp_path):
    of_animals = [c for c in data.read_mp100()["categories"] if c["definition"] == "animal_body"]
    names = {c["id"]: c["name"] for c in of_animals}
    assert len(names) > 1
    instances = [write_instance(id, 17) for id in names]
    with pytest.raises(FileNotFoundError, match="^[^ ]*animal_body.txt is missing"):
        describe_categories(instances, names, tmp_path)


def test_descriptions_must_fit_the_category(split, desc):
    folder = split(coco())
    instances, names = data.read_split(folder)
    desc("a: b\n").rename(folder / "skirt.txt")
    message = "skirt.txt describes 1 keypoints, category 1 .skirt. has 8"
    with pytest.raises(ValueError, match=message) as error:
        describe_categories(instances, names, folder)
    one_line(error)


BOAT = write_instance(700, 3, "boat", ("Bow", "stern", "mast_top"))


@pytest.fixture
def describe_boat(desc, tmp_path):
    def describe(text, boat=BOAT):
        desc(text).rename(tmp_path / "boat.txt")
        return describe_categories([boat], {700: "boat"}, tmp_path)[700]

    return describe


def test_ones_own_keypoints_have_the_annotations_names(describe_boat):
    """In the same order, but for case and underscores."""
    keypoints = describe_boat("bow:\nstern: at the back\nmast top:\n")
    assert [k.name for k in keypoints] == ["bow", "stern", "mast top"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("stern:\nbow:\nmast top:\n", "keypoint 1 is 'stern'.* name it 'Bow'"),
        ("bow:\nstern:\ntop:\n", "keypoint 3 is 'top'.* name it 'mast_top'"),
    ],
)
def test_other_names_than_the_annotations_are_refused(describe_boat, text, message):
    with pytest.raises(ValueError, match=message) as error:
        describe_boat(text)
    assert "boat.txt" in one_line(error)
    # Numbers say nothing.
    assert len(describe_boat(text, BOAT._replace(labels=("0", "1", "2")))) == 3


def test_numbers_are_compared_with_numbers(describe_boat):
    boat = BOAT._replace(labels=("2", "1", "top"))
    assert len(describe_boat("bow:\nstern:\ntop:\n", boat)) == 3
    with pytest.raises(ValueError, match="keypoint 1 is '1', .* name it '2'"):
        describe_boat("1:\n2:\ntop:\n", boat)


@pytest.mark.parametrize("labels", [("bow",), ("0", "1"), (*BOAT.labels, "keel")])
def test_annotations_name_as_many_keypoints_as_they_hold(describe_boat, labels):
    message = rf"category 700 .boat. name {len(labels)} keypoints and hold 3"
    with pytest.raises(ValueError, match=message) as error:
        describe_boat("bow:\nstern:\nmast top:\n", BOAT._replace(labels=labels))
    one_line(error)


def test_names_in_the_annotations_of_mp100_are_not_compared():
    """They are the authors'; ours tell more."""
    skirt = write_instance(1, 8, "skirt", ("1",) * 7 + ("hem",))
    assert len(describe_categories([skirt], {1: "skirt"})[1]) == 8


def test_two_categories_named_face():
    """Ids tell them apart: 18 has 19 points, 40 has 68."""
    instances = [write_instance(18, 19), write_instance(40, 68)]
    described = describe_categories(instances, {18: "face", 40: "face"})
    assert {n: len(keypoints) for n, keypoints in described.items()} == {18: 19, 40: 68}


def write_lines(rows):
    return "\r\n".join(f"{name}: {description}" for name, description in rows).encode()


TEXTS = st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
ROWS = st.lists(st.tuples(st.text(max_size=8), st.text(max_size=40)), max_size=6)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200) | TEXTS | ROWS.map(write_lines))
def test_any_bytes_are_descriptions_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.txt"
    path.write_bytes(content)
    try:
        keypoints = data.read_descriptions(path)
    except ValueError as error:
        assert "fuzz.txt" in str(error) and "\n" not in str(error)
        return
    assert keypoints and len({k.name for k in keypoints}) == len(keypoints)
    for name, description in keypoints:
        assert name and ":" not in name
        assert list_control_characters(name + description) == []


@pytest.mark.parametrize("text", ["\u0647\u200c\u06cc", "\u0915\u094d\u200d\u0937", "\u200eleft"])
def test_joiners_are_spelling(desc, text):
    """Persian and Hindi words are written with them, and they reach the model."""
    assert data.read_descriptions(desc(f"{text}: {text}.\n")) == [data.Keypoint(text, f"{text}.")]


def test_long_lines_are_not_quoted_at_length(desc):
    for text in ("x" * 5000, f"{'x' * 5000}:\n{'x' * 5000}:\n", "\x1b" * 5000 + ":"):
        with pytest.raises(ValueError, match="desc.txt, line") as error:
            data.read_descriptions(desc(text))
        text = one_line(error).partition("desc.txt")[2]
        assert len(text) < 400 and text.isprintable()


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "desc.txt")
    with pytest.raises(ValueError, match="desc.txt is no regular file"):
        data.read_descriptions(tmp_path / "desc.txt")


def test_large_descriptions(tmp_path, tokenizers):
    """A thousand keypoints; a line of 100 kB is refused where no conversation would hold it."""
    path = tmp_path / "many.txt"
    path.write_text("".join(f"point {n}: the {n}th point\n" for n in range(1000)))
    assert len(data.read_descriptions(path)) == 1000
    path.write_text("nose: " + "a long word " * 8500 + "\ntail:\n")
    described = {1: data.read_descriptions(path)}
    points = np.array([[5, 5, 2], [6, 6, 2]], np.float32)
    file = tmp_path / "x.png"
    instance = data.Instance(0, file, 1, points, (0, 0, 20, 20), (20, 20), "thing")
    message = "thing.* more than 2048: lower --k or shorten its descriptions"
    with pytest.raises(ValueError, match=message) as error:
        data.Pairs([instance], described, tokenizers["v3"], Codec(tokenizers["v3"]), 28)
    one_line(error)


def test_nothing_of_ours_is_thin():
    for path in DESCRIPTIONS.glob("*.txt"):
        assert list_thin(data.read_descriptions(path)) == [], path


def test_descriptions_that_leave_places_out_are_thin():
    """Those of Table 5 say of the place what the name says."""
    vague = sorted((DESCRIPTIONS / "vague").glob("*.txt"))
    thin = [path for path in vague if list_thin(data.read_descriptions(path))]
    assert len(thin) > len(vague) / 2


@pytest.mark.parametrize(
    "content, thin",
    [
        ("tip: the pointed end\ntail: the broad end", []),
        ("tip:\ntail: the broad end", ["'tip' has no description"]),
        ("tip: pointed end\ntail: the broad end", ["'tip' has fewer than three words"]),
        ("tip: \u982d\u306e\u5148\ntail: the broad end", []),
        ("tip: an end of it\ntail: An end, of it", ["'tail' says of its place what 'tip' says"]),
        (
            "joint 1: joint 1 of the arm\njoint 2: joint 2 of the arm",
            ["'joint 2' says of its place what 'joint 1' says"],
        ),
        ("joint 1: first joint of the arm\njoint 2: second joint of the arm", []),
        ("upper lip: the upper of the lips\nlower lip: the lower of the lips", []),
        ("joint 1: between base and joint 2\njoint 2: between base and joint 1\nbase: a a a", []),
        ("left eye: the eye on the left\nRight_eye: the rightmost eye of all", []),
        (
            "left eye: the eye near nose\nRight_eye: the rightmost eye of all",
            ["'left eye' does not say left"],
        ),
        # Without another side there is nothing to confuse it with.
        ("left eye: the eye near the nose\nmouth: where it eats", []),
    ],
)
def test_thin_descriptions(desc, content, thin):
    assert list_thin(data.read_descriptions(desc(content))) == thin
