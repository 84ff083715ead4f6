"""How well densities foretell the truth (Section 4.4, Figure 5).

`compare_with_truths` looks at one image: which points follow from its densities, and how likely
the truths were. The others average over the records of eval.py --density: the points, and the
densities beside their rivals, Gaussians around the greedy answers.
"""

from collections import defaultdict

import numpy as np
import torch

from study import density
from study.metrics import METRICS, average_records, bootstrap, find_definitions, find_intervals

# How much of the mass the credible regions hold.
LEVELS = (0.5, 0.68, 0.9, 0.95)
SMOOTHED = f"mode of {density.DRAWS} samples, smoothed"
# Points of a record of eval.py --density: top-3 sampling, and those of `compare_with_truths`.
POINTS = ("top-3", "mode", "mean", "median", "PCK-optimal", SMOOTHED)
PCK_GAIN = "PCK-optimal minus greedy"


def compare_with_truths(model, pixels, keypoints, truths, greedy, thresholds, rng, **question):
    """Densities of an image's keypoints beside their truths and greedy answers.

    truths, greedy: (K, 2), as all places here relative to the crop; rng: random.Random; question:
    category and listed, as for `compute_density`. Returns {name: points (K, 2)}, of "PCK-optimal"
    (K, T, 2), one for each threshold, and {keypoint name: numbers}: truth, greedy, entropy and nll,
    both per unit of area, level, spread, and prefixes, how many were read. nll and level are
    missing if the truth lies outside the crop.
    """
    points, numbers = defaultdict(list), {}
    for keypoint, truth, answer in zip(keypoints, truths.tolist(), greedy.tolist(), strict=True):
        found = density.compute_density(model, pixels, keypoint, **question)
        p = found.p
        generator = torch.Generator().manual_seed(rng.getrandbits(32))
        samples, bandwidth = density.draw_samples(p, generator)
        u = rng.random()
        points["mode"].append(density.find_mode(p))
        points["mean"].append(density.find_mean(p))
        points["median"].append(density.find_median(p))
        points["PCK-optimal"].append([density.find_best_point(p, t)[0] for t in thresholds])
        smoothed = density.find_mode(density.smooth_samples(samples, bandwidth))
        points[SMOOTHED].append(smoothed)
        of_keypoint = {
            "truth": truth,
            "greedy": answer,
            "entropy": density.compute_entropy(p),
            "spread": found.spread,
            "prefixes": found.prefixes,
        }
        if density.has_answer(truth):
            of_keypoint["nll"] = density.compute_nll(p, truth)
            of_keypoint["level"] = density.compute_level(p, truth, u)
        numbers[keypoint.name] = of_keypoint
    return points, numbers


def average_points(records):
    """{name of a point: averages over images}, as results.json holds them.

    "greedy" are the answers themselves. "PCK-optimal minus greedy" has intervals of its own: both
    points are of the same images.
    """
    rows = {"greedy": [{**r, "controls": {}} for r in records]}
    for name in [name for name in POINTS if name in records[0]["points"]]:
        rows[name] = [
            {"category": r["category"], "controls": {}, **r["points"][name]} for r in records
        ]
    rows[PCK_GAIN] = []
    for optimal, greedy in zip(rows["PCK-optimal"], rows["greedy"], strict=True):
        rows[PCK_GAIN].append({**optimal, **{m: optimal[m] - greedy[m] for m in METRICS}})
    found = {}
    for name, scored in rows.items():
        found[name] = average_records(scored)
        del found[name]["controls"]
    found[PCK_GAIN]["intervals"] = find_intervals(rows[PCK_GAIN])
    return found


def compare_with_gaussians(records, names):
    """How likely the truths were under the densities, and under Gaussians around greedy answers.

    names: {category id: name}. Each keypoint counts the same, and once. The Gaussians are cut off
    at the crop, and have the standard deviations that suit these very truths best: one for all, or
    one for each definition. Intervals are over images, of these deviations. Returns what
    results.json holds.
    """
    definitions = find_definitions(names)
    keypoints, image, definition, outside = [], [], [], 0
    for n, r in enumerate(records):
        for keypoint in r["density"].values():
            if "nll" in keypoint and "level" in keypoint:
                keypoints.append(keypoint)
                image.append(n)
                definition.append(definitions[r["category"]])
            else:
                outside += 1
    found = {"truths": len(keypoints), "truths outside of the crop": outside}
    if not keypoints:
        return found

    columns = {}
    for name in ("nll", "entropy", "spread"):
        columns[name] = np.array([keypoint[name] for keypoint in keypoints])
    for q in LEVELS:
        columns[q] = np.array([keypoint["level"] < q for keypoint in keypoints])
    rivals = fit_gaussians(keypoints, definition)
    for name, (_, nll) in rivals.items():
        columns[name] = columns["nll"] - nll
    mean, interval = average_over_truths(columns, image)

    found |= {name: mean[name] for name in ("nll", "entropy", "spread")}
    found["holds"] = {q: mean[q] for q in LEVELS}
    found["intervals"] = {
        "nll": interval["nll"],
        "entropy": interval["entropy"],
        "holds": {q: interval[q] for q in LEVELS},
    }
    for name, (sigma, _) in rivals.items():
        found[name] = {
            "sigma": sigma,
            "nll": mean["nll"] - mean[name],
            "difference": mean[name],
            "interval of the difference": interval[name],
        }
    return found


def fit_gaussians(keypoints, definition):
    """{rival: (its sigma, NLL (n,) of the truths under it)}.

    keypoints: n of them, with "greedy" and "truth"; definition: of each. sigma is a share of the
    crop; that of "Gaussian of each definition" is {definition: sigma}.
    """
    centres = np.array([keypoint["greedy"] for keypoint in keypoints])
    truths = np.array([keypoint["truth"] for keypoint in keypoints])
    definition = np.array(definition)
    one = density.find_best_sigma(centres, truths)
    sigmas = {}
    for name in np.unique(definition):
        of = definition == name
        sigmas[str(name)] = density.find_best_sigma(centres[of], truths[of])
    each = np.array([sigmas[name] for name in definition])[:, None]
    return {
        "Gaussian": (one, density.compute_gaussian_nll(centres, truths, one).numpy()),
        "Gaussian of each definition": (
            sigmas,
            density.compute_gaussian_nll(centres, truths, each).numpy(),
        ),
    }


def average_over_truths(columns, image):
    """{name: mean} and {name: 95% interval} of columns of numbers, (n,), one for each truth.

    image: the image of each truth. An image is drawn with all of its truths.
    """
    _, position = np.unique(image, return_inverse=True)
    sums = np.stack([np.bincount(position, column) for column in columns.values()], 1)
    truths = np.bincount(position)

    def mean(draw):
        return sums[draw].sum(0) / truths[draw].sum()

    means = mean(slice(None)).tolist()
    intervals = bootstrap(mean, len(sums))
    return dict(zip(columns, means, strict=True)), dict(zip(columns, intervals, strict=True))
