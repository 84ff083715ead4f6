"""pairs.py: against the published way to draw pairs, transcribed, and to score them."""

import json
import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data
from study import metrics, pairs
from test_metrics import T, pck_in_loops


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
    found = [
        [support, query] for support, queries in pairs.draw_episodes(objects) for query in queries
    ]
    assert random.getstate() == state  # nobody else's random numbers are touched
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
        if len(cat2obj[cls]) == 0:  # of another part
            continue
        for _ in range(200):
            shots = random.sample(cat2obj[cls], 1 + 15)
            sample_ids = shots[:1]
            query_ids = shots[1:]
            for query_id in query_ids:
                all_samples.append(sample_ids + [query_id])
    paired_samples = np.array(all_samples)
    return [
        (db[paired_samples[i][0]], db[paired_samples[i][1]]) for i in range(len(paired_samples))
    ]


@pytest.mark.parametrize("seed", range(8))
def test_pairs_of_a_file_are_the_published_ones(tmp_path, seed):
    """Nothing in the file is sorted, some objects cannot be used; in odd seeds a category has too few that can."""
    rng, annotations = random.Random(seed), []
    K = dict(zip(rng.sample(range(1, 101), 4), (1, 3, 17, 5)))
    images = [
        {
            "id": id,
            "file_name": f"{rng.random()}.png",
            "width": rng.randint(90, 300),
            "height": rng.randint(90, 300),
        }
        for id in rng.sample(range(10**6), rng.randint(5, 90))
    ]
    few = rng.choice([*K][:3]) if seed % 2 else None
    for c in [*K][:3]:  # the fourth category is of another part
        for n in range(15 if c == few else rng.choice((16, 17, 40, 110))):
            annotations.append(
                (
                    c,
                    [
                        rng.choice((1, 2)) if n % K[c] == k else rng.choice((0, 0, 0, 1, 2))
                        for k in range(K[c])
                    ],
                    [
                        rng.uniform(-20, 60),
                        rng.uniform(-20, 60),
                        rng.uniform(30, 400),
                        rng.uniform(30, 400),
                    ],
                )
            )
        annotations += [
            (c, [0] * K[c], [1, 1, 50, 50]),
            (c, [2] * K[c], [5, 400, 9, 9]),
            (c, [2] * K[c], [5, 5, 9, 0]),
        ]
    rng.shuffle(annotations)
    annotations = [
        {
            "id": id,
            "image_id": rng.choice(images)["id"],
            "category_id": c,
            "bbox": box,
            "iscrowd": 0,
            "keypoints": [n for v in visible for n in (rng.uniform(1, 80), rng.uniform(1, 80), v)],
        }
        for id, (c, visible, box) in zip(rng.sample(range(10**6), len(annotations)), annotations)
    ]
    coco = {
        "categories": [{"id": c, "name": f"kind {c}"} for c in K],
        "images": images,
        "annotations": annotations,
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "mp100_split3_val.json").write_text(json.dumps(coco))
    instances, _ = data.read_split(tmp_path, 3, "val")
    members = pairs.read_order(tmp_path, 3, "val", instances)
    state = random.getstate(), np.random.get_state()
    try:
        if few:
            with pytest.raises(ValueError, match="ample larger than population"):
                pairs_of_the_file(coco)
            with pytest.raises(ValueError, match=f"category {few} has 15"):
                pairs.draw_episodes(members)
            return
        published = pairs_of_the_file(coco)
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
    found = [
        (instances[s].id, instances[q].id)
        for s, queries in pairs.draw_episodes(members)
        for q in queries
    ]
    assert found == [(s["id"], q["id"]) for s, q in published] and len(found) == 3 * 200 * 15
    described = {c: [data.Keypoint(f"{c} {k}", "") for k in range(n)] for c, n in K.items()}
    both = defaultdict(Counter)  # which keypoints count, for each time that a query is drawn
    for s, q in published:
        shown = [
            k
            for k in range(K[q["category_id"]])
            if s["keypoints"][3 * k + 2] > 0 and q["keypoints"][3 * k + 2] > 0
        ]
        both[q["id"]][frozenset(f"{q['category_id']} {k}" for k in shown)] += 1
    supports = pairs.count_supports(instances, described, members)
    assert {instances[q].id for q in supports} == both.keys()
    for q, of in supports.items():
        own = frozenset(
            k.name
            for k, v in zip(described[instances[q].category], instances[q].keypoints[:, 2])
            if v > 0
        )
        counts = Counter()
        for names, times in of.items():
            counts[names & own] += times
        assert counts == both[instances[q].id]


