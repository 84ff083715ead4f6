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
from study import density
from study import metrics

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
    ids = {c["name"]: c["id"] for c in data.read_mp100()["categories"]}
    records = [*(record(ids["horse_body"], value) for value in (1.0, 0.5, 0.0)), record(ids["bed"], 0.1)]
    records[3]["controls"]["mean"] = dict.fromkeys(metrics.METRICS, 0.7)
    r, table = metrics.report(records, {ids[n]: n for n in ("horse_body", "bed")}, 1, {"PCK@0.20": 0.9698})
    assert r["mPCK"] == r["AUC"] == pytest.approx(1.6 / 4) and r["mPCK over categories"] == pytest.approx((0.5 + 0.1) / 2)
    facts = data.read_mp100()
    trained = {c["definition"] for c in facts["categories"] if c["id"] in facts["splits"]["1"]["train"]}
    assert "animal_body" in trained and "bed" not in trained
    assert r["groups"]["definition seen in training"]["instances"] == 3
    assert r["groups"]["definition new"]["mPCK"] == pytest.approx(0.1)
    assert r["categories"][ids["bed"]]["name"] == "bed" and r["definitions"]["animal_body"]["mPCK"] == pytest.approx(0.5)
    assert r["controls"]["mean"]["instances"] == 1 and r["controls"]["mean"]["NME"] == pytest.approx(0.7)
    assert "definition new (1 category)" in table and " 40.0 |" in table
    assert "paper, default config, MP-100 photographs" in table and " 97.0 |" in table
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


def test_the_interval_over_categories_knows_small_ones():
    """Of a mean of category means, against the normal approximation with unbiased variances, where most have two images."""
    rng = np.random.default_rng(7)
    sizes = [2] * 30 + [3] * 10 + [50]
    values = [rng.normal(0.5, 0.1, n) for n in sizes]
    records = [record(c, v) for c, each in enumerate(values) for v in each]
    low, high = metrics.intervals(records)["mPCK over categories"]
    half = 1.96 * math.sqrt(sum(v.var(ddof=1) / len(v) for v in values)) / len(values)
    mean = np.mean([v.mean() for v in values])
    assert [low, high] == pytest.approx([mean - half, mean + half], abs=half / 8)
    one = metrics.intervals([*records, record(99, 0.5)])        # a category of one image: nobody knows how much it would vary
    assert one.keys() == {*metrics.METRICS}
    table = metrics.report([*records, record(99, 0.5)], {c: f"c{c}" for c in range(100)}, 1)[1]
    assert table.count("- 95% interval") == 2 and len({len(row) for row in table.splitlines()}) == 1


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


def pairs_of_the_file(coco):
    """Pairs of annotations from the annotation file itself, in the order and with the seeds of the published code, and its way
    to keep a list of objects and the numbers of each class in it. Raises ValueError as random.sample does."""
    random.seed(1)
    np.random.seed(0)
    img_to_anns = {image["id"]: [] for image in coco["images"]}
    for ann in coco["annotations"]:
        img_to_anns[ann["image_id"]].append(ann)
    db, cat2obj = [], {cat["id"]: [] for cat in coco["categories"]}
    for image in coco["images"]:
        for ann in img_to_anns[image["id"]]:
            x, y, w, h = ann["bbox"]
            x1, y1 = max(0, x), max(0, y)
            x2, y2 = min(image["width"], x + w), min(image["height"], y + h)
            if x2 <= x1 or y2 <= y1:
                continue
            if max(ann["keypoints"][2::3]) == 0:
                continue
            cat2obj[ann["category_id"]].append(len(db))
            db.append(ann)
    all_samples = []
    for cls in cat2obj:
        if len(cat2obj[cls]) == 0:                  # of another part
            continue
        for _ in range(200):
            shots = random.sample(cat2obj[cls], 1 + 15)
            sample_ids = shots[:1]
            query_ids = shots[1:]
            for query_id in query_ids:
                all_samples.append(sample_ids + [query_id])
    paired_samples = np.array(all_samples)
    return [(db[paired_samples[i][0]], db[paired_samples[i][1]]) for i in range(len(paired_samples))]


