"""PCK on the validation categories during training, to the digit as eval.py measures it later.

eval.py reads the checkpoint with backbones in bf16 on a GPU, in fp32 on a CPU, where adapters are
folded in. Training has what it trains in fp32, and adapters apart. So for the time of a validation
the model gets what eval.py would read.
"""

import math
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import numpy as np

import data
from lora import LoRALinear, merge_lora
from study import metrics
from support import launch, parallel
from support.folders import is_added
from support.radius import find_radius_scale

VALIDATION = 200  # images, spread evenly over the validation part


class Validation(NamedTuple):
    """What is measured on the way."""

    instances: list  # of this process
    counted: int  # the first of them, the others are other processes'
    described: dict  # {category id: list[Keypoint]}
    world: int  # processes that share the instances


def share_instances(instances, described, rank, world) -> Validation:
    """This process's share of the validation images. ValueError if there are none."""
    if not instances:
        raise ValueError("the validation part, val.json, has no object that can be used: annotate "
                         "some, or move the file away to train without")
    count = min(VALIDATION, len(instances))
    chosen = [instances[n * len(instances) // count] for n in range(count)]
    own = chosen[rank::world]
    # Processes that hold shards of the model answer together: each has as many images.
    filling = chosen[:math.ceil(count / world) - len(own)]
    return Validation(own + filling, len(own), described, world)


def validate(model, validation: Validation) -> dict[str, float]:
    """Mean PCK over validation images, greedy and single-round, the standard error of mPCK, and the
    factor of the images' circles."""
    records = []
    model.config.radius_scale = None
    with compute_as_evaluated(model, launch.choose_dtype(model.device)):
        for instance in validation.instances:
            pixels, points = data.load_crop(instance, model.config.image_size)
            keypoints = validation.described[instance.category]
            labelled = instance.keypoints[:, 2] > 0
            asked = [k for k, is_labelled in zip(keypoints, labelled, strict=True) if is_labelled]
            answers = model.answer(pixels.to(model.device), asked, listed=keypoints)
            record = {"category": instance.category, "controls": {}}
            record |= metrics.score_answers(instance, answers.coordinates)
            if None not in answers.radii:
                off = np.array(answers.coordinates) - points[labelled, :2]
                record["radii"] = (np.hypot(*off.T) / answers.radii).tolist()
            records.append(record)
    records = parallel.gather_lists(records[:validation.counted], validation.world)
    means = metrics.average_records(records)
    found = {name: round(means[name], 4) for name in (*metrics.PCK, "mPCK")}
    found["standard_error"] = round(measure_error([record["mPCK"] for record in records]), 4)
    if all("radii" in record for record in records):
        found["radius_scale"] = find_radius_scale([sum((r["radii"] for r in records), [])])
    return found


def measure_error(scores) -> float:
    """The standard error of the mean of scores from 0 to 1; of a single one all is possible."""
    if len(scores) < 2:
        return 1.0
    return float(np.std(scores, ddof=1)) / len(scores) ** 0.5


@contextmanager
def compute_as_evaluated(model, dtype):
    """In this block the model is what eval.py would read: backbones of this dtype, adapters folded
    into fp32 ones. Then it is put back and goes on training.

    Shards stay as they are: FSDP gathers them in the dtype, and adapters stay apart.
    """
    model.eval()
    is_sharded = parallel.is_sharded(model)
    try:
        with nullcontext() if is_sharded else replace_weights(model, dtype):
            yield
    finally:
        if is_sharded:
            parallel.reshard_model(model)
        model.train()


@contextmanager
def replace_weights(model, dtype):
    weights = dict(model.named_parameters())
    kept = {parameter: parameter.data for parameter in weights.values()}
    adapters = {name: m for name, m in model.named_modules() if isinstance(m, LoRALinear)}
    try:
        for name, parameter in weights.items():
            if not is_added(name):
                parameter.data = parameter.data.to(dtype)
        for adapter in adapters.values():
            # Merging writes into it.
            adapter.base.weight.data = adapter.base.weight.data.clone()
        merge_lora(model)
        yield
    finally:
        for name, adapter in adapters.items():
            model.set_submodule(name, adapter)
        for parameter, value in kept.items():
            parameter.data = value
