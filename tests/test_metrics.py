"""metrics.py: against loops in plain Python, numerical integration, closed forms, and the published way to draw pairs."""
import json
import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data
import density
import metrics

T = (0.05, 0.10, 0.15, 0.20, 0.25)


def pck_in_loops(predictions, truths, visible, size, thresholds=T):
    fractions = []
    for t in thresholds:
        hits = [math.dist(p, q) < t * size for p, q, v in zip(predictions, truths, visible) if v > 0]
        fractions.append(sum(hits) / len(hits))
    return fractions


# ------------------------------------------------------------------ one image

points = st.integers(-50, 250).map(float)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(points, points, points, points, st.sampled_from([0, 1, 2])), min_size=1, max_size=20),
       st.integers(1, 300))
def test_pck_equals_plain_loops(rows, size):
    rows = [(*rows[0][:4], 2), *rows[1:]]           # one visible, at least
    predictions, truths, visible = [r[:2] for r in rows], [r[2:4] for r in rows], [r[4] for r in rows]
    expected = pck_in_loops(predictions, truths, visible, size)
    found = metrics.pck(predictions, truths, visible, size, T)
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert (np.diff(found) >= 0).all()
    distances = [math.dist(p, q) for p, q, v in zip(predictions, truths, visible) if v > 0]
    one = metrics.scores(distances, size)
    assert [one[f"PCK@{t:.2f}"] for t in T] == pytest.approx(expected, abs=1e-12)
    assert one["mPCK"] == pytest.approx(sum(expected) / 5)
    assert one["NME"] == pytest.approx(sum(d / size for d in distances) / len(distances))


def test_pck_moves_and_scales_with_the_image():
    rng = np.random.default_rng(0)
    truths, visible = rng.uniform(0, 200, (300, 2)), rng.integers(0, 3, 300)
    predictions = truths + rng.normal(0, 20, truths.shape)
    found = metrics.pck(predictions, truths, visible, 200, T)
    assert 0 < found[0] < found[-1] < 1
    for scale, shift in ((1, (64.0, -32.0)), (4, (0.0, 0.0)), (0.5, (8.0, 1024.0))):
        moved = metrics.pck(predictions * scale + shift, truths * scale + shift, visible, 200 * scale, T)
        assert moved.tolist() == found.tolist()


def test_exactly_at_the_threshold_does_not_count():
    truths = np.array([[10.0, 20.0]])
    for step in ((5, 0), (0, -5), (3, 4)):
        at = truths + step
        assert metrics.pck(at, truths, [1], 100, (0.05,)).tolist() == [0]
        assert metrics.pck(truths + np.array(step) * 0.999, truths, [1], 100, (0.05,)).tolist() == [1]
    with pytest.raises(ValueError, match="at least one visible"):
        metrics.pck(truths, truths, [0], 100, (0.05,))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 60), min_size=1, max_size=12), st.floats(20, 200))
def test_auc_is_the_integral_of_pck(distances, size):
    thresholds = (np.arange(5000) + 0.5) * 0.25 / 5000          # the midpoint rule
    curve = metrics.pck([(d, 0) for d in distances], np.zeros((len(distances), 2)), np.ones(len(distances)), size, thresholds)
    assert metrics.scores(distances, size)["AUC"] == pytest.approx(curve.mean(), abs=2e-4)


# ---------------------------------------------------------------- many images

def record(category, value, **more):
    return {"category": category, "controls": {}} | dict.fromkeys(metrics.METRICS, value) | more


