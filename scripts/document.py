"""Write what README.md and docs/ say of measurements from results/ and study/paper.json.

    python -m scripts.document          # rewrites what stands between the marks
    python -m scripts.document --check  # writes nothing; exit code 1 where something differs

A table, or a sentence, stands between `<!-- results: NAME -->` and `<!-- end -->`; NAME is an entry
of BLOCKS. What is around them is written by hand, and holds no number that was measured.
"""

import re
import sys
import textwrap

from scripts import bench, faces, growth, launches, own, tables, trained, verdicts
from scripts.collect import GAIN, HIGH, LOW, ROOT, read_results
from scripts.markdown import write_table
from scripts.reference import ANSWER, SHAPES
from study.paper import find_published
from support import launch
from support.options import Parser

PAGES = ("results", "cost", "evaluation", "nano", "own-photographs")
DOCUMENTS = ("README.md", *(f"docs/{page}.md" for page in PAGES))
BLOCK = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
CONTROLS = ("mean place", "other image", "other text")
# Bytes a second of two GPUs' memory
BANDWIDTHS = (768e9, 3350e9)
# PCK@0.10 in percent that is good enough for a set of one's own photographs
GOOD = 85
# Columns of results/ that docs/ shows
SHOWN = ("PCK@0.05", "PCK@0.20", "mPCK")


def number(row, name, digits=1):
    """A number of a row as text, "" where it has none."""
    return f"{row[name]:,.{digits}f}" if name in row else ""


def numbers(row, names=SHOWN):
    return [number(row, name) for name in names]


def interval(row, low="low", high="high", digits=1):
    return f"{row[low]:.{digits}f} to {row[high]:.{digits}f}" if low in row else ""


def difference(row, digits=1):
    if "difference" not in row:
        return ""
    return f"{row['difference']:+.{digits}f} ({interval(row, digits=digits)})"


def find(rows, **wanted):
    """The row with these entries."""
    for row in rows:
        if wanted.items() <= row.items():
            return row
    raise ValueError(f"results/ has no row {wanted}: collect again")


# Evaluations.


def answers_row(label, rows, of="all"):
    """The model's answers about a group of images, and the mPCK of its controls."""
    answers = find(rows, of=of, answers="model")
    shown = [label, f"{answers['images']:,}", *numbers(answers)]
    for control in CONTROLS:
        found = [row for row in rows if row["of"] == of and row["answers"] == control]
        shown.append(number(found[0], "mPCK") if found else "")
    return shown


def write_answers(rows):
    return write_table(["in percent", "images", "PCK@0.05", "@0.20", "mPCK", *CONTROLS], rows)


def evaluation(name):
    """An evaluation, all of it and its groups, and the interval of its mPCK."""
    found, rows = read_results(name)["rows"], []
    low = find(found, of="all", answers=LOW)
    high = find(found, of="all", answers=HIGH)
    for row in found:
        if row["answers"] == "model":
            label = row["of"]
            if row["categories"] > 1:
                label += f" ({row['categories']} categories)"
            rows.append(answers_row(label, found, row["of"]))
    shown = f"The mPCK of all has the 95% interval {low['mPCK']:.1f} to {high['mPCK']:.1f}.\n"
    return f"{write_answers(rows)}\n{shown}"


def nano():
    return evaluation("nano")


PHOTOGRAPHED = {
    "people": "photographs of people, 17 keypoints",
    "hands": "photographs of hands, 21 keypoints",
    "faces": "photographs of faces, 68 keypoints",
}


def photographed():
    """The part of photographs that training did not see, with the columns that targets are of."""
    rows = []
    for name, label in PHOTOGRAPHED.items():
        found = read_results(name)["rows"]
        for row in found:
            if row["of"] != "all":
                continue
            of = {"model": f"{label}: nano", LOW: "- 95% interval, from", HIGH: "- to"}
            shown = of.get(row["answers"], f"- {row['answers']}")
            count = f"{row['images']:,}" if "images" in row else ""
            rows.append([shown, count, *numbers(row, ("PCK@0.05", "PCK@0.10", *SHOWN[1:]))])
    return write_table(["in percent", "images", "PCK@0.05", "@0.10", "@0.20", "mPCK"], rows)