@pytest.mark.parametrize("seed", range(8))
def test_pairs_of_a_file_are_the_published_ones(tmp_path, seed):
    """Nothing in the file is sorted, some objects cannot be used; in odd seeds a category has too few that can."""
    rng, annotations = random.Random(seed), []
    K = dict(zip(rng.sample(range(1, 101), 4), (1, 3, 17, 5)))
    images = [{"id": id, "file_name": f"{rng.random()}.png", "width": rng.randint(90, 300), "height": rng.randint(90, 300)}
              for id in rng.sample(range(10 ** 6), rng.randint(5, 90))]
    few = rng.choice([*K][:3]) if seed % 2 else None
    for c in [*K][:3]:                              # the fourth category is of another part
        for n in range(15 if c == few else rng.choice((16, 17, 40, 110))):
            annotations.append((c, [rng.choice((1, 2)) if n % K[c] == k else rng.choice((0, 0, 0, 1, 2)) for k in range(K[c])],
                                [rng.uniform(-20, 60), rng.uniform(-20, 60), rng.uniform(30, 400), rng.uniform(30, 400)]))
        annotations += [(c, [0] * K[c], [1, 1, 50, 50]), (c, [2] * K[c], [5, 400, 9, 9]), (c, [2] * K[c], [5, 5, 9, 0])]
    rng.shuffle(annotations)
    annotations = [{"id": id, "image_id": rng.choice(images)["id"], "category_id": c, "bbox": box, "iscrowd": 0,
                    "keypoints": [n for v in visible for n in (rng.uniform(1, 80), rng.uniform(1, 80), v)]}
                   for id, (c, visible, box) in zip(rng.sample(range(10 ** 6), len(annotations)), annotations)]
    coco = {"categories": [{"id": c, "name": f"kind {c}"} for c in K], "images": images, "annotations": annotations}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "mp100_split3_val.json").write_text(json.dumps(coco))
    instances, _ = data.read_split(tmp_path, 3, "val")
    members = metrics.reading_order(tmp_path, 3, "val", instances)
    state = random.getstate(), np.random.get_state()
    try:
        if few:
            with pytest.raises(ValueError, match="ample larger than population"):
                pairs_of_the_file(coco)
            with pytest.raises(ValueError, match=f"category {few} has 15"):
                metrics.episodes(members)
            return
        published = pairs_of_the_file(coco)
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
    found = [(instances[s].id, instances[q].id) for s, queries in metrics.episodes(members) for q in queries]
    assert found == [(s["id"], q["id"]) for s, q in published] and len(found) == 3 * 200 * 15
    described = {c: [data.Keypoint(f"{c} {k}", "") for k in range(n)] for c, n in K.items()}
    both = defaultdict(Counter)                     # which keypoints count, for each time that a query is drawn
    for s, q in published:
        shown = [k for k in range(K[q["category_id"]]) if s["keypoints"][3 * k + 2] > 0 and q["keypoints"][3 * k + 2] > 0]
        both[q["id"]][frozenset(f"{q['category_id']} {k}" for k in shown)] += 1
    supports = metrics.supports(instances, described, members)
    assert {instances[q].id for q in supports} == both.keys()
    for q, of in supports.items():
        own = frozenset(k.name for k, v in zip(described[instances[q].category], instances[q].keypoints[:, 2]) if v > 0)
        counts = Counter()
        for names, times in of.items():
            counts[names & own] += times
        assert counts == both[instances[q].id]


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
    assert one["difference"] == pytest.approx(found["nll"] - one["nll"])
    # Intervals over images, in a loop: every draw's mean is over all keypoints of the images drawn.
    each_nll = [[(k["nll"], k["level"] < 0.9, k["nll"] - density.nll(density.gaussian(k["greedy"], one["sigma"]), k["truth"]))
                 for k in r["density"].values() if "nll" in k] for r in records]
    rng = random.Random(1)
    drawn = [np.mean([row for image in rng.choices(each_nll, k=len(records)) for row in image], 0) for _ in range(4000)]
    for n, (interval, wide) in enumerate(((found["intervals"]["nll"], 0.1), (found["intervals"]["holds"][0.9], 0.15),
                                          (one["interval of the difference"], 0.1))):
        expected = np.percentile([row[n] for row in drawn], [2.5, 97.5])
        assert interval == pytest.approx(expected, abs=wide * (expected[1] - expected[0]))
        factor, digits = (100, 1) if n == 1 else (1, 2)
        assert f"{factor * interval[0]:.{digits}f} |" in table
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


def test_the_papers_numbers_for_other_words():
    base = metrics.published(metrics.QUERY_IMAGES, 1)
    for words in (("base", "simple"), ("base", "names"), ("list", "list"), ("steps", "steps")):     # each costs accuracy
        numbers = metrics.published(metrics.QUERY_IMAGES, 1, words=words)
        assert len(numbers) > 1 and all(0.5 < value < base[column] for column, value in numbers.items())
        assert metrics.published(metrics.QUERY_IMAGES, 2, words=words) == metrics.published(metrics.PAIRS, 1, words=words) == {}
        assert metrics.published(metrics.QUERY_IMAGES, 1, "top-3", words=words) == {}
    assert metrics.published(metrics.QUERY_IMAGES, 1, words=("base", None)) == {}
    for asked in ("replaced", "names"):             # Table 7: who has missed descriptions in training misses them less
        used, new = (metrics.published(metrics.QUERY_IMAGES, 1, words=(trained, asked)) for trained in ("random", "base"))
        assert all(used[column] > new[column] for column in new)


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


# ---------------------------------------------------------- a comparison

