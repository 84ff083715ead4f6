"""compare.py: means over splits, and differences against closed forms."""

import json
import math
import random

import numpy as np
import pytest

from damage import check_message, damage_value, make_special
from evaluations import T, record
from study import metrics
from study.compare import average_evaluations, compare_evaluations, measure_gap
from study.pairs import PAIRS, QUERY_IMAGES
from study.paper import find_published

SAME = ["data", "part", "decoding", "cumulative"]


def write_results(folder, split, value, **settings):
    folder.mkdir()
    same = {"data": "d", "part": "test", "decoding": "greedy", "cumulative": None}
    numbers = dict.fromkeys(metrics.COLUMNS, value) | {
        "split": split,
        "instances": 10 * split,
        "protocol": QUERY_IMAGES,
        "limit": None,
        "paper": find_published(split=split),
        "settings": same | settings,
    }
    (folder / "results.json").write_text(json.dumps(numbers))
    return folder


def test_average_over_splits(tmp_path):
    folders = [write_results(tmp_path / f"{s}", s, s / 10) for s in (3, 1, 5)]
    how, numbers = average_evaluations(folders, SAME)
    assert [numbers[c] for c in metrics.COLUMNS] == pytest.approx([0.3] * 9)
    assert list(numbers["splits"]) == [1, 3, 5] and numbers["splits"][3]["instances"] == 30
    assert numbers["paper"] == {"PCK@0.20": pytest.approx((0.9698 + 0.9057 + 0.9224) / 3)}
    assert how == {"protocol": QUERY_IMAGES, "limit": None, "data": "d", "part": "test"} | {
        "decoding": "greedy",
        "cumulative": None,
    }


