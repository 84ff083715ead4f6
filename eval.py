"""Measure CapeLLM on a part of MP-100: PCK over "only query images" or "support-query pairs" (Section 4, Tables 2, 3, 8, 9).

    python eval.py --model nano --data data/figures --controls
    torchrun --nproc_per_node 4 eval.py --model runs/capellm/step-0001000 --data data/mp100 --split 1 --pairs --out results/split1
    python eval.py --average results/split1 results/split2 results/split3 results/split4 results/split5
    python eval.py --compare out/tables-1000/base out/tables-1000/decoding-*        # what `make tables` measured

A PCK that looks good proves little by itself: a keypoint's average place scores, too. --controls measures that on the same
images, and exchanges the image, or the words, for others of the same definition: a model that looks and reads falls then.
"""
import argparse
import contextlib
import hashlib
import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from support import launch, pictures
from study import instructions
import data
from study import density
from study import metrics
from capellm import CapeLLM
from decode import DECODING
from study.metrics import definitions, scores

DECIDES = ("model", "data", "split", "part", "controls", "occlude", "density", "instruction", "decoding", "cumulative",
           "image_size", "names", "seed")           # what decides an answer
GREY = (0.5 - data.MEAN) / data.STD


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--model", metavar="FOLDER", help="model folder: nano, or a checkpoint of train.py")
    p.add_argument("--data", metavar="FOLDER", help="folder with annotations/ and images/ in MP-100's layout")
    p.add_argument("--split", type=int, default=1, choices=range(1, 6), help="MP-100 split: the one the model was trained on")
    p.add_argument("--part", default="test", choices=["train", "val", "test"])
    p.add_argument("--descriptions", default=str(data.HERE / "descriptions"), metavar="FOLDER",
                   help="<definition or category>.txt files")
    p.add_argument("--names", metavar="FOLDER",
                   help="take keypoints' names from these files instead, descriptions still from --descriptions (Table 6)")
    p.add_argument("--pairs", action="store_true", help="count images as support-query pairs do (Table 2), not each once")
    p.add_argument("--instruction", choices=[n for n, i in instructions.INSTRUCTIONS.items() if not i.pretraining],
                   help="how a question reads (Tables 7, 10, 11, 13), else as in the model's training")
    p.add_argument("--decoding", default="greedy", choices=[*DECODING], help="how digits are chosen (Table 9)")
    p.add_argument("--cumulative", nargs="?", const="fixed", choices=["fixed", "confidence"],
                   help="a question follows all earlier ones and their answers (Table 3), as listed or the surest first")
    p.add_argument("--image-size", type=int, metavar="S", help="side of the crop in pixels, else the model's own (Table 8)")
    p.add_argument("--seed", type=int, default=0, help="of decodings that draw, and of --occlude")
    p.add_argument("--limit", type=int, metavar="N", help="a quick look: N images spread evenly over the part")
    p.add_argument("--controls", action="store_true", help="also score the mean place, another image, another keypoint's text")
    p.add_argument("--occlude", type=float, nargs="+", default=[], metavar="SHARE",
                   help="also cover these shares of the object's box with grey rectangles (Figure 4)")
    p.add_argument("--density", action="store_true",
                   help="also compute each keypoint's exact density: what points and calibration follow (Section 4.4); slow")
    p.add_argument("--out", type=Path, metavar="FOLDER", help="write results.json, results.md and instances.jsonl here")
    p.add_argument("--sheet", action="store_true", help="also draw the best, median and worst images, OUT/sheet.png (Figure 3)")
    p.add_argument("--resume", action="store_true", help="continue the evaluation in --out: what it answered is not asked again")
    p.add_argument("--average", nargs="+", type=Path, metavar="FOLDER", help="measure nothing, average these folders' results")
    p.add_argument("--compare", nargs="+", type=Path, metavar="FOLDER",
                   help="measure nothing, compare these folders' results on the same images with the first's")
    return p.parse_args()


def derange(items, seed):
    """{item: another item}: each is followed by the next of a seeded shuffle. A single item is left with itself."""
    order = random.Random(seed).sample(items, len(items))
    return dict(zip(order, order[1:] + order[:1]))


def mean_place(parts):
    """Mean place (K, 2) of keypoints relative to the crop, each over the first of `parts`, lists of instances, that labels it."""
    mean = np.nan
    for instances in filter(None, parts):
        places = [data.to_crop(i.keypoints[:, :2], data.crop_affine(i.bbox, 1), 1) for i in instances]
        places = np.where(np.stack([i.keypoints[:, 2:] for i in instances]) > 0, places, np.nan)    # (instances, K, 2)
        with np.errstate(invalid="ignore"):         # 0 / 0: labelled nowhere in this part
            mean = np.where(np.isnan(mean), np.nansum(places, 0) / (~np.isnan(places)).sum(0), mean)
    return mean


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


