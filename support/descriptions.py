"""Description files: the names and descriptions of keypoints, and MP-100's categories."""

import functools
import json
import os
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

from support.coco import JOINERS, list_control_characters
from support.files import ROOT, find_spelling, refuse_special
from support.launch import list_first
from support.quote import cut, quote

DESCRIPTIONS = ROOT / "descriptions"
TODO = "TODO"  # marks in a draft what is to be filled in
OPPOSITE = {"left": "right", "right": "left", "l": "r", "r": "l"}
PLACES = "left right upper lower front rear back top bottom inner outer near far".split()


class Keypoint(NamedTuple):
    name: str
    description: str


def read_descriptions(path) -> list[Keypoint]:
    """A description file: UTF-8, one `name: description` a line, `#` starts a comment line."""
    path, shown = Path(path), cut(path)
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"{shown} is missing: a description file holds one 'name: description' line a keypoint"
        )
    refuse_special(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[:error.start].decode()
        number = len(f"{before}?".splitlines())
        raise ValueError(
            f"{shown}, line {number}: not UTF-8 text; save the file as UTF-8"
        ) from None
    keypoints, lines = [], {}
    # A bare carriage return ends a line, too.
    for number, line in enumerate(text.splitlines(), 1):
        # Tabs and no-break spaces are spaces.
        line = " ".join(line.split())
        if not line or line.startswith("#"):
            continue
        place = f"{shown}, line {number}"
        name, colon, description = (part.strip() for part in line.partition(":"))
        if not name.strip(JOINERS) or not colon:
            raise ValueError(f"{place}: expected 'name: description', found {quote(line[:60])}")
        if re.search(rf"\b{TODO}\b", line):
            raise ValueError(
                f"{place}: {TODO} is to be replaced: say what the keypoint is, and where it lies"
            )
        found = list_control_characters(line)
        if found:
            raise ValueError(f"{place}: control characters ({list_first(found)}); keep plain text")
        first = lines.setdefault(simplify_name(name), number)
        if first != number:
            raise ValueError(
                f"{place}: {quote(name)} stands on line {first} already; names must differ"
            )
        keypoints.append(Keypoint(name, description))
    if not keypoints:
        raise ValueError(f"{shown} describes no keypoint: write one 'name: description' line each")
    return keypoints


def simplify_name(name):
    """A name as it is compared: without case, underscores, joiners, how accents are stored."""
    seen = "".join(c for c in name.casefold().replace("_", " ") if c not in JOINERS)
    return unicodedata.normalize("NFC", " ".join(seen.split()))


def split_words(text):
    return re.findall(r"\w+", simplify_name(text))


def list_thin(keypoints):
    """What tells too little to know one keypoint from another: a list of texts."""
    thin, told = [], {}
    names = {simplify_name(keypoint.name) for keypoint in keypoints}
    for keypoint in keypoints:
        shown, words = quote(keypoint.name), split_words(keypoint.description)
        first = told.setdefault(list_new_words(keypoint, names), shown)
        own = split_words(keypoint.name)
        mirrored = " ".join(OPPOSITE.get(word, word) for word in own)
        sides = [word for word in own if word in OPPOSITE and mirrored in names]
        if not words:
            thin.append(f"{shown} has no description")
        # Not all scripts have spaces.
        elif len(words) < 3 and keypoint.description.isascii():
            thin.append(f"{shown} has fewer than three words")
        elif first != shown:
            thin.append(f"{shown} says of its place what {first} says")
        # Leftmost is left, too.
        elif not all(any(word.startswith(side) for word in words) for side in sides):
            thin.append(f"{shown} does not say {sides[0]}")
    return thin


def list_new_words(keypoint, names):
    """The words of a description that its keypoint's name does not tell: of places, and others.

    Another keypoint's name is a word of its own.
    """
    text = " ".join(split_words(keypoint.description))
    for name in sorted(names - {simplify_name(keypoint.name)}, key=len, reverse=True):
        text = re.sub(rf"\b{re.escape(name)}\b", name.replace(" ", "_"), text)
    own = split_words(keypoint.name)
    return tuple(word for word in text.split() if word in PLACES or word not in own)


@functools.cache
def read_mp100():
    """MP-100's facts: {"categories": [...], "splits": {"1": {"train": [ids], ...}, ...}}."""
    return json.loads((DESCRIPTIONS / "mp100.json").read_bytes())


def describe_categories(instances, names, folder=DESCRIPTIONS):
    """{category id: list[Keypoint]}, each from `<definition or category name>.txt`.

    Raises FileNotFoundError or ValueError if a file is missing or does not fit the annotations.
    """
    # Two MP-100 categories share the name `face`: id and name together find the definition.
    definitions = {(c["id"], c["name"]): c["definition"] for c in read_mp100()["categories"]}
    paths = {}
    for id, name in names.items():
        paths[id] = find_spelling(folder, f"{definitions.get((id, name), name)}.txt")
    missing = sorted({cut(path) for path in paths.values() if not os.path.exists(path)})
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise FileNotFoundError(
            f"{list_first(missing)} {verb} missing: a category needs a description file of its "
            "definition's or its own name, with one 'name: description' line a keypoint"
        )
    described = {id: read_descriptions(path) for id, path in paths.items()}
    annotated = {i.category: i for i in instances}
    for id, name in names.items():
        size = len(annotated[id].keypoints)
        if len(described[id]) != size:
            raise ValueError(
                f"{cut(paths[id])} describes {len(described[id])} keypoints, "
                f"category {quote(id)} ({cut(name)}) has {size}"
            )
        if (id, name) not in definitions:
            compare_names(paths[id], described[id], annotated[id])
    return described


def compare_names(path, keypoints, instance):
    """ValueError if a file names other keypoints than the annotations, or in another order.

    Case and underscores do not count. Annotations say nothing of one that they number, or of all,
    if they name none.
    """
    labels = instance.labels
    if not labels:
        return
    category = f"category {quote(instance.category)} ({cut(instance.name)})"
    if len(labels) != len(keypoints):
        raise ValueError(
            f"the annotations of {category} name {len(labels)} keypoints and hold "
            f"{len(keypoints)}: correct the category's list of keypoints"
        )
    for number, (label, keypoint) in enumerate(zip(labels, keypoints, strict=True), 1):
        is_numbered = label.isdecimal() and not keypoint.name.isdecimal()
        if not is_numbered and simplify_name(label) != simplify_name(keypoint.name):
            raise ValueError(
                f"{cut(path)}: keypoint {number} is {quote(keypoint.name)}, the annotations of "
                f"{category} name it {quote(label)}: bring the lines into the annotations' "
                "order, or change one of the names"
            )
