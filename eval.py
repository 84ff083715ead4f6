"""Measure CapeLLM on a part of MP-100: PCK, "only query images", greedy, single round (Section 4.1, Table 1).

    python eval.py --model nano --data data/figures --controls
    torchrun --nproc_per_node 4 eval.py --model runs/capellm/step-0001000 --data data/mp100 --split 1 --out results/split1

A PCK that looks good proves little by itself: a keypoint's average place scores, too. --controls measures that on the same
images, and exchanges the image, or the words, for others of the same definition: a model that looks and reads falls then.
"""
import argparse
import json
import random
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

import data
from capellm import CapeLLM

THRESHOLDS = (0.05, 0.10, 0.15, 0.20, 0.25)         # mPCK is the mean over these
PCK = [f"PCK@{t:.2f}" for t in THRESHOLDS]


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--model", required=True, metavar="FOLDER", help="model folder: nano, or a checkpoint of train.py")
    p.add_argument("--data", required=True, metavar="FOLDER", help="folder with annotations/ and images/ in MP-100's layout")
    p.add_argument("--split", type=int, default=1, help="MP-100 split, 1 to 5: the one the model was trained on")
    p.add_argument("--part", default="test", choices=["train", "val", "test"])
    p.add_argument("--descriptions", default=str(data.HERE / "descriptions"), metavar="FOLDER", help="<definition or category>.txt files")
    p.add_argument("--limit", type=int, metavar="N", help="a quick look: N images spread evenly over the part")
    p.add_argument("--controls", action="store_true", help="also score the mean place, another image, another keypoint's text")
    p.add_argument("--out", type=Path, metavar="FOLDER", help="write results.json, results.md and instances.jsonl here")
    return p.parse_args()


def pck(predictions, truths, visible, size, thresholds):
    """The fraction of visible keypoints that lie closer to the truth than t * size, for each threshold t.
    predictions, truths: (K, 2) in pixels; visible: (K,), > 0 where labelled; size: max(box width, box height) in pixels.
    Returns (len(thresholds),). Raises ValueError where nothing is visible: such an image has no PCK.
    """
    visible = np.asarray(visible) > 0
    if not visible.any():
        raise ValueError("PCK needs at least one visible keypoint")
    x, y = (np.asarray(predictions, float) - np.asarray(truths, float))[visible].T
    return (np.hypot(x, y)[:, None] < np.asarray(thresholds) * size).mean(0)


def derange(items, seed):
    """{item: another item}: each is followed by the next of a seeded shuffle. A single item is left with itself."""
    order = random.Random(seed).sample(items, len(items))
    return dict(zip(order, order[1:] + order[:1]))


def mean_place(parts):
    """Mean place (K, 2) of keypoints relative to the square crop, each over the first of `parts` (lists of instances) that labels it."""
    mean = np.nan
    for instances in filter(None, parts):
        places = np.stack([np.where(i.keypoints[:, 2:] > 0, data.to_crop(i.keypoints[:, :2], data.crop_affine(i.bbox, 1), 1), np.nan)
                           for i in instances])                                                     # (instances, K, 2)
        with np.errstate(invalid="ignore"):         # 0 / 0: labelled nowhere in this part
            mean = np.where(np.isnan(mean), np.nansum(places, 0) / (~np.isnan(places)).sum(0), mean)
    return mean


def definitions(names):
    """{category id: its definition}; a category that is not MP-100's is its own."""
    known = {(c["id"], c["name"]): c["definition"] for c in data.mp100()["categories"]}
    return {id: known.get((id, name), name) for id, name in names.items()}


