"""What eval.py measures of images: answers, controls, occlusion, densities.

    shown = Shown(instance, keypoints, pixels)
    (record,) = measure_images(model, [shown], Asking(decoding="top-3"))
    record["PCK@0.20"], record["controls"]["other text"]["PCK@0.20"]

The record of an image holds numbers and texts only, so that it can be written as a line of JSON.
"""

import random
from typing import NamedTuple

import numpy as np
import torch

import data
from study import calibration, controls, density, metrics
from support.passes import Answers, Asked
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
    instruction that asks for the category is told it; images_per_pass: how many are asked at once.
    """

    decoding: str = "greedy"
    cumulative: bool | str = False
    seed: int = 0
    occlude: tuple = ()
    density: bool = False
    true_category: bool = False
    images_per_pass: int = 1


class Shown(NamedTuple):
    """An instance, all keypoints of its category, and what the model is shown.

    pixels: (3, S, S); control: a controls.Control, if controls are measured; other: pixels of its
    other image, None if there is none, or if it cannot be read.
    """

    instance: data.Instance
    keypoints: list
    pixels: torch.Tensor
    control: controls.Control | None = None
    other: torch.Tensor | None = None


class Question(NamedTuple):
    """What is asked about an image: keypoints, and the positions of those that have a truth, which
    are scored."""

    instance: data.Instance
    asked: list
    labelled: np.ndarray


class Plan(NamedTuple):
    """A question, and the ways in which it is asked: {label: Asked}, "" for the answers themselves.

    seen: {label: which labelled keypoints are in sight}, where a part of the box is covered; rng:
    for what is left to draw.
    """

    question: Question
    ways: dict
    seen: dict
    rng: random.Random


def measure_images(model, images, asking):
    """The records, dicts, of a list of Shown."""
    plans = [plan_questions(shown, asking) for shown in images]
    asked = [way for plan in plans for way in plan.ways.values()]
    answers = iter(answer_in_groups(model, asked, asking))
    records = []
    for shown, plan in zip(images, plans, strict=True):
        found = {label: keep_labelled(plan.question, next(answers)) for label in plan.ways}
        record = describe_answers(plan.question, found[""])
        record["controls"] = score_controls(shown, plan, found)
        if asking.density:
            record |= measure_density(model, shown.pixels, plan, found[""].coordinates)
        records.append(record)
    return records


def plan_questions(shown, asking):
    """The Plan of what is asked about an image."""
    instance, control, pixels = shown.instance, shown.control, shown.pixels
    # Each image has random numbers of its own, whoever measures it in whatever order.
    rng = random.Random(f"{asking.seed} {instance.category} {instance.id}")
    question = pose_question(instance, shown.keypoints, asking)
    category = instance.name if asking.true_category else None
    usual = Asked(pixels, question.asked, rng.getrandbits(32), category, shown.keypoints)
    ways, seen = {"": usual}, {}
    if shown.other is not None:
        ways["other image"] = usual._replace(pixels=shown.other)
    if control and len(control.exchange) > 1:
        exchanged = [control.exchange[keypoint] for keypoint in question.asked]
        ways["other text"] = usual._replace(keypoints=exchanged)
    truths, size = find_truths(instance), pixels.shape[-1]
    for share, mask in controls.draw_covers(instance.bbox, size, asking.occlude, rng):
        label = f"{100 * share:g}% covered"
        ways[label] = usual._replace(pixels=controls.cover_pixels(pixels, mask))
        seen[label] = ~controls.find_covered(mask, truths)
    return Plan(question, ways, seen, rng)


def answer_in_groups(model, asked, asking):
    """`Answers` to each Asked, so many at once as asking.images_per_pass says."""
    answers = []
    for n in range(0, len(asked), asking.images_per_pass):
        group = asked[n:n + asking.images_per_pass]
        answers += model.answer_together(group, asking.decoding, asking.cumulative)
    return answers


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


def pose_question(instance, keypoints, asking):
    """The Question about an instance.

    In single rounds only labelled keypoints are asked: their answers do not depend on each other.
    Cumulative inference asks all, since nobody tells it which are labelled.
    """
    asked, labelled = keypoints, np.flatnonzero(instance.keypoints[:, 2] > 0)
    if not asking.cumulative:
        asked, labelled = [keypoints[n] for n in labelled], np.arange(len(labelled))
    return Question(instance, asked, labelled)


def keep_labelled(question, answers):
    """Of `Answers` those to the labelled keypoints, as arrays (n, 2), (n,) and (n,)."""
    return Answers(*(np.array(of_all)[question.labelled] for of_all in answers))


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


def describe_answers(question, answers):
    """The record of an instance and its answers, before anything else is measured."""
    places, probabilities, _ = answers
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


def score_controls(shown, plan, found):
    """{control: scores}: the mean place, and what was answered in each way but the usual one.

    found: {label: Answers}. What was covered counts once with all keypoints, once with those in
    sight.
    """
    question, scores = plan.question, {}
    if shown.control:
        mean = shown.control.mean[shown.instance.keypoints[:, 2] > 0]
        scores["mean"] = score_places(question, mean)
    for label, answers in found.items():
        if label:
            scores[label] = score_places(question, answers.coordinates)
        seen = plan.seen.get(label)
        if seen is not None and seen.any():
            in_sight = score_places(question, answers.coordinates, seen)
            scores[f"{label}, keypoints in sight"] = in_sight
    return scores


def measure_density(model, pixels, plan, places):
    """{"density": {keypoint name: numbers}, "points": {point: scores}} (Section 4.4)."""
    question, usual = plan.question, plan.ways[""]
    points, numbers = calibration.compare_with_truths(
        model,
        pixels,
        question.asked,
        find_truths(question.instance),
        places,
        metrics.THRESHOLDS,
        plan.rng,
        category=usual.category,
        listed=usual.listed,
    )
    # Top-3 sampling, the best decoding of Table 9, stands beside what follows from the density.
    (drawn,) = model.answer_together([usual], "top-3")
    found = {"top-3": score_places(question, keep_labelled(question, drawn).coordinates)}
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