def covers(bbox, size, shares, rng):
    """For each share, ascending, (share, mask (size, size)): rectangles at random over that share of the box, in its crop.
    A larger share keeps the rectangles of a smaller one. shares: in (0, 1); the last row drawn may exceed them."""
    w, h = (max(1, round(size * n / max(bbox[2:]))) for n in bbox[2:])
    x, y = (size - w) // 2, (size - h) // 2
    mask = np.zeros((size, size), bool)
    box, shares = mask[y:y + h, x:x + w], sorted(shares)
    while shares:
        wide, high = max(1, int(w * rng.uniform(0.1, 0.4))), max(1, int(h * rng.uniform(0.1, 0.4)))
        left, top = x + rng.randrange(w) - wide // 2, y + rng.randrange(h) - high // 2
        for row in range(max(0, top), min(size, top + high)):
            mask[row, max(0, left):left + wide] = True
            while shares and box.mean() >= shares[0]:
                yield shares.pop(0), mask.copy()


def under(mask, points):
    """Which of the points (K, 2), relative to the crop, lie under the mask (S, S)."""
    at = np.floor(points * len(mask)).astype(int)
    inside = ((at >= 0) & (at < len(mask))).all(1)
    x, y = at.clip(0, len(mask) - 1).T
    return mask[y, x] & inside


def measure(model, instance, keypoints, control, look, inference=None, shares=(), dense=False):
    """The record of one instance, None where its image cannot be read. control: what `controls` prepared, or None; look:
    instance -> pixels (3, S, S) or None; inference: further arguments of model.answer; shares: of the box, to be covered;
    dense: whether to compute densities, of single-round inference.

    In single rounds only labelled keypoints are asked: their answers do not depend on each other. Cumulative inference
    asks all, since nobody tells it which are labelled.
    """
    if (pixels := look(instance)) is None:
        return None
    inference, labelled, affine = inference or {}, instance.keypoints[:, 2] > 0, data.crop_affine(instance.bbox, 1)
    asked = keypoints if inference.get("cumulative") else [k for k, v in zip(keypoints, labelled) if v]
    scored = np.flatnonzero(labelled) if inference.get("cumulative") else np.arange(len(asked))
    names, truths, size = [asked[n].name for n in scored], instance.keypoints[labelled, :2], max(instance.bbox[2:])
    rng = random.Random(f"{inference.get('seed')} {instance.category} {instance.id}")
    inference = inference and inference | {"seed": rng.getrandbits(32)}     # a seed of its own: images draw differently

    def answer(pixels, asked, **more):
        found = model.answer(pixels, asked, **inference | more, category=instance.name, listed=keypoints)
        return [np.array(values)[scored] for values in found]

    def score(places, kept=slice(None)):            # (K, 2), or (K, 5, 2): one for each threshold; relative to the crop
        x, y = (data.to_image(places, affine, 1)[..., n].T - truths[:, n] for n in (0, 1))
        distances = np.hypot(x, y).T[kept].tolist()
        return scores(distances, size) | {"distances": dict(zip(np.array(names)[kept].tolist(), distances))}

    first, probabilities = answer(pixels, asked)
    record = {"id": instance.id, "file": str(instance.image), "category": instance.category, "name": instance.name, "size": size,
              **score(first), "predictions": dict(zip(names, data.to_image(first, affine, 1).round(3).tolist())),
              "probabilities": dict(zip(names, probabilities.round(6).tolist())), "controls": {}}
    if control:
        mean, other, exchange = control
        record["controls"]["mean"] = score(mean[labelled])
        if other is not instance and (shown := look(other)) is not None:
            record["controls"]["other image"] = score(answer(shown, asked)[0])
        if len(exchange) > 1:
            record["controls"]["other text"] = score(answer(pixels, [exchange[k] for k in asked])[0])
    for share, mask in covers(instance.bbox, pixels.shape[-1], shares, rng) if shares else ():
        places, _ = answer(torch.where(torch.from_numpy(mask).to(pixels.device), GREY.to(pixels), pixels), asked)
        record["controls"][f"{100 * share:g}% covered"] = score(places)
        if (seen := ~under(mask, data.to_crop(truths, affine, 1))).any():
            record["controls"][f"{100 * share:g}% covered, keypoints in sight"] = score(places, seen)
    if dense:
        points, record["density"] = density.study(model, pixels, asked, data.to_crop(truths, affine, 1), first,
                                                  metrics.THRESHOLDS, rng, category=instance.name, listed=keypoints)
        points = {"top-3": answer(pixels, asked, decoding="top-3")[0], **points}
        record["points"] = {name: score(places) for name, places in points.items()}
    return record