def controls(a, instances, names, described):
    """For each instance (mean places (K, 2), another instance, {keypoint: another keypoint}), and the definitions without
    a mean place in training: theirs is from other parts or the measured images themselves, which favours the baseline."""
    definition, pools = definitions(names), {}
    for part in sorted(("train", "val", "test"), key=lambda p: (p != "train", p == a.part)):
        try:
            more, more_names = data.read_split(a.data, a.split, part)
        except FileNotFoundError:                   # only the measured part must be there
            more, more_names = [], {}
        of = definitions(more_names)
        for d, K in {definition[c]: len(keypoints) for c, keypoints in described.items()}.items():
            pools.setdefault(d, []).append([i for i in more if of[i.category] == d and len(i.keypoints) == K])
    mean = {d: mean_place(pool) for d, pool in pools.items()}
    members = {d: [n for n, i in enumerate(instances) if definition[i.category] == d] for d in pools}
    another = {n: m for d in members for n, m in derange(members[d], d).items()}
    exchange = {c: derange(keypoints, definition[c]) for c, keypoints in described.items()}
    prepared = [(mean[definition[i.category]], instances[another[n]], exchange[i.category]) for n, i in enumerate(instances)]
    return prepared, sorted(d for d in pools if not pools[d][0])


def measure(model, instance, keypoints, control, look):
    """The record of one instance, None where its image cannot be read. look: instance -> pixels (3, S, S) or None.
    Only labelled keypoints are asked: the answers of a single round do not depend on each other."""
    if (pixels := look(instance)) is None:
        return None
    labelled, affine = instance.keypoints[:, 2] > 0, data.crop_affine(instance.bbox, 1)
    asked = [k for k, v in zip(keypoints, labelled) if v]
    truths, size = instance.keypoints[labelled, :2], max(instance.bbox[2:])
    score = lambda xy: dict(zip(PCK, pck(data.to_image(xy, affine, 1), truths, np.ones(len(truths)), size, THRESHOLDS).tolist()))
    coordinates, probabilities = model.answer(pixels, asked)
    record = {"id": instance.id, "file": str(instance.image), "category": instance.category, **score(coordinates), "controls": {},
              "predictions": {k.name: p for k, p in zip(asked, data.to_image(coordinates, affine, 1).round(3).tolist())},
              "probabilities": {k.name: round(p, 6) for k, p in zip(asked, probabilities)}}
    if control:
        mean, other, exchange = control
        record["controls"]["mean"] = score(mean[labelled])
        if other is not instance and (shown := look(other)) is not None:
            record["controls"]["other image"] = score(model.answer(shown, asked)[0])
        if len(exchange) > 1:
            record["controls"]["other text"] = score(model.answer(pixels, [exchange[k] for k in asked])[0])
    return record


def summary(records):
    """PCK averaged over images, as in the paper; mPCK averaged over categories as well; the same for the controls."""
    def average(scores):                            # of (category, {"PCK@0.05": ...})
        table, category = np.array([[s[name] for name in PCK] for _, s in scores]), np.array([c for c, _ in scores])
        over = [table[category == c].mean() for c in np.unique(category)]
        return dict(zip(PCK, table.mean(0).tolist())) | {"mPCK": float(table.mean()), "mPCK over categories": float(np.mean(over)),
                                                         "categories": len(over), "instances": len(scores)}
    controls = {c: 0 for r in records for c in r["controls"]}
    return average([(r["category"], r) for r in records]) | {
        "controls": {c: average([(r["category"], r["controls"][c]) for r in records if c in r["controls"]]) for c in controls}}


