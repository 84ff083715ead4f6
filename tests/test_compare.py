"""compare.py: means over splits, and differences against closed forms."""

import json
import math

import numpy as np
import pytest

from study import compare, metrics, pairs, paper, report
from test_metrics import T, record


def results(folder, split, value, **settings):
    folder.mkdir()
    numbers = dict.fromkeys(metrics.COLUMNS, value) | {
        "split": split,
        "instances": 10 * split,
        "protocol": pairs.QUERY_IMAGES,
        "limit": None,
        "paper": paper.find_published(pairs.QUERY_IMAGES, split),
        "settings": {"data": "d", "part": "test", "decoding": "greedy", "cumulative": None}
        | settings,
    }
    (folder / "results.json").write_text(json.dumps(numbers))
    return folder


def test_average_over_splits(tmp_path):
    same = ["data", "part", "decoding", "cumulative"]
    folders = [results(tmp_path / f"{s}", s, s / 10) for s in (3, 1, 5)]
    table, numbers = metrics.average(folders, same)
    assert [numbers[c] for c in metrics.COLUMNS] == pytest.approx([0.3] * 9) and list(
        numbers["splits"]
    ) == [1, 3, 5]
    assert numbers["paper"] == {"PCK@0.20": pytest.approx((0.9698 + 0.9057 + 0.9224) / 3)}
    assert (
        table.index("split 1")
        < table.index("split 3")
        < table.index("split 5")
        < table.index("average of 3")
    )
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "results.json").write_text('{"split": 2')
    for folder, message in (
        (results(tmp_path / "a", 3, 0.1), "a is of split 3, as another"),
        (
            results(tmp_path / "b", 2, 0.1, decoding="top-3"),
            "b was measured in another way .* decoding is top-3, elsewhere",
        ),
        (tmp_path / "cut", "cut/results.json cannot be read"),
        (tmp_path / "nowhere", "nowhere/results.json is missing"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            metrics.average([*folders, folder], same)


def answers(folder, distances, size=100, pairs=None, beside=None, **of):
    """A folder as eval.py leaves it. distances: for each image those of its keypoints; pairs: for each its weight as support-
    query pairs; beside: {label: distances} of a control."""
    folder.mkdir(parents=True)
    lines = []
    for n, row in enumerate(distances):
        r = {
            "id": n,
            "category": n % 3,
            "file": f"{n}.png",
            "size": size,
            "distances": dict(zip("abcdef", row)),
            "controls": {
                label: {"distances": dict(zip("abcdef", other[n]))}
                for label, other in (beside or {}).items()
                if len(other[n])
            },
        }
        for part in (r, *r["controls"].values()):
            part |= metrics.score_distances([*part["distances"].values()], size)
        if pairs is not None:
            r["pairs"] = (
                {m: r[m] for m in metrics.METRICS} | {"weight": pairs[n]} if pairs[n] else None
            )
        lines.append(json.dumps(r))
    (folder / "instances.jsonl").write_text(
        "\n".join([*lines, lines[0]]) + "\n"
    )  # the last: of a larger limit, before
    settings = {"data": "d", "split": 1, "part": "test", "limit": len(lines)} | of
    (folder / "results.json").write_text(
        json.dumps(
            settings
            | {
                "protocol": pairs.PAIRS if pairs else pairs.QUERY_IMAGES,
                "images": len(lines),
                "settings": settings,
            }
        )
    )
    return folder


def mpck(distances, size=100):
    return sum(d < t * size for d in distances for t in T) / 5 / len(distances)


def test_a_comparison_is_of_the_same_images(tmp_path):
    """Images differ a lot, their two answers little: what only a paired interval sees."""
    rng, n = np.random.default_rng(2), 400
    worse = rng.uniform(0, 30, (n, 1)) + rng.uniform(0, 3, (n, 4))
    better, covered = worse * rng.uniform(0.85, 1, (n, 4)), worse * 1.5
    weights = rng.integers(0, 40, n).tolist()
    beside = {"covered": covered.tolist(), "seen": covered[:, :3].tolist()}
    folders = [
        answers(tmp_path / "base", worse.tolist()),
        answers(tmp_path / "better", better.tolist(), beside=beside),
        answers(tmp_path / "pairs", worse.tolist(), pairs=weights),
    ]
    table, numbers = metrics.compare([*folders, folders[0]])
    assert list(numbers) == ["base", "better", "better, covered", "better, seen", "pairs"]
    assert (
        "interval of the difference" not in numbers["base"]
        and "difference" not in numbers["better, seen"]
    )
    assert [r["keypoints"] for r in numbers.values()] == [4 * n, 4 * n, 4 * n, 3 * n, 4 * n]
    assert [r["instances"] for r in numbers.values()] == [n, n, n, n, n - weights.count(0)]
    first = np.array([mpck(row) for row in worse])
    for name, distances in (("better", better), ("better, covered", covered)):
        each = np.array([mpck(row) for row in distances])
        r, gap = numbers[name], each - first
        assert r["mPCK"] == pytest.approx(each.mean()) and r["difference"] == pytest.approx(
            gap.mean()
        )
        half = 1.96 * gap.std() / math.sqrt(n)  # the normal approximation of a paired difference
        assert r["interval of the difference"] == pytest.approx(
            [gap.mean() - half, gap.mean() + half], abs=half / 6
        )
        alone = 1.96 * each.std() / math.sqrt(n)
        assert r["interval"] == pytest.approx(
            [each.mean() - alone, each.mean() + alone], abs=alone / 6
        )
    assert numbers["base"]["interval"] == pytest.approx(
        metrics.find_intervals([record(0, value) for value in first])["mPCK"]
    )
    assert half < alone / 2 and numbers["better"]["interval of the difference"][0] > 0
    r, mean = numbers["pairs"], np.average(first, weights=weights)
    assert r["mPCK"] == pytest.approx(mean) and r["difference"] == pytest.approx(
        mean - first.mean()
    )
    share = np.array(weights) / np.mean(
        weights
    )  # the delta method, for a weighted mean minus a plain one
    half = 1.96 * np.std(share * (first - mean) - first) / math.sqrt(n)
    low, high = r["interval of the difference"]
    assert (high - low) / 2 == pytest.approx(half, rel=0.12) and low < r["difference"] < high
    rows = {row.split("|")[1].strip(): row for row in table.splitlines() if row.startswith("| ")}
    assert (
        f"{100 * numbers['better']['difference']:+.1f} * |" in rows["better"]
        and " * |" not in rows["pairs"]
    )
    assert (
        len({len(row) for row in rows.values()}) == 1
        and "the same 400 images" in table
        and "A quick look" in table
    )
    assert metrics.compare(folders) == (table, numbers)
    alone, _ = metrics.compare(folders[1:2])  # of one folder: what was measured beside it
    assert "better, covered" in alone and "better, seen" in alone


def test_what_cannot_be_compared_is_refused(tmp_path):
    rows = np.random.default_rng(1).uniform(0, 30, (12, 3)).tolist()
    first, short = answers(tmp_path / "first", rows), [*rows[:-1], rows[-1][:2]]
    (tmp_path / "file").write_text("")
    cut, old = (answers(tmp_path / name, rows) for name in ("cut", "old"))
    (cut / "instances.jsonl").write_text(
        "".join((cut / "instances.jsonl").read_text().splitlines(True)[:7])
    )
    (old / "results.json").write_text("{}")
    for folder, message in (
        (
            answers(tmp_path / "fewer", rows[:11]),
            "fewer was measured in another way than .*first: limit is 11, elsewhere 12",
        ),
        (
            answers(tmp_path / "unread", rows[:11], limit=12),
            "unread has answers for 11 images, .*first for 12, but not",
        ),
        (
            answers(tmp_path / "hidden", short),
            "hidden has answers for 12 images, .*first for 12, but not for the same",
        ),
        (answers(tmp_path / "other", rows, size=99), "other has answers for 12 images"),
        (
            answers(tmp_path / "split", rows, split=2, data="e"),
            "data is e, elsewhere d; split is 2, elsewhere 1",
        ),
        (cut, "cut/instances.jsonl does not fit its results.json"),
        (old, "old/results.json cannot be read .KeyError: 'protocol'"),
        (tmp_path / "nowhere", "nowhere/results.json is missing"),
        (tmp_path / "file", "file/results.json is missing"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            metrics.compare([first, folder])
