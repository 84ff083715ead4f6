"""How good are the answers? PCK and its kin, averages and intervals, support-query pairs, the paper's numbers, tables, a picture.

    scores([3.5, 12.0], size=100)["PCK@0.05"]       # of one image, from the distances of its keypoints: 0.5
    summary(records)["PCK@0.20"]                    # over images; eval.py makes the records

Nothing here knows the model.
"""
import json
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

import data
from study import density

THRESHOLDS = (0.05, 0.10, 0.15, 0.20, 0.25)         # mPCK is the mean over these
PCK = [f"PCK@{t:.2f}" for t in THRESHOLDS]
METRICS = [*PCK, "mPCK", "AUC", "NME"]              # of an image
COLUMNS = [*PCK, "mPCK", "mPCK over categories", "AUC", "NME"]
EPISODES, QUERIES = 200, 15                         # of a category; of an episode (Table 2, the published protocol)
LEVELS = (0.5, 0.68, 0.9, 0.95)                     # of credible regions
RESAMPLES = 1000                                    # of the bootstrap
PROTOCOLS = QUERY_IMAGES, PAIRS = "only query images", "support-query pairs"


def pck(predictions, truths, visible, size, thresholds):
    """The fraction of visible keypoints that lie closer to the truth than t * size, for each threshold t.
    predictions, truths: (K, 2) in pixels; visible: (K,), > 0 where labelled; size: max(box width, box height) in pixels.
    Returns (len(thresholds),). Raises ValueError where nothing is visible: such an image has no PCK.
    """
    visible = np.asarray(visible) > 0
    if not visible.any():
        raise ValueError("PCK needs at least one visible keypoint")
    x, y = (np.asarray(predictions, float) - np.asarray(truths, float))[visible].T
    return closer(np.hypot(x, y), size, thresholds)


def closer(distances, size, thresholds=THRESHOLDS):
    return (distances.reshape(len(distances), -1) < np.asarray(thresholds) * size).mean(0)


def scores(distances, size):
    """{metric: value} of one image. distances: of keypoints to their truths, one or more; size: the box's longer side; pixels.
    Where each threshold has an answer of its own, distances are (K, 5), and AUC and NME are means over the five.

    AUC: area under PCK@t for t in (0, 0.25), as a share of the area there is: a keypoint at distance d adds what is right of d.
    NME: normalised mean error, the mean of distance / size.
    """
    distances = np.asarray(distances, float)
    fractions, errors = closer(distances, size), distances / size
    area = (1 - errors / THRESHOLDS[-1]).clip(0).mean()
    return dict(zip(METRICS, map(float, (*fractions, fractions.mean(), area, errors.mean()))))


# ------------------------------------------------------------------- averages

def arrays(rows):
    """Scores (n, len(METRICS)), weights (n,) and categories (n,) of rows of (category, scores)."""
    return (np.array([[s[m] for m in METRICS] for _, s in rows]), np.array([s.get("weight", 1) for _, s in rows], float),
            np.array([c for c, _ in rows]))


def means(table, weight, category):
    """The COLUMNS of `arrays`: averaged over images, mPCK over categories as well."""
    over_images = np.average(table, 0, weight)
    _, position = np.unique(category, return_inverse=True)
    of_category = np.bincount(position, weight * table[:, len(PCK)]) / np.bincount(position, weight)
    return np.insert(over_images, len(PCK) + 1, of_category.mean())


def summary(records):
    """{column: mean over images}, as in the paper; the same for the controls."""
    def average(rows):
        found = dict(zip(COLUMNS, means(*arrays(rows)).tolist()))
        return found | {"categories": len({c for c, _ in rows}), "instances": len(rows)}
    controls = {c: 0 for r in records for c in r["controls"]}
    return average([(r["category"], r) for r in records]) | {
        "controls": {c: average([(r["category"], r["controls"][c]) for r in records if c in r["controls"]]) for c in controls}}


