"""descriptions/: one file for each keypoint definition of MP-100, in its order, and the facts in mp100.json."""
import functools
import itertools
import re

import numpy as np
import pytest

import data

FACTS = data.read_mp100()
DEFINITIONS = {c["definition"]: c["keypoints"] for c in FACTS["categories"]}
FILES = {path.stem: path for path in (data.HERE / "descriptions").glob("*.txt")}


def read(name, version=""):
    return data.read_descriptions(FILES[name].parent / version / f"{name}.txt")


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
        assert keypoint.description.isascii() and keypoint.description[0].isupper(), keypoint
        assert keypoint.description.endswith("."), keypoint


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
    """Tables 5 and 6: the same keypoints in the same order; vague holds no relation, simple is shorter and keeps the side."""
    detailed, vague, simple = (read(name, version) for version in ("", "vague", "simple"))
    assert [k.name for k in vague] == [k.name for k in detailed] and len(simple) == len(detailed)
    words = lambda text: re.findall(r"\w+", text.lower())
    for of, (plain, loose, easy) in enumerate(zip(detailed, vague, simple)):
        assert 3 <= len(words(loose.description)) <= 14 and len(words(easy.description)) <= 20
        others = [other.name for n, other in enumerate(detailed) if n != of and len(words(other.name)) > 2]
        assert not any(other in loose.description for other in others), loose
        assert not re.search(r"\b(above|below|under|between|beside|behind|in front of|next to)\b", loose.description), loose
        for side in ("left", "right"):
            assert (side in words(plain.name)) == (side in words(easy.name)), easy
    length = lambda version: sum(len(words(k.description)) for k in version)
    assert length(vague) < length(simple) < length(detailed)


# What the descriptions say of places, against the mean shapes of the annotations.

TABLE = [line.split("\t") for line in (data.HERE / "tests" / "geometry.tsv").read_text().splitlines()[2:]]
SHAPES = {name: np.array([row[2:] for row in TABLE if row[0] == name], float) for name in dict(row[:2] for row in TABLE)}
ROUNDING = 0.005                                                         # the table's: what contradicts a claim must exceed it
NEAR, ASIDE, LEVEL, PART = 0.2, 0.06, 0.1, 0.12                          # just above; straight above; beside; a third of the way

# Where left, front and top lie in the image.
FACING = {"left": (1, 0), "up": (0, -1)}                                 # from the front: faces, people, clothes, most vehicles
STANDING = FACING | {"front": (0, 1)}                                    # furniture, from somewhat above: its front is lower
EITHER_SIDE = {"up": (0, -1)}                                            # left and right average out
FROM_ABOVE = {"left": (0, -1), "front": (1, 0)}                          # insects, head to the image's right
AXES = dict.fromkeys(SHAPES, FACING) | dict.fromkeys(("bed", "chair", "sofa", "swivelchair"), STANDING)
AXES |= dict.fromkeys(("animal_body", "bird", "macaque"), EITHER_SIDE) | dict.fromkeys(("fly", "locust"), FROM_ABOVE)
AXES["table"] = {"left": (0, 1), "front": (1, 0), "up": (0, -1)}         # who sits at it looks to the image's left

PLACES = {                                                               # said of a keypoint and another: kind, amount
    "above|higher": ("up", 1), "below|under|lower": ("up", -1),
    "to the left of|left of": ("left", 1), "to the right of|right of": ("left", -1),
    "in front of|ahead of|farther forward": ("front", 1), "behind|farther to the rear|farther back": ("front", -1),
    "outward from|out from|farther outward|f[au]rther out": ("out", 1),
    "inward from|inside|closer in|nearer the middle": ("out", -1),
    "beside|next to|level with|as high as|across from": ("level", 0), "between": ("part", None),
    "halfway between": ("part", 4), "halfway (?:along it )?from": ("part", 4)}
EIGHTHS = {"one eighth": 1, "one quarter": 2, "one third": 8 / 3, "three eighths": 3, "five eighths": 5, "two thirds": 16 / 3,
           "three quarters": 6}
PLACES |= {rf"{share} of the way (?:down )?from": ("part", eighths) for share, eighths in EIGHTHS.items()}
PARTS = {                                                                # said of one of two that differ by the word
    "left": ("left", 1), "right": ("left", -1), "front": ("front", 1), "rear|back": ("front", -1),
    "outer|outside|farther from the nose": ("out", 1), "inner|inside|(?:nearer|closer to) the nose": ("out", -1)}
