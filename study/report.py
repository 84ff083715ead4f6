"""Evaluations in words: tables in Markdown that a terminal shows well, and a few sentences.

    print(format_report(numbers, way, pool=340))  # of one evaluation: what eval.py prints
    print(format_average(average), format_comparison(comparison))  # of several, see study.compare

All numbers come from study.metrics, study.calibration and study.compare: nothing is computed here.
"""

from pathlib import Path

import data
from study.calibration import LEVELS, PCK_GAIN
from study.metrics import COLUMNS, PCK
from support import descriptions

# The width of the first column of a table.
LABEL_WIDTH = 45
PAPER = "- paper, on MP-100's photographs"


def format_table(corner, titles, rows, width=LABEL_WIDTH):
    """A Markdown table of rows (label, cells): texts, aligned right, under these titles.

    A row with fewer cells than titles leaves the last columns empty.
    """
    rule = "".join("-" * len(title) + "-:|" for title in titles)
    table = f"| {corner:{width}} | {' | '.join(titles)} |\n|{'-' * (width + 2)}|{rule}\n"
    for label, cells in rows:
        padded = [*cells, *[""] * (len(titles) - len(cells))]
        padded = [f"{cell:>{len(title)}}" for cell, title in zip(padded, titles, strict=True)]
        table += f"| {label:{width}} | {' | '.join(padded)} |\n"
    return table


def format_scores(rows):
    """The table of rows (label, {column: fraction}), in percent; columns may be missing.

    "instances" is the number of images behind a row.
    """
    titles = ["images", *(f"{column:>5}" for column in COLUMNS)]
    lines = []
    for label, scores in rows:
        cells = [str(scores.get("instances", ""))]
        for column in COLUMNS:
            cells.append(f"{100 * scores[column]:.1f}" if column in scores else "")
        lines.append((label, cells))
    return format_table("in percent", titles, lines)


def split_intervals(intervals):
    """{name: [low, high]} as two rows of a table."""
    low = {name: ends[0] for name, ends in intervals.items()}
    high = {name: ends[1] for name, ends in intervals.items()}
    return [("- 95% interval, from", low), ("- 95% interval, to", high)]


def format_report(numbers, way, pool, favoured=()):
    """What eval.py prints of one evaluation.

    numbers: what results.json holds of it; way: its study.paper.Way; pool: how many images there
    were to choose from; favoured: the definitions whose mean place is not from training.
    """
    sentences = [describe_evaluation(numbers, way, pool)]
    if "chained anew" in numbers:
        sentences.append(
            f"Beyond {data.MAX_TOKENS} tokens a chain began anew, and forgot its earlier answers, "
            f"in {numbers['chained anew']} images."
        )
    if "pairs" in numbers:
        sentences.append(
            f"Counted as {numbers['pairs']} support-query pairs; {numbers['pairs left out']} more "
            "have no keypoint that both show."
        )
    if numbers["limit"] and numbers["limit"] < pool:
        sentences.append("A quick look (--limit), not the result of the whole part.")
    parts = ["\n".join(sentences) + "\n", format_scores(list_averages(numbers))]
    if "density" in numbers:
        parts.append(format_points(numbers["density"]["points"]))
        parts.append(format_densities(numbers["density"]))
    if favoured:
        parts.append(
            "Not in training: `mean`, from other parts or these images, is favoured on "
            f"{', '.join(favoured)}.\n"
        )
    return "\n".join(parts)


def describe_evaluation(numbers, way, pool):
    """One sentence: which model, which images, and how it was asked."""
    part = f"split {numbers['split']}, {numbers['part']} part"
    images = f"{numbers['images']} of {pool} images"
    words = [f"{numbers['model']} on {numbers['data']}, {part}: {images}"]
    words.append(f"cumulative ({way.cumulative})" if way.cumulative else "single round")
    words.append(way.decoding)
    if way.image_size:
        words.append(f"{way.image_size} pixels")
    words.append(f"instruction {way.asked}")
    if Path(way.descriptions).resolve() != descriptions.DESCRIPTIONS.resolve():
        words.append(way.descriptions)
    if way.names:
        words.append(f"names of {way.names}")
    return ", ".join(words) + "."


def list_averages(numbers):
    """The rows (label, scores) of an evaluation's table: all images, groups, definitions."""
    rows = [(name_group("all", len(numbers["categories"])), numbers)]
    rows += split_intervals(numbers["intervals"])
    if numbers["paper"]:
        rows.append((PAPER, numbers["paper"]))
    rows += [(f"- {name}", scores) for name, scores in numbers["controls"].items()]
    if len(numbers["groups"]) > 1:
        for name, scores in numbers["groups"].items():
            rows.append((name_group(name, scores["categories"]), scores))
            rows += [(f"- {control}", of) for control, of in scores["controls"].items()]
    for name, scores in numbers["definitions"].items():
        rows.append((name_group(name, scores["categories"]), scores))
    return rows