def answers(folder, distances, size=100, pairs=None, beside=None, **of):
    """A folder as eval.py leaves it. distances: for each image those of its keypoints; pairs: for each its weight as support-
    query pairs; beside: {label: distances} of a control."""
    folder.mkdir(parents=True)
    lines = []
    for n, row in enumerate(distances):
        r = {"id": n, "category": n % 3, "file": f"{n}.png", "size": size, "distances": dict(zip("abcdef", row)), "controls": {
            label: {"distances": dict(zip("abcdef", other[n]))} for label, other in (beside or {}).items() if len(other[n])}}
        for part in (r, *r["controls"].values()):
            part |= metrics.scores([*part["distances"].values()], size)
        if pairs is not None:
            r["pairs"] = {m: r[m] for m in metrics.METRICS} | {"weight": pairs[n]} if pairs[n] else None
        lines.append(json.dumps(r))
    (folder / "instances.jsonl").write_text("\n".join([*lines, lines[0]]) + "\n")       # the last: of a larger limit, before
    settings = {"data": "d", "split": 1, "part": "test", "limit": len(lines)} | of
    (folder / "results.json").write_text(json.dumps(settings | {
        "protocol": metrics.PAIRS if pairs else metrics.QUERY_IMAGES, "images": len(lines), "settings": settings}))
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
    folders = [answers(tmp_path / "base", worse.tolist()), answers(tmp_path / "better", better.tolist(), beside=beside),
               answers(tmp_path / "pairs", worse.tolist(), pairs=weights)]
    table, numbers = metrics.compare([*folders, folders[0]])
    assert list(numbers) == ["base", "better", "better, covered", "better, seen", "pairs"]
    assert "interval of the difference" not in numbers["base"] and "difference" not in numbers["better, seen"]
    assert [r["keypoints"] for r in numbers.values()] == [4 * n, 4 * n, 4 * n, 3 * n, 4 * n]
    assert [r["instances"] for r in numbers.values()] == [n, n, n, n, n - weights.count(0)]
    first = np.array([mpck(row) for row in worse])
    for name, distances in (("better", better), ("better, covered", covered)):
        each = np.array([mpck(row) for row in distances])
        r, gap = numbers[name], each - first
        assert r["mPCK"] == pytest.approx(each.mean()) and r["difference"] == pytest.approx(gap.mean())
        half = 1.96 * gap.std() / math.sqrt(n)      # the normal approximation of a paired difference
        assert r["interval of the difference"] == pytest.approx([gap.mean() - half, gap.mean() + half], abs=half / 6)
        alone = 1.96 * each.std() / math.sqrt(n)
        assert r["interval"] == pytest.approx([each.mean() - alone, each.mean() + alone], abs=alone / 6)
    assert numbers["base"]["interval"] == pytest.approx(metrics.intervals([record(0, value) for value in first])["mPCK"])
    assert half < alone / 2 and numbers["better"]["interval of the difference"][0] > 0
    r, mean = numbers["pairs"], np.average(first, weights=weights)
    assert r["mPCK"] == pytest.approx(mean) and r["difference"] == pytest.approx(mean - first.mean())
    share = np.array(weights) / np.mean(weights)    # the delta method, for a weighted mean minus a plain one
    half = 1.96 * np.std(share * (first - mean) - first) / math.sqrt(n)
    low, high = r["interval of the difference"]
    assert (high - low) / 2 == pytest.approx(half, rel=0.12) and low < r["difference"] < high
    rows = {row.split("|")[1].strip(): row for row in table.splitlines() if row.startswith("| ")}
    assert f"{100 * numbers['better']['difference']:+.1f} * |" in rows["better"] and " * |" not in rows["pairs"]
    assert len({len(row) for row in rows.values()}) == 1 and "the same 400 images" in table and "A quick look" in table
    assert metrics.compare(folders) == (table, numbers)
    alone, _ = metrics.compare(folders[1:2])        # of one folder: what was measured beside it
    assert "better, covered" in alone and "better, seen" in alone


def test_what_cannot_be_compared_is_refused(tmp_path):
    rows = np.random.default_rng(1).uniform(0, 30, (12, 3)).tolist()
    first, short = answers(tmp_path / "first", rows), [*rows[:-1], rows[-1][:2]]
    (tmp_path / "file").write_text("")
    cut, old = (answers(tmp_path / name, rows) for name in ("cut", "old"))
    (cut / "instances.jsonl").write_text("".join((cut / "instances.jsonl").read_text().splitlines(True)[:7]))
    (old / "results.json").write_text("{}")
    for folder, message in (
            (answers(tmp_path / "fewer", rows[:11]), "fewer was measured in another way than .*first: limit is 11, elsewhere 12"),
            (answers(tmp_path / "unread", rows[:11], limit=12), "unread has answers for 11 images, .*first for 12, but not"),
            (answers(tmp_path / "hidden", short), "hidden has answers for 12 images, .*first for 12, but not for the same"),
            (answers(tmp_path / "other", rows, size=99), "other has answers for 12 images"),
            (answers(tmp_path / "split", rows, split=2, data="e"), "data is e, elsewhere d; split is 2, elsewhere 1"),
            (cut, "cut/instances.jsonl does not fit its results.json"),
            (old, "old/results.json cannot be read .KeyError: 'protocol'"),
            (tmp_path / "nowhere", "nowhere/results.json is missing"),
            (tmp_path / "file", "file/results.json is missing")):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            metrics.compare([first, folder])