def test_averages_over_images_over_categories_and_by_training():
    ids = {c["name"]: c["id"] for c in data.mp100()["categories"]}
    records = [*(record(ids["horse_body"], value) for value in (1.0, 0.5, 0.0)), record(ids["bed"], 0.1)]
    records[3]["controls"]["mean"] = dict.fromkeys(metrics.METRICS, 0.7)
    r, table = metrics.report(records, {ids[n]: n for n in ("horse_body", "bed")}, 1, {"PCK@0.20": 0.9698})
    assert r["mPCK"] == r["AUC"] == pytest.approx(1.6 / 4) and r["mPCK over categories"] == pytest.approx((0.5 + 0.1) / 2)
    facts = data.mp100()
    trained = {c["definition"] for c in facts["categories"] if c["id"] in facts["splits"]["1"]["train"]}
    assert "animal_body" in trained and "bed" not in trained
    assert r["groups"]["definition seen in training"]["instances"] == 3
    assert r["groups"]["definition new"]["mPCK"] == pytest.approx(0.1)
    assert r["categories"][ids["bed"]]["name"] == "bed" and r["definitions"]["animal_body"]["mPCK"] == pytest.approx(0.5)
    assert r["controls"]["mean"]["instances"] == 1 and r["controls"]["mean"]["NME"] == pytest.approx(0.7)
    assert "definition new (1 category)" in table and " 40.0 |" in table
    assert "paper, MP-100 photographs" in table and " 97.0 |" in table
    assert len({len(row) for row in table.splitlines()}) == 1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 40), st.integers(0, 2)), min_size=1, max_size=30))
def test_a_weight_is_so_many_copies(rows):
    weighted = metrics.summary([record(c, v, weight=w) for v, w, c in rows])
    repeated = metrics.summary([record(c, v) for v, w, c in rows for _ in range(w)])
    assert [weighted[c] for c in metrics.COLUMNS] == pytest.approx([repeated[c] for c in metrics.COLUMNS])


def test_intervals_are_those_of_a_mean():
    values = np.random.default_rng(3).normal(0.5, 0.1, 900).tolist()
    found = metrics.intervals([record(n % 3, v) for n, v in enumerate(values)])
    half = 1.96 * np.std(values) / math.sqrt(len(values))       # the normal approximation
    assert found["PCK@0.20"] == pytest.approx([np.mean(values) - half, np.mean(values) + half], abs=half / 8)
    assert found["mPCK over categories"] == pytest.approx(found["mPCK"], abs=half / 4)          # three categories of 300
    assert metrics.intervals([record(n % 3, v) for n, v in enumerate(values)]) == found
    assert metrics.intervals([record(1, 0.25)] * 5)["AUC"] == [0.25, 0.25]


def test_a_weighty_image_widens_the_interval():
    values = [0.0, 1.0] * 50
    plain, heavy = (metrics.intervals([record(1, v, weight=w if n == 0 else 1) for n, v in enumerate(values)])["PCK@0.05"]
                    for w in (1, 60))
    assert heavy[1] - heavy[0] > 1.5 * (plain[1] - plain[0])


# -------------------------------------------------------- support-query pairs

def published_pairs(classes, objects, shots=1, queries=15, count=200):
    """The published sampler, transcribed."""
    random.seed(1)
    samples = []
    for c in classes:
        for _ in range(count):
            drawn = random.sample(objects[c], shots + queries)
            for query in drawn[shots:]:
                samples.append(drawn[:shots] + [query])
    return samples


@settings(max_examples=10, deadline=None)
@given(st.dictionaries(st.integers(1, 100), st.integers(16, 60), min_size=1, max_size=4))
def test_episodes_are_the_published_ones(sizes):
    start, objects = 0, {}
    for c, n in sizes.items():
        objects[c], start = list(range(start, start + n)), start + n
    state = random.getstate()
    found = [[support, query] for support, queries in metrics.episodes(objects) for query in queries]
    assert random.getstate() == state               # nobody else's random numbers are touched
    assert found == published_pairs(list(sizes), objects)


def test_too_few_instances_for_an_episode():
    with pytest.raises(ValueError, match="category 7 has 15"):
        metrics.episodes({3: list(range(16)), 7: list(range(15))})