def test_what_has_no_average_is_refused(tmp_path):
    first = write_results(tmp_path / "first", 3, 0.3)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "results.json").write_text('{"split": 2')
    other = "b was measured in another way than .*first: decoding is top-3, elsewhere greedy"
    for folder, message in (
        (write_results(tmp_path / "a", 3, 0.1), "a is of split 3, as another"),
        (write_results(tmp_path / "b", 2, 0.1, decoding="top-3"), other),
        (tmp_path / "cut", "cut/results.json: this is no JSON from column 12 on: evaluate"),
        (tmp_path / "nowhere", "nowhere/results.json is missing"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            average_evaluations([first, folder], SAME)


def write_evaluation(folder, distances, size=100, weights=None, beside=None, **of):
    """A folder as eval.py leaves it.

    distances: for each image those of its keypoints; weights: for each how many support-query pairs
    it counts as; beside: {label: distances} of a control.
    """
    folder.mkdir(parents=True)

    def score(row):
        named = dict(zip("abcdef", row, strict=False))
        return metrics.score_distances(row, size) | {"distances": named}

    lines = []
    for n, row in enumerate(distances):
        r = {"id": n, "category": n % 3, "file": f"{n}.png", "size": size} | score(row)
        r["controls"] = {label: score(rows[n]) for label, rows in (beside or {}).items()}
        if weights is not None:
            own = {metric: r[metric] for metric in metrics.METRICS}
            r["pairs"] = own | {"weight": weights[n]} if weights[n] else None
        lines.append(json.dumps(r))
    # The last one is of a larger limit, before.
    (folder / "instances.jsonl").write_text("\n".join([*lines, lines[0]]) + "\n")
    settings = {"data": "d", "split": 1, "part": "test", "limit": len(lines)} | of
    protocol = PAIRS if weights else QUERY_IMAGES
    results = {"protocol": protocol, "images": len(lines), "settings": settings}
    (folder / "results.json").write_text(json.dumps(settings | results))
    return folder


def mpck(distances, size=100):
    return sum(d < t * size for d in distances for t in T) / 5 / len(distances)


@pytest.fixture
def evaluations(tmp_path):
    """Images that differ a lot, and two answers to each that differ little."""
    rng, n = np.random.default_rng(2), 400
    worse = rng.uniform(0, 30, (n, 1)) + rng.uniform(0, 3, (n, 4))
    better = worse * rng.uniform(0.85, 1, (n, 4))
    covered = worse * 1.5
    weights = rng.integers(0, 40, n).tolist()
    beside = {"covered": covered.tolist(), "seen": covered[:, :3].tolist()}
    folders = [
        write_evaluation(tmp_path / "base", worse.tolist()),
        write_evaluation(tmp_path / "better", better.tolist(), beside=beside),
        write_evaluation(tmp_path / "pairs", worse.tolist(), weights=weights),
    ]
    mpcks = {
        "base": np.array([mpck(row) for row in worse]),
        "better": np.array([mpck(row) for row in better]),
        "better, covered": np.array([mpck(row) for row in covered]),
    }
    return folders, mpcks, weights


def test_a_comparison_is_of_the_same_images(evaluations):
    """What only a paired interval sees."""
    folders, mpcks, weights = evaluations
    n, first = len(weights), mpcks["base"]
    how, name, images, numbers = compare_evaluations([*folders, folders[0]])
    assert how == {"data": "d", "split": 1, "part": "test", "limit": n}
    assert (name, images) == ("base", n)
    assert list(numbers) == ["base", "better", "better, covered", "better, seen", "pairs"]
    assert "interval of the difference" not in numbers["base"]
    assert "difference" not in numbers["better, seen"]
    assert [r["keypoints"] for r in numbers.values()] == [4 * n, 4 * n, 4 * n, 3 * n, 4 * n]
    assert [r["instances"] for r in numbers.values()] == [n, n, n, n, n - weights.count(0)]
    records = [record(0, value) for value in first]
    expected = metrics.find_intervals(records)["mPCK"]
    assert numbers["base"]["interval"] == pytest.approx(expected)
    for label in ("better", "better, covered"):
        each, r = mpcks[label], numbers[label]
        gap = each - first
        assert r["mPCK"] == pytest.approx(each.mean())
        assert r["difference"] == pytest.approx(gap.mean())
        # The normal approximation, of a paired difference and of a mean alone.
        half = 1.96 * gap.std() / math.sqrt(n)
        ends = [gap.mean() - half, gap.mean() + half]
        assert r["interval of the difference"] == pytest.approx(ends, abs=half / 6)
        alone = 1.96 * each.std() / math.sqrt(n)
        ends = [each.mean() - alone, each.mean() + alone]
        assert r["interval"] == pytest.approx(ends, abs=alone / 6)
        assert half < alone / 2
    assert numbers["better"]["interval of the difference"][0] > 0
    assert compare_evaluations(folders).numbers == numbers


def test_pairs_are_compared_with_single_images(evaluations):
    folders, mpcks, weights = evaluations
    first = mpcks["base"]
    r = compare_evaluations(folders).numbers["pairs"]
    mean = np.average(first, weights=weights)
    assert r["mPCK"] == pytest.approx(mean)
    assert r["difference"] == pytest.approx(mean - first.mean())
    # The delta method, for a weighted mean minus a plain one.
    share = np.array(weights) / np.mean(weights)
    half = 1.96 * np.std(share * (first - mean) - first) / math.sqrt(len(weights))
    low, high = r["interval of the difference"]
    assert (high - low) / 2 == pytest.approx(half, rel=0.12) and low < r["difference"] < high


def test_a_gap_is_of_any_metric(evaluations, tmp_path):
    """And of any two folders: of mPCK what their comparison says."""
    folders, _, weights = evaluations
    for folder, name in ((folders[1], "better"), (folders[2], "pairs")):
        gap, interval = measure_gap(folder, folders[0], "mPCK")
        r = compare_evaluations(folders).numbers[name]
        assert [gap, interval] == [r["difference"], r["interval of the difference"]]
    scores = []
    for folder in folders[:2]:
        lines = (folder / "instances.jsonl").read_text().splitlines()[: len(weights)]
        scores.append([json.loads(line)["PCK@0.20"] for line in lines])
    gaps = np.subtract(scores[1], scores[0])
    gap, (low, high) = measure_gap(folders[1], folders[0], "PCK@0.20")
    assert gap == pytest.approx(gaps.mean())
    half = 1.96 * gaps.std() / math.sqrt(len(gaps))
    assert [low, high] == pytest.approx([gap - half, gap + half], abs=half / 6)
    other = write_evaluation(tmp_path / "other", [[1, 2]] * 4)
    with pytest.raises(ValueError, match="other and .*base are not of the same keypoints"):
        measure_gap(other, folders[0], "mPCK")


def test_a_folder_alone_shows_what_was_measured_beside_it(evaluations):
    folders, mpcks, _ = evaluations
    numbers = compare_evaluations(folders[1:2]).numbers
    assert list(numbers) == ["better", "better, covered", "better, seen"]
    gap = mpcks["better, covered"].mean() - mpcks["better"].mean()
    assert numbers["better, covered"]["difference"] == pytest.approx(gap)


def test_folders_of_the_same_name_are_told_apart(tmp_path):
    rows = np.random.default_rng(1).uniform(0, 30, (12, 3)).tolist()
    folders = [write_evaluation(tmp_path / name / "out", rows) for name in "ab"]
    assert list(compare_evaluations(folders).numbers) == [str(folder) for folder in folders]


def test_what_cannot_be_compared_is_refused(tmp_path):
    rows = np.random.default_rng(1).uniform(0, 30, (12, 3)).tolist()
    short = [*rows[:-1], rows[-1][:2]]
    first = write_evaluation(tmp_path / "first", rows)
    cut = write_evaluation(tmp_path / "cut", rows)
    seven = (cut / "instances.jsonl").read_text().splitlines(True)[:7]
    (cut / "instances.jsonl").write_text("".join(seven))
    old = write_evaluation(tmp_path / "old", rows)
    (old / "results.json").write_text("{}")
    (tmp_path / "file").write_text("")
    fewer = write_evaluation(tmp_path / "fewer", rows[:11])
    unread = write_evaluation(tmp_path / "unread", rows[:11], limit=12)
    hidden = write_evaluation(tmp_path / "hidden", short)
    other = write_evaluation(tmp_path / "other", rows, size=99)
    split = write_evaluation(tmp_path / "split", rows, split=2, data="e")
    for folder, message in (
        (fewer, "fewer was measured in another way than .*first: limit is 11, elsewhere 12"),
        (unread, "unread has answers for 11 images, .*first for 12, but not"),
        (hidden, "hidden has answers for 12 images, .*first for 12, but not for the same"),
        (other, "other has answers for 12 images"),
        (split, "data is e, elsewhere d; split is 2, elsewhere 1"),
        (cut, "cut/instances.jsonl does not fit its results.json"),
        (old, "old/results.json: protocol is missing: evaluate again"),
        (tmp_path / "nowhere", "nowhere/results.json is missing"),
        (tmp_path / "file", "file/results.json is missing"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            compare_evaluations([first, folder])


def compare_with(folder, first):
    """What --compare and --average read of a folder; the name of the file at fault, or None."""
    try:
        compare_evaluations([first, folder])
        average_evaluations([folder], SAME)
    except (ValueError, FileNotFoundError) as error:
        check_message(str(error), folder)
        return str(error)
    return None


@pytest.mark.parametrize("weights", [None, [3, 0, 1, 2]], ids=["single", "pairs"])
@pytest.mark.parametrize("seed", range(10))
def test_a_damaged_evaluation_is_named(tmp_path, monkeypatch, weights, seed):
    monkeypatch.setattr(metrics, "RESAMPLES", 3)
    rng = random.Random(seed)
    rows = np.random.default_rng(1).uniform(0, 30, (4, 3)).tolist()
    how = {"weights": weights, "beside": {"covered": rows}, "paper": {"PCK@0.20": 0.5}}
    how |= dict.fromkeys(metrics.COLUMNS, 0.5) | {"instances": 4, "decoding": "greedy"}
    how |= {"cumulative": None}
    first = write_evaluation(tmp_path / "first", rows, **how)
    folder = write_evaluation(tmp_path / "folder", rows, **how)
    assert compare_with(folder, first) is None
    results, instances = folder / "results.json", folder / "instances.jsonl"
    content = instances.read_bytes()
    lines = content.splitlines()
    for _ in range(20):
        at = rng.randrange(len(lines))
        damaged = [*lines[:at], damage_value(rng, json.loads(lines[at])), *lines[at + 1 :]]
        instances.write_bytes(b"\n".join(damaged) + b"\n" * rng.randrange(2))
        compare_with(folder, first)
    instances.write_bytes(content)
    value = json.loads(results.read_bytes())
    for _ in range(20):
        results.write_bytes(damage_value(rng, value))
        compare_with(folder, first)
    results.write_text(json.dumps(value))
    for path in (instances, results):
        make_special(path, "pipe")
        assert f"{path} is no regular file" in compare_with(folder, first)
