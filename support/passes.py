"""Around a pass of the language model: its questions, its random numbers, and the cache's room."""

import math
import os
import random
from itertools import zip_longest
from typing import NamedTuple

import torch

from support.radius import find_radii

# Questions in one pass: each pass reads all weights, but attention grows with the square.
QUESTIONS_IN_PASS = 32
# Answers that one pass decides on, if questions repeat.
ANSWERS_IN_PASS = 128


class Asked(NamedTuple):
    """An image, and what it is asked: see `CapeLLM.answer`."""

    pixels: torch.Tensor
    keypoints: list
    seed: int = 0
    category: str | None = None
    listed: list | None = None


class Answers(NamedTuple):
    coordinates: list  # [x, y] of each keypoint, relative to the crop
    probabilities: list
    radii: list  # relative to the crop's side, see support.radius; None without digits


class Tree(NamedTuple):
    """An image and its questions as the language model reads them."""

    trunk: torch.Tensor  # (T, D): what all questions follow, embedded
    questions: list  # token ids of each, up to the first digit
    draws: torch.Tensor  # (n, 2 K): numbers in [0, 1) that digits are drawn with


class Decoded(NamedTuple):
    """An answer to one question, on the CPU."""

    digits: list  # 2 K, x before y; with <KEYPOINT> (Table 17), x and y themselves
    probability: float  # of these digits: Eq. 6
    p: torch.Tensor | None = None  # (2 K, base): of each digit, given those before it


def read_back(digits, log_p):
    """The n Decoded of 2 K times digits (n,) and log p (n, base) of what they were chosen from."""
    digits, log_p = torch.stack(digits, 1), torch.stack(log_p, 1)
    # A GPU is waited for once.
    found = torch.cat([digits[..., None], log_p], 2).cpu()
    digits, log_p = found[..., 0].long(), found[..., 1:]
    # Eq. 6: the product over the digits
    log_probability = log_p.gather(2, digits[..., None]).sum((1, 2))
    return map(Decoded, digits.tolist(), log_probability.exp().tolist(), log_p.exp())


def plan_side_by_side(trees):
    """Which questions are answered together: for each pass a list of (image, question).

    trees: list of Tree. The n-th pass of each image is in the n-th pass of all.
    """
    parts = [split_into_passes(tree.questions) for tree in trees]
    return [pair_with_image(together) for together in zip_longest(*parts, fillvalue=[])]


def plan_chains(codec, trees, orders, limit):
    """Rounds that are asked one after the other: a list of chains, each a list of passes.

    orders: of each image's questions; limit: tokens that a chain may have, its trunk among them.
    A pass is a list of (image, question), one round of each image whose chain is long enough.
    """
    split = []
    for tree, order in zip(trees, orders, strict=True):
        room = limit - len(tree.trunk)
        split.append(split_into_chains(codec, tree.questions, order, room))
    chains = []
    for together in zip_longest(*split, fillvalue=[]):
        rounds = [[[n] for n in chain] for chain in together]
        chains.append([pair_with_image(p) for p in zip_longest(*rounds, fillvalue=[])])
    return chains


def pair_with_image(parts):
    """Questions of each image as (image, question)."""
    return [(image, n) for image, part in enumerate(parts) for n in part]


def split_into_chains(codec, questions, order, room):
    """The questions in this order, as chains; a chain may have so many tokens."""
    chains, tokens = [], 0
    for n in order:
        tokens += count_round(codec, questions[n])
        if not chains or tokens > room:
            chains.append([])
            tokens = count_round(codec, questions[n])
        chains[-1].append(n)
    return chains


def place_ends(owners, lengths, batch):
    """Tokens that each image gets, and where among them the last one of each of n branches stands.

    owners: whose each branch is, in order; lengths: tokens of each branch; batch: all images.
    """
    counts, places = [0] * batch, []
    for image, length in zip(owners, lengths, strict=True):
        counts[image] += length
        places.append(counts[image] - 1)
    return counts, places


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


def count_room(codec, trees, limit, candidates):
    """How many tokens the cache must hold behind the trunks at once.

    trees: list of Tree; limit: how many a chain of rounds may have, its trunk among them, 0 if
    there is none; candidates: how many digits are tried behind an answer.
    """
    digits = len(codec.encode(0, 0)) + candidates
    side_by_side, answers, chained, most, longest = 0, 0, 0, 0, 0
    for tree in trees:
        distinct = sorted({tuple(question) for question in tree.questions}, key=len)
        asked = sum(len(question) for question in distinct[-QUESTIONS_IN_PASS:])
        side_by_side = max(side_by_side, asked)
        answers = max(answers, min(len(tree.questions), ANSWERS_IN_PASS))
        rounds = [count_round(codec, question) for question in tree.questions]
        chained += max(0, min(sum(rounds), limit - len(tree.trunk)))
        most = max(most, len(rounds))
        longest = max([longest, *rounds])
    # Chains of different images take the same steps, each as long as the longest of its rounds.
    return max(side_by_side, min(chained, most * longest)) + answers * digits


def draw_numbers(keypoints, seed, n):
    """n numbers in [0, 1) for each of m keypoints: (m, n) in float64.

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


def collect_answers(found, codec, config) -> Answers:
    """The Answers of a list of Decoded. config: the model's; ValueError about NaN."""
    places = [codec.place(one.digits) for one in found]
    answers = Answers(
        places, [one.probability for one in found], find_radii(found, config.radius_scale)
    )
    if not all(map(math.isfinite, [*sum(places, []), *answers.probabilities])):
        raise ValueError(
            f"the model with the backbones {config.vision} and {config.llm} answers with NaN: "
            "weights that are too large overflow, download or train them again"
        )
    return answers