@pytest.fixture
def folder(tmp_path):
    """Annotations whose categories, images and annotations are in different orders, with several objects in an image."""
    rng = random.Random(4)
    categories = [{"id": 9, "name": "kite"}, {"id": 4, "name": "boat"}, {"id": 6, "name": "of another part"}]
    images = [{"id": n, "file_name": f"{rng.random()}.png", "width": 200, "height": 200} for n in rng.sample(range(100), 30)]
    annotations = []
    for n in range(100):
        xyv = [v for _ in range(4) for v in (rng.uniform(1, 150), rng.uniform(1, 150), rng.choice([0, 0, 2]))]
        annotations.append({"id": n, "image_id": rng.choice(images)["id"], "category_id": 4 if n % 3 else 9, "keypoints": xyv,
                            "bbox": [10, 20, rng.randint(50, 150), rng.randint(50, 150)], "num_keypoints": 4})
    (tmp_path / "annotations").mkdir()
    coco = {"categories": categories, "images": images, "annotations": annotations}
    (tmp_path / "annotations" / "mp100_split1_test.json").write_text(json.dumps(coco))
    return tmp_path, coco


def test_pairs_are_scored_as_published(folder):
    folder, coco = folder
    rng = np.random.default_rng(8)
    instances, _ = data.read_split(folder, 1, "test")
    described = {c: [data.Keypoint(k, "") for k in "abcd"] for c in (9, 4)}
    answers = {i.id: i.keypoints[:, :2].astype(float) + rng.normal(0, 12, (4, 2)) for i in instances}
    records = []
    for i in instances:
        visible = np.flatnonzero(i.keypoints[:, 2] > 0)
        distances = {"abcd"[k]: math.dist(answers[i.id][k], i.keypoints[k, :2]) for k in visible}
        control = {k: d / 2 for k, d in distances.items()}
        records.append({"id": i.id, "category": i.category, "size": max(i.bbox[2:]), "distances": distances, "controls": {
            "half": {"distances": control}, "two": {"distances": dict(list(control.items())[:2])}}})
    supports = metrics.supports(instances, described, metrics.reading_order(folder, 1, "test", instances))
    found = [p for n, r in enumerate(records) if (p := metrics.paired(r, supports[n]))]

    objects, of_image = defaultdict(list), defaultdict(list)    # the published reading: image by image
    for a in coco["annotations"]:
        of_image[a["image_id"]].append(a)
    for image in coco["images"]:
        for a in of_image[image["id"]]:
            if any(v > 0 for v in a["keypoints"][2::3]):
                objects[a["category_id"]].append(a)
    scored, empty, counts = [], 0, Counter()
    for support, query in published_pairs([c["id"] for c in coco["categories"] if objects[c["id"]]], objects):
        both = [min(s, q) for s, q in zip(support["keypoints"][2::3], query["keypoints"][2::3])]
        counts[query["id"]] += any(both)
        empty += not any(both)
        if any(both):
            truths = np.float32(query["keypoints"]).reshape(4, 3)[:, :2].astype(float)
            scored.append(pck_in_loops(answers[query["id"]], truths, both, max(query["bbox"][2:])))
    assert empty > 0 and sum(p["weight"] for p in found) == len(scored) == 2 * 200 * 15 - empty
    assert {p["id"]: p["weight"] for p in found} == {n: w for n, w in counts.items() if w}
    summary = metrics.summary([p | {"controls": {}} for p in found])
    assert [summary[f"PCK@{t:.2f}"] for t in T] == pytest.approx(np.mean(scored, 0))
    assert summary["mPCK"] == pytest.approx(np.mean(scored))
    for p in found:
        assert p["controls"]["half"]["weight"] == p["weight"] and p["controls"]["half"]["NME"] == pytest.approx(p["NME"] / 2)
        assert p["controls"].get("two", {"weight": 0})["weight"] <= p["weight"]


# ------------------------------------------------------------------ densities

