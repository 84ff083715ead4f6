"""Several evaluations side by side: the mean over splits, and differences on the same images.

    average_evaluations([Path("out/split-1"), Path("out/split-2")], same=("data", "decoding"))
    compare_evaluations([Path("out/base"), Path("out/top-3")]).numbers["top-3"]["difference"]

Both read what eval.py --out wrote. Numbers only: `study.report` puts them into words.
"""

from typing import NamedTuple

import numpy as np

from study.measure import COMPARED
from study.metrics import COLUMNS, METRICS, average_scores, bootstrap
from study.pairs import PAIRS
from support.json_files import read_json, read_json_lines
from support.quote import cut
from support.shapes import BOOL, COUNT, NUMBER, POSITIVE_COUNT, TEXT, WHOLE, Each, OrNull

# What results.json holds, as far as it is read here, and of its settings.
RESULTS = dict.fromkeys(COLUMNS, NUMBER) | {
    "protocol": TEXT,
    "images": POSITIVE_COUNT,
    "instances": COUNT,
    "data": TEXT,
    "split": WHOLE,
    "part": TEXT,
    "limit": OrNull(COUNT),
    "paper": Each(NUMBER),
}
SETTINGS = {
    "precision": TEXT,
    "data": TEXT,
    "part": TEXT,
    "instruction": OrNull(TEXT),
    "true_category": BOOL,
    "decoding": TEXT,
    "cumulative": OrNull(TEXT),
    "image_size": OrNull(WHOLE),
    "names": OrNull(TEXT),
    "seed": WHOLE,
}


class Average(NamedTuple):
    """how: what all evaluations have in common; numbers: what average.json holds."""

    how: dict
    numbers: dict


class Comparison(NamedTuple):
    """how: what all evaluations have in common; first: the label of the first; images: how many;
    numbers: {label: numbers}, what compare.json holds."""

    how: dict
    first: str
    images: int
    numbers: dict


class Scored(NamedTuple):
    """scores: {metric: value} of one image; keypoints: how many were scored; size: its box's."""

    scores: dict
    keypoints: int
    size: float


def average_evaluations(folders, same):
    """The Average of evaluations of several splits.

    same: names of settings that must not differ. Raises FileNotFoundError or ValueError naming the
    folder at fault.
    """
    entries = ("split", "instances", "paper", *COLUMNS, "protocol", "limit")
    found, first = {}, None
    for folder in folders:
        r = read_evaluation(folder, entries, same)
        how = {name: r.pop(name) for name in ("protocol", "limit", *same)}
        first = first or how
        if r["split"] in found:
            raise ValueError(
                f"{folder} is of split {r['split']}, as another folder is: name each split once"
            )
        check_alike(folder, how, folders[0], first)
        found[r["split"]] = r | {"how": how}
    splits = {split: found[split] for split in sorted(found)}
    numbers = average_common_columns(splits.values())
    numbers["paper"] = average_common_columns([r["paper"] for r in splits.values()])
    return Average(first, numbers | {"splits": splits})


def average_common_columns(rows):
    """{column: mean over the rows}, of the columns that all rows have."""
    common = [column for column in COLUMNS if all(column in row for row in rows)]
    return {column: float(np.mean([row[column] for row in rows])) for column in common}


def compare_evaluations(folders):
    """The Comparison of evaluations of the same images.

    For each folder, and for what was measured beside its answers, the difference in mPCK from the
    first folder's answers, if the same keypoints of the same images were scored. Raises
    FileNotFoundError or ValueError naming the folder at fault.
    """
    folders = list(dict.fromkeys(folders))
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    first, common, numbers = None, None, {}
    for folder, name in zip(folders, names, strict=True):
        r = read_evaluation(folder, ("protocol", "images", "data", "split", "part", "limit"))
        how = {entry: r[entry] for entry in ("data", "split", "part", "limit")}
        rows = read_scores(folder, r["images"], r["protocol"] == PAIRS)
        if first is None:
            first, common = rows[""], how
        check_alike(folder, how, folders[0], common)
        if not same_keypoints(rows[""], first):
            raise ValueError(
                f"{folder} has answers for {len(rows[''])} images, {folders[0]} for {len(first)}, "
                "but not for the same keypoints of the same images: evaluate both on the same data"
            )
        for label, row in rows.items():
            title = f"{name}, {label}" if label else name
            numbers[title] = compare_rows(row, first)
    return Comparison(common, names[0], len(first), numbers)