def summary():
    drawn = read_results("nano")["rows"]
    new, old = "definition new", "definition seen in training"
    categories = {name: find(drawn, of=name, answers="model")["categories"] for name in (new, old)}
    rows = [
        answers_row("drawings, categories never seen", drawn),
        answers_row(f"- {categories[old]} whose keypoints training knew", drawn, old),
        answers_row(f"- {categories[new]} whose keypoints it did not", drawn, new),
    ]
    for name, label in PHOTOGRAPHED.items():
        rows.append(answers_row(label, read_results(name)["rows"]))
    return write_answers(rows)


def photographs():
    """Before training, and after the last epoch of each of Table 15's settings."""
    found = read_results("photographs")
    before = find(found["rows"], epoch=0)
    rows = [["nothing", "", "", "", *numbers(before), ""]]
    for setting in faces.SETTINGS:
        run = find(found["runs"], tune=setting.tune)
        row = find(found["rows"], tune=setting.tune, epoch=faces.EPOCHS)
        shown = [setting.label, f"{run['parameters']:,}", number(run, "MB", 2)]
        shown += [number(run, "minutes"), *numbers(row), difference(row)]
        rows.append(shown)
    heads = ["trained", "parameters", "adapter, MB", "minutes", *SHOWN]
    return write_table([*heads, "difference in mPCK"], rows)


def average(rows, name, digits=0):
    """The mean of a column, and its range, where there are several rows."""
    values = [row[name] for row in rows]
    shown = f"{sum(values) / len(values):.{digits}f}"
    if len(values) > 1:
        shown += f" ({min(values):.{digits}f} to {max(values):.{digits}f})"
    return shown


def own_objects():
    """What so many photographs are worth: of each set, draws together."""
    found, rows = read_results("own")["rows"], []
    groups = {}
    for row in found:
        key = row["set"], row["tuned"] == "adapters", row["photographs"]
        groups.setdefault(key, []).append(row)
    for (name, _, photographs), draws in sorted(groups.items()):
        label = f"{name}, {draws[0]['keypoints']} keypoints"
        shown = [label, f"{photographs}", draws[0]["tuned"]]
        shown += [average(draws, column) for column in own.COLUMNS]
        means = [f"mean place {column}" for column in own.COLUMNS]
        means = [sum(row[name] for row in draws) / len(draws) for name in means]
        shown += [" / ".join(f"{mean:.0f}" for mean in means)]
        rows.append([*shown, number(find(draws, draw=0), "minutes")])
    heads = ["set", "photographs", "trained", "PCK@0.05", "@0.10", "@0.20", "mean place"]
    return write_table([*heads, "minutes"], rows, words=3)


def own_answer():
    """How many photographs are enough, and what adapters alone reach: over all sets."""
    found = read_results("own")["rows"]
    everything, adapters = {"tuned": "everything"}, {"tuned": "adapters"}
    asked = [
        ("10", "everything", everything | {"of": 10}),
        ("40", "everything", everything | {"of": 40}),
        ("all", "everything", everything | {"of": "all"}),
        ("40, first draw", "everything", everything | {"of": 40, "draw": 0}),
        ("40, first draw", "adapters", adapters | {"of": 40, "draw": 0}),
    ]
    rows = []
    for photographs, tuned, wanted in asked:
        sets = {}
        for row in found:
            if wanted.items() <= row.items():
                sets.setdefault(row["set"], []).append(row["PCK@0.10"])
        if sets:
            means = [sum(draws) / len(draws) for draws in sets.values()]
            good = sum(mean >= GOOD for mean in means)
            rows.append([photographs, tuned, len(sets), f"{sum(means) / len(means):.1f}", good])
    heads = ["photographs", "trained", "sets", "PCK@0.10", f"sets of {GOOD} or more"]
    return write_table(heads, rows, words=2)


