"""What eval.py measures of one image: answers, controls, occlusion, densities.

    record = measure_instance(model, instance, keypoints, look, Asking(decoding="top-3"))
    record["PCK@0.20"], record["controls"]["other text"]["PCK@0.20"]

The record of an image holds numbers and texts only, so that it can be written as a line of JSON.
"""

import random
from typing import NamedTuple

import numpy as np

import data
from study import calibration, controls, density, metrics
from support.records import make_key
from support.shapes import (
    COUNT,
    NAME,
    NOT_NEGATIVE,
    NUMBER,
    OBJECT,
    POSITIVE,
    POSITIVE_COUNT,
    TEXT,
    Each,
    Maybe,
    OrNull,
)

# Shapes of what is written (support.shapes). Scores of one image, see `score_places`; where
# each threshold has answers of its own, a keypoint has a distance for each.
SCORES = dict.fromkeys(metrics.METRICS, NOT_NEGATIVE)
SCORED = SCORES | {"distances": Each(NOT_NEGATIVE)}
SCORED_APART = SCORES | {"distances": Each((NOT_NEGATIVE,) * len(metrics.THRESHOLDS))}
# A record, as a comparison reads it. "pairs": null if no pair shows a keypoint of the image.
COMPARED = SCORED | {
    "id": NAME,
    "file": TEXT,
    "category": NAME,
    "size": POSITIVE,
    "controls": Each(SCORED),
    "points": Maybe(Each(SCORES | {"distances": OBJECT})),
    "pairs": Maybe(OrNull(SCORES | {"weight": POSITIVE_COUNT})),
}
PLACE = (NUMBER, NUMBER)
# Of a keypoint, see `calibration.compare_with_truths`.
DENSITY = {
    "truth": PLACE,
    "greedy": PLACE,
    "entropy": NUMBER,
    "spread": NUMBER,
    "prefixes": COUNT,
    "nll": Maybe(NUMBER),
    "level": Maybe(NUMBER),
}


class Asking(NamedTuple):
    """How images are asked, and what is measured besides the answers, except for controls.

    decoding, cumulative, seed: as for `CapeLLM.answer`; occlude: shares of the box to cover;
    density: whether to compute densities, of single-round inference; true_category: whether an
    instruction that asks for the category is told it.
    """

    decoding: str = "greedy"
    cumulative: bool | str = False
    seed: int = 0
    occlude: tuple = ()
    density: bool = False
    true_category: bool = False


class Question(NamedTuple):
    """What is asked about an image.

    keypoints: all of its category; asked: those that are asked; labelled: positions among them of
    those with a truth, which are scored; how: further arguments of `CapeLLM.answer`.
    """

    instance: data.Instance
    keypoints: list
    asked: list
    labelled: np.ndarray
    how: dict


def measure_instance(model, instance, keypoints, look, asking, control=None):
    """The record of one instance, a dict; None if its image cannot be read.

    keypoints: all of its category; look: instance -> pixels (3, S, S) or None; control: a
    controls.Control, if controls are measured.
    """
    pixels = look(instance)
    if pixels is None:
        return None
    # Each image has random numbers of its own, whoever measures it in whatever order.
    rng = random.Random(f"{asking.seed} {instance.category} {instance.id}")
    question = pose_question(instance, keypoints, asking, rng.getrandbits(32))
    places, probabilities = answer_question(model, pixels, question)
    record = describe_answers(question, places, probabilities)
    if control:
        record["controls"] |= measure_controls(model, pixels, question, control, look)
    if asking.occlude:
        record["controls"] |= measure_occlusion(model, pixels, question, asking.occlude, rng)
    if asking.density:
        record |= measure_density(model, pixels, question, places, rng)
    return record


def describe_record(asking):
    """The shape of a record of images that are asked so."""
    shape = COMPARED | {
        "name": TEXT,
        "predictions": Each(PLACE),
        "probabilities": Each(NOT_NEGATIVE),
    }
    if asking.cumulative:
        shape["tokens"] = COUNT
    if asking.density:
        shape["density"] = Each(DENSITY)
        shape["points"] = dict.fromkeys(calibration.POINTS, SCORED) | {"PCK-optimal": SCORED_APART}
    return shape


def check_records(records, images, out):
    """ValueError if {key: record}, found in a folder, are not of the keypoints that their images
    show."""
    for instance in images.instances:
        record = records.get(make_key(instance))
        if record:
            named = zip(images.described[instance.category], instance.keypoints[:, 2], strict=True)
            part = find_foreign_part(record, {keypoint.name for keypoint, v in named if v > 0})
            if part:
                raise ValueError(
                    f"{out}: {part} of {instance.image.name} are not of its labelled "
                    "keypoints: remove instances*.jsonl, and --resume asks again"
                )


def find_foreign_part(record, labelled):
    """The part of a record that is not of the keypoints with these names; None if all are."""
    for part in ("distances", "predictions", "probabilities", "density"):
        if part in record and record[part].keys() != labelled:
            return part
    for keypoint in record.get("density", {}).values():
        is_inside = density.has_answer(keypoint["truth"])
        for number in ("nll", "level"):
            if (number in keypoint) != is_inside:
                return f"density: {number}"
    return None