def bootstrap(mean, n):
    """95% confidence intervals over n images, [low, high] for each number of mean(draw). draw: positions, n of them drawn with
    replacement."""
    rng = np.random.default_rng(0)
    return np.nanpercentile([mean(rng.integers(0, n, n)) for _ in range(RESAMPLES)], [2.5, 97.5], 0).T.tolist()


def intervals(records):
    """{column: [low, high]}: 95% confidence intervals. Over categories images are drawn within each; there is no interval where a
    category has one image alone, which does not tell how much others would differ."""
    table, weight, category = arrays([(r["category"], r) for r in records])
    found = dict(zip(METRICS, bootstrap(lambda draw: np.average(table[draw], 0, weight[draw]), len(records))))
    members, rng, total = [np.flatnonzero(category == c) for c in np.unique(category)], np.random.default_rng(0), 0
    if all(len(m) > 1 for m in members):
        for m in members:           # one fewer than there are, else means of few images vary too little (McCarthy, Snowden 1985)
            draw = m[rng.integers(0, len(m), (RESAMPLES, len(m) - 1))]
            total += (weight * table[:, len(PCK)])[draw].sum(1) / weight[draw].sum(1) / len(members)
        found["mPCK over categories"] = np.percentile(total, [2.5, 97.5]).tolist()
    return found


# -------------------------------------------------------- support-query pairs

def episodes(members, count=EPISODES, queries=QUERIES):
    """Support-query pairs as published: for each category `count` episodes of a support and its queries, drawn with seed 1.

    members: {category: its instances}, as of `reading_order`. One generator draws for all categories, so that each depends on
    those before it. Returns [(support, [query, ...]), ...]. Raises ValueError where a category has too few.
    """
    rng, drawn = random.Random(1), []
    for category, instances in members.items():
        if len(instances) <= queries:
            raise ValueError(f"--pairs draws {1 + queries} instances of a category, category {category} has {len(instances)}: "
                             "measure only query images, without --pairs")
        for _ in range(count):
            support, *others = rng.sample(instances, 1 + queries)
            drawn.append((support, others))
    return drawn


def reading_order(folder, split, part, instances):
    """{category: positions of its instances}, in the order in which episodes draw from them. instances: of data.read_split.

    Published is: categories in the order of the annotation file, instances in that in which they are read. Taken here: image by
    image, those of one image as annotated; unusable instances are left out before, and with them categories that have no other.
    """
    coco = json.loads(data.find_annotations(folder, split, part).read_bytes())
    place = {Path(folder) / "images" / image["file_name"]: n for n, image in enumerate(coco["images"])}
    order = sorted(range(len(instances)), key=lambda n: place[instances[n].image])
    members = {c["id"]: [n for n in order if instances[n].category == c["id"]] for c in coco["categories"]}
    return {c: m for c, m in members.items() if m}


def supports(instances, described, members):
    """{query: Counter of its supports' visible keypoints, frozensets of names}, queries and `members` as positions among them."""
    names = [frozenset(k.name for k, v in zip(described[i.category], i.keypoints[:, 2]) if v > 0) for i in instances]
    found = defaultdict(Counter)
    for support, queries in episodes(members):
        for query in queries:
            found[query][names[support]] += 1
    return found


def paired(record, supports):
    """The record scored once for each support, over the keypoints visible in both, and averaged; "weight": how many have such.

    supports: Counter of frozensets of keypoint names. None where no support shares a keypoint. Controls and the points of
    densities are paired alike.
    """
    def score(distances):
        shared = Counter()
        for visible, times in supports.items():
            shared[tuple(k for k in distances if k in visible)] += times
        del shared[()]
        if not shared:
            return None
        each, weight = [scores([distances[k] for k in names], record["size"]) for names in shared], list(shared.values())
        return {m: float(np.average([s[m] for s in each], weights=weight)) for m in METRICS} | {"weight": sum(weight)}
    parts = {kind: {c: {**s, **found} for c, s in record[kind].items() if (found := score(s["distances"]))}
             for kind in ("controls", "points") if kind in record}
    return {**record, **found, **parts} if (found := score(record["distances"])) else None