def radii():
    found, rows = read_results("radii"), []
    for row in found["rows"]:
        shown = [row["set"], f"{row['keypoints']:,}", number(row, "holds"), number(row, "median")]
        for of in ("ours", "density"):
            shown += [number(row, f"{of} holds", 0), number(row, f"{of} median")]
        rows.append([*shown, f"{row['density s'] / row['s']:.1f}"])
    compared = found["rows"][0]["compared"]
    heads = ["set", "keypoints", "held, %", "median radius, %", f"of {compared}: held", "median"]
    heads += ["density: held", "median", "times the time"]
    spreads = [row["spread"] for row in found["rows"]]
    text = (f"nano's factor is {found['factor']:.2f}. Of the densities' mass "
            f"{min(spreads):.0f}% to {max(spreads):.0f}% lies behind digits that were not read.")
    return f"{write_table(heads, rows)}\n{text}\n"


# The paper's tables.


def verdict(row, found, rows):
    """Whether nano shows the paper's effect; "" where there is none. found: of results/."""
    base = verdicts.find_base(row, rows)
    if base is None or row.paper is None or base.paper is None:
        return ""
    paper = verdicts.find_paper_effect(row, base)
    if found.get("column") != paper.column:
        raise ValueError(f"results/ has no effect of {row.name} on {paper.column}: collect again")
    nano = verdicts.Effect(found["effect"], found["effect low"], found["effect high"])
    return verdicts.judge_effect(nano, paper.points)


def paper_rows(name, recipe_rows, label):
    """Lines of a comparison: the paper's table, how it was measured, nano, paper, difference, and
    whether both agree."""
    found, lines = read_results(name)["rows"], []
    for row in recipe_rows:
        paper = ""
        if row.paper is not None:
            paper = f"{100 * find_published(**row.paper)['PCK@0.20']:.2f}"
        for part in row.parts or ("",):
            of = find(found, name=f"{row.name}, {part}" if part else row.name)
            how = f"{label(row)}: {part}" if part else label(row)
            scores = [number(of, "PCK@0.20"), paper, difference(of)]
            shown = [row.table.removeprefix("Table "), how, *scores]
            lines.append([*shown, verdict(row, of, recipe_rows)])
    heads = ["table", "how", "nano", "paper", "difference in mPCK", "as in the paper"]
    return write_table(heads, lines, words=2)


def asked_label(row):
    return f"`{row.asked}`" if row.asked else "as it was trained"


def trained_label(row):
    by_name = {other.name: other for other in trained.ROWS}
    model = by_name[row.of or row.name]
    how = f"`{model.trained}`"
    if model.first:
        how = f"`--instruction {model.first}` first"
    elif model.vision:
        how = f"pre-trained with `--vision {model.vision}`"
    return f"{how}, asked with `{row.asked}`" if row.of else how


def asked_tables():
    rule = textwrap.fill(verdicts.RULE, 100)
    return f"{paper_rows('tables', tables.ROWS, asked_label)}\n{rule}\n"


def trained_tables():
    return paper_rows("trained", trained.ROWS, trained_label)


# Density.


def points():
    found, rows = read_results("density")["rows"], []
    low, high = find(found, answers=LOW), find(found, answers=HIGH)
    for row in found:
        shown = numbers(row)
        if row["answers"] == GAIN:
            shown = [f"{row[name]:+.1f} ({low[name]:.1f} to {high[name]:.1f})" for name in SHOWN]
        if row not in (low, high):
            rows.append([row["answers"], *shown])
    return write_table(["in percent", *SHOWN], rows)


