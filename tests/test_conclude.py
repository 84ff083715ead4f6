"""conclude.py: averages of all images, of groups and of definitions; of images as pairs."""

from collections import Counter

import pytest

from evaluations import record
from study import metrics
from study.conclude import conclude_evaluation
from study.images import Images
from support.descriptions import read_mp100


def images_of(names, supports=None):
    return Images([], names, {}, supports, [], [])


def test_averages_over_images_over_categories_and_by_training():
    ids = {c["name"]: c["id"] for c in read_mp100()["categories"]}
    horse, bed = ids["horse_body"], ids["bed"]
    records = [record(horse, value) for value in (1.0, 0.5, 0.0)] + [record(bed, 0.1)]
    records[3]["controls"]["mean"] = dict.fromkeys(metrics.METRICS, 0.7)
    images = images_of({horse: "horse_body", bed: "bed"})
    found = conclude_evaluation(dict(enumerate(records)), images, 1, {"PCK@0.20": 0.9698})
    assert found["mPCK"] == found["AUC"] == pytest.approx(1.6 / 4)
    assert found["mPCK over categories"] == pytest.approx((0.5 + 0.1) / 2)
    facts = read_mp100()
    training = facts["splits"]["1"]["train"]
    trained = {c["definition"] for c in facts["categories"] if c["id"] in training}
    assert "animal_body" in trained and "bed" not in trained
    assert found["groups"]["definition seen in training"]["instances"] == 3
    assert found["groups"]["definition new"]["mPCK"] == pytest.approx(0.1)
    assert found["definitions"]["animal_body"]["mPCK"] == pytest.approx(0.5)
    assert found["categories"][bed]["name"] == "bed"
    assert found["categories"][bed]["mPCK"] == pytest.approx(0.1)
    assert found["controls"]["mean"]["instances"] == 1
    assert found["controls"]["mean"]["NME"] == pytest.approx(0.7)
    assert found["paper"] == {"PCK@0.20": 0.9698}
    assert (found["protocol"], found["images"]) == ("only query images", 4)


def test_a_category_that_is_not_mp100s_is_a_group_and_a_definition_of_its_own():
    found = conclude_evaluation({0: record(500, 0.5)}, images_of({500: "kite"}), 1)
    assert found["groups"].keys() == {"not in MP-100"} and found["definitions"].keys() == {"kite"}


def test_images_count_as_pairs():
    distances = {"a": 1.0, "b": 30.0}
    scores = metrics.score_distances([1.0, 30.0], 100)
    records = {n: record(500, 0, size=100, distances=distances) | scores for n in (3, 8)}
    supports = {3: Counter({frozenset("a"): 5, frozenset("x"): 2}), 8: Counter({frozenset("b"): 3})}
    found = conclude_evaluation(records, images_of({500: "kite"}, supports), 1)
    assert found["protocol"] == "support-query pairs"
    assert (found["pairs"], found["pairs left out"], found["images"]) == (8, 2, 2)
    # Near "a" five pairs, far from "b" three.
    assert found["PCK@0.20"] == pytest.approx(5 / 8)
    assert records[3]["pairs"]["weight"] == 5 and records[8]["pairs"]["PCK@0.25"] == 0
    with pytest.raises(ValueError, match="no support-query pair has a keypoint that both show"):
        conclude_evaluation(records, images_of({500: "kite"}, dict.fromkeys((3, 8), Counter())), 1)
    none = {3: supports[3], 8: Counter({frozenset("x"): 3})}
    conclude_evaluation(records, images_of({500: "kite"}, none), 1)
    assert records[8]["pairs"] is None


def test_ids_may_be_numbers_and_text():
    names = {500: "kite", "kite": "boat", 7: "bow"}
    records = {n: record(id, 0.5) for n, id in enumerate(names)}
    found = conclude_evaluation(records, images_of(names), 1)
    assert list(found["categories"]) == [7, 500, "kite"]