# ------------------------------------------------------------------ the paper

# CapeLLM's PCK@0.20 on MP-100's photographs, splits 1 to 5, in percent (Table 2).
TABLE_2 = {QUERY_IMAGES: (96.98, 92.34, 90.57, 90.87, 92.24), PAIRS: (97.01, 92.40, 90.58, 90.90, 92.11)}
# Split 1, only query images, by decoding, cumulative inference and image size (Tables 3, 8, 9 and 12).
SPLIT_1 = {
    ("greedy", None, 224): dict(zip([*PCK, "mPCK"], (78.43, 91.34, 95.26, 96.98, 97.90, 91.98))),
    ("greedy", "fixed", 224): {"PCK@0.15": 93.02, "PCK@0.20": 94.59, "PCK@0.25": 95.42},
    ("greedy", None, 238): {"PCK@0.05": 78.68, "PCK@0.20": 97.07, "PCK@0.25": 97.93},
    ("greedy", None, 252): {"PCK@0.05": 78.45, "PCK@0.20": 97.11, "PCK@0.25": 97.99},
    ("greedy", None, 336): {"PCK@0.05": 78.25, "PCK@0.20": 96.85, "PCK@0.25": 97.81},
    ("sampling", None, 224): {"PCK@0.20": 96.06, "PCK@0.25": 97.26, "mPCK": 89.58},
    ("temperature", None, 224): {"PCK@0.20": 96.69, "PCK@0.25": 97.76, "mPCK": 90.95},
    ("top-3", None, 224): {"PCK@0.20": 97.07, "PCK@0.25": 97.92, "mPCK": 92.00},
    ("top-5", None, 224): {"PCK@0.20": 97.05, "PCK@0.25": 97.91, "mPCK": 91.97},
    ("nucleus", None, 224): {"PCK@0.20": 96.69, "PCK@0.25": 97.77, "mPCK": 90.71},
    ("contrastive", None, 224): {"PCK@0.20": 96.98, "PCK@0.25": 97.90, "mPCK": 91.98},
}
# The same, greedy at 224 pixels, by the instruction of training and that of the evaluation (Tables 7, 10, 11 and 13); of
# Table 6 by what is simple in the evaluation, "simple" being both.
WORDS = {
    ("base", "simple names"): {"PCK@0.05": 78.24, "PCK@0.20": 96.94, "PCK@0.25": 97.83},
    ("base", "simple descriptions"): {"PCK@0.05": 70.11, "PCK@0.20": 96.67, "PCK@0.25": 97.69},
    ("base", "simple"): {"PCK@0.05": 66.16, "PCK@0.20": 96.09, "PCK@0.25": 97.26},
    ("base", "replaced"): {"PCK@0.20": 95.28, "mPCK": 86.66},
    ("base", "names"): {"PCK@0.20": 95.15, "mPCK": 85.69},
    ("random", "random"): {"PCK@0.20": 96.65, "mPCK": 89.87},
    ("random", "replaced"): {"PCK@0.20": 96.39, "mPCK": 89.65},
    ("random", "names"): {"PCK@0.20": 96.07, "mPCK": 88.84},
    ("names", "names"): {"PCK@0.05": 72.60, "PCK@0.20": 96.22, "mPCK": 89.86},
    ("list", "list"): {"PCK@0.05": 77.36, "PCK@0.20": 95.80, "mPCK": 90.97},
    ("diverse", "diverse"): {"PCK@0.05": 74.24, "PCK@0.20": 96.56, "mPCK": 90.56},
    ("outline", "outline"): {"PCK@0.05": 75.08, "PCK@0.20": 96.27, "mPCK": 90.63},
    ("steps", "steps"): {"PCK@0.05": 76.06, "PCK@0.20": 96.48, "mPCK": 91.11},
}


