"""A conversation as the model reads it, for each instruction.

    python -m study.show horse_body --instruction steps
    python -m study.show desc.txt                # a description file

What carries loss stands in «», its tokens apart.
"""

import argparse
import itertools
import random
from pathlib import Path

from capellm import Codec
from data import IGNORE, write_conversation
from study.instructions import INSTRUCTIONS
from support import launch
from support.descriptions import DESCRIPTIONS, read_descriptions, read_mp100
from support.files import ROOT
from support.options import Parser
from support.tokenizer import Tokenizer

EXAMPLE_POINTS = ((0.123, 0.456), (0.323, 0.456))
# With this seed `random` replaces the description of one of two keypoints.
SEED = 1


def show_conversation(tokenizer, keypoints, instruction, category):
    """The text of a conversation about the first two keypoints."""
    rounds = list(zip(keypoints, EXAMPLE_POINTS, strict=False))
    codec, rng, visible = Codec(tokenizer), random.Random(SEED), keypoints[:2]
    ids, labels, _ = write_conversation(
        tokenizer, codec, rounds, instruction, category, keypoints, visible, rng
    )
    text, answers = "", 0
    for counts, run in itertools.groupby(
        zip(ids, labels, strict=True), lambda token: token[1] != IGNORE
    ):
        tokens = [id for id, _ in run]
        if not counts:
            text += tokenizer.decode(tokens)
            continue
        answers += len(tokens)
        words = [
            "<end of text>" if id == tokenizer.eos_id else tokenizer.decode([id]) for id in tokens
        ]
        text += f" «{'|'.join(words)}»\n"
    return (
        f"<start> <image> {text}\n"
        f"{len(ids)} tokens after the image, {answers} of them count for the loss"
    )


def find_descriptions(asked, folder):
    """The category's name and the description file of an MP-100 category, or of a file."""
    named = [c for c in read_mp100()["categories"] if asked in (c["name"], str(c["id"]))]
    if len(named) > 1:
        found = " and ".join(f"{c['id']} ({c['definition']})" for c in named)
        raise ValueError(f"{asked}: {found} have this name; give an id")
    if named:
        category, definition = named[0]["name"], named[0]["definition"]
    else:
        category, definition = Path(asked).stem, asked
    for path in (Path(asked), Path(folder) / f"{definition}.txt"):
        if path.is_file():
            return category, path
    raise ValueError(f"{asked}: no category of MP-100, nor a file in {folder}")


def main():
    parser = Parser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("category", help="an MP-100 category (name or id) or a description file")
    parser.add_argument("--instruction", default="base", choices=INSTRUCTIONS)
    parser.add_argument(
        "--descriptions", default=str(DESCRIPTIONS), metavar="FOLDER",
        help="folder of <definition or category>.txt",
    )
    parser.add_argument(
        "--llm", default=str(ROOT / "nano" / "llm"), metavar="FOLDER", help="whose tokenizer"
    )
    a = parser.parse_args()
    category, path = find_descriptions(a.category, a.descriptions)
    tokenizer = Tokenizer.from_pretrained(a.llm)
    print(show_conversation(tokenizer, read_descriptions(path), a.instruction, category))


if __name__ == "__main__":
    launch.run("study.show", main)