def test_too_few_instances_for_an_episode():
    with pytest.raises(ValueError, match="category 7 has 15"):
        pairs.draw_episodes({3: list(range(16)), 7: list(range(15))})


@pytest.fixture
def folder(tmp_path):
    """Annotations whose categories, images and annotations are in different orders, with several objects in an image."""
    rng = random.Random(4)
    categories = [
        {"id": 9, "name": "kite"},
        {"id": 4, "name": "boat"},
        {"id": 6, "name": "of another part"},
    ]
    images = [
        {"id": n, "file_name": f"{rng.random()}.png", "width": 200, "height": 200}
        for n in rng.sample(range(100), 30)
    ]
    annotations = []
    for n in range(100):
        xyv = [
            v
            for _ in range(4)
            for v in (rng.uniform(1, 150), rng.uniform(1, 150), rng.choice([0, 0, 2]))
        ]
        annotations.append(
            {
                "id": n,
                "image_id": rng.choice(images)["id"],
                "category_id": 4 if n % 3 else 9,
                "keypoints": xyv,
                "bbox": [10, 20, rng.randint(50, 150), rng.randint(50, 150)],
                "num_keypoints": 4,
            }
        )
    (tmp_path / "annotations").mkdir()
    coco = {"categories": categories, "images": images, "annotations": annotations}
    (tmp_path / "annotations" / "mp100_split1_test.json").write_text(json.dumps(coco))
    return tmp_path, coco


def test_pairs_are_scored_as_published(folder):
    folder, coco = folder
    rng = np.random.default_rng(8)
    instances, _ = data.read_split(folder, 1, "test")
    described = {c: [data.Keypoint(k, "") for k in "abcd"] for c in (9, 4)}
    answers = {
        i.id: i.keypoints[:, :2].astype(float) + rng.normal(0, 12, (4, 2)) for i in instances
    }
    records = []
    for i in instances:
        visible = np.flatnonzero(i.keypoints[:, 2] > 0)
        distances = {"abcd"[k]: math.dist(answers[i.id][k], i.keypoints[k, :2]) for k in visible}
        control = {k: d / 2 for k, d in distances.items()}
        records.append(
            {
                "id": i.id,
                "category": i.category,
                "size": max(i.bbox[2:]),
                "distances": distances,
                "controls": {
                    "half": {"distances": control},
                    "two": {"distances": dict(list(control.items())[:2])},
                },
            }
        )
    supports = pairs.count_supports(
        instances, described, pairs.read_order(folder, 1, "test", instances)
    )
    found = [p for n, r in enumerate(records) if (p := pairs.score_pairs(r, supports[n]))]

    objects, of_image = (
        defaultdict(list),
        defaultdict(list),
    )  # the published reading: image by image
    for a in coco["annotations"]:
        of_image[a["image_id"]].append(a)
    for image in coco["images"]:
        for a in of_image[image["id"]]:
            if any(v > 0 for v in a["keypoints"][2::3]):
                objects[a["category_id"]].append(a)
    scored, empty, counts = [], 0, Counter()
    for support, query in published_pairs(
        [c["id"] for c in coco["categories"] if objects[c["id"]]], objects
    ):
        both = [min(s, q) for s, q in zip(support["keypoints"][2::3], query["keypoints"][2::3])]
        counts[query["id"]] += any(both)
        empty += not any(both)
        if any(both):
            truths = np.float32(query["keypoints"]).reshape(4, 3)[:, :2].astype(float)
            scored.append(pck_in_loops(answers[query["id"]], truths, both, max(query["bbox"][2:])))
    assert empty > 0 and sum(p["weight"] for p in found) == len(scored) == 2 * 200 * 15 - empty
    assert {p["id"]: p["weight"] for p in found} == {n: w for n, w in counts.items() if w}
    summary = metrics.average_records([p | {"controls": {}} for p in found])
    assert [summary[f"PCK@{t:.2f}"] for t in T] == pytest.approx(np.mean(scored, 0))
    assert summary["mPCK"] == pytest.approx(np.mean(scored))
    for p in found:
        assert p["controls"]["half"]["weight"] == p["weight"] and p["controls"]["half"][
            "NME"
        ] == pytest.approx(p["NME"] / 2)
        assert p["controls"].get("two", {"weight": 0})["weight"] <= p["weight"]
