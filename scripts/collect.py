"""Collect what `make eval`, `tables`, `trained`, `faces`, `own`, `bench` left in out/: results/.

    python -m scripts.collect           # then: python -m scripts.document

Files of results/ are small: a row a line, in percent and seconds, rounded as docs/ shows them. What
was not measured again stays as it is.
"""

import json
from pathlib import Path

from safetensors import safe_open

from scripts import faces, own, recipe, trained, verdicts
from scripts import tables as scripts_tables
from study.compare import measure_gap
from support import launch
from support.checkpoints import read_log
from support.options import Parser

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
OUT = Path("out")
METRICS = ("PCK@0.05", "PCK@0.10", "PCK@0.15", "PCK@0.20", "PCK@0.25", "mPCK")
LOW, HIGH = "95% interval, from", "95% interval, to"
GAIN = "PCK-optimal minus greedy"
# Folders of `make eval`, and where results/ has them.
EVALUATED = {"figures": "nano", "people": "people", "hands": "hands", "faces": "faces"}


# Files of results/.


def read_results(name):
    """A file of results/, {} where there is none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_bytes()) if path.is_file() else {}


def format_results(numbers):
    """JSON with an entry a line, and a row a line in those that are lists of rows."""
    entries = []
    for key, value in numbers.items():
        text = json.dumps(value, allow_nan=False)
        if isinstance(value, list):
            rows = [json.dumps(row, allow_nan=False) for row in value]
            text = "[\n  " + ",\n  ".join(rows) + "\n ]"
        entries.append(f" {json.dumps(key, allow_nan=False)}: {text}")
    return "{\n" + ",\n".join(entries) + "\n}\n"


def write_results(name, numbers):
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(format_results(numbers))


# Rows.


def percent(value, digits=1):
    return round(100 * value, digits)


def percents(scores):
    """The columns of docs/ of an evaluation's means, {column: fraction}."""
    return {name: percent(scores[name]) for name in METRICS}


def interval_rows(of, intervals):
    """Two rows, of {column: [low, high]}."""
    rows = []
    for end, label in enumerate((LOW, HIGH)):
        scores = {name: intervals[name][end] for name in METRICS}
        rows.append({"of": of, "answers": label} | percents(scores))
    return rows


def group_rows(of, found, intervals=None):
    """Rows of a group of images: the model's answers, their intervals, the controls."""
    counts = {"categories": found["categories"], "images": found["instances"]}
    rows = [{"of": of, "answers": "model"} | counts | percents(found)]
    if intervals:
        rows += interval_rows(of, intervals)
    for control, scores in found["controls"].items():
        label = "mean place" if control == "mean" else control
        rows.append(
            {"of": of, "answers": label, "images": scores["instances"]} | percents(scores)
        )
    return rows


def evaluation(command, folder):
    """A file of results/ from the results.json of an evaluation with --controls."""
    found = json.loads((folder / "results.json").read_bytes())
    # Of all images results.json has each category where groups have their number.
    overall = found | {"categories": len(found["categories"])}
    rows = group_rows("all", overall, found["intervals"])
    if len(found["groups"]) > 1:
        for name, group in found["groups"].items():
            rows += group_rows(name, group)
    if len(found["definitions"]) > 1:
        for name, group in found["definitions"].items():
            rows += group_rows(name, group | {"controls": {}})
    return {"command": command, "rows": rows}


def difference(found):
    """The difference in mPCK from the first row, with its interval; nothing of the first row."""
    if "difference" not in found:
        return {}
    low, high = found["interval of the difference"]
    return {
        "difference": percent(found["difference"]),
        "low": percent(low),
        "high": percent(high),
    }


def gap(folder, base):
    """As `difference`, from another row than the first."""
    points, interval = measure_gap(folder, base, "mPCK")
    return difference({"difference": points, "interval of the difference": interval})


def effect(folder, row, recipe_rows):
    """The effect of a row that the paper has, on the column that the paper has; or nothing."""
    base = verdicts.find_base(row, recipe_rows)
    if base is None or row.paper is None or base.paper is None:
        return {}
    column = verdicts.find_paper_effect(row, base).column
    points, (low, high) = measure_gap(folder / row.name, folder / base.name, column)
    ends = {"effect low": percent(low), "effect high": percent(high)}
    return {"column": column, "effect": percent(points)} | ends


def comparison(command, folder, recipe_rows):
    """A file of results/ from the folders of a recipe and their compare.json."""
    found = json.loads((folder / "compare.json").read_bytes())
    images = next(iter(found.values()))["instances"]
    rows = []
    for of_recipe in recipe_rows:
        for name in [f"{of_recipe.name}, {part}" for part in of_recipe.parts] or [of_recipe.name]:
            row = {"name": name, "PCK@0.20": percent(found[name]["PCK@0.20"])}
            base = verdicts.find_base(of_recipe, recipe_rows)
            if base and of_recipe.against:
                row |= gap(folder / of_recipe.name, folder / base.name)
            elif base:
                row |= difference(found[name])
            rows.append(row | effect(folder, of_recipe, recipe_rows))
    return {"command": command, "images": images, "rows": rows}