def likelihood():
    found = read_results("density")
    own = found["likelihood"]
    rows = [["density", f"{own['nll']:.2f} ({interval(own, digits=2)})", ""]]
    labels = {
        "Gaussian": "Gaussian, one sigma for all",
        "Gaussian of each definition": "Gaussian, a sigma for each definition",
    }
    for rival in found["rivals"]:
        label = labels[rival["name"]]
        if "sigma" in rival:
            label += f", {rival['sigma']:.1f}% of the crop"
        rows.append([label, "", difference(rival, digits=2)])
    heads = ["nats per unit of area", "NLL of the truth (95% interval)"]
    return write_table([*heads, "density minus this"], rows)


def regions():
    rows = []
    for row in read_results("density")["regions"]:
        rows.append([f"{row['region']}%", number(row, "holds"), interval(row)])
    return write_table(["credible region", "holds, % of the truths", "95% interval"], rows)


def reading():
    found = read_results("density")
    text = (
        f"A density took {found['prefixes']:,} prefixes of its answers on average; "
        f"{found['spread']:.1f}% of the mass lay below branches that were not read."
    )
    return textwrap.fill(text, 100) + "\n"


# Cost.


def work(row, label=""):
    """A line of what inference or training costs."""
    shown = [label + row["work"], number(row, "reference, s"), number(row, "ours, s")]
    shown += [number(row, "times faster", 2), number(row, "at the rate of a product, s")]
    return [*shown, number(row, "reference, GB", 2), number(row, "ours, GB", 2)]


def cost():
    """What was measured on both sides."""
    found = read_results("cost")
    rows = [work(row) for row in found["infer"] if "reference, s" in row]
    rows += [work(row, "training step, ") for row in found["train"]]
    rows += [work(row, "two processes, ") for row in found["two processes"]]
    heads = ["work", "reference, s", "ours, s", "times faster", "at a product's rate, s"]
    return write_table([*heads, "reference, GB", "ours, GB"], rows)


def density_cost():
    rows = []
    for row in read_results("cost")["density"]:
        rows.append([row["work"], number(row, "ours, s"), number(row, "prefixes", 0)])
    return write_table(["one keypoint", "s", "prefixes read"], rows)


def loading():
    rows = []
    for row in read_results("cost")["load"]:
        for side, label in (("ours", "ours"), ("reference", "`transformers`")):
            shown = [number(row, f"{side}, s"), number(row, f"{side}, file sizes", 2)]
            rows.append([f"{row['work']} in bf16, {label}", *shown])
    return write_table(["loading", "s", "peak of memory, in sizes of the file"], rows)


def launched():
    """What a GPU is asked to do, and how long launching it and reading weights take at least."""
    found, rows = read_results("launches")["rows"], []
    for row in found:
        passes = row["passes"]
        shown = [row["work"], f"{passes}", f"{row['operations'] / passes:,.0f}"]
        shown += [f"{row['GB'] / passes:.1f}", f"{row['sent'] / passes:.1f}", f"{row['read back']}"]
        rows.append(shown)
    heads = ["Llama-3.1-8B, ViT-L/14, bf16", "passes", "operations a pass", "GB a pass"]
    table = write_table([*heads, "sent a pass", "read back, in all"], rows)
    chain = find(found, work=f"{launches.CUMULATIVE} keypoints, cumulative")
    measured = find(read_results("gpu-paper")["rows"], work=chain["work"])
    took = 1000 * measured["ours, s"] / chain["passes"]
    weights = 2 * growth.llm_parameters(growth.LLAMA8B)
    times = [f"{1000 * weights / rate:.0f} ms at {rate / 1e9:,.0f} GB/s" for rate in BANDWIDTHS]
    text = (
        f"On the GPU above a pass of a chain took {took:.0f} ms. Reading all weights takes "
        f"{times[0]} (A6000), {times[1]} (H100)."
    )
    return f"{table}\n{textwrap.fill(text, 100)}\n"


