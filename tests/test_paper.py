"""paper.py: the paper's tables agree with each other, and are found for the same texts alone."""

import numpy as np
import pytest

from evaluations import T
from study import pairs, paper
from study.images import Images
from study.paper import find_published
from support import descriptions
from support.descriptions import read_mp100


def test_the_papers_numbers_agree_with_each_other():
    for protocol in (pairs.QUERY_IMAGES, pairs.PAIRS):
        splits = [find_published(protocol=protocol, split=split) for split in range(1, 6)]
        # Table 2's last column.
        mean = np.mean([100 * published["PCK@0.20"] for published in splits])
        assert mean == pytest.approx(92.60, abs=0.0051)
    first = find_published()
    assert first["mPCK"] == pytest.approx(np.mean([first[f"PCK@{t:.2f}"] for t in T]), abs=5e-5)
    # Table 9: as greedy.
    assert find_published(decoding="contrastive").items() <= first.items()
    assert find_published(protocol=pairs.PAIRS, decoding="top-3") == {}
    assert find_published(split=2, cumulative="fixed") == {}
    assert find_published(image_size=238)["PCK@0.25"] == 0.9793


@pytest.mark.parametrize(
    "words",
    [
        {"texts": "simple"},
        {"asked": "names"},
        {"trained": "list", "asked": "list"},
        {"trained": "steps", "asked": "steps"},
    ],
)
def test_other_words_cost_accuracy(words):
    base, numbers = find_published(), find_published(**words)
    assert len(numbers) > 1
    assert all(0.5 < value < base[column] for column, value in numbers.items())
    assert find_published(split=2, **words) == {}
    assert find_published(protocol=pairs.PAIRS, **words) == {}
    assert find_published(decoding="top-3", **words) == {}


def test_who_has_missed_descriptions_in_training_misses_them_less():
    """Table 7."""
    for asked in ("replaced", "names"):
        new, used = find_published(asked=asked), find_published(trained="random", asked=asked)
        assert all(used[column] > new[column] for column in new)


@pytest.mark.parametrize("how", [{"k": 1}, {"k": 8}, {"tune": "frozen"}, {"tune": "full"}])
def test_the_mean_of_other_trainings_is_that_of_their_columns(how):
    """Tables 12 and 15, which give all of them."""
    numbers = find_published(**how)
    assert numbers.pop("mPCK") == pytest.approx(np.mean(list(numbers.values())), abs=1e-4)
    assert len(numbers) == len(T)


def test_numbers_that_the_paper_does_not_have():
    assert find_published(texts=None) == find_published(trained="names") == {}
    assert find_published(texts="simple", asked="list") == {}
    with pytest.raises(ValueError, match="paper.json knows nothing of size"):
        find_published(size=224)


@pytest.mark.parametrize(
    "folder, names, texts",
    [
        ("", None, "detailed"),
        ("", "", "detailed"),
        ("", "simple", "simple names"),
        ("simple", "", "simple descriptions"),
        ("simple", None, "simple"),
        ("vague", None, None),
        ("", "vague", None),
    ],
)
def test_texts_are_known_by_their_folders(monkeypatch, tmp_path, folder, names, texts):
    monkeypatch.chdir(descriptions.DESCRIPTIONS.parent)
    for home in (descriptions.DESCRIPTIONS, "descriptions"):
        at_names = None if names is None else f"{home}/{names}"
        assert paper.name_texts(f"{home}/{folder}", at_names) == texts
    assert paper.name_texts(tmp_path) is None


def test_only_the_papers_own_images_have_a_counterpart():
    facts = read_mp100()
    tested = facts["splits"]["3"]["test"]
    names = {c["id"]: c["name"] for c in facts["categories"] if c["id"] in tested}
    images = Images([], names, {}, None, [], [])
    way = paper.Way("base", "base")
    assert paper.find_counterpart(way, images, 3, "test") == {"PCK@0.20": 0.9057}
    as_pairs = images._replace(supports={0: {}})
    assert paper.find_counterpart(way, as_pairs, 3, "test") == {"PCK@0.20": 0.9058}
    assert paper.find_counterpart(way, images, 3, "val") == {}
    assert paper.find_counterpart(way, images, 4, "test") == {}
    fewer = images._replace(names=dict(list(names.items())[1:]))
    assert paper.find_counterpart(way, fewer, 3, "test") == {}
    assert paper.find_counterpart(way._replace(asked="names"), images, 3, "test") == {}