def published(protocol, split, decoding="greedy", cumulative=None, size=None, words=("base", "base")):
    """{column: CapeLLM's number on MP-100's photographs, a fraction}: all that the paper has for this way to measure."""
    how, first = (decoding, cumulative, size or 224), (protocol, split) == (QUERY_IMAGES, 1)
    plain = how == ("greedy", None, 224)
    if words == ("base", "base"):
        numbers = (SPLIT_1.get(how, {}) if first else {}) | ({"PCK@0.20": TABLE_2[protocol][split - 1]} if plain else {})
    else:
        numbers = WORDS.get(words, {}) if first and plain else {}
    return {column: round(value / 100, 4) for column, value in numbers.items()}


# ------------------------------------------------------------------ the table

def head():
    titles = ["images", *(f"{c:>4}" for c in COLUMNS)]
    return f"| {'in percent':45} | {' | '.join(titles)} |\n|{'-' * 47}|{''.join('-' * len(c) + '-:|' for c in titles)}\n"


def line(label, values):
    """One line of the table: Markdown, in percent, readable in a terminal. values: {column: fraction}, some may be missing."""
    cells = [f"{100 * values[c]:{max(4, len(c))}.1f}" if c in values else " " * max(4, len(c)) for c in COLUMNS]
    return f"| {label:45} | {values.get('instances', ''):6} | {' | '.join(cells)} |\n"


def definitions(names):
    """{category id: its definition}; a category that is not MP-100's is its own."""
    known = {(c["id"], c["name"]): c["definition"] for c in data.read_mp100()["categories"]}
    return {id: known.get((id, name), name) for id, name in names.items()}


def report(records, names, split, paper=None):
    """What results.json holds, without the settings, and its table. names: {category id: name}; paper: of `published`."""
    facts, definition = data.read_mp100(), definitions(names)
    of = {c["id"]: c["definition"] for c in facts["categories"]}
    trained = {of[c] for c in facts["splits"].get(str(split), {"train": []})["train"]}
    group = {c: "definition seen in training" if d in trained else "definition new" if d in of.values() else "not in MP-100"
             for c, d in definition.items()}

    def by(kind):
        parts = defaultdict(list)
        for r in records:
            parts[kind[r["category"]]].append(r)
        return {k: summary(parts[k]) for k in sorted(parts)}
    overall, groups, per_definition = summary(records), by(group), by(definition)
    between = intervals(records)
    low, high = ({c: ends[i] for c, ends in between.items()} for i in (0, 1))
    table = head()
    for name, s in [("all", overall), *(groups.items() if len(groups) > 1 else []), *per_definition.items()]:
        table += line(f"{name} ({s['categories']} categor{'y' if s['categories'] == 1 else 'ies'})", s)
        if name == "all":
            table += line("- 95% interval, from", low) + line("- 95% interval, to", high)
            table += line("- paper, default config, MP-100 photographs", paper) if paper else ""
        table += "".join(line(f"- {c}", m) for c, m in s["controls"].items() if name not in per_definition)
    categories = {c: {"name": names[c]} | s for c, s in by({c: c for c in names}).items()}
    return overall | {"intervals": between, "paper": paper or {}, "groups": groups, "definitions": per_definition,
                      "categories": categories}, table


# ------------------------------------------------------------------ densities

def points(records):
    """What results.json holds of the points that follow from densities (Section 4.4), and their table. records: eval.py's, of
    --density. What a point for each threshold gains over greedy answers has intervals of its own: both are of the same images."""
    rows = {"greedy": [{**r, "controls": {}} for r in records]}
    for name in records[0]["points"]:
        rows[name] = [{"category": r["category"], "controls": {}, **r["points"][name]} for r in records]
    rows["gain"] = [{**o, **{m: o[m] - g[m] for m in METRICS}} for o, g in zip(rows["PCK-optimal"], rows["greedy"])]
    found = {name: {k: v for k, v in summary(of).items() if k != "controls"} for name, of in rows.items()}
    gain, between = found.pop("gain"), intervals(rows["gain"])
    low, high = ({c: ends[i] for c, ends in between.items()} for i in (0, 1))
    shown = found | {"PCK-optimal minus greedy": gain, "- 95% interval, from": low, "- 95% interval, to": high}
    table = ("Points that follow from densities. PCK-optimal: for each threshold its own; AUC and NME are means over them.\n\n"
             + head() + "".join(line(*row) for row in shown.items()))
    return found | {"PCK-optimal minus greedy": gain | {"intervals": between}}, table


