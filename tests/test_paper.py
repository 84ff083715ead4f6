"""paper.py: the paper's tables agree with each other."""

import numpy as np
import pytest

from study import pairs, paper
from test_metrics import T


def test_the_papers_numbers_agree_with_each_other():
    for protocol, mean in (
        (pairs.QUERY_IMAGES, 92.60),
        (pairs.PAIRS, 92.60),
    ):  # Table 2's last column
        each = [100 * paper.find_published(protocol, split)["PCK@0.20"] for split in range(1, 6)]
        assert np.mean(each) == pytest.approx(mean, abs=0.0051)
    first = paper.find_published(pairs.QUERY_IMAGES, 1)
    assert first["mPCK"] == pytest.approx(np.mean([first[f"PCK@{t:.2f}"] for t in T]), abs=5e-5)
    assert (
        paper.find_published(pairs.QUERY_IMAGES, 1, "contrastive").items() <= first.items()
    )  # Table 9: as greedy
    assert (
        paper.find_published(pairs.PAIRS, 1, "top-3")
        == paper.find_published(pairs.QUERY_IMAGES, 2, "greedy", "fixed")
        == {}
    )


def test_the_papers_numbers_for_other_words():
    base = paper.find_published(pairs.QUERY_IMAGES, 1)
    for words in (
        ("base", "simple"),
        ("base", "names"),
        ("list", "list"),
        ("steps", "steps"),
    ):  # each costs accuracy
        numbers = paper.find_published(pairs.QUERY_IMAGES, 1, words=words)
        assert len(numbers) > 1 and all(
            0.5 < value < base[column] for column, value in numbers.items()
        )
        assert (
            paper.find_published(pairs.QUERY_IMAGES, 2, words=words)
            == paper.find_published(pairs.PAIRS, 1, words=words)
            == {}
        )
        assert paper.find_published(pairs.QUERY_IMAGES, 1, "top-3", words=words) == {}
    assert paper.find_published(pairs.QUERY_IMAGES, 1, words=("base", None)) == {}
    for asked in (
        "replaced",
        "names",
    ):  # Table 7: who has missed descriptions in training misses them less
        used, new = (
            paper.find_published(pairs.QUERY_IMAGES, 1, words=(trained, asked))
            for trained in ("random", "base")
        )
        assert all(used[column] > new[column] for column in new)