# Photographs.


def trained_run(setting):
    """What one of Table 15's settings trained: numbers, size of the file, minutes."""
    run = faces.RUNS / setting.tune
    file = recipe.checkpoint(run, faces.EPOCHS * faces.EPOCH) / "adapter.safetensors"
    parameters = 0
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():
            if setting.tune == "frozen" and name.startswith("vision."):
                continue
            size = 1
            for side in tensors.get_slice(name).get_shape():
                size *= side
            parameters += size
    seconds = sum(faces.BATCH / record["pairs_per_s"] for record in read_log(run))
    return {
        "tune": setting.tune,
        "parameters": parameters,
        "MB": round(file.stat().st_size / 1e6, 2),
        "minutes": round(seconds / 60, 1),
    }


def photographs():
    found = json.loads((faces.OUT / "compare.json").read_bytes())
    names = {faces.START: ("nothing", 0)}
    for setting in faces.SETTINGS:
        for epoch in range(1, faces.EPOCHS + 1):
            folder = faces.evaluated(setting, epoch)
            # compare.json names folders in full where their last parts are alike.
            names[str(folder)] = (setting.tune, epoch)
    rows = []
    for name, row in found.items():
        tune, epoch = names[name if name in names else Path(name).name]
        low, high = row["interval"]
        between = {"mPCK low": percent(low), "mPCK high": percent(high)}
        rows.append({"tune": tune, "epoch": epoch} | percents(row) | between | difference(row))
    runs = [trained_run(setting) for setting in faces.SETTINGS]
    images = next(iter(found.values()))["instances"]
    return {"command": "make faces PHOTOS=FOLDER", "images": images, "runs": runs, "rows": rows}


def own_objects():
    rows = json.loads((own.OUT / "results.json").read_bytes())
    return {"command": "make own PHOTOS=...", "rows": rows}


# Density.


def densities(folder):
    """A file of results/ from the results.json of an evaluation with --density."""
    found = json.loads((folder / "results.json").read_bytes())
    density = found["density"]
    rows = []
    for name, scores in density["points"].items():
        rows.append({"of": "points", "answers": name} | percents(scores))
    rows += interval_rows("points", density["points"][GAIN]["intervals"])
    low, high = density["intervals"]["nll"]
    likelihood = {"nll": round(density["nll"], 2), "low": round(low, 2), "high": round(high, 2)}
    rivals = []
    for name in ("Gaussian", "Gaussian of each definition"):
        low, high = density[name]["interval of the difference"]
        rival = {"name": name}
        if name == "Gaussian":
            rival["sigma"] = percent(density[name]["sigma"])
        rival["difference"] = round(density[name]["difference"], 2)
        rivals.append(rival | {"low": round(low, 2), "high": round(high, 2)})
    regions = []
    for level, share in density["holds"].items():
        low, high = density["intervals"]["holds"][level]
        region = {"region": round(100 * float(level)), "holds": percent(share)}
        regions.append(region | {"low": percent(low), "high": percent(high)})
    return {
        "command": "make tables",
        "images": found["instances"],
        "rows": rows,
        "likelihood": likelihood,
        "rivals": rivals,
        "regions": regions,
        "prefixes": round(density["prefixes"]),
        "spread": percent(density["spread"]),
    }


# Main.


def bench():
    """What `make bench` left, beside what it does not measure."""
    numbers = read_results("cost")
    for what in ("infer", "train", "density", "load"):
        file = OUT / "bench" / f"{what}.json"
        if file.is_file():
            numbers[what] = json.loads(file.read_bytes())
    return numbers


def collect():
    """{name of a file in results/: its numbers} of all that is in out/."""
    found = {}
    for name, of in EVALUATED.items():
        if (OUT / "eval" / name / "results.json").is_file():
            found[of] = evaluation('make eval PHOTOS="people hands faces"', OUT / "eval" / name)
    tables = {int(p.parent.name.split("-")[1]): p.parent for p in OUT.glob("tables-*/compare.json")}
    if tables:
        limit = max(tables)
        command = f"make tables LIMIT={limit}"
        found["tables"] = comparison(command, tables[limit], scripts_tables.ROWS)
    if (OUT / "density/results.json").is_file():
        found["density"] = densities(OUT / "density")
    if (trained.OUT / "compare.json").is_file():
        found["trained"] = comparison("make trained", trained.OUT, trained.ROWS)
    if (faces.OUT / "compare.json").is_file():
        found["photographs"] = photographs()
    if (own.OUT / "results.json").is_file():
        found["own"] = own_objects()
    if (OUT / "bench").is_dir():
        found["cost"] = bench()
    return found


def main():
    Parser(description=__doc__.split("\n")[0]).parse_args()
    found = collect()
    if not found:
        raise ValueError("out/ holds no results: make eval, tables, trained, faces, own, bench")
    for name, numbers in found.items():
        write_results(name, numbers)
        print(RESULTS.relative_to(ROOT) / f"{name}.json")


if __name__ == "__main__":
    launch.run("scripts.collect", main)
