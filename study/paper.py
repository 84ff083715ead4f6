"""The paper's own numbers, from paper.json beside this file.

    find_published(split=3)["PCK@0.20"]  # 0.9057, Table 2
    find_published(decoding="top-3")["mPCK"]  # 0.92, Table 9
"""

import json
from pathlib import Path
from typing import NamedTuple

from study.pairs import PAIRS, QUERY_IMAGES
from support import descriptions

FILE = Path(__file__).with_suffix(".json")


class Way(NamedTuple):
    """How an evaluation was made.

    trained, asked: the instructions of training and evaluation; decoding, cumulative, image_size
    (None: the model's own), descriptions, names: as for eval.py.
    """

    trained: str
    asked: str
    decoding: str = "greedy"
    cumulative: str | None = None
    image_size: int | None = None
    descriptions: str = str(descriptions.DESCRIPTIONS)
    names: str | None = None


def find_published(**how):
    """{column: CapeLLM's score on MP-100's photographs, a fraction} of all rows measured this way.

    how: entries of "default" in paper.json that have another value. protocol: a name of
    study.pairs; split: 1 to 5; trained, asked: the instructions of training and evaluation;
    texts: "detailed", "vague", or what of Table 6 is simple, "simple" being both; decoding,
    cumulative, image_size: as for eval.py; rounds, k, tune: as for train.py; first: the instruction
    of a pre-training. Empty if the paper did not measure this way.
    """
    paper = json.loads(FILE.read_bytes())
    unknown = how.keys() - paper["default"].keys()
    if unknown:
        raise ValueError(f"{FILE.name} knows nothing of {', '.join(sorted(unknown))}")
    wanted = paper["default"] | how
    found = {}
    for row in paper["rows"]:
        measured = {name: row.get(name, default) for name, default in paper["default"].items()}
        if measured == wanted:
            found |= {column: round(value / 100, 4) for column, value in row["scores"].items()}
    return found


def find_counterpart(way, images, split, part):
    """The paper's numbers beside an evaluation; none if it measured other images than the paper.

    way: a Way; images: the study.images.Images of this split's part that were chosen from.
    """
    published = find_published(
        protocol=PAIRS if images.supports else QUERY_IMAGES,
        split=split,
        trained=way.trained,
        asked=way.asked,
        texts=name_texts(way.descriptions, way.names),
        decoding=way.decoding,
        cumulative=way.cumulative,
        image_size=way.image_size or 224,
    )
    return published if is_of_paper(images.names, split, part) else {}


def name_texts(folder, names=None):
    """Which of Table 6's texts a folder of description files holds; None if others.

    names: the folder that keypoints are named after, if it is another.
    """
    home = descriptions.DESCRIPTIONS.resolve()
    simple = home / "simple"
    known = {
        (home, home): "detailed",
        (home, simple): "simple names",
        (simple, home): "simple descriptions",
        (simple, simple): "simple",
    }
    return known.get((Path(folder).resolve(), Path(names or folder).resolve()))


def is_of_paper(names, split, part):
    """Whether these categories {id: name} are those that the paper tests on this split."""
    facts = descriptions.read_mp100()
    tested = facts["splits"][str(split)]["test"]
    return part == "test" and names == {
        c["id"]: c["name"] for c in facts["categories"] if c["id"] in tested
    }