def pose_question(instance, keypoints, asking, seed):
    """The Question about an instance.

    In single rounds only labelled keypoints are asked: their answers do not depend on each other.
    Cumulative inference asks all, since nobody tells it which are labelled.
    """
    asked, labelled = keypoints, np.flatnonzero(instance.keypoints[:, 2] > 0)
    if not asking.cumulative:
        asked, labelled = [keypoints[n] for n in labelled], np.arange(len(labelled))
    how = {"decoding": asking.decoding, "cumulative": asking.cumulative, "seed": seed}
    how["category"] = instance.name if asking.true_category else None
    return Question(instance, keypoints, asked, labelled, how)


def answer_question(model, pixels, question, asked=None, **changed):
    """Answers to the labelled keypoints: relative coordinates (n, 2) and probabilities (n,).

    asked: other keypoints in the place of those of the question; changed: of its `how`.
    """
    how = question.how | changed
    coordinates, probabilities = model.answer(
        pixels, asked or question.asked, **how, listed=question.keypoints
    )
    return np.array(coordinates)[question.labelled], np.array(probabilities)[question.labelled]


def name_labelled(question):
    return [question.asked[n].name for n in question.labelled]


def score_places(question, places, kept=slice(None)):
    """{metric: value, "distances": {keypoint name: pixels}} of those keypoints that are `kept`.

    places: relative to the crop, of the labelled keypoints, (n, 2); or (n, 5, 2), one for each
    threshold.
    """
    names = np.array(name_labelled(question))[kept].tolist()
    distances = metrics.measure_distances(question.instance, places)[kept].tolist()
    scores = metrics.score_distances(distances, max(question.instance.bbox[2:]))
    return scores | {"distances": dict(zip(names, distances, strict=True))}


def describe_answers(question, places, probabilities):
    """The record of an instance and its answers, before anything else is measured."""
    instance, names = question.instance, name_labelled(question)
    in_image = data.map_to_image(places, data.make_affine(instance.bbox, 1), 1).round(3).tolist()
    return {
        "id": instance.id,
        "file": str(instance.image),
        "category": instance.category,
        "name": instance.name,
        "size": max(instance.bbox[2:]),
        **score_places(question, places),
        "predictions": dict(zip(names, in_image, strict=True)),
        "probabilities": dict(zip(names, probabilities.round(6).tolist(), strict=True)),
        "controls": {},
    }


def measure_controls(model, pixels, question, control, look):
    """{control: scores}: the mean place; asked about another image, and with another text."""
    instance = question.instance
    found = {"mean": score_places(question, control.mean[instance.keypoints[:, 2] > 0])}
    other = None if control.other is instance else look(control.other)
    if other is not None:
        places, _ = answer_question(model, other, question)
        found["other image"] = score_places(question, places)
    if len(control.exchange) > 1:
        exchanged = [control.exchange[keypoint] for keypoint in question.asked]
        places, _ = answer_question(model, pixels, question, exchanged)
        found["other text"] = score_places(question, places)
    return found


def measure_occlusion(model, pixels, question, shares, rng):
    """{label: scores} with these shares of the box covered, of all keypoints and those in sight."""
    found = {}
    truths = find_truths(question.instance)
    size = pixels.shape[-1]
    for share, mask in controls.draw_covers(question.instance.bbox, size, shares, rng):
        places, _ = answer_question(model, controls.cover_pixels(pixels, mask), question)
        label = f"{100 * share:g}% covered"
        found[label] = score_places(question, places)
        seen = ~controls.find_covered(mask, truths)
        if seen.any():
            found[f"{label}, keypoints in sight"] = score_places(question, places, seen)
    return found


def measure_density(model, pixels, question, places, rng):
    """{"density": {keypoint name: numbers}, "points": {point: scores}} (Section 4.4)."""
    truths = find_truths(question.instance)
    points, numbers = calibration.compare_with_truths(
        model,
        pixels,
        question.asked,
        truths,
        places,
        metrics.THRESHOLDS,
        rng,
        category=question.how["category"],
        listed=question.keypoints,
    )
    # Top-3 sampling, the best decoding of Table 9, stands beside what follows from the density.
    drawn, _ = answer_question(model, pixels, question, decoding="top-3")
    found = {"top-3": score_places(question, drawn)}
    for name, point in points.items():
        found[name] = score_places(question, np.array(point))
    return {"density": numbers, "points": found}


def find_truths(instance):
    """Places (n, 2) of the labelled keypoints, relative to the crop."""
    labelled = instance.keypoints[instance.keypoints[:, 2] > 0, :2]
    return data.map_to_crop(labelled, data.make_affine(instance.bbox, 1), 1)


def count_chain_tokens(model, keypoints, category, size):
    """The tokens of an image, of all its questions and their answers.

    Beyond data.MAX_TOKENS cumulative inference starts anew on the way.
    """
    tokenizer, codec, instruction = model.tokenizer, model.codec, model.config.instruction
    opening = data.write_opening(tokenizer, codec, instruction, category, keypoints, keypoints)
    tokens = 1 + model.vision.count_patches(size) + len(opening.ids)
    for keypoint in keypoints:
        question = data.write_question(tokenizer, keypoint, instruction)
        tokens += len(question) + len(codec.encode(0, 0))
    return tokens