def compare_rows(row, first):
    """The numbers of one line of a comparison; row and first: {image: Scored}."""
    scored = {image: s for image, s in row.items() if s.scores.get("weight", 1)}
    scores = [s.scores for s in scored.values()]
    found = average_scores([category for category, *_ in scored], scores)
    found["keypoints"] = sum(s.keypoints for s in row.values())
    found["interval"] = bootstrap_mean(scores)
    if row is not first and same_keypoints(row, first):
        ours = [s.scores for s in first.values()]
        theirs = [row[image].scores for image in first]
        found["difference"], found["interval of the difference"] = bootstrap_gap(theirs, ours)
    return found


def same_keypoints(row, other):
    """Whether two rows {image: Scored} have scored the same keypoints of the same images."""
    asked = {image: (s.keypoints, s.size) for image, s in row.items()}
    return asked == {image: (s.keypoints, s.size) for image, s in other.items()}


def measure_gap(folder, first, metric):
    """The mean of a metric in a folder minus that in another one, and its 95% confidence interval.

    Both are evaluations of the same keypoints of the same images. Raises FileNotFoundError or
    ValueError naming the folder at fault.
    """
    rows = []
    for each in (folder, first):
        r = read_evaluation(each, ("protocol", "images"))
        rows.append(read_scores(each, r["images"], r["protocol"] == PAIRS)[""])
    row, base = rows
    if not same_keypoints(row, base):
        raise ValueError(f"{folder} and {first} are not of the same keypoints of the same images")
    ours = [s.scores for s in base.values()]
    theirs = [row[image].scores for image in base]
    return bootstrap_gap(theirs, ours, metric)


class Weighted(NamedTuple):
    """A metric of n images. weight: (n,), how often each counts; total: (n,), metric x weight."""

    weight: np.ndarray
    total: np.ndarray

    def mean(self, draw):
        # 0 / 0: no image that was drawn has a support-query pair
        with np.errstate(invalid="ignore"):
            return self.total[draw].sum() / self.weight[draw].sum()


def weigh_scores(scores, metric="mPCK"):
    weight = np.array([s.get("weight", 1.0) for s in scores])
    return Weighted(weight, weight * [s[metric] for s in scores])


def bootstrap_mean(scores):
    """[low, high]: the 95% confidence interval of the mean mPCK."""
    return bootstrap(weigh_scores(scores).mean, len(scores))


def bootstrap_gap(theirs, ours, metric="mPCK"):
    """The mean of a metric in their scores minus that in ours, and its 95% confidence interval.

    Scores are of the same images in the same order: an image is drawn with both of its scores.
    """
    theirs, ours = weigh_scores(theirs, metric), weigh_scores(ours, metric)

    def gap(draw):
        return theirs.mean(draw) - ours.mean(draw)

    return float(gap(slice(None))), bootstrap(gap, len(ours.weight))


def check_alike(folder, how, first, common):
    """ValueError if a folder was measured in another way (how) than the first one (common)."""
    different = [
        f"{name} is {cut(value)}, elsewhere {cut(common[name])}"
        for name, value in how.items()
        if value != common[name]
    ]
    if different:
        raise ValueError(
            f"{folder} was measured in another way than {first}: {'; '.join(different)}"
        )


def read_evaluation(folder, entries, settings=()):
    """{name: value} of these entries of a folder's results.json, and of these of its settings.

    Raises FileNotFoundError or ValueError naming the folder.
    """
    path = folder / "results.json"
    shape = {name: RESULTS[name] for name in entries}
    if settings:
        shape["settings"] = {name: SETTINGS[name] for name in settings}
    try:
        results = read_json(path, shape, "evaluate again")
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path} is missing: eval.py --out {folder} writes it") from None
    found = {name: results[name] for name in entries}
    return found | {name: results["settings"][name] for name in settings}


def read_scores(folder, count, pairs):
    """{label: {image: Scored}} of the `count` images that a folder's results.json is of.

    "" are the answers, other labels what was measured beside them. pairs: whether to read the
    scores over support-query pairs; an image without one has the weight 0.
    """
    path = folder / "instances.jsonl"
    shape = COMPARED | {"pairs": COMPARED["pairs"].shape} if pairs else COMPARED
    rows = {"": {}}
    for record in read_json_lines(path, shape, "evaluate again")[:count]:
        image = record["category"], record["id"], record["file"]
        scored = {"": record["pairs"] if pairs else record}
        if scored[""] is None:
            scored[""] = dict.fromkeys([*METRICS, "weight"], 0.0)
        if not pairs:
            scored |= record["controls"] | record.get("points", {})
        for label, scores in scored.items():
            keypoints = len((scores if label else record)["distances"])
            rows.setdefault(label, {})[image] = Scored(scores, keypoints, record["size"])
    if len(rows[""]) < count or not any(s.scores.get("weight", 1) for s in rows[""].values()):
        raise ValueError(
            f"{path} does not fit its results.json ({len(rows[''])} of {count} images): "
            "evaluate again"
        )
    return rows