@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 60)] * 5), min_size=1, max_size=10), st.integers(20, 200))
def test_an_answer_for_each_threshold_is_scored_at_its_own(rows, size):
    found = metrics.scores(rows, size)
    each = [metrics.scores([row[n] for row in rows], size) for n in range(5)]
    assert [found[m] for m in metrics.PCK] == [s[m] for m, s in zip(metrics.PCK, each)]
    assert found["mPCK"] == pytest.approx(np.mean([s[m] for m, s in zip(metrics.PCK, each)]))
    assert [found[m] for m in ("AUC", "NME")] == pytest.approx([np.mean([s[m] for s in each]) for m in ("AUC", "NME")])


def studied(n):
    """Records of two categories of 3 keypoints; greedy answers, and answers for each threshold that are half as far off."""
    rng, records = np.random.default_rng(6), []
    for i in range(n):
        distances = dict(zip("abc", rng.uniform(0, 40, 3).tolist()))
        own = {k: [d / 2] * 5 for k, d in distances.items()}
        numbers = {k: {"truth": t, "greedy": (np.array(t) + rng.normal(0, 0.02 + 0.06 * (i % 2), 2)).clip(0, 0.999).tolist(),
                       "nll": rng.normal(), "entropy": rng.normal(), "level": rng.random(), "spread": rng.random()}
                   for k, t in zip("abc", rng.uniform(0.1, 0.9, (3, 2)).tolist())}
        if i < 4:                                   # a truth outside of the crop
            del numbers["b"]["nll"], numbers["b"]["level"]
        score = lambda d: metrics.scores([*d.values()], 100) | {"distances": d}
        records.append({"id": i, "category": 900 + i % 2, "size": 100, "controls": {}, **score(distances), "density": numbers,
                        "points": {"mean": score(distances), "PCK-optimal": score(own)}})
    return records


def test_points_of_densities_and_their_gain():
    records = studied(40)
    found, table = metrics.points(records)
    assert list(found) == ["greedy", "mean", "PCK-optimal", "PCK-optimal minus greedy"]
    assert found["greedy"] == found["mean"]
    half = metrics.summary([{**r, **metrics.scores([d / 2 for d in r["distances"].values()], 100)} for r in records])
    for c in metrics.COLUMNS:
        assert found["PCK-optimal"][c] == pytest.approx(half[c])
        low, high = found["PCK-optimal minus greedy"]["intervals"][c]
        gain = half[c] - found["greedy"][c]
        assert found["PCK-optimal minus greedy"][c] == pytest.approx(gain) and low - 1e-9 <= gain <= high + 1e-9
    each = [r["points"]["PCK-optimal"]["PCK@0.10"] - r["PCK@0.10"] for r in records]
    low, high = found["PCK-optimal minus greedy"]["intervals"]["PCK@0.10"]
    assert high - low == pytest.approx(2 * 1.96 * np.std(each) / math.sqrt(len(each)), rel=0.15)
    row, = (row for row in table.splitlines() if row.startswith("| PCK-optimal minus greedy"))
    assert f"{100 * np.mean(each):.1f} |" in row
    weighted = [metrics.paired(r, Counter({frozenset("ab"): 2, frozenset("c"): 1})) for r in records]
    pairs, _ = metrics.points(weighted)
    expected = [(2 * np.mean([r["distances"][k] for k in "ab"]) + r["distances"]["c"]) / 3 / 200 for r in records]
    assert pairs["PCK-optimal"]["NME"] == pytest.approx(np.mean(expected)) and {r["weight"] for r in weighted} == {3}


