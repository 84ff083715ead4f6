"""Description files: the names and descriptions of keypoints, and MP-100's categories."""

import functools
import json
import unicodedata
from pathlib import Path
from typing import NamedTuple

from support.coco import list_control_characters
from support.files import ROOT
from support.launch import list_first

DESCRIPTIONS = ROOT / "descriptions"


class Keypoint(NamedTuple):
    name: str
    description: str


def read_descriptions(path) -> list[Keypoint]:
    """A description file: UTF-8, one `name: description` a line, `#` starts a comment line."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: a description file holds one 'name: description' line a keypoint"
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object[:error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {number}: not UTF-8 text; save the file as UTF-8"
        ) from None
    keypoints, lines = [], {}
    for number, line in enumerate(text.split("\n"), 1):
        # Tabs and no-break spaces are spaces.
        line = " ".join(line.split())
        if not line or line.startswith("#"):
            continue
        place = f"{path}, line {number}"
        name, colon, description = (part.strip() for part in line.partition(":"))
        if not name or not colon:
            raise ValueError(f"{place}: expected 'name: description', found {line[:60]!r}")
        found = list_control_characters(line)
        if found:
            raise ValueError(f"{place}: control characters ({list_first(found)}); keep plain text")
        first = lines.setdefault(simplify_name(name), number)
        if first != number:
            raise ValueError(f"{place}: {name!r} stands on line {first} already; names must differ")
        keypoints.append(Keypoint(name, description))
    if not keypoints:
        raise ValueError(f"{path} describes no keypoint: write one 'name: description' line each")
    return keypoints


def simplify_name(name):
    """A name as it is compared: without case, underscores, and how accents are stored."""
    return unicodedata.normalize("NFC", " ".join(name.casefold().replace("_", " ").split()))


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
        paths[id] = Path(folder) / f"{definitions.get((id, name), name)}.txt"
    missing = sorted({str(path) for path in paths.values() if not path.is_file()})
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
                f"{paths[id]} describes {len(described[id])} keypoints, "
                f"category {id} ({name}) has {size}"
            )
        if (id, name) not in definitions:
            compare_names(paths[id], described[id], annotated[id])
    return described


def compare_names(path, keypoints, instance):
    """ValueError if a file names other keypoints than the annotations, or in another order.

    Case and underscores do not count. Annotations that name none, or number them, say nothing.
    """
    labels = instance.labels
    if not labels:
        return
    category = f"category {instance.category} ({instance.name})"
    if len(labels) != len(keypoints):
        raise ValueError(
            f"the annotations of {category} name {len(labels)} keypoints and hold "
            f"{len(keypoints)}: correct the category's list of keypoints"
        )
    if all(label.isdigit() for label in labels):
        return
    for number, (label, keypoint) in enumerate(zip(labels, keypoints, strict=True), 1):
        if simplify_name(label) != simplify_name(keypoint.name):
            raise ValueError(
                f"{path}: keypoint {number} is {keypoint.name!r}, the annotations of {category} "
                f"name it {label!r}: bring the lines into the annotations' order, or change one "
                "of the names"
            )