# ------------------------------------------------------------- what is on disk

def settings_of(a, instances, described, device):
    """What decides an answer, for --resume and for --average. Of a model folder config.json counts, of the weights the adapter's
    size and first MiB, and the names and sizes of the backbones' files."""
    digest, folder = hashlib.sha256(repr(described).encode()), Path(a.model)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):     # no model: loading it says what is wrong
        config = (folder / "config.json").read_bytes()
        with open(folder / "adapter.safetensors", "rb") as file:
            digest.update(config + file.read(2 ** 20) + str(os.fstat(file.fileno()).st_size).encode())
        for backbone in ("vision", "llm"):
            files = sorted(f for f in (folder / json.loads(config)[backbone]).glob("*") if f.is_file())
            digest.update(repr([(f.name, f.stat().st_size) for f in files]).encode())
    for i in instances:
        digest.update(f"{i.id} {i.image.name} {i.category} {i.bbox}".encode() + i.keypoints.tobytes())
    precision = "bfloat16" if device.type == "cuda" else "float32"
    return {k: getattr(a, k) for k in DECIDES} | {"precision": precision, "weights, words, annotations": digest.hexdigest()[:12]}


def key(instance):
    return instance.category, instance.id, str(instance.image)


def earlier(out, settings, resume):
    """{key: record} of what an evaluation in this folder, interrupted or done, has answered, and the number of a free part file.
    Raises ValueError where an interrupted one is there and --resume missing, and where settings differ from those of the
    interrupted one, or, where there is none, of the one that is done: one that is interrupted was to replace it."""
    results, finished, parts = out / "results.json", out / "instances.jsonl", sorted(out.glob("instances.part*.jsonl"))
    if parts and not resume:
        raise ValueError(f"{out} holds an interrupted evaluation: --resume continues it; or remove its instances.part*")
    records = {}
    for file in [*parts, *[finished] * (resume and results.exists() and finished.exists())]:
        lines = file.read_text(encoding="utf-8").split("\n")[:-1]           # the last: empty, or cut short
        said = results if file == finished else file
        try:
            before = json.loads(results.read_bytes() if file == finished else lines.pop(0))["settings"] if lines else settings
            answered = {(r["category"], r["id"], r["file"]): r for r in map(json.loads, lines)}
        except (ValueError, KeyError, TypeError) as e:
            raise ValueError(f"{file} is damaged ({type(e).__name__}: {e}): remove it; --resume asks again") from None
        if not (different := [f"{k} was {before.get(k)}, is {v}" for k, v in settings.items() if before.get(k) != v]):
            records |= answered
        elif file != finished or not parts:
            raise ValueError(f"{said} is of other settings: {'; '.join(different)}. Resume as started, or choose another --out")
    return records, 1 + max((int(p.stem.removeprefix("instances.part")) for p in parts), default=-1)


def write(out, contents):
    """{name: text or a function that saves to a path}: each written beside, then renamed."""
    for name, content in contents.items():
        beside = out / f"partial.{name}"
        content(beside) if callable(content) else beside.write_text(content.rstrip("\n") + "\n", encoding="utf-8")
        beside.replace(out / name)