def test_densities_compared_with_gaussians():
    records = studied(16)
    found, table = metrics.distributions(records, {900: "kite", 901: "boat"})
    numbers = [(r["category"], k) for r in records for k in r["density"].values() if "nll" in k]
    assert (found["truths"], found["truths outside of the crop"]) == (len(numbers), 4) == (44, 4)
    for n in ("nll", "entropy", "spread"):
        assert found[n] == pytest.approx(np.mean([k[n] for _, k in numbers]))
    for q in (0.5, 0.68, 0.9, 0.95):
        share = sum(k["level"] < q for _, k in numbers) / len(numbers)
        assert found["holds"][q] == share and f"{100 * share:.1f} |" in table

    def loop(sigma):                                # {category: sigma}
        return np.mean([density.nll(density.gaussian(k["greedy"], sigma[c]), k["truth"]) for c, k in numbers])
    one, each = found["Gaussian"], found["Gaussian of each definition"]
    kite, boat = each["sigma"]["kite"], each["sigma"]["boat"]
    assert kite == pytest.approx(0.02, rel=0.4) and boat == pytest.approx(0.08, rel=0.4) and kite < one["sigma"] < boat
    assert one["nll"] == pytest.approx(loop({900: one["sigma"], 901: one["sigma"]}), abs=0.002)
    assert each["nll"] == pytest.approx(loop({900: kite, 901: boat}), abs=0.002) and each["nll"] < one["nll"] - 0.1
    for other in (0.97, 1.03):                      # no other deviation suits the truths better
        assert loop(dict.fromkeys((900, 901), other * one["sigma"])) > one["nll"] - 1e-4
    for r in records:
        for k in r["density"].values():
            k.pop("nll", None)
    assert "not compared" in metrics.distributions(records, {900: "kite", 901: "boat"})[1]


# ------------------------------------------------------------------ the paper

def test_the_papers_numbers_agree_with_each_other():
    for protocol, mean in ((metrics.QUERY_IMAGES, 92.60), (metrics.PAIRS, 92.60)):             # Table 2's last column
        each = [100 * metrics.published(protocol, split)["PCK@0.20"] for split in range(1, 6)]
        assert np.mean(each) == pytest.approx(mean, abs=0.0051)
    first = metrics.published(metrics.QUERY_IMAGES, 1)
    assert first["mPCK"] == pytest.approx(np.mean([first[f"PCK@{t:.2f}"] for t in T]), abs=5e-5)
    assert metrics.published(metrics.QUERY_IMAGES, 1, "contrastive").items() <= first.items()   # Table 9: as greedy
    assert metrics.published(metrics.PAIRS, 1, "top-3") == metrics.published(metrics.QUERY_IMAGES, 2, "greedy", "fixed") == {}


def results(folder, split, value, **settings):
    folder.mkdir()
    numbers = dict.fromkeys(metrics.COLUMNS, value) | {
        "split": split, "instances": 10 * split, "protocol": metrics.QUERY_IMAGES, "limit": None,
        "paper": metrics.published(metrics.QUERY_IMAGES, split),
        "settings": {"data": "d", "part": "test", "decoding": "greedy", "cumulative": None} | settings}
    (folder / "results.json").write_text(json.dumps(numbers))
    return folder


def test_average_over_splits(tmp_path):
    same = ["data", "part", "decoding", "cumulative"]
    folders = [results(tmp_path / f"{s}", s, s / 10) for s in (3, 1, 5)]
    table, numbers = metrics.average(folders, same)
    assert [numbers[c] for c in metrics.COLUMNS] == pytest.approx([0.3] * 9) and list(numbers["splits"]) == [1, 3, 5]
    assert numbers["paper"] == {"PCK@0.20": pytest.approx((0.9698 + 0.9057 + 0.9224) / 3)}
    assert table.index("split 1") < table.index("split 3") < table.index("split 5") < table.index("average of 3")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "results.json").write_text('{"split": 2')
    for folder, message in (
            (results(tmp_path / "a", 3, 0.1), "a is of split 3, as another"),
            (results(tmp_path / "b", 2, 0.1, decoding="top-3"), "b was measured in another way .* decoding is top-3, elsewhere"),
            (tmp_path / "cut", "cut/results.json cannot be read"),
            (tmp_path / "nowhere", "nowhere/results.json is missing")):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            metrics.average([*folders, folder], same)