def gpu_work():
    """Models of the paper's size on a GPU, beside transformers."""
    found, rows = read_results("gpu-paper"), []
    for row in found["rows"]:
        shown = [row["work"], number(row, "ours, s", 2), number(row, "reference, s", 2)]
        shown += [number(row, "times faster", 1), number(row, "ours, GB")]
        shown += [number(row, "reference, GB"), number(row, "ours, kernels", 0)]
        rows.append([*shown, number(row, "ours, busy", 0)])
    machine, compared = found["machine"], found["same answers"]
    heads = [machine["name"], "ours, s", "`transformers`, s", "times faster", "ours, GB"]
    heads += ["`transformers`, GB", "our kernels", "GPU busy, %"]
    between = [1e6 * row["ours, s"] / row["ours, kernels"] for row in found["rows"]]
    pair = find(found["rows"], work="a pair of 4 rounds")
    tokens = bench.trunk_of(SHAPES["llama8b"]) + bench.K * (bench.QUESTION["train"] + ANSWER)
    computed = sum(growth.list_kept(growth.LARGE, growth.LLAMA8B).values())
    computed += growth.activations(growth.LARGE, growth.LLAMA8B, tokens) / 1e9
    text = (
        f"{machine['name']} of {machine['memory, GB']:.1f} GB, PyTorch {machine['torch']}. On "
        f"average a kernel started every {min(between):.0f} to {max(between):.0f} microseconds. "
        f"The weights, just written, were loaded in {found['loading, s']:.1f} s. Training with a "
        f"pair of {tokens} tokens takes {computed:.1f} GB by the formulas of [growth.md](growth.md)"
        f", and took {pair['ours, GB']:.1f}. Of {compared['answers']} answers {compared['same']} "
        "were the same on both sides."
    )
    return f"{write_table(heads, rows)}\n{textwrap.fill(text, 100)}\n"


def gpu_runs():
    """Pairs a second of train.py on a GPU, and what training in whole takes."""
    rows = []
    for row in read_results("gpu-paper")["runs"]:
        shown = [row["micro-batch"], row["batch"], number(row, "pairs/s")]
        rows.append([*shown, f"{growth.BATCH / row['pairs/s']:.0f}"])
    heads = ["`--micro-batch`", "`--batch`", "pairs a second"]
    table = write_table([*heads, f"s for {growth.BATCH} pairs"], rows, words=0)
    whole = read_results("gpu-everything")["rows"]
    fused, other = find(whole, optimiser="fused"), find(whole, fits=False)
    text = (
        f"`--tune everything --checkpoint-activations` takes {fused['GB']:.1f} GB. There AdamW "
        "updates all weights in few kernels (*fused*), without memory beside; PyTorch's default, "
        f"as large as the weights beside, ran out of memory at {other['GB']:.1f} GB."
    )
    return f"{table}\n{textwrap.fill(text, 100)}\n"


def gpu_nano():
    """nano's answers on a GPU beside the CPU's, and whether training repeats bit by bit."""
    found, answered, repeated = read_results("gpu-nano"), [], []
    for row in found["rows"]:
        shown = [number(row, "equal"), number(row, "distance", 2), number(row, "PCK@0.20")]
        answered.append([row["weights"], *shown])
    heads = [f"{found['images']} drawings", "equal to fp32's, %"]
    heads += ["apart from fp32's, % of the crop", "PCK@0.20"]
    for row in found["repetition"]:
        same = ["yes" if row[name] else "no" for name in ("again", "resumed")]
        repeated.append([row["trained"], *same])
    trained = ["nano trained on the GPU", "once more, the same", "resumed, the same"]
    return f"{write_table(heads, answered)}\n{write_table(trained, repeated)}"


def forest():
    """Cumulative answers about several images."""
    found, rows = read_results("forest"), []
    for row in found["rows"]:
        rows.append([row["work"], number(row, "s"), number(row, "share", 2)])
    head = f"{found['keypoints']} keypoints of {found['images']} images"
    return write_table([head, "s", "share of cumulative, one by one"], rows)


