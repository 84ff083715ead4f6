"""What tests of evaluations share: kites and boats on disk, records, scores in plain loops."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image

import data
from study import controls, metrics
from support.descriptions import describe_categories

T = (0.05, 0.10, 0.15, 0.20, 0.25)
NAMES = ["PCK@0.05", "PCK@0.10", "PCK@0.15", "PCK@0.20", "PCK@0.25"]
# The keypoints of categories 500 and 501.
TEXTS = {
    "kite": ["top", "left corner", "right corner", "tail"],
    "boat": ["bow", "stern", "mast"],
}


def pck_in_loops(predictions, truths, visible, size, thresholds=T):
    fractions = []
    for t in thresholds:
        hits = []
        for p, q, v in zip(predictions, truths, visible, strict=True):
            if v > 0:
                hits.append(math.dist(p, q) < t * size)
        fractions.append(sum(hits) / len(hits))
    return fractions


def record(category, value, **more):
    return {"category": category, "controls": {}} | dict.fromkeys(metrics.METRICS, value) | more


def write_dataset(folder, train, test):
    """Images of kites and boats; of each one keypoint is not labelled."""
    rng, number = np.random.default_rng(5), itertools.count(1)
    for name in ("images", "annotations", "texts"):
        (folder / name).mkdir(parents=True)
    for name, keypoints in TEXTS.items():
        lines = [f"{k}: the {k} of the {name}\n" for k in keypoints]
        (folder / "texts" / f"{name}.txt").write_text("".join(lines))
    for part, kinds in (("train", train), ("test", test)):
        coco = {
            "categories": [{"id": 500 + n, "name": name} for n, name in enumerate(TEXTS)],
            "images": [],
            "annotations": [],
        }
        for kind in kinds:
            id, (w, h) = next(number), map(int, rng.integers(60, 100, 2))
            noise = rng.integers(0, 255, (h, w, 3), np.uint8)
            Image.fromarray(noise).save(folder / "images" / f"{id}.png")
            K = len(TEXTS[kind])
            places = rng.uniform(10, 50, (K, 2)).round(1)
            xyv = np.concatenate([places, np.full((K, 1), 2)], 1)
            xyv[id % K, 2] = 0
            annotation = {
                "id": id,
                "image_id": id,
                "category_id": 500 + list(TEXTS).index(kind),
                "keypoints": xyv.ravel().tolist(),
                "bbox": [5, 8, w - 15, h - 12],
            }
            coco["images"].append({"id": id, "file_name": f"{id}.png", "width": w, "height": h})
            coco["annotations"].append(annotation)
        (folder / "annotations" / f"mp100_split1_{part}.json").write_text(json.dumps(coco))
    return folder


def write_kites_and_boats(folder):
    """Six test images of kites and boats, eight training images of kites."""
    return write_dataset(folder, ["kite"] * 8, ["kite", "boat"] * 3)


def read_test(folder):
    """The instances of the test part, and {category id: its keypoints}."""
    instances, names = data.read_split(folder, 1, "test")
    return instances, describe_categories(instances, names, folder / "texts")


def prepare_controls(folder):
    """A Control for each instance of the test part, and the definitions without training."""
    instances, names = data.read_split(folder, 1, "test")
    described = describe_categories(instances, names, folder / "texts")
    return controls.prepare_controls(folder, 1, "test", instances, names, described)


def list_labelled(instance):
    """The names of an instance's labelled keypoints."""
    named = zip(TEXTS[instance.name], instance.keypoints[:, 2], strict=True)
    return [name for name, v in named if v > 0]


def read_json(path):
    return json.loads(Path(path).read_text())


def read_lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]