def main():
    a = arguments()
    if a.average and a.compare:
        raise ValueError("--average and --compare are two tables: ask for one, then for the other")
    if a.average or a.compare:
        return together(a)
    if not (a.model and a.data):
        raise ValueError("--model and --data are needed, or --average or --compare and folders of results")
    if (a.sheet or a.resume) and not a.out:
        raise ValueError("--sheet and --resume need --out, the folder of the results")
    if not all(0 < share < 1 for share in a.occlude):
        raise ValueError(f"--occlude {' '.join(map(str, a.occlude))}: shares of the box lie between 0 and 1, both excluded")
    if a.density and (a.cumulative or a.decoding != "greedy"):
        raise ValueError("--density covers every answer to its question: leave --decoding and --cumulative out")
    rank, world, device = launch.setup()
    if world > 1 and device.type == "cpu":
        torch.set_num_threads(1)
    instances, names = data.read_split(a.data, a.split, a.part)
    if not instances or a.limit is not None and a.limit < 1:
        raise ValueError(f"nothing to measure: {len(instances)} instances in the {a.part} part of {a.data}, --limit {a.limit}")
    described = data.describe(instances, names, a.descriptions)
    if a.names:
        described = {c: [k._replace(name=other.name) for k, other in zip(described[c], others)]
                     for c, others in data.describe(instances, names, a.names).items()}
    supports = {}
    if a.pairs:
        supports = metrics.supports(instances, described, metrics.reading_order(a.data, a.split, a.part, instances))
    pool = sorted(supports) if a.pairs else range(len(instances))           # nobody asks for what no episode draws
    limit = min(a.limit or len(pool), len(pool))
    chosen = [pool[n * len(pool) // limit] for n in range(limit)]           # spread evenly
    prepared, untrained = controls(a, instances, names, described) if a.controls else ([None] * len(instances), [])
    settings, before = settings_of(a, instances, described, device), [{}, 0]
    if a.out and not rank:                          # fails before the work, not after it
        a.out.mkdir(parents=True, exist_ok=True)
        before = [*earlier(a.out, settings, a.resume)]
    if world > 1:                                   # rank 0 alone looks: by the time others do, it may be writing
        dist.broadcast_object_list(before, device=device)
    (records, free), new, unreadable = before, {}, set()                    # unreadable: what is wrong with which image
    todo = [n for n in chosen if key(instances[n]) not in records]
    if todo:
        share = [(i := instances[n], described[i.category], prepared[n]) for n in todo[rank::world]]
        path = a.out and a.out / f"instances.part{free + rank}.jsonl"
        new, unreadable = ask(a, share, device, path, settings, len(chosen) - len(todo))
    gathered = [(new, unreadable)]
    if world > 1:                                   # records, not averages: the processes' shares are unequal
        gathered = [None] * world
        dist.all_gather_object(gathered, (new, unreadable))
    if rank:
        return
    unreadable = sorted(set().union(*(texts for _, texts in gathered)))
    records |= {k: r for share, _ in gathered for k, r in share.items()}
    found = {n: records.pop(k) for n in chosen if (k := key(instances[n])) in records}
    if not found:
        raise ValueError(f"none of the {len(chosen)} images can be read; the first: {unreadable[0]}")
    numbers, text = conclude(a, found, names, pool, supports, untrained)
    faults = [f"left out: {error}" for error in unreadable]
    print(text, end="")
    if a.out:
        numbers |= {"unreadable": unreadable, "settings": settings}
        answered = [*found.values(), *records.values()]                     # the latter in an evaluation of more images, before
        write(a.out, {"instances.jsonl": "\n".join(map(json.dumps, answered)),
                      "results.md": text + "".join(f"\n- {f}\n" for f in faults), "results.json": json.dumps(numbers, indent=1)})
        for file in a.out.glob("instances.part*.jsonl"):
            file.unlink()
    if a.sheet:
        page, missing = pictures.draw_sheet([(instances[n], r) for n, r in found.items()], data.load_crop)
        write(a.out, {"sheet.png": page.save})
        faults += [f"left empty in sheet.png: {error}" for error in missing]
    sys.exit("\n".join(f"eval.py: {fault}" for fault in faults) or 0)       # exit code 1 where there are any


def chain(model, keypoints, category, size):
    """The tokens of an image, of all its questions and their answers: beyond data.MAX_TOKENS `answer` starts anew on the way."""
    opening, _ = data.write_opening(model.tokenizer, model.codec, model.config.instruction, category, keypoints, keypoints)
    rounds = sum(len(data.write_question(model.tokenizer, k, model.config.instruction) + model.codec.encode(0, 0)) for k in keypoints)
    return 1 + (size // model.vision.config.patch_size) ** 2 + len(opening) + rounds


def ask(a, images, device, path, settings, known):
    """{key: record} of (instance, keypoints, control)s, written to the part file at once, and what is wrong with which image."""
    model = CapeLLM.from_pretrained(a.model, torch.bfloat16 if device.type == "cuda" else torch.float32, device)
    model.config.instruction = a.instruction or model.config.instruction
    size, patch, records, unreadable = a.image_size or model.config.image_size, model.vision.config.patch_size, {}, set()
    if size < patch or size % patch:
        fits = max(1, size // patch) * patch
        raise ValueError(f"--image-size {size}: the vision encoder reads patches of {patch}; {fits} or {fits + patch} fits")

    def look(instance):
        try:
            return data.load_crop(instance, size)[0].to(device)
        except (ValueError, FileNotFoundError) as e:
            unreadable.add(str(e))

    cumulative = {None: False, "fixed": True, "confidence": "confidence"}[a.cumulative]
    inference = {"decoding": a.decoding, "cumulative": cumulative, "seed": a.seed}
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    label = ", ".join([f"{known} answered before"] * (known > 0) + [f"the first of {world} processes"] * (world > 1))
    bar = tqdm(images, label or None, disable=rank > 0, unit="image")
    with open(path or os.devnull, "w", encoding="utf-8", buffering=1) as file:
        print(json.dumps({"settings": settings}), file=file)
        for instance, keypoints, control in bar:
            if record := measure(model, instance, keypoints, control, look, inference, a.occlude, a.density):
                if a.cumulative:
                    record["tokens"] = chain(model, keypoints, instance.name, size)
                records[key(instance)] = record
                print(json.dumps(record), file=file)
    return records, unreadable


def conclude(a, found, names, pool, supports, untrained):
    """What results.json holds, without the settings, and what is printed. found: {position of an image: its record}."""
    records, numbers = (measured := [*found.values()]), {k: getattr(a, k) for k in ("model", "data", "split", "part", "limit")}
    how = f"cumulative ({a.cumulative})" if a.cumulative else "single round"
    text = f"{a.model} on {a.data}, split {a.split}, {a.part} part: {len(found)} of {len(pool)} images, {how}, {a.decoding}"
    trained = json.loads((Path(a.model) / "config.json").read_bytes())["instruction"]
    asked = a.instruction or trained
    text += f", {a.image_size} pixels" * bool(a.image_size) + f", instruction {asked}"
    home, *words = (Path(f).resolve() for f in (data.HERE / "descriptions", a.names or a.descriptions, a.descriptions))
    text += f", {a.descriptions}" * (words[1] != home) + f", names of {a.names}" * bool(a.names) + ".\n"
    numbers |= {"protocol": metrics.PAIRS if a.pairs else metrics.QUERY_IMAGES, "images": len(found)}
    if a.cumulative:
        numbers["chained anew"] = anew = sum(r["tokens"] > data.MAX_TOKENS for r in measured)
        text += f"Beyond {data.MAX_TOKENS} tokens a chain began anew, and forgot its earlier answers, in {anew} images.\n"
    if a.pairs:
        each = [metrics.paired(r, supports[n]) for n, r in found.items()]
        for r, p in zip(measured, each):            # for --compare
            r["pairs"] = p and {m: p[m] for m in (*metrics.METRICS, "weight")}
        if not (records := [p for p in each if p]):
            raise ValueError("no support-query pair has a keypoint that both show: measure only query images, without --pairs")
        pairs = sum(p["weight"] for p in records)
        numbers |= {"pairs": pairs, "pairs left out": sum(supports[n].total() for n in found) - pairs}
        text += f"Counted as {pairs} support-query pairs; {numbers['pairs left out']} more have no keypoint that both show.\n"
    text += "A quick look (--limit), not the result of the whole part.\n" * (bool(a.limit) and a.limit < len(pool))
    facts = data.read_mp100()
    mp100 = {c["id"]: c["name"] for c in facts["categories"] if c["id"] in facts["splits"][str(a.split)]["test"]}
    ways = {(home, home): asked}
    if asked == "base":
        simple = home / "simple"
        ways |= {(simple, home): "simple names", (home, simple): "simple descriptions", (simple, simple): "simple"}
    words = trained, ways.get((*words,))
    paper = metrics.published(numbers["protocol"], a.split, a.decoding, a.cumulative, a.image_size, words)
    found, table = metrics.report(records, names, a.split, paper if names == mp100 and a.part == "test" else {})
    text += f"\n{table}"
    if a.density:
        points, more = metrics.points(records)
        truths, rest = metrics.distributions(measured, names)
        cost = float(np.mean([k["prefixes"] for r in measured for k in r["density"].values()]))
        found["density"] = truths | {"prefixes": cost, "points": points}
        text += f"\n{more}\n{rest}\nRead for a density: {cost:,.1f} prefixes of its answers, on average.\n"
    if untrained:
        text += f"\nNot in training: `mean`, from other parts or these images, is favoured on {', '.join(untrained)}.\n"
    return found | numbers, text


def together(a):
    """Print, and write where asked, the mean over splits, as the last column of Table 2, or a comparison on the same images."""
    differ = ("model", "split", "controls", "occlude", "density")
    if a.average:
        text, numbers = metrics.average(a.average, ["precision", *(k for k in DECIDES if k not in differ)])
    else:
        text, numbers = metrics.compare(a.compare)
    print(text, end="")
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
        name = "average" if a.average else "compare"
        write(a.out, {f"{name}.json": json.dumps(numbers, indent=1), f"{name}.md": text})


if __name__ == "__main__":
    launch.run("eval.py", main)
