"""What train.py does where its options say nothing: the paper's settings, or those for few photos.

The paper trains on thousands of images, for 12 epochs, in steps of 128 pairs. With forty
photographs these are a handful of steps, in which nothing is learned. So where there are few, and
neither steps, epochs nor a batch are asked for, training takes more and smaller steps, tunes all of
a small model, and stops when images that it does not train on get no better.
"""

from pathlib import Path
from typing import NamedTuple

from study.instructions import INSTRUCTIONS
from support import check
from support.folders import read_model_config
from support.weights import list_weight_files

PAPER = {"batch": 128, "micro_batch": 1, "tune": "lora", "epochs": 12, "patience": None}
FEW = 500  # images to train on
STEPS = {"steps": 250, "batch": 16, "micro_batch": 16}
VALIDATION = {"val_every": 25, "patience": 4}
SMALL = 200e6  # bytes of weights up to which a model is trained in whole


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
        found |= STEPS
        if measure_weights(options) < SMALL:
            found["tune"] = "everything"
        has_validation = all("val" in check.list_parts(f, options.split) for f in options.data)
        if has_validation:
            found |= VALIDATION
        line = describe(options, count, found, has_validation)
    return Filled({name: found[name] for name in found if is_open(options, name)}, line)


def say(name):
    """A default, for the help of an option."""
    few = STEPS.get(name)
    other = f"; of few images {few}" if few else ""
    return f" (default: {PAPER[name]}{other})"


def is_open(options, name):
    return getattr(options, name) is None


def describe(options, count, found, has_validation):
    chosen = [name for name in found if is_open(options, name) and found[name] != PAPER.get(name)]
    words = " ".join(f"--{name.replace('_', '-')} {found[name]}" for name in chosen)
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