DIFFER = {"left": r"\b(left|right)\b", "front": r"\b(front|rear|back)\b", "out": r"\b(outer|inner|outside|inside)\b"}
IMPLIED = [                                                              # eighths of the way between what a phrase leaves unsaid
    (r"halfway down the side of the \w+ on the wearer's (\w+)", 4, (r"top of the \1 side", r"bottom of the \1 side"),
     (r"\1 end of the waist", r"bottom of the \1 side"), (r"\1 end of the waist", r"outer corner of the \1 leg end")),
    ("halfway along the bottom edge", 4, ("bottom of the right side", "bottom of the left side")),
    ("halfway along the top edge", 4, ("right end of the waist", "left end of the waist")),
    (r"^([\w ]+), .*halfway between its (?:two|outer and inner) ends", 4, (r"\1, outer end", r"\1, inner end")),
    ("one third of the way down the ridge", 8 / 3, ("top of the nose", "front of the nose")),
    ("two thirds of the way down the ridge", 16 / 3, ("top of the nose", "front of the nose"))]
FEATURES = {"nostrils": "nostril centre", "upper lip": "lip top centre", "lower lip": "lip bottom centre"}
ENDS = {"highest": ("up", 1), "lowest": ("up", -1), "rearmost": ("front", -1)}


def any_of(phrases):
    return "|".join(sorted(map(re.escape, phrases), key=len, reverse=True))


def claims(keypoints):
    """Yields (index, what is said, how, (kind, amount), others) for all that is said of places, relative to sets of others."""
    names = [k.name for k in keypoints]
    groups = {re.split(r"\bof (?:the )?", n)[-1] for n in names} | {n.split()[-1] + "s" for n in names}   # right armrest, wheels
    meant = {g: {i for i, n in enumerate(names) if n.endswith(g.removesuffix("s"))} for g in groups}
    meant |= {feature: {names.index(n)} for feature, n in FEATURES.items() if n in names}
    meant |= {n: {i} for i, n in enumerate(names)}
    way = f"(?:{'|'.join(sorted(PLACES, key=len, reverse=True))})"
    target = rf"(?:the |both |two |wearer's )*({any_of(meant)})\b"
    degree = r"\b(?:(just|slightly|directly|straight) )?"
    place = re.compile(rf"{degree}({way}(?: and {way})*)(?: than)? {target}(?:,? (?:and|to) {target})?")
    spent = re.compile(rf"{place.pattern}|{any_of(names)}|than its \w+")
    alike = {axis: [re.sub(words, "", n) for n in names] for axis, words in DIFFER.items()}
    for i, (name, text) in enumerate(keypoints):
        text = text[:1].lower() + text[1:]
        for phrase, eighths, *ends in IMPLIED:
            if found := re.search(phrase, f"{name}: {text}"):
                pairs = ([meant.get(found.expand(end)) for end in pair] for pair in ends)
                yield i, found[0], None, ("part", eighths), next(pair for pair in pairs if all(pair))
        _, of, whole = name.partition(" of ")
        for n in names:
            if of and n.endswith(of + whole):                            # its first bend: that of the same leg
                text = re.sub(rf"\bits {n.removesuffix(of + whole)}\b", n, text)
        for found in place.finditer(text):
            how, ways, *targets = found.groups()
            others = [meant[t] - {i} for t in targets if t]
            for words, kind in PLACES.items():
                if all(others) and re.search(rf"\b(?<!halfway )({words})\b", ways):
                    yield i, found[0], how, kind, others
        rest = spent.sub("", text)
        for words, kind in PARTS.items():
            twins = {j for j, n in enumerate(alike[kind[0]]) if j != i and n == alike[kind[0]][i]}
            if twins and (found := re.search(rf"\b({words})\b", rest)):
                yield i, found[0], None, kind, [twins]
        for found in re.finditer(r"\b(lowest|highest|rearmost)(?: point| part)? (?:of|on) (?:the|its) ([\w ]+)", text):
            of = {j for j, n in enumerate(names) if {*found[2].split()} <= {*n.split()}} - {i}
            yield i, found[0], "most", ENDS[found[1]], [of or {*range(len(names))}]


def holds(claim, name, keypoints):
    """Whether a claim agrees with the mean shape of its definition; None where the shape cannot tell."""
    i, _, how, (kind, amount), others = claim
    shape, axes = SHAPES[name], {k: np.array(v) for k, v in AXES[name].items()}
    here, there = shape[i], [shape[sorted(of)].mean(0) for of in others]
    if kind == "part":                                                   # of the way from one to the other
        if len(there) < 2 or len(axes) < 2:
            return None
        along = there[1] - there[0]
        at = (here - there[0]) @ along / (along @ along)
        beside = np.linalg.norm(here - there[0] - at * along) / np.linalg.norm(along)
        return bool(beside <= 0.5 and (0 < at < 1 if amount is None else abs(at - amount / 8) <= PART))
    if kind == "level":
        return all(abs((here - t) @ axes["up" if "up" in axes else "front"]) <= LEVEL for t in there)
    if kind == "out":                                                    # to the side that its name says
        kind, amount = "left", amount * (("left" in keypoints[i].name) - ("right" in keypoints[i].name))
    if kind not in axes or not amount:
        return None
    if how == "most":
        return all(amount * (here - shape[j]) @ axes[kind] > -2 * ROUNDING for j in others[0])
    gaps = np.array([amount * (here - t) @ axes[kind] for t in there])
    aside = [abs((here - t) @ axes[kind][::-1]) for t in there]
    near = how not in ("just", "slightly") or gaps.max() <= NEAR
    straight = how not in ("directly", "straight") or max(aside) <= ASIDE
    return bool(gaps.min() > -ROUNDING and near and straight)