def report(records, names, split):
    """What results.json holds, without the settings, and its table: Markdown, in percent, readable in a terminal."""
    facts, definition = data.mp100(), definitions(names)
    of = {c["id"]: c["definition"] for c in facts["categories"]}
    trained = {of[c] for c in facts["splits"].get(str(split), {"train": []})["train"]}
    for r in records:
        d = r["definition"] = definition[r["category"]]
        r["group"] = "definition seen in training" if d in trained else "definition new" if d in of.values() else "not in MP-100"
    by = lambda key: {k: summary([r for r in records if r[key] == k]) for k in sorted({r[key] for r in records})}
    overall, groups, per_definition = summary(records), by("group"), by("definition")
    head = ["images", *(columns := [*PCK, "mPCK", "mPCK over categories"])]
    table = f"| {'in percent':45} | {' | '.join(head)} |\n|{'-' * 47}|{''.join('-' * len(c) + '-:|' for c in head)}\n"
    for name, s in [("all", overall), *(groups.items() if len(groups) > 1 else []), *per_definition.items()]:
        title = f"{name} ({s['categories']} categor{'y' if s['categories'] == 1 else 'ies'})"
        for label, m in [(title, s)] + [(f"- {c}", m) for c, m in s["controls"].items() if name not in per_definition]:
            table += f"| {label:45} | {m['instances']:6} | {' | '.join(f'{100 * m[c]:{len(c)}.1f}' for c in columns)} |\n"
    categories = {c: {"name": names[c]} | s for c, s in by("category").items()}
    return overall | {"groups": groups, "definitions": per_definition, "categories": categories}, table


def main():
    a = arguments()
    rank, world, device = data.setup()
    if world > 1 and device.type == "cpu":
        torch.set_num_threads(1)
    instances, names = data.read_split(a.data, a.split, a.part)
    if not instances or a.limit is not None and a.limit < 1:
        raise ValueError(f"nothing to measure: {len(instances)} instances in the {a.part} part of {a.data}, --limit {a.limit}")
    described = data.describe(instances, names, a.descriptions)
    prepared, untrained = controls(a, instances, names, described) if a.controls else ([None] * len(instances), [])
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)    # fails before the work, not after it
    model = CapeLLM.from_pretrained(a.model, torch.bfloat16 if device.type == "cuda" else torch.float32, device)
    limit, unreadable = min(a.limit or len(instances), len(instances)), set()
    chosen = [n * len(instances) // limit for n in range(limit)]                                    # spread evenly

    def look(instance):
        try:
            return data.load_crop(instance, model.image_size)[0].to(device)
        except (ValueError, FileNotFoundError) as e:
            unreadable.add(str(e))

    records = {n: measure(model, i := instances[n], described[i.category], prepared[n], look)
               for n in tqdm(chosen[rank::world], disable=rank > 0, unit="image")}
    if world > 1:                                   # records, not averages: the processes' shares are unequal
        gathered = [None] * world
        dist.all_gather_object(gathered, (records, unreadable))
        records, unreadable = {n: r for share, _ in gathered for n, r in share.items()}, set().union(*(u for _, u in gathered))
    if rank:
        return
    records, unreadable = [records[n] for n in chosen if records[n]], sorted(unreadable)
    if not records:
        raise ValueError(f"none of the {len(chosen)} images can be read; the first: {unreadable[0]}")
    numbers, table = report(records, names, a.split)
    text = f"{a.model} on {a.data}, split {a.split}, {a.part} part: {len(records)} of {len(instances)} images, single round, greedy.\n"
    text += "A quick look (--limit), not the result of the whole part.\n" * (limit < len(instances)) + f"\n{table}"
    text += f"\nNot in training: `mean`, from other parts or these images, is favoured on {', '.join(untrained)}.\n" * bool(untrained)
    print(text, end="")
    if a.out:
        numbers |= {k: getattr(a, k) for k in ("model", "data", "split", "part", "limit")} | {"unreadable": len(unreadable)}
        for name, content in {"results.json": json.dumps(numbers, indent=1), "results.md": text.rstrip(),
                              "instances.jsonl": "\n".join(map(json.dumps, records))}.items():
            (a.out / f"{name}.partial").write_text(content + "\n", encoding="utf-8")
            (a.out / f"{name}.partial").replace(a.out / name)
    sys.exit("\n".join(f"eval.py: left out: {error}" for error in unreadable) or 0)         # exit code 1 where there are any


if __name__ == "__main__":
    data.run("eval.py", main)
