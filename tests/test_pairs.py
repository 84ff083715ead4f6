"""pairs.py: against the published way to draw pairs, transcribed, and to score them."""

import json
import math
import random
import unicodedata
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data
from evaluations import T, pck_in_loops
from study import metrics, pairs


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
        objects[c] = list(range(start, start + n))
        start += n
    state = random.getstate()
    found = []
    for support, queries in pairs.draw_episodes(objects):
        found += [[support, query] for query in queries]
    # Nobody else's random numbers are touched.
    assert random.getstate() == state
    assert found == published_pairs(list(sizes), objects)


def pairs_of_the_file(coco):
    """Pairs of annotations from the annotation file itself.

    In the order and with the seeds of the published code, and its way to keep a list of objects and
    the numbers of each class in it. Raises ValueError as random.sample does.
    """
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
        # Of another part.
        if len(cat2obj[cls]) == 0:
            continue
        for _ in range(200):
            shots = random.sample(cat2obj[cls], 1 + 15)
            sample_ids = shots[:1]
            query_ids = shots[1:]
            for query_id in query_ids:
                all_samples.append(sample_ids + [query_id])
    paired_samples = np.array(all_samples)
    return [(db[support], db[query]) for support, query in paired_samples]


def draw_annotations(rng, K, few):
    """(category, visibilities, box) of the first three categories {id: number of keypoints}.

    The fourth is of another part. Some cannot be used; of category `few` only 15 can.
    """
    found = []
    for c in list(K)[:3]:
        for n in range(15 if c == few else rng.choice((16, 17, 40, 110))):
            visible = [rng.choice((0, 0, 0, 1, 2)) for _ in range(K[c])]
            visible[n % K[c]] = rng.choice((1, 2))
            corner = [rng.uniform(-20, 60), rng.uniform(-20, 60)]
            found.append((c, visible, [*corner, rng.uniform(30, 400), rng.uniform(30, 400)]))
        found.append((c, [0] * K[c], [1, 1, 50, 50]))
        found.append((c, [2] * K[c], [5, 400, 9, 9]))
        found.append((c, [2] * K[c], [5, 5, 9, 0]))
    rng.shuffle(found)
    return found


def draw_file(rng, K, few):
    """An annotation file in which nothing is sorted."""
    images = []
    for id in rng.sample(range(10**6), rng.randint(5, 90)):
        size = {"width": rng.randint(90, 300), "height": rng.randint(90, 300)}
        images.append({"id": id, "file_name": f"{rng.random()}.png"} | size)
    drawn = draw_annotations(rng, K, few)
    ids = rng.sample(range(10**6), len(drawn))
    annotations = []
    for id, (c, visible, box) in zip(ids, drawn, strict=True):
        keypoints = []
        for v in visible:
            keypoints += [rng.uniform(1, 80), rng.uniform(1, 80), v]
        annotation = {"id": id, "image_id": rng.choice(images)["id"], "category_id": c}
        annotations.append(annotation | {"bbox": box, "iscrowd": 0, "keypoints": keypoints})
    categories = [{"id": c, "name": f"kind {c}"} for c in K]
    return {"categories": categories, "images": images, "annotations": annotations}


@pytest.mark.parametrize("seed", range(8))
def test_pairs_of_a_file_are_the_published_ones(tmp_path, seed):
    """In odd seeds a category has too few objects that can be used."""
    rng = random.Random(seed)
    K = dict(zip(rng.sample(range(1, 101), 4), (1, 3, 17, 5), strict=True))
    few = rng.choice(list(K)[:3]) if seed % 2 else None
    coco = draw_file(rng, K, few)
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
    found = []
    for support, queries in pairs.draw_episodes(members):
        found += [(instances[support].id, instances[query].id) for query in queries]
    assert found == [(s["id"], q["id"]) for s, q in published] and len(found) == 3 * 200 * 15
    # Which keypoints count, for each time that a query is drawn.
    both = defaultdict(Counter)
    for s, q in published:
        visible = zip(s["keypoints"][2::3], q["keypoints"][2::3], strict=True)
        shown = [k for k, (v, w) in enumerate(visible) if v > 0 and w > 0]
        both[q["id"]][frozenset(f"{q['category_id']} {k}" for k in shown)] += 1
    described = {c: [data.Keypoint(f"{c} {k}", "") for k in range(n)] for c, n in K.items()}
    supports = pairs.count_supports(instances, described, members)
    assert {instances[q].id for q in supports} == both.keys()
    for q, of in supports.items():
        own = zip(described[instances[q].category], instances[q].keypoints[:, 2], strict=True)
        own = frozenset(k.name for k, v in own if v > 0)
        counts = Counter()
        for names, times in of.items():
            counts[names & own] += times
        assert counts == both[instances[q].id]


def test_too_few_instances_for_an_episode():
    with pytest.raises(ValueError, match="category 7 has 15"):
        pairs.draw_episodes({3: list(range(16)), 7: list(range(15))})


