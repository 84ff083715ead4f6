"""How many questions the language model reads in one pass, and what room its cache needs."""

import os

# Questions in one pass: each pass reads all weights, but attention grows with the square.
BRANCHES = 32
# Answers that one pass decides on, where questions repeat.
ANSWERS = 128


def split_into_passes(questions):
    """The positions of questions that are answered together; equal questions are neighbours."""
    first = {}
    for i, question in enumerate(questions):
        first.setdefault(tuple(question), i)
    parts, distinct = [], set()
    for i in sorted(range(len(questions)), key=lambda i: first[tuple(questions[i])]):
        question = tuple(questions[i])
        distinct.add(question)
        if not parts or len(distinct) > BRANCHES or len(parts[-1]) == ANSWERS:
            parts.append([])
            distinct = {question}
        parts[-1].append(i)
    return parts


def count_shared(questions):
    """How many tokens all questions begin with; each keeps a token of its own."""
    if not questions:
        return 0
    shortest = min(len(question) for question in questions)
    return min(len(os.path.commonprefix(questions)), shortest - 1)


def count_round(codec, question):
    """Tokens of a question and its answer. The question ends with the answer's opening."""
    return len(question) - len(codec.open) + len(codec.encode(0, 0))


def count_room(codec, questions, chain, candidates):
    """How many tokens the cache must hold behind the trunk at once.

    chain: how many a chain of all rounds may have, 0 where there is none; candidates: how many
    digits are tried behind an answer.
    """
    distinct = sorted({tuple(question) for question in questions}, key=len)
    side_by_side = sum(len(question) for question in distinct[-BRANCHES:])
    chained = sum(count_round(codec, question) for question in questions)
    digits = len(codec.encode(0, 0)) + candidates
    return max(side_by_side, min(chained, chain)) + min(len(questions), ANSWERS) * digits