@functools.cache
def judged(name, version):
    """[(keypoint, what is said, kind, whether it holds)]"""
    keypoints = read(name, version)
    return [(keypoints[c[0]].name, c[1], c[3][0], holds(c, name, keypoints)) for c in claims(keypoints)]


@pytest.mark.parametrize("name", sorted(SHAPES))
@pytest.mark.parametrize("version", ["", "simple"])
def test_descriptions_agree_with_the_annotations(name, version):
    told = judged(name, version)
    assert [(keypoint, said) for keypoint, said, _, true in told if true is False] == []
    assert "up" in AXES[name] or all(kind != "up" for _, _, kind, _ in told)     # seen from above, nothing is higher
    assert version or sum(true is True for *_, true in told) >= DEFINITIONS[name] == len(SHAPES[name])


def test_claims_are_recognised():
    for version, least in ("", 1200), ("simple", 800):
        assert sum(true is not None for name in SHAPES for *_, true in judged(name, version)) > least


@pytest.mark.parametrize("name", sorted(SHAPES))
@pytest.mark.parametrize("version", ["", "simple"])
def test_what_is_said_of_parts_and_levels_is_read(name, version):
    told = {(keypoint, kind) for keypoint, _, kind, true in judged(name, version) if true is not None or "left" not in AXES[name]}
    for keypoint, text in read(name, version):
        assert not re.search("[Hh]alfway|of the way", text) or (keypoint, "part") in told, text
        assert "level with" not in text or (keypoint, "level") in told, text


def test_half_of_a_dress_is_not_where_its_side_has_its_middle():
    """Five keypoints on a side, closer together towards the top: the third lies a third of the way down, not halfway."""
    for name, garment in ("long_sleeved_dress", "dress"), ("short_sleeved_dress", "dress"), ("skirt", "skirt"), ("shorts", "shorts"):
        keypoints = [k._replace(description=f"It is about halfway down the side of the {garment} on the wearer's {k.name.split()[3]}.")
                     if re.fullmatch("middle of the (left|right) side", k.name) else k for k in read(name, "simple")]
        told = [holds(c, name, keypoints) for c in claims(keypoints) if "down the side" in c[1]]
        assert told == [garment != "dress"] * 2, name


def falsified(keypoints, one, other):
    """The descriptions with two words exchanged; the names in them stay."""
    swap, words = {one: other, other: one}, re.compile(rf"{any_of(k.name for k in keypoints)}|\b({one}|{other})\b")
    return [k._replace(description=words.sub(lambda m: swap.get(m[1], m[0]), k.description)) for k in keypoints]


@pytest.mark.parametrize("one, other, axis, share", [
    ("above", "below", "up", 0.9), ("in front of", "behind", "front", 1), ("left", "right", "left", 0.98),
    ("outward from", "inward from", "left", 1), ("farther from the nose", "nearer the nose", "left", 1),
    ("outer", "inner", "left", 0.75),                                    # the outer end of a shoulder has no inner one
    ("one quarter", "three quarters", "left", 1), ("one third", "two thirds", "left", 1)])
def test_descriptions_made_false_are_caught(one, other, axis, share):
    changed, caught = set(), set()
    for name, version in itertools.product(SHAPES, ["", "simple"]):
        keypoints = read(name, version)
        false = falsified(keypoints, one, other)
        if axis in AXES[name] and false != keypoints:
            changed |= {(name, version, i) for i, k in enumerate(keypoints) if k != false[i]}
            caught |= {(name, version, claim[0]) for claim in claims(false) if holds(claim, name, false) is False}
    assert len(changed) > 10 and len(changed & caught) >= share * len(changed), sorted(changed - caught)


def test_errors_of_the_published_tables_would_be_caught():
    """Theirs exchange keypoints 1 and 3 of short_sleeved_outwear, and name the sides of human_face_19 as the viewer sees them."""
    first, second, third, fourth, *more = read("short_sleeved_outwear")
    theirs = {"short_sleeved_outwear": [first, fourth, third, second, *more],
              "human_face_19": [data.Keypoint(*map(mirrored, keypoint)) for keypoint in read("human_face_19")]}
    wrong = {name: {c[0] for c in claims(of) if holds(c, name, of) is False} for name, of in theirs.items()}
    assert wrong["short_sleeved_outwear"] >= {1, 3}
    assert len(wrong["human_face_19"]) >= 15
