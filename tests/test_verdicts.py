"""verdicts.py: what counts as the paper's effect, and what each row is measured against."""

import pytest

from scripts import tables, trained
from scripts.verdicts import Effect, find_base, find_paper_effect, format_points, judge_effect


@pytest.mark.parametrize(
    "nano, paper, verdict",
    [
        # The same sign, up to three times as large, or as small.
        ((-2.0, -3.0, -1.0), -1.7, "yes"),
        ((-5.1, -6.0, -4.0), -1.7, "yes"),
        ((-5.2, -6.0, -4.0), -1.7, "-5.2, paper -1.7"),
        ((-0.6, -0.9, -0.3), -1.8, "yes"),
        ((-0.3, -0.5, -0.1), -0.9, "yes"),
        ((-0.5, -0.9, -0.1), -1.8, "-0.5, paper -1.8"),
        ((2.0, 1.0, 3.0), 1.23, "yes"),
        # Sixty points are not 1.7.
        ((-57.2, -60.1, -54.0), -1.7, "-57.2, paper -1.7"),
        # The reverse.
        ((0.8, 0.1, 1.5), -6.29, "reverse: +0.8, paper -6.3"),
        ((-5.3, -6.8, -3.8), 1.23, "reverse: -5.3, paper +1.2"),
        # An interval with 0 in it.
        ((-0.1, -0.5, 0.3), -2.87, "not seen: -0.1, paper -2.9"),
        ((-2.9, -6.0, 0.0), -2.87, "not seen: -2.9, paper -2.9"),
        ((0.6, -0.1, 1.4), -6.29, "not seen: +0.6, paper -6.3"),
        ((-0.4, -0.9, 0.1), 0.5, "not seen: -0.4, paper +0.5"),
        ((0.0, 0.0, 0.0), 1.0, "not seen: 0.0, paper +1.0"),
        # Both are too small to have a sign, whatever the intervals.
        ((-0.1, -0.8, 0.6), 0.03, "yes"),
        ((-0.3, -0.5, -0.1), 0.0, "yes"),
        ((0.4, 0.1, 0.7), -0.4, "yes"),
        # The paper's alone is: no reverse.
        ((-2.2, -2.9, -1.6), 0.02, "-2.2, paper 0.0"),
        ((-5.0, -6.0, -4.1), -0.01, "-5.0, paper 0.0"),
        ((-4.3, -5.0, -3.0), 0.13, "-4.3, paper +0.1"),
        ((-1.0, -1.5, -0.5), -0.4, "yes"),
        ((-0.9, -2.0, 0.2), -0.4, "yes"),
        ((-0.9, -2.0, 0.2), 0.4, "-0.9, paper +0.4"),
        # Nano's alone is, and it is seen.
        ((0.4, 0.1, 0.7), -0.6, "+0.4, paper -0.6"),
        ((0.4, 0.1, 0.7), 0.6, "yes"),
    ],
)
def test_a_verdict_is_yes_for_the_same_sign_and_size_alone(nano, paper, verdict):
    assert judge_effect(Effect(*nano), paper) == verdict


def test_points_have_a_sign_unless_they_are_none():
    assert [format_points(p) for p in (-0.04, 0.04, -1.25, 12)] == ["0.0", "0.0", "-1.2", "+12.0"]


def find(recipe, name):
    (row,) = [row for row in recipe.ROWS if row.name == name]
    return row


@pytest.mark.parametrize(
    "recipe, name, base",
    [
        (tables, "base", None),
        (tables, "pairs", "base"),
        (tables, "cumulative-fixed", "base"),
        (tables, "decoding-top-3", "base"),
        (trained, "base", None),
        (trained, "k-2", "base"),
        (trained, "base-asked-names", "base"),
        (trained, "random-asked-names", "instruction-random"),
        (trained, "token", "base"),
        (trained, "token-steps", "instruction-steps"),
        (trained, "base-cumulative", "base"),
        (trained, "rounds-dynamic-cumulative", "rounds-dynamic"),
        (trained, "rounds-locllm-cumulative", "rounds-locllm"),
        # Not pre-trained as nano was.
        (trained, "vision-dinov2", None),
        (trained, "vision-hiera", "vision-dinov2"),
    ],
)
def test_each_row_has_its_base(recipe, name, base):
    found = find_base(find(recipe, name), recipe.ROWS)
    assert (found and found.name) == base


@pytest.mark.parametrize(
    "recipe, name, column, points",
    [
        # Table 13 - Table 12: 91.11 - 91.98
        (trained, "instruction-steps", "mPCK", -0.87),
        (trained, "vision-hiera", "mPCK", -7.09),
        # Table 17 - Table 13: 91.49 - 91.11
        (trained, "token-steps", "mPCK", 0.38),
        (trained, "instruction-diverse-outline", "mPCK", -3.46),
        # Table 3: 97.28 - 96.05, 93.39 - 94.85, 94.59 - 96.98
        (trained, "rounds-dynamic-cumulative", "PCK@0.20", 1.23),
        (trained, "rounds-locllm-cumulative", "PCK@0.20", -1.46),
        (tables, "cumulative-fixed", "PCK@0.20", -2.39),
        # Table 2: 97.01 - 96.98
        (tables, "pairs", "PCK@0.20", 0.03),
        # Tables 6, 7, 8 and 9
        (tables, "both-simple", "PCK@0.20", -0.89),
        (tables, "instruction-replaced", "mPCK", -5.32),
        (tables, "image-size-196", "PCK@0.20", 0.13),
        (tables, "decoding-contrastive", "mPCK", 0.0),
    ],
)
def test_the_papers_effect_is_of_its_own_rows(recipe, name, column, points):
    row = find(recipe, name)
    assert find_paper_effect(row, find_base(row, recipe.ROWS)) == (column, points)
