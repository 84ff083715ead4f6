"""What train.py does where its options say nothing: the paper's settings, or those for few photos.

The paper trains on thousands of objects, for 12 epochs, in steps of 128 pairs. With forty these are
a handful of steps, in which nothing is learned. So where there are few, and neither steps, epochs
nor a batch are asked for, training takes more and smaller steps, shows the photographs in more
ways, tunes all of a small model with Muon, and stops when objects that it does not train on get no
better for long.
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
FEW = 500  # objects to train on
# Of up to so many objects so many steps; of more, more, as their square root.
OBJECTS, STEPS = 40, 210
# Pairs of a step: those of so many objects, but at least and at most so many.
OBJECTS_A_STEP = 11
FEWEST_PAIRS, MOST_PAIRS = 16, 32
SMALL = 200e6  # bytes of weights up to which a model is trained in whole
WHOLE = {"optimiser": "muon", "lr": 1e-3}
# Measurements are so far apart. The learning rate falls to the end, where most is gained: that it
# gets no better for some of them says little.
BETWEEN, PATIENCE = 25 / 210, 6


class Filled(NamedTuple):
    """Options by name, and lines about few objects, or ""."""

    options: dict
    line: str


def fill_options(options, instances) -> Filled:
    """Values for the options of train.py that the command line leaves open (None)."""
    is_pretraining = INSTRUCTIONS[options.instruction].pretraining
    found = dict(PAPER)
    line = ""
    if len(instances) < FEW and not is_pretraining:
        unvalidated = list_unvalidated(options)
        own = choose_options(options, instances, unvalidated)
        line = describe(options, len(instances), own, unvalidated)
        if not is_length_chosen(options):
            found |= own
    return Filled({name: found[name] for name in found if is_open(options, name)}, line)


def is_length_chosen(options):
    return bool(options.steps or options.epochs or options.batch)


def choose_options(options, instances, unvalidated):
    """What suits so few objects."""
    is_small = measure_weights(options) < SMALL
    steps = round(STEPS * max(1, len(instances) / OBJECTS) ** 0.5)
    found = {"steps": steps, "augmentation": "wide"}
    found |= choose_batch(options, instances, is_small) | choose_tuned(options, is_small)
    if not unvalidated:
        found |= {"val_every": round(steps * BETWEEN), "patience": PATIENCE}
    return found


def choose_batch(options, instances, is_small):
    """Pairs of a step; of a small model all in one pass, where those of an image share it."""
    counts = [estimate_pairs(options, instance) for instance in instances]
    pairs = math.ceil(sum(counts) / max(1, len(counts)))
    batch = min(max(OBJECTS_A_STEP * pairs, FEWEST_PAIRS), MOST_PAIRS)
    micro_batch = batch if is_small else PAPER["micro_batch"]
    is_shared = pairs > 1 and (options.micro_batch or micro_batch) > 1
    return {"batch": batch, "micro_batch": micro_batch, "share_image": is_shared}


def estimate_pairs(options, instance):
    """How many pairs of an epoch are about an instance, in the mean: see data.GROUPINGS."""
    labelled = int((instance.keypoints[:, 2] > 0).sum())
    if options.rounds == "locllm":
        return min(labelled, 1)
    if options.rounds == "dynamic":
        # As many as a random permutation has cycles, in the mean.
        return sum(1 / n for n in range(1, labelled + 1))
    return min(labelled, math.ceil(len(instance.keypoints) / options.k))


def choose_tuned(options, is_small):
    """All of a small model, unless something else is asked for, and how."""
    chosen = {"tune": "everything"} if is_small else {}
    is_whole = (options.tune or chosen.get("tune")) == "everything"
    if is_whole and not options.fsdp and options.optimiser in (None, "muon"):
        chosen |= WHOLE
    return chosen


def list_unvalidated(options):
    """The data folders that have no validation part."""
    return [f for f in options.data if "val" not in check.list_parts(f, options.split)]


def describe_default(name):
    """A default, for the help of an option."""
    pairs = f"{FEWEST_PAIRS} to {MOST_PAIRS}"
    most = round(STEPS * (FEW / OBJECTS) ** 0.5)
    of_few = {
        "batch": pairs, "epochs": f"{STEPS} to {most} steps", "augmentation": "wide",
        "val_every": "an eighth of the steps", "patience": PATIENCE,
    }
    of_small = WHOLE | {"tune": "everything", "micro_batch": "all"}
    words = []
    if PAPER.get(name) is not None:
        words.append(f"default: {PAPER[name]}")
    if name in of_few:
        words.append(f"of few objects {of_few[name]}")
    if name in of_small:
        words.append(f"of few objects and a small model {of_small[name]}")
    return f" ({'; '.join(words)})"


def is_open(options, name):
    return getattr(options, name) is None


def describe(options, count, found, unvalidated):
    words = []
    for name, value in found.items():
        if is_open(options, name) and value != PAPER.get(name):
            words.append(f"--{name.replace('_', '-')}")
            # A flag has no value.
            words += [] if value is True else [str(value)]
    words, lines = " ".join(words), []
    if words and is_length_chosen(options):
        lines.append(f"few: {count} objects; --steps, --epochs or --batch is given, so the paper's "
                     f"settings for the rest. Better for so few: {words}")
    elif words:
        lines.append(f"few: {count} objects, so {words}")
    if unvalidated:
        lines.append(f"no validation part in {', '.join(unvalidated)}: "
                     "nothing tells when training has lasted long enough")
    return "\n".join(lines)


def measure_weights(options):
    """Bytes of the backbones' weights."""
    vision, llm = options.vision, options.llm
    if options.init:
        config = read_model_config(options.init)
        vision, llm = config.vision, config.llm
    files = list_weight_files(Path(vision)) + list_weight_files(Path(llm))
    return sum(file.stat().st_size for file in files)
