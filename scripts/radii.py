"""How often nano's circles hold the truth, beside circles of the density: docs/evaluation.md.

    python -m scripts.radii FOLDER...   # data folders: their test parts

nano's factor was calibrated on validation parts (study/coverage.py). Of each folder all labelled
keypoints of some images are asked for; of a few of them study/density.py reads the density, too,
and the circle around the same answer that holds 0.9 of it is measured.
"""

import random
import time
from pathlib import Path

import numpy as np

import data
from capellm import CapeLLM
from scripts.collect import percent, write_results
from study.coverage import Coverage, measure_coverage
from study.density import GRID, compute_density
from study.images import choose_images
from support import launch
from support.descriptions import DESCRIPTIONS
from support.options import Parser
from support.radius import LEVEL

IMAGES = 150
DENSITIES = 100


def find_density_radius(p, place):
    """The radius around a place that holds LEVEL of p (1000, 1000), by sorting all answers."""
    values = np.arange(GRID) / GRID
    distance = np.hypot(values[:, None] - place[0], values - place[1]).ravel()
    order = distance.argsort()
    held = p.ravel()[order].cumsum()
    return distance[order][min(np.searchsorted(held, LEVEL), len(held) - 1)]


def compare_with_density(model, images):
    """Of some keypoints: the Coverage of nano's circles and of the density's, seconds of each, and
    the mass that the density spreads over unread digits, in the mean."""
    rng, seconds = random.Random(0), np.zeros(2)
    ours, of_density, distances, spread = [], [], [], []
    while len(ours) < DENSITIES:
        instance = images.instances[rng.choice(images.chosen)]
        pixels, points = data.load_crop(instance, model.config.image_size)
        n = rng.choice(np.flatnonzero(points[:, 2] > 0).tolist())
        keypoint = images.described[instance.category][n]
        times = [time.perf_counter()]
        answers = model.answer(pixels, [keypoint])
        times.append(time.perf_counter())
        density = compute_density(model, pixels, keypoint)
        times.append(time.perf_counter())
        seconds += np.diff(times)
        place = answers.coordinates[0]
        ours += answers.radii
        of_density.append(find_density_radius(density.p.numpy(), place))
        spread.append(density.spread)
        distances.append(np.hypot(*(np.array(place) - points[n, :2])))
    distances = np.array(distances)
    found = [Coverage(np.array(radii), distances) for radii in (ours, of_density)]
    return *found, *(seconds / DENSITIES), np.mean(spread)


def measure(model, folder):
    """A row of the table."""
    images = choose_images(folder, 1, "test", DESCRIPTIONS, limit=IMAGES)
    found = measure_coverage(model, images)
    ours, of_density, s, density_s, spread = compare_with_density(model, images)
    return {
        "set": folder.name,
        "images": len(images.chosen),
        "keypoints": len(found.radii),
        "holds": percent(found.count_held()),
        "median": percent(np.median(found.radii)),
        "compared": DENSITIES,
        "ours holds": percent(ours.count_held()),
        "ours median": percent(np.median(ours.radii)),
        "density holds": percent(of_density.count_held()),
        "density median": percent(np.median(of_density.radii)),
        "spread": percent(spread),
        "s": round(s, 4),
        "density s": round(density_s, 4),
    }


def main():
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a data folder")
    folders = parser.parse_args().folders
    model = CapeLLM.from_pretrained("nano")
    rows = [measure(model, folder) for folder in folders]
    command = "python -m scripts.radii data/figures FOLDER..."
    write_results("radii", {"command": command, "factor": model.config.radius_scale, "rows": rows})


if __name__ == "__main__":
    launch.run("scripts.radii", main)
