"""Support-query pairs: how earlier methods count images (Table 2).

These methods see a support image with its keypoints, then answer for a query image of the same
category. Which images are paired is drawn at random, and a pair is scored by the keypoints that
both show. CapeLLM needs no support: it answers an image once, and `score_pairs` counts the answer
for each of its pairs.
"""

import json
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from study.metrics import METRICS, score_distances
from support.coco import find_annotations
from support.files import find_spelling

# The two protocols of Table 2.
QUERY_IMAGES = "only query images"
PAIRS = "support-query pairs"
# Episodes of a category, and queries of an episode, which has one support: as published.
EPISODES = 200
QUERIES = 15


def read_order(folder, split, part, instances):
    """{category: positions of its instances}, in the order in which episodes draw from them.

    instances: of data.read_split. As published: categories in the order of the annotation file,
    instances in the order in which they are read. Here they are read image by image, and in an
    image as annotated. Unusable instances are left out before, and categories without others, too.
    """
    coco = json.loads(find_annotations(folder, split, part).read_bytes())
    images = Path(folder) / "images"
    place = {}
    for n, image in enumerate(coco["images"]):
        # One that no annotation is of may have no name.
        if isinstance(image.get("file_name"), str):
            place[find_spelling(images, image["file_name"])] = n
    # As published, a flat box has no pairs.
    able = [n for n, instance in enumerate(instances) if min(instance.bbox[2:]) > 0]
    order = sorted(able, key=lambda n: place[instances[n].image])
    members = {}
    for category in coco["categories"]:
        found = [n for n in order if instances[n].category == category["id"]]
        if found:
            members[category["id"]] = found
    return members


def draw_episodes(members, count=EPISODES, queries=QUERIES):
    """Pairs as published: `count` episodes of each category, drawn with seed 1.

    members: {category: its instances}, as of `read_order`. One generator draws for all categories,
    so each depends on those before it. Returns [(support, [query, ...]), ...]. Raises ValueError if
    a category has too few instances.
    """
    rng = random.Random(1)
    episodes = []
    for category, instances in members.items():
        if len(instances) <= queries:
            raise ValueError(
                f"--pairs draws {1 + queries} instances of a category, category {category} has "
                f"{len(instances)}: measure only query images, without --pairs"
            )
        for _ in range(count):
            support, *others = rng.sample(instances, 1 + queries)
            episodes.append((support, others))
    return episodes


def count_supports(instances, described, members):
    """{query: Counter of what its supports show}, for each query that an episode draws.

    What a support shows is the frozenset of the names of its labelled keypoints. Queries and
    `members` are positions among the instances; described: {category: its keypoints}.
    """
    shown = []
    for instance in instances:
        keypoints = zip(described[instance.category], instance.keypoints[:, 2], strict=True)
        shown.append(frozenset(keypoint.name for keypoint, v in keypoints if v > 0))
    supports = defaultdict(Counter)
    for support, queries in draw_episodes(members):
        for query in queries:
            supports[query][shown[support]] += 1
    return supports


def score_pairs(record, supports):
    """The record with the mean scores over its pairs, None if no support shares a keypoint with it.

    supports: Counter of frozensets of keypoint names, as of `count_supports`. In a pair those
    keypoints count that both images show; "weight" says how many pairs have any. Controls and the
    points of densities are paired alike.
    """
    scores = average_over_supports(record["distances"], record["size"], supports)
    if not scores:
        return None
    paired = {**record, **scores}
    for kind in ("controls", "points"):
        if kind in record:
            paired[kind] = {}
            for name, beside in record[kind].items():
                scores = average_over_supports(beside["distances"], record["size"], supports)
                if scores:
                    paired[kind][name] = {**beside, **scores}
    return paired


def average_over_supports(distances, size, supports):
    """{metric: mean over pairs, "weight": the number of pairs}, None if it is 0.

    distances: {keypoint name: distance}.
    """
    # Pairs with the same keypoints have the same scores.
    shared = Counter()
    for visible, times in supports.items():
        shared[tuple(name for name in distances if name in visible)] += times
    del shared[()]
    if not shared:
        return None
    weights = list(shared.values())
    each = [score_distances([distances[name] for name in names], size) for names in shared]
    means = {m: float(np.average([s[m] for s in each], weights=weights)) for m in METRICS}
    return means | {"weight": sum(weights)}