def distributions(records, names):
    """How well densities foretell the truths (Section 4.4, Figure 5): what results.json holds, and its table. records: eval.py's,
    of --density; each keypoint counts the same, and once. Rivals: Gaussians around greedy answers, cut off at the crop, with the
    standard deviations that suit these very truths best. Intervals are over images, of these deviations.
    """
    definition = definitions(names)
    everything = [(n, definition[r["category"]], k) for n, r in enumerate(records) for k in r["density"].values()]
    inside = [(n, d, k) for n, d, k in everything if "nll" in k]
    found = {"truths": len(inside), "truths outside of the crop": len(everything) - len(inside)}
    if not inside:
        return found, "No truth lies inside of its crop: densities are not compared.\n"
    image, of, numbers = zip(*inside)
    centres, truths, nll = (np.array([k[n] for k in numbers]) for n in ("greedy", "truth", "nll"))
    kinds, of = np.unique(of, return_inverse=True)
    one = density.best_sigma(centres, truths)
    each = [density.best_sigma(centres[of == n], truths[of == n]) for n in range(len(kinds))]
    columns = {n: [k[n] for k in numbers] for n in ("nll", "entropy", "spread")}
    columns |= {q: [k["level"] < q for k in numbers] for q in LEVELS}
    for name, sigma in (("Gaussian", one), ("Gaussian of each definition", np.array(each)[of, None])):
        columns[name] = nll - density.gaussian_nll(centres, truths, sigma).numpy()
    table = np.array([*columns.values(), np.ones(len(nll))], float).T
    sums = np.array([table[np.array(image) == n].sum(0) for n in np.unique(image)])      # an image is drawn with all its truths
    over = lambda draw: sums[draw, :-1].sum(0) / sums[draw, -1].sum()
    mean, ends = (dict(zip(columns, v)) for v in (over(slice(None)).tolist(), bootstrap(over, len(sums))))
    found |= {n: mean[n] for n in ("nll", "entropy", "spread")} | {"holds": {q: mean[q] for q in LEVELS}}
    found["intervals"] = {n: ends[n] for n in ("nll", "entropy")} | {"holds": {q: ends[q] for q in LEVELS}}
    limits = lambda *of: [(f"- 95% interval, {word}", [ends[c][i] for c in of]) for i, word in enumerate(("from", "to"))]
    rows = [("exact density", [mean[c] for c in ("nll", "entropy", *LEVELS)]), *limits("nll", "entropy", *LEVELS)]
    for name, label, sigma in (("Gaussian", f"Gaussian, sigma {one:.1%} of the crop", one), (
            "Gaussian of each definition", "Gaussian, a sigma for each definition", dict(zip(kinds.tolist(), each)))):
        found[name] = {"sigma": sigma, "nll": mean["nll"] - mean[name], "difference": mean[name],
                       "interval of the difference": ends[name]}
        rows += [(label, [found[name]["nll"]]), ("- exact density minus this", [mean[name]]), *limits(name)]
    titles = [f"{t:>8}" for t in ("NLL", "entropy", *(f"in {100 * q:.0f}%" for q in LEVELS))]
    text = (f"Densities at {len(inside)} truths; {len(everything) - len(inside)} more lie outside of their crop. NLL, and "
            "entropy, the NLL to expect, in nats per\nunit of area: 0 where the whole crop is equally likely. In 90%: how many "
            "percent of the truths lie in the 90% credible\nregion. The Gaussians are around greedy answers, with the sigma "
            f"that suits these truths best.\n{found['spread']:.1%} of the mass is known by blocks only.\n\n")
    text += f"| {'nats; percent':45} | {' | '.join(titles)} |\n|{'-' * 47}|{''.join('-' * len(t) + '-:|' for t in titles)}\n"
    for label, values in rows:
        cells = [f"{v:{len(t)}.2f}" if n < 2 else f"{100 * v:{len(t)}.1f}" for n, (t, v) in enumerate(zip(titles, values))]
        cells += [" " * len(t) for t in titles[len(values):]]
        text += f"| {label:45} | {' | '.join(cells)} |\n"
    return found, text


