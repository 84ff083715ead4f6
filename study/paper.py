"""The paper's own numbers, from paper.json beside this file.

    find_published(split=3)["PCK@0.20"]  # 0.9057, Table 2
    find_published(decoding="top-3", image_size=224)  # Table 9
"""

import json
from pathlib import Path

import data

FILE = Path(__file__).with_suffix(".json")


def find_published(**how):
    """{column: CapeLLM's score on MP-100's photographs, a fraction} of all rows measured this way.

    how: entries of "default" in paper.json that have another value. protocol: a name of
    study.pairs; split: 1 to 5; trained, asked: the instructions of training and evaluation;
    texts: "detailed", or what of Table 6 is simple, "simple" being both; decoding, cumulative,
    image_size: as for eval.py. Empty if the paper did not measure this way.
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


def name_texts(descriptions, names=None):
    """Which of Table 6's texts two folders of description files hold; None if they are others.

    names: the folder that keypoints are named after, if it is another.
    """
    home = (data.HERE / "descriptions").resolve()
    simple = home / "simple"
    known = {
        (home, home): "detailed",
        (home, simple): "simple names",
        (simple, home): "simple descriptions",
        (simple, simple): "simple",
    }
    return known.get((Path(descriptions).resolve(), Path(names or descriptions).resolve()))


def is_of_paper(names, split, part):
    """Whether these categories {id: name} are those that the paper tests on this split."""
    facts = data.read_mp100()
    tested = facts["splits"][str(split)]["test"]
    return part == "test" and names == {
        c["id"]: c["name"] for c in facts["categories"] if c["id"] in tested
    }
