"""Measure CapeLLM on a part of MP-100: PCK, "only query images", greedy, single round (Section 4.1, Table 1).

    python eval.py --model nano --data data/figures --controls
    torchrun --nproc_per_node 4 eval.py --model runs/capellm/step-0001000 --data data/mp100 --split 1 --out results/split1

A PCK that looks good proves little by itself: a keypoint's average place scores, too. --controls measures that on the same
images, and exchanges the image, or the words, for others of the same definition: a model that looks and reads falls then.
"""
import argparse
import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

import data
import train
from capellm import CapeLLM

THRESHOLDS = (0.05, 0.10, 0.15, 0.20, 0.25)         # mPCK is the mean over these
PCK = [f"PCK@{t:.2f}" for t in THRESHOLDS]
CONTROLS = ("mean", "other image", "other text")


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--model", required=True, metavar="FOLDER", help="model folder: nano, or a checkpoint of train.py")
    p.add_argument("--data", required=True, metavar="FOLDER", help="folder with annotations/ and images/ in MP-100's layout")
    p.add_argument("--split", type=int, default=1, help="MP-100 split, 1 to 5: the one the model was trained on")
    p.add_argument("--part", default="test", choices=["train", "val", "test"])
    p.add_argument("--descriptions", default=str(data.HERE / "descriptions"), metavar="FOLDER", help="folder of <definition or category>.txt")
    p.add_argument("--limit", type=int, metavar="N", help="a quick look: N images spread evenly over the part")
    p.add_argument("--controls", action="store_true", help="also score the mean place, another image, another keypoint's text")
    p.add_argument("--out", type=Path, metavar="FOLDER", help="write results.json, results.md and instances.jsonl here")
    return p.parse_args()


def pck(predictions, truths, visible, size, thresholds):
    """The fraction of visible keypoints that lie closer to the truth than t * size, for each threshold t.

    predictions, truths: (K, 2) in pixels; visible: (K,), > 0 where labelled; size: max(box width, box height) in pixels.
    Returns (len(thresholds),). Raises ValueError where nothing is visible: such an image has no PCK.
    """
    visible = np.asarray(visible) > 0
    if not visible.any():
        raise ValueError("PCK needs at least one visible keypoint")
    x, y = (np.asarray(predictions, float) - np.asarray(truths, float))[visible].T
    return (np.hypot(x, y)[:, None] < np.asarray(thresholds) * size).mean(0)


def derange(items, seed):
    """{item: another item}: each is followed by the next of a seeded shuffle. A single item is left with itself."""
    order = random.Random(seed).sample(items, len(items))
    return dict(zip(order, order[1:] + order[:1]))


def mean_place(parts):
    """Mean place (K, 2) of one definition's keypoints, relative to the square crop.

    parts: lists of instances; a keypoint's mean is over the first list that labels it.
    """
    mean = np.nan
    for instances in filter(None, parts):
        places = np.stack([np.where(i.keypoints[:, 2:] > 0, data.to_crop(i.keypoints[:, :2], data.crop_affine(i.bbox, 1), 1), np.nan)
                           for i in instances])                                                     # (instances, K, 2)
        with np.errstate(invalid="ignore"):
            mean = np.where(np.isnan(mean), np.nansum(places, 0) / (~np.isnan(places)).sum(0), mean)
    return mean


def definitions(names):
    """{category id: its definition}; a category that is not MP-100's is its own."""
    known = {(c["id"], c["name"]): c["definition"] for c in data.mp100()["categories"]}
    return {id: known.get((id, name), name) for id, name in names.items()}


def controls(a, instances, names, described):
    """For each instance (mean places (K, 2), another instance, {keypoint: another keypoint}), and the definitions whose
    mean place is not from training: their own images are in it, or those of another part, which favours the baseline."""
    definition, pools = definitions(names), {}
    for part in sorted(("train", "val", "test"), key=lambda p: (p != "train", p == a.part)):
        try:
            more, more_names = data.read_split(a.data, a.split, part)
        except FileNotFoundError:                   # only the measured part must be there
            more, more_names = [], {}
        of = definitions(more_names)
        for c, keypoints in described.items():
            pools.setdefault(definition[c], {})[part] = [
                i for i in more if of[i.category] == definition[c] and len(i.keypoints) == len(keypoints)]
    mean = {d: mean_place(pool.values()) for d, pool in pools.items()}
    another = {}
    for d in pools:
        another |= derange([n for n, i in enumerate(instances) if definition[i.category] == d], d)
    exchange = {c: derange(keypoints, definition[c]) for c, keypoints in described.items()}
    prepared = [(mean[definition[i.category]], instances[another[n]], exchange[i.category]) for n, i in enumerate(instances)]
    return prepared, sorted(d for d in pools if not pools[d]["train"])


def measure(model, pixels, instance, keypoints, control=None):
    """The record of one instance, from its pixels (3, S, S) and its keypoints' texts; control: see `controls`.

    Only labelled keypoints are asked: the answers of a single round do not depend on each other.
    """
    labelled, affine = np.flatnonzero(instance.keypoints[:, 2] > 0), data.crop_affine(instance.bbox, 1)
    asked = [keypoints[j] for j in labelled]

    def score(coordinates):
        points, truths = data.to_image(coordinates, affine, 1), instance.keypoints[labelled, :2]
        return dict(zip(PCK, pck(points, truths, np.ones(len(labelled)), max(instance.bbox[2:]), THRESHOLDS).tolist()))

    coordinates, probabilities = model.answer(pixels.to(model.device), asked)
    record = {"id": instance.id, "file": str(instance.image), "category": instance.category, **score(coordinates),
              "predictions": [None] * len(keypoints), "probabilities": [None] * len(keypoints), "controls": {}}
    for j, point, p in zip(labelled, data.to_image(coordinates, affine, 1).round(3).tolist(), probabilities):
        record["predictions"][j], record["probabilities"][j] = point, round(p, 6)
    if control:
        mean, other, exchange = control
        record["controls"]["mean"] = score(mean[labelled])
        if other is not instance:
            try:
                shown = data.load_crop(other, model.image_size)[0].to(model.device)
                record["controls"]["other image"] = score(model.answer(shown, asked)[0])
            except FileNotFoundError:
                pass
        if len(exchange) > 1:
            record["controls"]["other text"] = score(model.answer(pixels.to(model.device), [exchange[k] for k in asked])[0])
    return record


def summary(records):
    """PCK averaged over images, as in the paper; mPCK averaged over categories as well; the same for the controls."""
    def average(scores):
        table = np.array([[s[name] for name in PCK] for _, s in scores])                            # (images, thresholds)
        categories = {c: [row.mean() for (d, _), row in zip(scores, table) if d == c] for c, _ in scores}
        return dict(zip(PCK, table.mean(0).tolist())) | {
            "mPCK": float(table.mean()), "mPCK over categories": float(np.mean([np.mean(m) for m in categories.values()])),
            "instances": len(scores)}
    scores = {c: [(r["category"], r["controls"][c]) for r in records if c in r["controls"]] for c in CONTROLS}
    return average([(r["category"], r) for r in records]) | {"controls": {c: average(s) for c, s in scores.items() if s}}
