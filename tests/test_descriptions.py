"""descriptions/: one file for each keypoint definition of MP-100, in its order, and the facts in mp100.json."""
import re

import pytest

import data

FACTS = data.mp100()
DEFINITIONS = {c["definition"]: c["keypoints"] for c in FACTS["categories"]}
FILES = {path.stem: path for path in (data.HERE / "descriptions").glob("*.txt")}


def test_every_definition_has_its_file():
    assert FILES.keys() == DEFINITIONS.keys() and len(FILES) == 29
    assert all(c["keypoints"] == DEFINITIONS[c["definition"]] for c in FACTS["categories"])


@pytest.mark.parametrize("name", sorted(FILES))
def test_descriptions(name):
    keypoints = data.read_descriptions(FILES[name])
    assert len(keypoints) == DEFINITIONS[name]
    for what in zip(*keypoints):                                         # names, then descriptions: no two alike
        assert len({" ".join(re.findall(r"\w+", text.lower())) for text in what}) == len(keypoints)
    for keypoint in keypoints:
        words = keypoint.description.split()
        assert 10 <= len(words) <= 40, keypoint
        assert "clockwise" not in keypoint.description.lower(), keypoint # it depends on who looks
        assert keypoint.description.isascii() and keypoint.description[0].isupper() and keypoint.description.endswith("."), keypoint


def mirrored(text):
    swap = {"left": "right", "right": "left"}
    return re.sub(r"\b(left|right)\b", lambda m: swap[m[0]], text)


@pytest.mark.parametrize("name", sorted(FILES))
def test_names_come_in_mirrored_pairs(name):
    """What one side has the other has too; a hand is one side of its own and names none."""
    names = {k.name for k in data.read_descriptions(FILES[name])}
    assert {mirrored(n) for n in names} == names


@pytest.mark.parametrize("name", sorted(FILES))
def test_descriptions_speak_of_their_own_side(name):
    """The description of a left keypoint says left at least as often as right, and the other way round."""
    for keypoint in data.read_descriptions(FILES[name]):
        for side in ("left", "right"):
            if re.search(rf"\b{side}\b", keypoint.name) and mirrored(keypoint.name).count(side) == 0:
                count = {s: len(re.findall(rf"\b{s}\b", keypoint.description)) for s in ("left", "right")}
                assert count[side] >= count[mirrored(side)], keypoint


def test_the_splits():
    """Each split parts the 100 categories 70 / 10 / 20, and each category is tested once."""
    ids = [c["id"] for c in FACTS["categories"]]
    assert len(set(ids)) == 100 and sorted(FACTS["splits"]) == list("12345")
    for parts in FACTS["splits"].values():
        assert {part: len(members) for part, members in parts.items()} == {"train": 70, "val": 10, "test": 20}
        assert sorted(i for members in parts.values() for i in members) == sorted(ids)
    assert sorted(i for parts in FACTS["splits"].values() for i in parts["test"]) == sorted(ids)


def test_skeletons_join_keypoints():
    for c in FACTS["categories"]:                                        # counted from 1, the vehicles' from 0, as published
        first = 0 if c["definition"] == "vehicle" else 1
        assert all(first <= i < c["keypoints"] + first for bone in c["skeleton"] for i in bone), c["name"]


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_vague_and_the_simple_version(name):
    """Tables 5 and 6: the same keypoints in the same order; vague names no neighbour, simple is shorter and keeps the side."""
    detailed, vague, simple = (data.read_descriptions(FILES[name].parent / version / f"{name}.txt") for version in ("", "vague", "simple"))
    assert [k.name for k in vague] == [k.name for k in detailed] and len(simple) == len(detailed)
    words = lambda text: re.findall(r"\w+", text.lower())
    for of, (plain, loose, easy) in enumerate(zip(detailed, vague, simple)):
        assert 3 <= len(words(loose.description)) <= 14 and len(words(easy.description)) <= 20
        assert not any(other.name in loose.description for n, other in enumerate(detailed) if n != of and len(words(other.name)) > 2), loose
        for side in ("left", "right"):
            assert (side in words(plain.name)) == (side in words(easy.name)), easy
    length = lambda version: sum(len(words(k.description)) for k in version)
    assert length(vague) < length(simple) < length(detailed)
