"""How good answers are: PCK and its kin of one image, averages over images, and intervals.

    score_distances([3.5, 12.0], size=100)["PCK@0.05"]  # of one image, from pixels: 0.5
    score_answers(instance, coordinates)["mPCK"]  # the same, from answers to labelled keypoints
    average_records(records)["PCK@0.20"]  # over images; eval.py makes the records

Numbers only: `study.report` puts them into words. Nothing here knows the model.
"""

from typing import NamedTuple

import numpy as np

import data
from support.descriptions import read_mp100

# mPCK is the mean over these.
THRESHOLDS = (0.05, 0.10, 0.15, 0.20, 0.25)
PCK = [f"PCK@{t:.2f}" for t in THRESHOLDS]
# What is measured of one image.
METRICS = [*PCK, "mPCK", "AUC", "NME"]
# What is averaged over many images.
COLUMNS = [*PCK, "mPCK", "mPCK over categories", "AUC", "NME"]
# How often the bootstrap draws.
RESAMPLES = 1000


def measure_distances(instance, coordinates):
    """Distances of answers from the truth, in pixels of the image.

    coordinates: (n, 2), relative to the crop, the answers to the n labelled keypoints of the
    instance in order; or (n, 5, 2), an answer for each threshold. Returns (n,) or (n, 5).
    """
    truths = instance.keypoints[instance.keypoints[:, 2] > 0, :2]
    places = data.map_to_image(coordinates, data.make_affine(instance.bbox, 1), 1)
    x = places[..., 0].T - truths[:, 0]
    y = places[..., 1].T - truths[:, 1]
    return np.hypot(x, y).T


def score_distances(distances, size):
    """{metric: value} of one image.

    distances: (n,) in pixels, n > 0, of its keypoints from their truths; or (n, 5), if each
    threshold has answers of its own: AUC and NME are means over the five. size: the longer side of
    the box in pixels. A keypoint counts for PCK@t if its distance is less than t * size.
    AUC: the area under PCK@t for t in (0, 0.25), as a share of the area there is: a keypoint at
    distance d adds what is right of d. NME: normalised mean error, the mean of distance / size.
    """
    distances = np.asarray(distances, float)
    closer = distances.reshape(len(distances), -1) < np.asarray(THRESHOLDS) * size
    fractions = closer.mean(0)
    errors = distances / size
    area = (1 - errors / THRESHOLDS[-1]).clip(0).mean()
    values = [*fractions, fractions.mean(), area, errors.mean()]
    return {metric: float(value) for metric, value in zip(METRICS, values, strict=True)}


def score_answers(instance, coordinates):
    """{metric: value} of one image; coordinates: as for `measure_distances`."""
    return score_distances(measure_distances(instance, coordinates), max(instance.bbox[2:]))


class ScoreTable(NamedTuple):
    """Scores of n images. values: (n, len(METRICS)); weight: (n,), how often an image counts;
    category: (n,) ids."""

    values: np.ndarray
    weight: np.ndarray
    category: np.ndarray


def tabulate_scores(categories, scores):
    values = np.array([[s[metric] for metric in METRICS] for s in scores])
    weight = np.array([s.get("weight", 1) for s in scores], float)
    return ScoreTable(values, weight, np.array(categories))


def average_scores(categories, scores):
    """{column: mean over images, "categories" and "instances": how many}.

    categories: their ids; scores: {metric: value}, each of one image, and "weight" if an
    image counts more than once.
    """
    table = tabulate_scores(categories, scores)
    over_images = np.average(table.values, 0, table.weight)
    _, position = np.unique(table.category, return_inverse=True)
    mpck = table.values[:, METRICS.index("mPCK")]
    of_category = np.bincount(position, table.weight * mpck) / np.bincount(position, table.weight)
    means = dict(zip(METRICS, over_images.tolist(), strict=True))
    means["mPCK over categories"] = float(of_category.mean())
    found = {column: means[column] for column in COLUMNS}
    return found | {"categories": len(of_category), "instances": len(scores)}


def average_records(records):
    """`average_scores` of records, and under "controls" of each of their controls.

    A record holds the scores of one image, "category" and "controls", {name: scores}.
    """
    found = average_scores([r["category"] for r in records], records)
    found["controls"] = {}
    for name in dict.fromkeys(name for r in records for name in r["controls"]):
        rows = [r for r in records if name in r["controls"]]
        scores = [r["controls"][name] for r in rows]
        found["controls"][name] = average_scores([r["category"] for r in rows], scores)
    return found


def bootstrap(mean, n):
    """95% confidence intervals over n images: [low, high] of each number that `mean` returns.

    mean: takes n positions, drawn with replacement.
    """
    rng = np.random.default_rng(0)
    means = [mean(rng.integers(0, n, n)) for _ in range(RESAMPLES)]
    return np.nanpercentile(means, [2.5, 97.5], 0).T.tolist()


def find_intervals(records):
    """{metric: [low, high]}: 95% confidence intervals of the means over images."""
    table = tabulate_scores([r["category"] for r in records], records)

    def mean(draw):
        return np.average(table.values[draw], 0, table.weight[draw])

    return dict(zip(METRICS, bootstrap(mean, len(records)), strict=True))


def find_definitions(names):
    """{category id: its definition}; a category that is not MP-100's has one of its own.

    names: {category id: name}.
    """
    known = {(c["id"], c["name"]): c["definition"] for c in read_mp100()["categories"]}
    return {id: known.get((id, name), name) for id, name in names.items()}