@pytest.fixture
def coco(tmp_path):
    """Categories, images and annotations in different orders, several objects in an image."""
    rng = random.Random(4)
    categories = [
        {"id": 9, "name": "kite"},
        {"id": 4, "name": "boat"},
        {"id": 6, "name": "of another part"},
    ]
    images = []
    for n in rng.sample(range(100), 30):
        size = {"width": 200, "height": 200}
        images.append({"id": n, "file_name": f"{rng.random()}.png"} | size)
    annotations = []
    for n in range(100):
        xyv = []
        for _ in range(4):
            xyv += [rng.uniform(1, 150), rng.uniform(1, 150), rng.choice([0, 0, 2])]
        annotation = {
            "id": n,
            "image_id": rng.choice(images)["id"],
            "category_id": 4 if n % 3 else 9,
            "keypoints": xyv,
            "bbox": [10, 20, rng.randint(50, 150), rng.randint(50, 150)],
            "num_keypoints": 4,
        }
        annotations.append(annotation)
    (tmp_path / "annotations").mkdir()
    coco = {"categories": categories, "images": images, "annotations": annotations}
    (tmp_path / "annotations" / "mp100_split1_test.json").write_text(json.dumps(coco))
    return coco


def score_as_published(coco, answers):
    """PCK (pairs, thresholds) in the published reading, image by image.

    Also how many pairs share no keypoint, and how many of each query share any.
    """
    objects, of_image = defaultdict(list), defaultdict(list)
    for a in coco["annotations"]:
        of_image[a["image_id"]].append(a)
    for image in coco["images"]:
        for a in of_image[image["id"]]:
            if any(v > 0 for v in a["keypoints"][2::3]):
                objects[a["category_id"]].append(a)
    classes = [c["id"] for c in coco["categories"] if objects[c["id"]]]
    scored, empty, counts = [], 0, Counter()
    for support, query in published_pairs(classes, objects):
        visible = zip(support["keypoints"][2::3], query["keypoints"][2::3], strict=True)
        both = [min(pair) for pair in visible]
        counts[query["id"]] += any(both)
        empty += not any(both)
        if any(both):
            truths = np.float32(query["keypoints"]).reshape(4, 3)[:, :2].astype(float)
            size = max(query["bbox"][2:])
            scored.append(pck_in_loops(answers[query["id"]], truths, both, size))
    return scored, empty, counts


def test_pairs_are_scored_as_published(coco, tmp_path):
    rng = np.random.default_rng(8)
    instances, _ = data.read_split(tmp_path, 1, "test")
    described = {c: [data.Keypoint(k, "") for k in "abcd"] for c in (9, 4)}
    answers, records = {}, []
    for i in instances:
        answers[i.id] = i.keypoints[:, :2].astype(float) + rng.normal(0, 12, (4, 2))
    for i in instances:
        distances = {}
        for k in np.flatnonzero(i.keypoints[:, 2] > 0):
            distances["abcd"[k]] = math.dist(answers[i.id][k], i.keypoints[k, :2])
        half = {k: d / 2 for k, d in distances.items()}
        two = dict(list(half.items())[:2])
        controls = {"half": {"distances": half}, "two": {"distances": two}}
        r = {"id": i.id, "category": i.category, "size": max(i.bbox[2:])}
        records.append(r | {"distances": distances, "controls": controls})
    members = pairs.read_order(tmp_path, 1, "test", instances)
    supports = pairs.count_supports(instances, described, members)
    found = [pairs.score_pairs(r, supports[n]) for n, r in enumerate(records)]
    found = [paired for paired in found if paired]

    scored, empty, counts = score_as_published(coco, answers)
    assert empty > 0 and sum(p["weight"] for p in found) == len(scored) == 2 * 200 * 15 - empty
    assert {p["id"]: p["weight"] for p in found} == {n: w for n, w in counts.items() if w}
    means = metrics.average_records([p | {"controls": {}} for p in found])
    assert [means[f"PCK@{t:.2f}"] for t in T] == pytest.approx(np.mean(scored, 0))
    assert means["mPCK"] == pytest.approx(np.mean(scored))
    for p in found:
        half, two = p["controls"]["half"], p["controls"].get("two", {"weight": 0})
        assert half["weight"] == p["weight"] and half["NME"] == pytest.approx(p["NME"] / 2)
        assert two["weight"] <= p["weight"]


def test_the_order_is_found_whatever_is_listed_besides(coco, tmp_path):
    """How accents are stored, and what images are called that no annotation is of."""
    path = tmp_path / "annotations" / "mp100_split1_test.json"
    instances, _ = data.read_split(tmp_path, 1, "test")
    before = pairs.read_order(tmp_path, 1, "test", instances)
    listed = json.loads(path.read_text())
    for image in listed["images"]:
        stored = tmp_path / "images" / image["file_name"]
        image["file_name"] += "\u00e9.png"
        name = unicodedata.normalize("NFD", image["file_name"])
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(stored.read_bytes() if stored.exists() else b"")
    listed["images"] += [{"id": 10**6}, {"id": 10**6 + 1, "file_name": 5}]
    path.write_text(json.dumps(listed))
    instances, _ = data.read_split(tmp_path, 1, "test")
    assert pairs.read_order(tmp_path, 1, "test", instances) == before