def name_group(name, categories):
    return f"{name} (1 category)" if categories == 1 else f"{name} ({categories} categories)"


def format_points(points):
    """The points that follow from densities; points: of study.calibration.average_points."""
    rows = [*points.items(), *split_intervals(points[PCK_GAIN]["intervals"])]
    return (
        "Points that follow from densities. PCK-optimal: for each threshold its own; AUC and NME "
        f"are means over them.\n\n{format_scores(rows)}"
    )


def format_densities(found):
    """Densities beside Gaussians; found: of study.calibration.compare_with_gaussians.

    "prefixes": how many were read for a density, on average.
    """
    cost = f"Read for a density: {found['prefixes']:,.1f} prefixes of its answers, on average.\n"
    if not found["truths"]:
        return f"No truth lies inside of its crop: densities are not compared.\n\n{cost}"
    text = (
        f"Densities at {found['truths']} truths; {found['truths outside of the crop']} more lie "
        "outside of their crop. NLL, and entropy, the NLL\nto expect, in nats per unit of area: 0 "
        "if the whole crop is equally likely. In 90%: how many percent of\nthe truths lie in the "
        "90% credible region. The Gaussians are around greedy answers, with the sigma that\nsuits "
        f"these truths best. {found['spread']:.1%} of the mass is known by blocks only.\n\n"
    )
    titles = [f"{'NLL':>8}", f"{'entropy':>8}", *(f"{f'in {100 * q:.0f}%':>8}" for q in LEVELS)]
    return text + format_table("nats; percent", titles, list_densities(found)) + f"\n{cost}"


def list_densities(found):
    """The rows (label, cells) of the table of densities."""
    rows = [("density", format_nats(found["nll"], found["entropy"], found["holds"]))]
    between = found["intervals"]
    for end, word in enumerate(("from", "to")):
        holds = {q: interval[end] for q, interval in between["holds"].items()}
        cells = format_nats(between["nll"][end], between["entropy"][end], holds)
        rows.append((f"- 95% interval, {word}", cells))
    for name, label in (
        ("Gaussian", f"Gaussian, sigma {found['Gaussian']['sigma']:.1%} of the crop"),
        ("Gaussian of each definition", "Gaussian, a sigma for each definition"),
    ):
        low, high = found[name]["interval of the difference"]
        rows.append((label, [f"{found[name]['nll']:.2f}"]))
        rows.append(("- density minus this", [f"{found[name]['difference']:.2f}"]))
        rows.append(("- 95% interval, from", [f"{low:.2f}"]))
        rows.append(("- 95% interval, to", [f"{high:.2f}"]))
    return rows


def format_nats(nll, entropy, holds):
    return [f"{nll:.2f}", f"{entropy:.2f}", *(f"{100 * holds[q]:.1f}" for q in LEVELS)]


def format_average(average):
    """The table of a study.compare.Average: splits, and their mean."""
    how, numbers = average.how, average.numbers
    words = [how["data"], f"{how['part']} part", how["protocol"], how["decoding"]]
    words.append(f"cumulative ({how['cumulative']})" if how["cumulative"] else "single round")
    text = ", ".join(words) + ".\n"
    if how["limit"] is not None:
        text += "A quick look (--limit), not the result of whole parts.\n"
    lines = [(f"split {split}", scores) for split, scores in numbers["splits"].items()]
    lines.append((f"average of {len(lines)}", numbers))
    rows = []
    for label, scores in lines:
        rows.append((label, scores))
        if scores["paper"]:
            rows.append((PAPER, scores["paper"]))
    return f"{text}\n{format_scores(rows)}"


def format_comparison(comparison):
    """The table of a study.compare.Comparison."""
    how = comparison.how
    text = (
        f"{how['data']}, split {how['split']}, {how['part']} part: "
        f"the same {comparison.images} images.\n"
    )
    if how["limit"] is not None:
        text += "A quick look (--limit), not the result of the whole part.\n"
    text += (
        f"Difference: in mPCK, from {comparison.first}, with its 95% interval over images; "
        "*: which leaves out 0.\n\n"
    )
    shown = (*PCK[:2], PCK[3], "mPCK")
    between = "95% interval  "
    titles = ["images", "keypoints", *shown, between, "difference", between]
    rows = []
    for label, scores in comparison.numbers.items():
        cells = [str(scores["instances"]), str(scores["keypoints"])]
        cells += [f"{100 * scores[column]:.1f}" for column in shown]
        cells.append(format_interval(scores["interval"]))
        if "difference" in scores:
            low, high = scores["interval of the difference"]
            mark = " *" if low > 0 or high < 0 else "  "
            cells.append(f"{100 * scores['difference']:+.1f}{mark}")
            cells.append(format_interval((low, high)))
        rows.append((label, cells))
    width = max(len(label) for label in ("in percent", *comparison.numbers))
    return text + format_table("in percent", titles, rows, width)


def format_interval(interval):
    low, high = interval
    return f"{100 * low:.1f} to {100 * high:.1f}"