# ------------------------------------------------------------------ several evaluations

def results(folder, needed, how, settings=()):
    """Of a folder's results.json what is `needed`, and under "how" these entries of it and of its settings. Raises
    FileNotFoundError or ValueError naming the folder."""
    try:
        r = json.loads((folder / "results.json").read_bytes())
        return {k: r[k] for k in needed} | {"how": {k: r[k] for k in how} | {k: r["settings"][k] for k in settings}}
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{folder}/results.json is missing: eval.py --out {folder} writes it") from None
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{folder}/results.json cannot be read ({type(e).__name__}: {e}): evaluate again") from None


def alike(folder, how, first, known):
    """ValueError where a folder's evaluation differs from the first one's in what is to be the same."""
    if different := [f"{k} is {how[k]}, elsewhere {known[k]}" for k in how if how[k] != known[k]]:
        raise ValueError(f"{folder} was measured in another way than {first}: {'; '.join(different)}")


def average(folders, same):
    """The table and the numbers of several splits and their mean, from the results.json in these folders. same: settings that
    must not differ. Raises FileNotFoundError or ValueError naming the folder at fault."""
    found = {}
    for folder in folders:
        r = results(folder, ("split", "instances", "paper", *COLUMNS), ("protocol", "limit"), same)
        first = next(iter(found.values()), r)
        if r["split"] in found:
            raise ValueError(f"{folder} is of split {r['split']}, as another folder is: name each split once")
        alike(folder, r["how"], folders[0], first["how"])
        found[r["split"]] = r
    first = first["how"]
    splits = [found[s] for s in sorted(found)]
    mean = lambda rows: {c: float(np.mean([r[c] for r in rows])) for c in COLUMNS if all(c in r for r in rows)}
    numbers = mean(splits) | {"paper": mean([r["paper"] for r in splits]), "splits": {r["split"]: r for r in splits}}
    text = f"{first['data']}, {first['part']} part, {first['protocol']}, {first['decoding']}"
    text += f", cumulative ({first['cumulative']}).\n" if first["cumulative"] else ", single round.\n"
    text += "A quick look (--limit), not the result of whole parts.\n" * (first["limit"] is not None) + "\n" + head()
    for name, r in [*((f"split {r['split']}", r) for r in splits), (f"average of {len(splits)}", numbers)]:
        text += line(name, r) + (line("- paper, default config, MP-100 photographs", r["paper"]) if r["paper"] else "")
    return text, numbers


def measured(folder, count, pairs):
    """{label: {image: (its scores, its number of keypoints, its size)}} of the `count` images behind a folder's results.json: ""
    are its answers, the other labels what was measured beside them. pairs: whether it counts support-query pairs."""
    try:
        rows, lines = {"": {}}, (folder / "instances.jsonl").read_text(encoding="utf-8").split("\n")[:count]
        for r in map(json.loads, lines):
            image, own = (r["category"], r["id"], r["file"]), r["pairs"] if pairs else r
            rows[""][image] = own or dict.fromkeys([*METRICS, "weight"], 0.0), len(r["distances"]), r["size"]
            for label, scored in () if pairs else (r["controls"] | r.get("points", {})).items():
                rows.setdefault(label, {})[image] = scored, len(scored["distances"]), r["size"]
        if len(rows[""]) < count:
            raise ValueError(f"{len(rows[''])} of {count} images")
        return rows
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{folder}/instances.jsonl does not fit its results.json ({type(e).__name__}: {e}): "
                         "evaluate again") from None


