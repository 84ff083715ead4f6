"""What train.py does where its options say nothing: the paper's settings, or those for few photos.

The paper trains on thousands of images, for 12 epochs, in steps of 128 pairs. With forty
photographs these are a handful of steps, in which nothing is learned. So where there are few, and
neither steps, epochs nor a batch are asked for, training takes more and smaller steps, shows the
photographs in more ways, tunes all of a small model with Muon, and stops when images that it does
not train on get no better for long.
"""

import math
from pathlib import Path
from typing import NamedTuple

from study.instructions import INSTRUCTIONS
from support import check
from support.folders import read_model_config
from support.weights import list_weight_files

PAPER = {
    "batch": 128, "micro_batch": 1, "tune": "lora", "epochs": 12, "patience": None,
    "augmentation": "paper", "optimiser": "adamw", "lr": 5e-4, "share_image": False,
}
FEW = 500  # images to train on
STEPS = {"steps": 210, "augmentation": "wide"}
# Pairs of a step: those of so many images, but at least and at most so many.
IMAGES, BATCH = 11, (16, 32)
SMALL = 200e6  # bytes of weights up to which a model is trained in whole
WHOLE = {"optimiser": "muon", "lr": 1e-3}
# The learning rate falls to the end, where most is gained: a pause says little.
VALIDATION = {"val_every": 25, "patience": 6}


class Filled(NamedTuple):
    """Options by name, and a line that says why, if they are not the paper's."""

    options: dict
    line: str


def fill_options(options, instances) -> Filled:
    """Values for the options of train.py that the command line leaves open (None)."""
    count = len({i.image for i in instances})
    asked = options.steps or options.epochs or options.batch
    found = dict(PAPER)
    line = ""
    if count < FEW and not asked and not INSTRUCTIONS[options.instruction].pretraining:
        has_validation = all("val" in check.list_parts(f, options.split) for f in options.data)
        found |= STEPS | choose_batch(options, instances) | choose_tuned(options)
        if has_validation:
            found |= VALIDATION
        line = describe(options, count, found, has_validation)
    return Filled({name: found[name] for name in found if is_open(options, name)}, line)


def choose_batch(options, instances):
    """Pairs of a step, all in one pass; those of an image share it, where it has several."""
    labelled = sum((i.keypoints[:, 2] > 0).sum() for i in instances)
    pairs = math.ceil(labelled / max(1, len(instances)) / options.k)
    batch = min(max(IMAGES * pairs, BATCH[0]), BATCH[1])
    is_shared = pairs > 1 and options.micro_batch != 1
    return {"batch": batch, "micro_batch": batch, "share_image": is_shared}


def choose_tuned(options):
    """All of a small model, unless something else is asked for, and how."""
    chosen = {}
    if measure_weights(options) < SMALL:
        chosen["tune"] = "everything"
    if (options.tune or chosen.get("tune")) == "everything" and not options.fsdp:
        chosen |= WHOLE
    return chosen


def say(name):
    """A default, for the help of an option."""
    pairs = f"{BATCH[0]} to {BATCH[1]}"
    few = (STEPS | WHOLE | {"batch": pairs, "micro_batch": pairs}).get(name)
    other = f"; of few images {few}" if few else ""
    return f" (default: {PAPER[name]}{other})"


def is_open(options, name):
    return getattr(options, name) is None


def describe(options, count, found, has_validation):
    words = []
    for name, value in found.items():
        if is_open(options, name) and value != PAPER.get(name):
            words.append(f"--{name.replace('_', '-')}")
            # A flag has no value.
            words += [] if value is True else [str(value)]
    words = " ".join(words)
    line = f"few: {count} images, so {words} (--steps or --epochs chooses instead)"
    if not has_validation:
        line += "\nno annotations/val.json: nothing tells when training has lasted long enough"
    return line


def measure_weights(options):
    """Bytes of the backbones' weights."""
    vision, llm = options.vision, options.llm
    if options.init:
        config = read_model_config(options.init)
        vision, llm = config.vision, config.llm
    files = list_weight_files(Path(vision)) + list_weight_files(Path(llm))
    return sum(file.stat().st_size for file in files)
