"""What an evaluation found, in numbers: what results.json holds besides the settings.

    numbers = conclude_evaluation(measured, images, split=1)
    numbers["mPCK"], numbers["definitions"]["animal_body"]["mPCK"], numbers["intervals"]["mPCK"]

`study.report` puts the numbers into words.
"""

from collections import defaultdict

import numpy as np

import data
from study import calibration, pairs
from study.metrics import METRICS, average_records, find_definitions, find_intervals
from support.coco import get_sorted_id
from support.descriptions import read_mp100


def conclude_evaluation(measured, images, split, published=None):
    """All numbers of an evaluation.

    measured: {position of an instance: its record}, as of study.measure; images: the
    study.images.Images that it is of; published: the paper's numbers beside it. Averages are over
    all images, and under "groups", "definitions" and "categories" over those of each. Records get
    their scores over pairs, "pairs". Raises ValueError if no pair has a keypoint that both images
    show.
    """
    names, supports = images.names, images.supports
    records = list(measured.values())
    numbers = {"protocol": pairs.QUERY_IMAGES, "images": len(records)}
    counted = records
    if supports:
        counted = count_pairs(measured, supports)
        total = sum(supports[n].total() for n in measured)
        numbers["protocol"] = pairs.PAIRS
        numbers["pairs"] = sum(r["weight"] for r in counted)
        numbers["pairs left out"] = total - numbers["pairs"]
    if "tokens" in records[0]:
        numbers["chained anew"] = sum(r["tokens"] > data.MAX_TOKENS for r in records)
    found = average_records(counted) | {
        "intervals": find_intervals(counted),
        "paper": published or {},
        "groups": average_by(find_groups(names, split), counted),
        "definitions": average_by(find_definitions(names), counted),
        "categories": {},
    }
    for id, means in average_by({id: id for id in names}, counted).items():
        found["categories"][id] = {"name": names[id]} | means
    if "density" in records[0]:
        prefixes = [k["prefixes"] for r in records for k in r["density"].values()]
        found["density"] = calibration.compare_with_gaussians(records, names)
        found["density"]["prefixes"] = float(np.mean(prefixes))
        found["density"]["points"] = calibration.average_points(counted)
    return found | numbers


def count_pairs(measured, supports):
    """The records scored over their support-query pairs, without those that have none.

    `measured` records get these scores, too, under "pairs": a comparison reads them.
    """
    counted = []
    for n, record in measured.items():
        paired = pairs.score_pairs(record, supports[n])
        record["pairs"] = paired and {name: paired[name] for name in (*METRICS, "weight")}
        if paired:
            counted.append(paired)
    if not counted:
        raise ValueError(
            "no support-query pair has a keypoint that both show: measure only query images, "
            "without --pairs"
        )
    return counted


def find_groups(names, split):
    """{category id: whether training on this split of MP-100 sees its definition, in words}."""
    facts = read_mp100()
    definition_of = {c["id"]: c["definition"] for c in facts["categories"]}
    training = facts["splits"].get(str(split), {"train": []})["train"]
    trained = {definition_of[id] for id in training}
    groups = {}
    for id, definition in find_definitions(names).items():
        if definition in trained:
            groups[id] = "definition seen in training"
        elif definition in definition_of.values():
            groups[id] = "definition new"
        else:
            groups[id] = "not in MP-100"
    return groups


def average_by(kinds, records):
    """{kind: `average_records` of those whose category is of this kind}, sorted.

    kinds: {category id: kind}.
    """
    members = defaultdict(list)
    for r in records:
        members[kinds[r["category"]]].append(r)
    return {kind: average_records(members[kind]) for kind in sorted(members, key=get_sorted_id)}
