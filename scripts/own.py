"""How many photographs of one's own object to annotate: docs/own-photographs.md.

    python -m scripts.own FOLDER...     # `make own PHOTOS="FOLDER..."`: sets of photographs

A set is a data folder with annotations/train.json, test.json and a description file beside them. Of
its training photographs so many are drawn at random, of these every fifth to validate. nano is
trained on them as docs/own-photographs.md says and asked about all of test.json, with controls.
What is done is left alone: out/own/results.json holds a row for each training.
"""

import json
import random
import shutil
import time
from pathlib import Path

from data import read_descriptions
from scripts import recipe
from support import few, launch
from support.checkpoints import read_log
from support.files import write_whole
from support.json_files import format_json
from support.options import Parser
from support.train_options import choose_best

OUT = Path("out/own")
DRAWS = 3
PHOTOGRAPHS = (40, 10, None)  # None: all
VALIDATED = 5  # every fifth
TUNED = {"everything": [], "adapters": ["--tune", "lora"]}
COLUMNS = ("PCK@0.05", "PCK@0.10", "PCK@0.20")


def draw_photographs(source, count, draw, folder):
    """Write a data folder of so many photographs of a set's train.json, and all of its test.json.

    Returns how many photographs there are.
    """
    coco = json.loads((source / "annotations/train.json").read_bytes())
    images = sorted(coco["images"], key=lambda image: image["id"])
    random.Random(f"{source.name} {draw}").shuffle(images)
    images = images[:count]
    parts = {"train": [], "val": []}
    for n, image in enumerate(images):
        parts["train" if (n + 1) % VALIDATED else "val"].append(image)
    (folder / "annotations").mkdir(parents=True)
    for part, chosen in parts.items():
        ids = {image["id"] for image in chosen}
        annotations = [a for a in coco["annotations"] if a["image_id"] in ids]
        text = format_json(coco | {"images": chosen, "annotations": annotations})
        (folder / "annotations" / f"{part}.json").write_text(text)
    shutil.copy(source / "annotations/test.json", folder / "annotations")
    for description in source.glob("*.txt"):
        shutil.copy(description, folder)
    (folder / "images").symlink_to((source / "images").absolute())
    return len(images)


def find_best(run):
    """The checkpoint of a run that train.py names at its end. ValueError if it names none."""
    best = None
    for record in read_log(run):
        if "val" in record:
            best = choose_best(best, record["val"], record["step"])
    if not best:
        raise ValueError(f"{run}: nothing was validated, a set has fewer than {few.FEW} objects")
    return recipe.checkpoint(run, best[1])


def measure(source, count, draw, tuned):
    """A row of the table: train on photographs of a set, ask about its test part."""
    name = "-".join([source.name, str(count or "all"), str(draw), tuned])
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    descriptions = list(source.glob("*.txt"))
    if len(descriptions) != 1:
        raise ValueError(f"{source}: {len(descriptions)} description files, a set has one category")
    photographs = draw_photographs(source, count, draw, folder / "data")
    given = ["--data", folder / "data", "--descriptions", folder / "data"]
    began = time.time()
    recipe.run("train.py", "--init", "nano", *given, *TUNED[tuned], "--out", folder / "run")
    minutes = (time.time() - began) / 60
    best = find_best(folder / "run")
    recipe.run("eval.py", "--model", best, *given, "--controls", "--out", folder / "test")
    found = json.loads((folder / "test/results.json").read_bytes())
    row = {"set": source.name, "keypoints": len(read_descriptions(descriptions[0]))}
    row |= {"photographs": photographs, "of": count or "all", "draw": draw}
    row |= {"tuned": tuned, "minutes": round(minutes, 2), "test": found["instances"]}
    row |= {name: round(100 * found[name], 1) for name in COLUMNS}
    mean = found["controls"]["mean"]
    row |= {f"mean place {name}": round(100 * mean[name], 1) for name in COLUMNS}
    # Weights of seventy models are not needed any more.
    shutil.rmtree(folder / "run")
    return row


def plan(sources):
    """What is measured: (set, photographs, draw, tuned), what tells most first."""
    for count in PHOTOGRAPHS:
        for source in sources:
            yield source, count, 0, "everything"
    for source in sources:
        yield source, 40, 0, "adapters"
    # All photographs are drawn in one way.
    for count in PHOTOGRAPHS:
        for draw in range(1, DRAWS if count else 1):
            for source in sources:
                yield source, count, draw, "everything"


def main():
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("sets", nargs="+", type=Path, metavar="FOLDER", help="a data folder each")
    sources = parser.parse_args().sets
    results = OUT / "results.json"
    rows = json.loads(results.read_bytes()) if results.is_file() else []
    done = {(row["set"], row["of"], row["draw"], row["tuned"]) for row in rows}
    for source, count, draw, tuned in plan(sources):
        if (source.name, count or "all", draw, tuned) in done:
            continue
        rows.append(measure(source, count, draw, tuned))
        with write_whole(results) as partial:
            partial.write_text(format_json(rows, indent=1) + "\n")
        print(rows[-1], flush=True)


if __name__ == "__main__":
    launch.run("scripts.own", main)
