"""What descriptions say of places, read from their words, against the mean shapes of annotations.

`read_claims` finds what a file says; `holds` says whether it is true of the mean shape.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Kind(NamedTuple):
    """What is said: that something lies along an axis (+1 or -1), at its level, or between two.

    For "part" the amount is the eighths of the way from one to the other, None: anywhere on it.
    """

    axis: str
    amount: float | None


class Claim(NamedTuple):
    """index: of the keypoint; said: the words; how: "just", "straight", ...; others: sets."""

    index: int
    said: str
    how: str | None
    kind: Kind
    others: list


# The mean shapes.


def read_shapes(path):
    """{definition: (K, 2)}, relative to the square box, x to the right and y down."""
    places = {}
    for line in path.read_text().splitlines()[2:]:
        name, _, *place = line.split("\t")
        places.setdefault(name, []).append([float(number) for number in place])
    return {name: np.array(rows) for name, rows in places.items()}


SHAPES = read_shapes(Path(__file__).parent / "geometry.tsv")
# The table's: what contradicts a claim must exceed it.
ROUNDING = 0.005
# Just above; straight above; beside; a third of the way
NEAR, ASIDE, LEVEL, PART = 0.2, 0.06, 0.1, 0.12

# Where left, front and top lie in the image. From the front: faces, people, clothes, most vehicles.
FACING = {"left": (1, 0), "up": (0, -1)}
# Furniture, from somewhat above: its front is lower.
STANDING = FACING | {"front": (0, 1)}
# Left and right average out.
EITHER_SIDE = {"up": (0, -1)}
# Insects, head to the image's right
FROM_ABOVE = {"left": (0, -1), "front": (1, 0)}
AXES = dict.fromkeys(SHAPES, FACING)
AXES |= dict.fromkeys(("bed", "chair", "sofa", "swivelchair"), STANDING)
AXES |= dict.fromkeys(("animal_body", "bird", "macaque"), EITHER_SIDE)
AXES |= dict.fromkeys(("fly", "locust"), FROM_ABOVE)
# Who sits at it looks to the image's left.
AXES["table"] = {"left": (0, 1), "front": (1, 0), "up": (0, -1)}


# The words.

# Said of a keypoint and another
PLACES = {
    "above|higher": Kind("up", 1),
    "below|under|lower": Kind("up", -1),
    "to the left of|left of": Kind("left", 1),
    "to the right of|right of": Kind("left", -1),
    "in front of|ahead of|farther forward": Kind("front", 1),
    "behind|farther to the rear|farther back": Kind("front", -1),
    "outward from|out from|farther outward|f[au]rther out": Kind("out", 1),
    "inward from|inside|closer in|nearer the middle": Kind("out", -1),
    "beside|next to|level with|as high as|across from": Kind("level", 0),
    "between": Kind("part", None),
    "halfway between": Kind("part", 4),
    "halfway (?:along it )?from": Kind("part", 4),
}
EIGHTHS = {
    "one eighth": 1,
    "one quarter": 2,
    "one third": 8 / 3,
    "three eighths": 3,
    "five eighths": 5,
    "two thirds": 16 / 3,
    "three quarters": 6,
}
for share, eighths in EIGHTHS.items():
    PLACES[rf"{share} of the way (?:down )?from"] = Kind("part", eighths)
# Said of one of two keypoints whose names differ by the word
PARTS = {
    "left": Kind("left", 1),
    "right": Kind("left", -1),
    "front": Kind("front", 1),
    "rear|back": Kind("front", -1),
    "outer|outside|farther from the nose": Kind("out", 1),
    "inner|inside|(?:nearer|closer to) the nose": Kind("out", -1),
}
DIFFER = {
    "left": r"\b(left|right)\b",
    "front": r"\b(front|rear|back)\b",
    "out": r"\b(outer|inner|outside|inside)\b",
}


class Implied(NamedTuple):
    """A phrase that leaves unsaid between which two keypoints: the first pair that there is."""

    phrase: str
    eighths: float
    ends: tuple


IMPLIED = (
    Implied(
        r"halfway down the side of the \w+ on the wearer's (\w+)",
        4,
        (
            (r"top of the \1 side", r"bottom of the \1 side"),
            (r"\1 end of the waist", r"bottom of the \1 side"),
            (r"\1 end of the waist", r"outer corner of the \1 leg end"),
        ),
    ),
    Implied(
        "halfway along the bottom edge",
        4,
        (("bottom of the right side", "bottom of the left side"),),
    ),
    Implied(
        "halfway along the top edge",
        4,
        (("right end of the waist", "left end of the waist"),),
    ),
    Implied(
        r"^([\w ]+), .*halfway between its (?:two|outer and inner) ends",
        4,
        ((r"\1, outer end", r"\1, inner end"),),
    ),
    Implied(
        "one third of the way down the ridge",
        8 / 3,
        (("top of the nose", "front of the nose"),),
    ),
    Implied(
        "two thirds of the way down the ridge",
        16 / 3,
        (("top of the nose", "front of the nose"),),
    ),
)
FEATURES = {
    "nostrils": "nostril centre",
    "upper lip": "lip top centre",
    "lower lip": "lip bottom centre",
}
ENDS = {"highest": Kind("up", 1), "lowest": Kind("up", -1), "rearmost": Kind("front", -1)}
MOST = r"\b(lowest|highest|rearmost)(?: point| part)? (?:of|on) (?:the|its) ([\w ]+)"


def any_of(phrases):
    return "|".join(sorted(map(re.escape, phrases), key=len, reverse=True))


def find_meant(names):
    """{what a description may call them: positions of the keypoints}"""
    groups = {re.split(r"\bof (?:the )?", name)[-1] for name in names}
    # Of `right armrest` and `left armrest`, `armrests`
    groups |= {name.split()[-1] + "s" for name in names}
    meant = {}
    for group in groups:
        ending = group.removesuffix("s")
        meant[group] = {i for i, name in enumerate(names) if name.endswith(ending)}
    for feature, name in FEATURES.items():
        if name in names:
            meant[feature] = {names.index(name)}
    return meant | {name: {i} for i, name in enumerate(names)}


def write_pattern(meant):
    """A pattern of a degree, one or two ways to lie, and one or two keypoints."""
    way = f"(?:{'|'.join(sorted(PLACES, key=len, reverse=True))})"
    target = rf"(?:the |both |two |wearer's )*({any_of(meant)})\b"
    degree = r"\b(?:(just|slightly|directly|straight) )?"
    more = rf"(?:,? (?:and|to) {target})?"
    return re.compile(rf"{degree}({way}(?: and {way})*)(?: than)? {target}{more}")


def name_parts(name, text, names):
    """The text with `its first bend` as the first bend of the same leg."""
    _, of, whole = name.partition(" of ")
    for other in names:
        if of and other.endswith(of + whole):
            text = re.sub(rf"\bits {other.removesuffix(of + whole)}\b", other, text)
    return text


def claim_implied(i, text, meant):
    for phrase, eighths, ends in IMPLIED:
        found = re.search(phrase, text)
        if found:
            pairs = []
            for pair in ends:
                pairs.append([meant.get(found.expand(end)) for end in pair])
            others = next(pair for pair in pairs if all(pair))
            yield Claim(i, found[0], None, Kind("part", eighths), others)


def claim_places(i, text, meant, place):
    for found in place.finditer(text):
        how, ways, *targets = found.groups()
        others = [meant[target] - {i} for target in targets if target]
        for words, kind in PLACES.items():
            if all(others) and re.search(rf"\b(?<!halfway )({words})\b", ways):
                yield Claim(i, found[0], how, kind, others)


def claim_parts(i, rest, names):
    """rest: of the text, without what was said of places."""
    for words, kind in PARTS.items():
        alike = [re.sub(DIFFER[kind.axis], "", name) for name in names]
        twins = {j for j, name in enumerate(alike) if j != i and name == alike[i]}
        found = re.search(rf"\b({words})\b", rest)
        if twins and found:
            yield Claim(i, found[0], None, kind, [twins])


def claim_ends(i, text, names):
    for found in re.finditer(MOST, text):
        end, whole = found.groups()
        parts = {j for j, name in enumerate(names) if {*whole.split()} <= {*name.split()}}
        others = parts - {i} or {*range(len(names))}
        yield Claim(i, found[0], "most", ENDS[end], [others])


def read_claims(keypoints):
    """All that descriptions say of places, relative to sets of other keypoints."""
    names = [k.name for k in keypoints]
    meant = find_meant(names)
    place = write_pattern(meant)
    spent = re.compile(rf"{place.pattern}|{any_of(names)}|than its \w+")
    for i, (name, text) in enumerate(keypoints):
        text = text[:1].lower() + text[1:]
        yield from claim_implied(i, f"{name}: {text}", meant)
        text = name_parts(name, text, names)
        yield from claim_places(i, text, meant, place)
        yield from claim_parts(i, spent.sub("", text), names)
        yield from claim_ends(i, text, names)


# The truth.


def holds_part(here, there, amount, axes):
    """Whether a point lies so far on the way from one to the other, and not far beside it."""
    if len(there) < 2 or len(axes) < 2:
        return None
    along = there[1] - there[0]
    at = (here - there[0]) @ along / (along @ along)
    beside = np.linalg.norm(here - there[0] - at * along) / np.linalg.norm(along)
    if amount is None:
        return bool(beside <= 0.5 and 0 < at < 1)
    return bool(beside <= 0.5 and abs(at - amount / 8) <= PART)


def holds(claim, definition, keypoints):
    """Whether a claim agrees with the mean shape of its definition; None: it cannot tell."""
    shape = SHAPES[definition]
    axes = {axis: np.array(direction) for axis, direction in AXES[definition].items()}
    here = shape[claim.index]
    there = [shape[sorted(others)].mean(0) for others in claim.others]
    axis, amount = claim.kind
    if axis == "part":
        return holds_part(here, there, amount, axes)
    if axis == "level":
        up = axes["up" if "up" in axes else "front"]
        return all(abs((here - t) @ up) <= LEVEL for t in there)
    if axis == "out":
        # To the side that its name says
        name = keypoints[claim.index].name
        axis, amount = "left", amount * (("left" in name) - ("right" in name))
    if axis not in axes or not amount:
        return None
    if claim.how == "most":
        gaps = amount * (here - shape[sorted(claim.others[0])]) @ axes[axis]
        return bool(gaps.min() > -2 * ROUNDING)
    gaps = np.array([amount * (here - t) @ axes[axis] for t in there])
    aside = max(abs((here - t) @ axes[axis][::-1]) for t in there)
    near = claim.how not in ("just", "slightly") or gaps.max() <= NEAR
    straight = claim.how not in ("directly", "straight") or aside <= ASIDE
    return bool(gaps.min() > -ROUNDING and near and straight)