def folding():
    found, rows = read_results("folding"), []
    for row in found["rows"]:
        shown = [number(row, "equal"), number(row, "distance", 2), number(row, "PCK@0.20")]
        rows.append([row["weights"], *shown])
    text = (
        f"Folded into bf16 weights, nano's adapters lose {found['lost']:.1f}% of their update to "
        f"rounding. Its answers about {found['images']:,} drawings:"
    )
    heads = ["weights", "equal to fp32's, %", "apart from fp32's, % of the crop", "PCK@0.20"]
    return f"{textwrap.fill(text, 100)}\n\n{write_table(heads, rows)}"


def recipe_minutes():
    rows = []
    for row in read_results("minutes")["recipes"]:
        rows.append([f"`{row['command']}`", row["measures"], number(row, "minutes", 0)])
    return write_table(["command", "what it measures", "minutes"], rows, words=2)


def nano_minutes():
    found = read_results("minutes")
    took = {row["step"]: row["minutes"] for row in found["nano"]}
    first = took["eyes"] + took["words"] + took["rounds"]
    text = (
        f"The committed nano learned from {found['people']:,} photographs of people, "
        f"{found['hands']:,} of hands and {found['faces']:,} of faces, which cannot be given away "
        f"here. On two CPU cores the drawings took {took['drawing']} minutes, the first "
        f"pre-training {first} ({took['eyes']} for the eyes, {took['words']} for the words, "
        f"{took['rounds']} for the rounds), the second {took['second']}, the third "
        f"{took['third']} and `train.py` {took['train.py']}."
    )
    return textwrap.fill(text, 100, break_on_hyphens=False) + "\n"


def encoders():
    """How Table 14's small encoders were pre-trained."""
    labels = {"dinov2": "DINOv2", "hiera": "Hiera"}
    said = []
    for row in read_results("minutes")["encoders"]:
        said.append(
            f"{labels[row['vision']]} ({row['parameters'] / 1e6:.1f} million parameters, "
            f"{row['tokens']} tokens) took {row['minutes']} minutes"
        )
    text = f"Side by side on two cores, {', '.join(said)} for the same steps and images."
    return textwrap.fill(text, 100) + "\n"


# Documents.

BLOCKS = {
    "summary": summary,
    "nano": nano,
    "photographed": photographed,
    "own": own_objects,
    "own-answer": own_answer,
    "radii": radii,
    "photographs": photographs,
    "tables": asked_tables,
    "trained": trained_tables,
    "points": points,
    "likelihood": likelihood,
    "regions": regions,
    "reading": reading,
    "cost": cost,
    "density-cost": density_cost,
    "loading": loading,
    "launches": launched,
    "gpu-work": gpu_work,
    "gpu-runs": gpu_runs,
    "gpu-nano": gpu_nano,
    "forest": forest,
    "folding": folding,
    "recipe-minutes": recipe_minutes,
    "nano-minutes": nano_minutes,
    "encoders": encoders,
}


def replace_block(found):
    start, name, end = found.groups()
    if name not in BLOCKS:
        raise ValueError(f"<!-- results: {name} -->: there is no such table; {', '.join(BLOCKS)}")
    return f"{start}\n{BLOCKS[name]()}\n{end}"


def fill(text):
    """A document with its tables as results/ has them."""
    return BLOCK.sub(replace_block, text)


def main():
    p = Parser(description=__doc__.split("\n")[0])
    p.add_argument("--check", action="store_true", help="write nothing, say what differs")
    a = p.parse_args()
    stale = []
    for name in DOCUMENTS:
        before = (ROOT / name).read_text(encoding="utf-8")
        after = fill(before)
        if after != before:
            stale.append(name)
            if not a.check:
                (ROOT / name).write_text(after, encoding="utf-8")
                print(name)
    if a.check and stale:
        sys.exit(f"{', '.join(stale)}: not as results/ has it; python -m scripts.document")


if __name__ == "__main__":
    launch.run("scripts.document", main)