def difference(theirs, ours=()):
    """Mean mPCK of `theirs`, minus that of `ours` where given, scores of the same images in the same order, and [low, high], its
    95% confidence interval: as of `intervals`, an image is drawn with both of its scores."""
    weights = [np.array([s.get("weight", 1.0) for s in scores]) for scores in (theirs, ours) if scores]
    values = [w * [s["mPCK"] for s in scores] for w, scores in zip(weights, (theirs, ours))]

    def gap(draw):
        means = [v[draw].sum() / w[draw].sum() for v, w in zip(values, weights)]
        return means[0] - sum(means[1:])
    with np.errstate(invalid="ignore"):             # 0 / 0: no image that was drawn has a support-query pair
        return float(gap(slice(None))), bootstrap(gap, len(theirs))


def compare(folders):
    """The table and the numbers of evaluations of the same images, from what eval.py wrote into these folders: for each, and for
    what was measured beside it, the difference in mPCK from the first, where both scored the same keypoints of the same images.
    Raises FileNotFoundError or ValueError naming the folder at fault."""
    folders, numbers = [*dict.fromkeys(folders)], {}
    names = [folder.resolve().name for folder in folders]
    names = names if len({*names}) == len(names) else [*map(str, folders)]
    asked = lambda row: {image: rest for image, (_, *rest) in row.items()}
    for folder, name in zip(folders, names):
        r = results(folder, ("protocol", "images"), ("data", "split", "part", "limit"))
        rows = measured(folder, r["images"], r["protocol"] == PAIRS)
        base, how = (base, how) if numbers else (rows[""], r["how"])
        alike(folder, r["how"], folders[0], how)
        if asked(rows[""]) != asked(base):
            raise ValueError(f"{folder} has answers for {len(rows[''])} images, {folders[0]} for {len(base)}, but not for the "
                             "same keypoints of the same images: evaluate both on the same data")
        for label, row in rows.items():
            scored = [{**s, "category": image[0], "controls": {}} for image, (s, *_) in row.items() if s.get("weight", 1)]
            found = {k: v for k, v in summary(scored).items() if k != "controls"}
            found |= {"keypoints": sum(n for _, n, _ in row.values()), "interval": difference(scored)[1]}
            if row is not base and asked(row) == asked(base):
                ours, theirs = ([scores for scores, *_ in map(of.get, base)] for of in (base, row))
                found["difference"], found["interval of the difference"] = difference(theirs, ours)
            numbers[name + f", {label}" * bool(label)] = found
    text = f"{how['data']}, split {how['split']}, {how['part']} part: the same {len(base)} images.\n"
    text += "A quick look (--limit), not the result of the whole part.\n" * (how["limit"] is not None)
    text += f"Difference: in mPCK, from {names[0]}, with its 95% interval over images; *: which leaves out 0.\n\n"
    return text + comparison(numbers), numbers


def comparison(numbers):
    """The table of `compare`."""
    shown, wide = (*PCK[:2], PCK[3], "mPCK"), max(map(len, ("in percent", *numbers)))
    titles = ("images", "keypoints", *shown, "95% interval  ", "difference", "95% interval  ")
    table = f"| {'in percent':{wide}} | {' | '.join(titles)} |\n|{'-' * (wide + 2)}|"
    table += "".join("-" * len(t) + "-:|" for t in titles) + "\n"
    ends = lambda interval: " to ".join(f"{100 * end:.1f}" for end in interval)
    for name, r in numbers.items():
        cells = [r["instances"], r["keypoints"], *(f"{100 * r[c]:.1f}" for c in shown), ends(r["interval"])]
        if "difference" in r:
            low, high = r["interval of the difference"]
            cells += [f"{100 * r['difference']:+.1f}{' *' if low > 0 or high < 0 else '  '}", ends((low, high))]
        cells += [""] * (len(titles) - len(cells))
        table += f"| {name:{wide}} | {' | '.join(f'{c:>{len(t)}}' for c, t in zip(cells, titles))} |\n"
    return table
