"""How often circles around answers hold the truth, and how large they must be: support/radius.py.

    python -m study.coverage --model runs/mine/step-... --data FOLDER   # says how often
    ... --descriptions FOLDER       # of one's own categories
    ... --calibrate                 # lets it be nine times out of ten

Calibrate on images that the model was not trained on: on those, circles are too small.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import data
from capellm import CapeLLM
from study.images import choose_images
from support.descriptions import DESCRIPTIONS
from support.files import ROOT, write_whole
from support.json_files import format_json, read_json
from support.launch import run
from support.options import DefaultsHelp, Parser, read_positive
from support.radius import LEVEL, find_radius_scale
from support.shapes import OBJECT


class Coverage(NamedTuple):
    """What circles around greedy answers hold of n truths."""

    radii: np.ndarray  # (n,) relative to the crop's side
    distances: np.ndarray  # (n,) of answers from truths, relative to it too

    def count_held(self, factor=1.0):
        """The share of truths within circles that are so many times larger."""
        return float((self.distances <= factor * self.radii).mean())


def measure_coverage(model, images) -> Coverage:
    """Ask for all labelled keypoints of the chosen ones of study.images.Images."""
    radii, distances = [], []
    for n in tqdm(images.chosen, unit="image", leave=False):
        instance = images.instances[n]
        pixels, points = data.load_crop(instance, model.config.image_size)
        labelled = np.flatnonzero(points[:, 2] > 0)
        keypoints = images.described[instance.category]
        asked = [keypoints[i] for i in labelled]
        answers = model.answer(pixels.to(model.device), asked, listed=keypoints)
        off = np.array(answers.coordinates) - points[labelled, :2]
        radii += answers.radii
        distances += np.hypot(*off.T).tolist()
    return Coverage(np.array(radii), np.array(distances))


def write_scale(folder, scale):
    """Write radius_scale into the config.json of a model folder; all else there stays."""
    path = Path(folder) / "config.json"
    config = read_json(path, OBJECT, "get it again") | {"radius_scale": scale}
    with write_whole(path) as partial:
        partial.write_text(format_json(config, indent=1) + "\n")


def read_options():
    parser = Parser(description=__doc__.split("\n")[0], formatter_class=DefaultsHelp)
    add = parser.add_argument
    add("--model", type=Path, default=ROOT / "nano", metavar="FOLDER", help="a model folder")
    add("--data", nargs="+", required=True, metavar="FOLDER", help="data folders, as of eval.py")
    add("--split", type=int, default=1, help="MP-100 split")
    add("--part", default="val", choices=["train", "val", "test"], help="of each folder")
    add("--descriptions", default=str(DESCRIPTIONS), metavar="FOLDER", help="as of eval.py")
    add("--limit", type=read_positive, default=100, help="images of each, spread evenly")
    add("--calibrate", action="store_true", help="write radius_scale into the model's config.json")
    return parser.parse_args()


def main():
    options = read_options()
    model = CapeLLM.from_pretrained(options.model)
    if model.config.output == "token":
        raise ValueError(f"{options.model} answers with <KEYPOINT>: without digits, no radius")
    coverages = []
    for folder in options.data:
        where = folder, options.split, options.part, options.descriptions
        images = choose_images(*where, limit=options.limit)
        found = measure_coverage(model, images)
        coverages.append(found)
        print(
            f"{folder}: {len(images.chosen)} images, {len(found.radii)} keypoints; circles hold "
            f"{found.count_held():.1%}, half of them within {np.median(found.radii):.1%} of the box"
        )
    before = model.config.radius_scale or 1
    scale = find_radius_scale([before * found.distances / found.radii for found in coverages])
    print(f"{LEVEL:.0%} of the truths, each folder counting the same: radius_scale {scale:.3f}")
    if options.calibrate:
        write_scale(options.model, scale)
        print(f"written: {options.model / 'config.json'}")


if __name__ == "__main__":
    run("study.coverage", main)
