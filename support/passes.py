"""Around a pass of the language model: its questions, its random numbers, and the cache's room."""

import math
import os
import random

import torch

# Questions in one pass: each pass reads all weights, but attention grows with the square.
QUESTIONS_IN_PASS = 32
# Answers that one pass decides on, if questions repeat.
ANSWERS_IN_PASS = 128


def split_into_passes(questions):
    """The positions of questions that are answered together; equal questions are neighbours."""
    first = {}
    for i, question in enumerate(questions):
        first.setdefault(tuple(question), i)
    parts, distinct = [], set()
    for i in sorted(range(len(questions)), key=lambda i: first[tuple(questions[i])]):
        question = tuple(questions[i])
        distinct.add(question)
        if not parts or len(distinct) > QUESTIONS_IN_PASS or len(parts[-1]) == ANSWERS_IN_PASS:
            parts.append([])
            distinct = {question}
        parts[-1].append(i)
    return parts


def find_common(questions):
    """The tokens that all questions begin with; each question keeps a token of its own."""
    if not questions:
        return []
    shortest = min(len(question) for question in questions)
    return os.path.commonprefix(questions)[:shortest - 1]


def count_round(codec, question):
    """Tokens of a question and its answer. The question ends with the answer's opening."""
    return len(question) - len(codec.open) + len(codec.encode(0, 0))


def count_room(codec, questions, chain, candidates):
    """How many tokens the cache must hold behind the trunk at once.

    chain: how many a chain of all rounds may have, 0 if there is none; candidates: how many
    digits are tried behind an answer.
    """
    distinct = sorted({tuple(question) for question in questions}, key=len)
    side_by_side = sum(len(question) for question in distinct[-QUESTIONS_IN_PASS:])
    chained = sum(count_round(codec, question) for question in questions)
    digits = len(codec.encode(0, 0)) + candidates
    return max(side_by_side, min(chained, chain)) + min(len(questions), ANSWERS_IN_PASS) * digits


def draw_numbers(keypoints, seed, n):
    """n numbers in [0, 1) for each keypoint: (K, n) in float64.

    They depend on the seed, the keypoint's words and how often the list held them before.
    """
    generators = {k: random.Random(f"{seed} {k.name}: {k.description}") for k in keypoints}
    rows = [[generators[k].random() for _ in range(n)] for k in keypoints]
    return torch.tensor(rows, dtype=torch.float64)


def check_pair_length(instance, n, tokens, limit):
    if tokens > limit:
        remedy = "lower --k or shorten" if n > 1 else "shorten"
        raise ValueError(
            f"{n} keypoints of category {instance.category} ({instance.name}) and the image can "
            f"take {tokens} tokens, more than {limit}: {remedy} its descriptions"
        )


def check_length(keypoint, tokens, limit):
    if tokens > limit:
        raise ValueError(
            f"{keypoint.name[:60]!r}: the image and its question take {tokens} tokens, "
            f"more than {limit}: shorten its name or description"
        )


def check_answers(found, config):
    """The Answers that were found, of a model with this CapeLLMConfig; ValueError about NaN."""
    if not all(map(math.isfinite, [*sum(found.coordinates, []), *found.probabilities])):
        raise ValueError(
            f"the model with the backbones {config.vision} and {config.llm} answers with NaN: "
            "weights that are too large overflow, download or train them again"
        )
    return found
