"""README.md and docs/: their tables are what the scripts write, and what they name is there."""

import argparse
import functools
import importlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import data
import decode
from scripts import collect, document, faces, recipe, tables, trained
from scripts.recipe import Row
from study import category, density, instructions
from study.compare import compare_evaluations
from support import eval_options, few, launch, train_options
from test_compare import write_evaluation

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md", *ROOT.glob("[!.]*/README.md")])
FRONT = ["lora", "dino", "llama", "capellm", "decode", "data", "train", "eval", "sample"]
FOLDERS = "study support drawings nano scripts results descriptions examples tests docs".split()
# Shown to a reader; made by a command
MADE = ("data/", "runs/", "out/", "weights/", "FOLDER", "HOST")


def name_of(path):
    return str(path.relative_to(ROOT))


def without_blocks(text):
    return document.BLOCK.sub("", text)


# Numbers.


@pytest.mark.parametrize("name", document.DOCUMENTS)
def test_tables_are_those_of_results(name):
    text = (ROOT / name).read_text()
    assert document.fill(text) == text, "python -m scripts.document writes it"


def test_every_table_is_shown():
    text = "".join((ROOT / name).read_text() for name in document.DOCUMENTS)
    assert {name for _, name, _ in document.BLOCK.findall(text)} == document.BLOCKS.keys()


def test_files_of_results_are_as_they_would_be_written():
    for path in collect.RESULTS.glob("*.json"):
        numbers = collect.read_results(path.stem)
        assert collect.format_results(numbers) == path.read_text(), path


def test_every_file_of_results_names_its_command():
    for path in collect.RESULTS.glob("*.json"):
        numbers = collect.read_results(path.stem)
        if path.stem != "cost":
            assert numbers["command"], path
            continue
        for name, rows in numbers.items():
            assert all(row["command"] for row in rows), name


# What decimals are beside measured numbers: thresholds, sections, names of versions
NAMES = r"PCK@0\.\d+|Section \d\.\d|Llama-3\.1-8B|Python 3\.11|Apache-2\.0|4\.4 million|`[^`]*`"


@pytest.mark.parametrize("name", document.DOCUMENTS)
def test_nothing_measured_is_written_by_hand(name):
    """Around the tables stand no fractions, durations or counts of photographs."""
    lines = []
    for line in without_blocks((ROOT / name).read_text()).splitlines():
        if not line.startswith("    "):
            lines.append(line)
    prose = re.sub(NAMES, "", "\n".join(lines))
    measured = r"\b\d+\.\d+\b|\b\d+ (?:minutes|hours)|\b\d+,\d+ photographs"
    assert re.findall(measured, prose) == []


def test_the_size_of_nano_is_that_of_its_files():
    parameters = 0
    for file in ("vision/model.safetensors", "llm/model.safetensors", "adapter.safetensors"):
        for tensor in load_file(ROOT / "nano" / file).values():
            parameters += tensor.numel()
    for name in ("README.md", "docs/results.md", "docs/nano.md"):
        assert f"{parameters / 1e6:.1f} million" in (ROOT / name).read_text()


def test_check_says_what_differs(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    for name in document.DOCUMENTS:
        (tmp_path / name).write_text((ROOT / name).read_text())
    page = tmp_path / "docs/cost.md"
    before = page.read_text()
    page.write_text(before.replace("5.20", "5.21"))
    monkeypatch.setattr(document, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["document", "--check"])
    with pytest.raises(SystemExit, match="docs/cost.md: not as results/ has it"):
        document.main()
    monkeypatch.setattr("sys.argv", ["document"])
    document.main()
    assert page.read_text() == before and capsys.readouterr().out == "docs/cost.md\n"


def test_an_unknown_table_is_named():
    with pytest.raises(ValueError, match="results: nowhere"):
        document.fill("<!-- results: nowhere -->\n<!-- end -->\n")


# README.


def test_the_first_page_is_short():
    assert len(README.splitlines()) <= 150


def test_the_front_files_are_listed_in_reading_order():
    rows = re.findall(r"^\| `(\w+)\.py` \|.*\| (\d+) \|$", README, re.MULTILINE)
    assert [name for name, _ in rows] == FRONT
    assert {path.stem for path in ROOT.glob("*.py")} == set(FRONT)


def test_minutes_are_honest():
    """Nobody reads more than ten lines of such code a minute; five are slow."""
    for name, minutes in re.findall(r"^\| `(\w+)\.py` \|.*\| (\d+) \|$", README, re.MULTILINE):
        lines = len((ROOT / f"{name}.py").read_text().splitlines())
        assert lines / 10 <= int(minutes) <= lines / 5, name


def test_every_folder_is_listed():
    listed = set(re.findall(r"`(\w+)/`", README))
    assert listed >= set(FOLDERS)
    assert all((ROOT / folder).is_dir() for folder in FOLDERS)


def test_the_lines_of_python_run(monkeypatch):
    """With the photo and the descriptions of examples instead of the reader's own."""
    (lines,) = re.findall(r"(?:    from .*\n){3}\n(?:    .*\n)+", README)
    lines = "\n".join(line.strip() for line in lines.splitlines())
    lines = lines.replace("x.jpg", "examples/astronaut.jpg")
    lines = lines.replace("desc.txt", "descriptions/human_face_19.txt")
    monkeypatch.chdir(ROOT)
    found = {}
    exec(lines, found)
    assert len(found["points"]) == 19 and found["points"][0].x > 0


# What pages name.


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_are_short(page):
    for line in page.read_text().splitlines():
        assert len(line) <= 100 or line.startswith("|"), line


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target.split("#")[0]).exists(), target


def paths_named(text):
    """Paths in backticks that begin with a folder of the repository, and files at its top."""
    folders = "|".join(FOLDERS)
    pattern = rf"(?:(?:{folders})/[\w/.-]*|\w+\.(?:py|md)|Makefile)"
    for quoted in re.findall(r"`([^`\n]+)`", text):
        for word in quoted.split():
            if re.fullmatch(pattern, word):
                yield word


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_are_there(page):
    for path in paths_named(page.read_text()):
        assert (ROOT / path).exists() or (page.parent / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_functions_that_are_named_are_there(page):
    """`module.Class.method`, as the walkthrough writes them."""
    modules = "|".join([*FRONT, *FOLDERS])
    for module, rest in re.findall(rf"`((?:{modules}))\.([\w.]+)`", page.read_text()):
        if rest in ("py", "md", "json", "txt", "jsonl", "yaml"):
            continue
        words = rest.split(".")
        if module in FOLDERS:
            module = f"{module}.{words.pop(0)}"
        found = importlib.import_module(module)
        for word in words:
            found = getattr(found, word)


# Choices.


CHOICES = (ROOT / "docs/choices.md").read_text()


def find_choice(what):
    """The last cell, what is done here and why, of the one row that begins with `what`."""
    (row,) = [line for line in CHOICES.splitlines() if line.startswith(f"| {what}")]
    return row.strip("| ").split(" | ")[-1]


def test_a_choice_has_three_cells():
    rows = [line for line in CHOICES.splitlines() if line.startswith("|")]
    assert all(len(row.strip("| ").split("|")) == 3 for row in rows if "---" not in row)


def test_choices_have_the_numbers_of_the_code():
    assert f"{len(instructions.ASKS)} phrasings" in find_choice("diverse questions")
    assert f"{category.MAX_TOKENS} tokens" in find_choice("the category in `steps`")
    assert f"{train_options.LOCLLM_K} drawn" in find_choice("LocLLM's rounds")
    assert f"{data.MAX_TOKENS:,} tokens" in find_choice("longest sequence")
    assert f"{decode.CANDIDATES} likeliest" in find_choice("contrastive search")
    assert f"{density.DRAWS} samples" in find_choice("the density")


def test_choices_repeat_the_defaults_of_training(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    options = train_options.read_options("", list(data.GROUPINGS))
    assert f"at most {options.clip}" in find_choice("gradient clipping")
    assert find_choice("batch").startswith(f"{few.PAPER['batch']},")
    monkeypatch.setattr("sys.argv", ["train.py", "--rounds", "locllm"])
    options = train_options.read_options("", list(data.GROUPINGS))
    assert options.k == train_options.LOCLLM_K


def test_the_first_page_leads_to_every_other():
    linked = set(re.findall(r"\]\((docs/\w[\w-]*\.md)", README))
    assert linked == {name_of(page) for page in ROOT.glob("docs/*.md")}


# Commands.


def commands_of(text):
    """(file or -m module, its arguments) of commands in code blocks and in backticks."""
    # Quoted code holds no commands.
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = text.replace("\\\n", " ")
    lines = re.findall(r"^    +(?!\s)(.*)$", text, re.MULTILINE)
    lines += re.findall(r"`([^`]+)`", text)
    for line in lines:
        words = shlex.split(line.replace("\n", " "), comments=True) if "'" not in line else []
        words = [word.removeprefix(".venv/bin/") for word in words]
        if words and words[0] in ("python", "torchrun"):
            yield from command_of(words)


def command_of(words):
    for i, word in enumerate(words):
        if word == "-m":
            yield f"-m {words[i + 1]}", words[i + 2 :]
            return
        if word.endswith(".py"):
            yield word, words[i + 1 :]
            return


@functools.cache
def options_of(command):
    """What --help of a command names."""
    arguments = [sys.executable, *command.split(), "--help"]
    shown = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, (command, shown.stderr)
    return set(re.findall(r"--[a-z][\w-]*", shown.stdout))


def check_options(command, arguments):
    for argument in arguments:
        if argument.startswith("--"):
            assert argument in options_of(command), (command, argument)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_have_the_options_that_are_shown(page):
    for command, arguments in commands_of(page.read_text()):
        check_options(command, arguments)


def find_file(command):
    """The file of `eval.py`, `-m study.show` or `-m drawings`."""
    if command.endswith(".py"):
        return ROOT / command
    path = ROOT / command.removeprefix("-m ").replace(".", "/")
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


class Parsed(BaseException):
    """Raised instead of what a command does after it has read its options."""


def parse_only(parser, original=argparse.ArgumentParser.parse_args):
    raise Parsed(original(parser))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_can_be_started_as_they_are_shown(page, monkeypatch):
    """Nothing that they need is left out, and each value is one that they take."""
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    # It would end whatever goes wrong, Parsed too, in a line.
    monkeypatch.setattr(launch, "run", lambda name, main, memory="": main())
    for command, arguments in commands_of(page.read_text()):
        monkeypatch.setattr("sys.argv", [command, *arguments])
        with pytest.raises(Parsed) as options:
            runpy.run_path(str(find_file(command)), run_name="__main__")
        if command == "eval.py":
            eval_options.check_options(options.value.args[0])


def test_make_has_the_targets_that_are_shown():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    for page in PAGES:
        named = re.findall(r"(?:`|^    )make ([a-z]+)", page.read_text(), re.MULTILINE)
        assert set(named) <= targets, page


def test_recipes_use_options_that_there_are():
    for row in (*tables.ROWS, *trained.ROWS):
        check_options("eval.py", shlex.split(row.asked))
        check_options("train.py", shlex.split(row.trained))


# Recipes.


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """What recipes run, in an empty folder; evaluations and checkpoints come into being."""
    monkeypatch.chdir(tmp_path)
    for folder in ("nano", "runs/drawings/model"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "adapter.safetensors").write_text("")
    ran = []

    def run(*arguments):
        arguments = [str(argument) for argument in arguments]
        ran.append(arguments)
        out = Path(arguments[arguments.index("--out") + 1])
        if "train.py" in arguments:
            every = int(arguments[arguments.index("--save-every") + 1])
            for step in range(every, int(arguments[arguments.index("--steps") + 1]) + 1, every):
                recipe.checkpoint(out, step).mkdir(parents=True, exist_ok=True)
                (recipe.checkpoint(out, step) / "adapter.safetensors").write_text("")
        elif "eval.py" in arguments and "--compare" not in arguments:
            out.mkdir(parents=True, exist_ok=True)
            for name in ("results.json", "instances.jsonl", "results.md"):
                (out / name).write_text(name)

    monkeypatch.setattr(recipe, "run", run)
    return ran


def count(commands, word):
    return sum(word in command for command in commands)


def test_rows_that_are_done_are_left_alone(commands, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tables", "--limit", "3"])
    tables.main()
    # One for each row, the density, and the comparison
    assert count(commands, "eval.py") == len(tables.ROWS) + 2
    pairs = next(command for command in commands if "--pairs" in command)
    assert "--resume" in pairs and Path("out/tables-3/pairs/instances.jsonl").exists()
    del commands[:]
    tables.main()
    assert count(commands, "eval.py") == 1 and "--compare" in commands[0]
    # The answers of an older model are asked again.
    later = Path("out/tables-3/base/results.json").stat().st_mtime + 10
    os.utime("nano/adapter.safetensors", (later, later))
    assert not recipe.is_done("out/tables-3/base", "nano")


def test_every_row_is_trained_once_and_asked(commands, monkeypatch):
    monkeypatch.setattr("sys.argv", ["trained"])
    trained.main()
    own = [row for row in trained.ROWS if not row.of]
    twice = [row for row in trained.ROWS if row.first]
    assert count(commands, "train.py") == len(own) + len(twice)
    assert count(commands, "--model") == len(trained.ROWS)
    # A row that asks another's model comes after it.
    names = [row.name for row in trained.ROWS]
    assert all(names.index(row.of) < names.index(row.name) for row in trained.ROWS if row.of)
    del commands[:]
    trained.main()
    assert count(commands, "train.py") == count(commands, "--model") == 0


def test_photographs_are_asked_about_after_each_epoch(commands, monkeypatch):
    monkeypatch.setattr("sys.argv", ["faces", "photographs"])
    drawn = {}
    monkeypatch.setattr(faces, "draw", drawn.__setitem__)
    faces.main()
    last = faces.EPOCHS * faces.EPOCH
    assert drawn == {faces.START: faces.DRAWINGS / "model"} | {
        setting.tune: faces.RUNS / setting.tune / f"step-{last:07d}" for setting in faces.SETTINGS
    }
    assert count(commands, "train.py") == len(faces.SETTINGS)
    # After each epoch, and before the first
    assert count(commands, "--model") == len(faces.SETTINGS) * faces.EPOCHS + 1
    assert count(commands, "nano.pretrain") == 0


# Collecting.


def test_an_interval_has_two_rows():
    intervals = {name: [0.1, 0.25] for name in collect.METRICS}
    low, high = collect.interval_rows("all", intervals)
    assert low["answers"] == collect.LOW and low["mPCK"] == 10
    assert high["answers"] == collect.HIGH and high["mPCK"] == 25


def averages(value, **more):
    """Averages over images as results.json holds them, all of one value."""
    return dict.fromkeys(collect.METRICS, value) | {"categories": 2, "instances": 3} | more


def test_an_evaluation_is_collected_and_shown(tmp_path, monkeypatch):
    controls = {"controls": {"mean": averages(0.25), "other image": averages(0.125)}}
    group = averages(0.5, **controls)
    numbers = averages(0.5, **controls) | {
        "intervals": {name: [0.4, 0.6] for name in collect.METRICS},
        "groups": {"definition new": group, "definition seen in training": group},
        "definitions": {"bed": group | {"categories": 1}, "sofa": group},
        # Of each category in turn
        "categories": {"7": group, "8": group},
    }
    (tmp_path / "results.json").write_text(json.dumps(numbers))
    found = collect.evaluation("make x", tmp_path)
    kinds = [(row["of"], row["answers"]) for row in found["rows"]]
    three = ["model", "mean place", "other image"]
    expected = [("all", "model"), ("all", collect.LOW), ("all", collect.HIGH)]
    expected += [("all", answers) for answers in three[1:]]
    for name in ("definition new", "definition seen in training"):
        expected += [(name, answers) for answers in three]
    assert kinds == [*expected, ("bed", "model"), ("sofa", "model")]
    monkeypatch.setattr(collect, "RESULTS", tmp_path / "results")
    collect.write_results("nano", found)
    lines = document.nano().splitlines()
    assert lines[2] == "| all (2 categories) | 3 | 50.0 | 50.0 | 50.0 | 25.0 | 12.5 |  |"
    assert lines[5].startswith("| bed | 3 | 50.0 | 50.0 | 50.0 |  |")
    assert lines[-1] == "The mPCK of all has the 95% interval 40.0 to 60.0."


def test_photographs_are_collected(tmp_path, monkeypatch):
    """What was trained is counted in the file, time in the log."""
    monkeypatch.setattr(faces, "RUNS", tmp_path)
    monkeypatch.setattr(faces, "OUT", tmp_path / "out")
    tensors = {"vision.a": torch.zeros(2, 3), "projection.weight": torch.zeros(4)}
    numbers = {str(tmp_path / "out/start"): averages(0.5, interval=[0.4, 0.6])}
    for setting in faces.SETTINGS:
        model = recipe.checkpoint(tmp_path / setting.tune, faces.EPOCHS * faces.EPOCH)
        model.mkdir(parents=True)
        save_file(tensors, model / "adapter.safetensors")
        numbers_of_a_step = {"loss": 1.0, "lr": 1e-3, "pairs_per_s": faces.BATCH / 30}
        record = json.dumps({"step": 1} | numbers_of_a_step)
        (tmp_path / setting.tune / "log.jsonl").write_text(f"{record}\n{record}\n")
        for epoch in range(1, faces.EPOCHS + 1):
            more = {"difference": 0.25, "interval of the difference": [0.2, 0.3]}
            scores = averages(0.75, interval=[0.7, 0.8], **more)
            numbers[str(faces.evaluated(setting, epoch))] = scores
    (tmp_path / "out").mkdir()
    (tmp_path / "out/compare.json").write_text(json.dumps(numbers))
    found = collect.photographs()
    assert [run["parameters"] for run in found["runs"]] == [10, 4, 10]
    assert {run["minutes"] for run in found["runs"]} == {1}
    assert found["rows"][0]["tune"] == "nothing" and found["rows"][0]["mPCK low"] == 40
    last = {"tune": "everything", "epoch": 3, "difference": 25, "low": 20, "high": 30, "mPCK": 75}
    assert last.items() <= found["rows"][-1].items()


def test_a_comparison_is_collected(tmp_path):
    first = {"instances": 200, "PCK@0.20": 0.8744}
    second = {"PCK@0.20": 0.8, "difference": -0.0567, "interval of the difference": [-0.07, -0.04]}
    numbers = {"base": first, "other, a part": second | {"instances": 200}, "other": second}
    (tmp_path / "compare.json").write_text(json.dumps(numbers))
    rows = (Row("base", "Table 2"), Row("other", "Figure 4", parts=("a part",)))
    found = collect.comparison("make x", tmp_path, rows)
    assert found["images"] == 200 and found["rows"] == [
        {"name": "base", "PCK@0.20": 87.4},
        {"name": "other, a part", "PCK@0.20": 80, "difference": -5.7, "low": -7, "high": -4},
    ]


PAPER_ROWS = (
    Row("base", "Table 4", "--rounds fixed", paper={}),
    Row("k-2", "Table 12", "--k 2", paper={"k": 2}),
    Row("base-cumulative", "Table 3", asked="--cumulative", paper={"cumulative": "fixed"}),
    Row("k-3", "Table 12", "--k 3"),
)


@pytest.fixture
def effects(tmp_path, monkeypatch):
    """The rows of results/ of PAPER_ROWS, which lose mPCK, and PCK@0.20, in steps."""
    folders = []
    for n, row in enumerate(PAPER_ROWS):
        distances = [[4 + 5 * n, 4, 24 - (5 if n < 2 else 0)]] * 30
        folders.append(write_evaluation(tmp_path / "out" / row.name, distances))
    numbers = compare_evaluations(folders).numbers
    (tmp_path / "out/compare.json").write_text(json.dumps(numbers))
    monkeypatch.setattr(collect, "RESULTS", tmp_path / "results")
    found = collect.comparison("make x", tmp_path / "out", PAPER_ROWS)
    collect.write_results("x", found)
    return found["rows"]


def test_effects_are_collected_in_the_papers_column(effects):
    base, k_2, cumulative, k_3 = effects
    assert "effect" not in base and "effect" not in k_3
    # A keypoint of three leaves one threshold of five.
    expected = {"column": "mPCK", "effect": -6.7, "effect low": -6.7, "effect high": -6.7}
    assert expected.items() <= k_2.items() and k_2["difference"] == -6.7
    # One of three leaves 0.20, of which Table 3 has numbers.
    expected = {"column": "PCK@0.20", "effect": -33.3, "effect low": -33.3, "effect high": -33.3}
    assert expected.items() <= cumulative.items() and cumulative["difference"] == -20


def test_verdicts_are_shown(effects):
    text = document.paper_rows("x", PAPER_ROWS, lambda row: row.name)
    shown = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert shown[0][-2:] == ["difference in mPCK", "as in the paper"]
    assert shown[2][1:] == ["base", "100.0", "96.98", "", ""]
    # 89.11 - 91.98, 94.59 - 96.98
    assert shown[3][1:] == ["k-2", "100.0", "95.30", "-6.7 (-6.7 to -6.7)", "yes"]
    assert shown[4][3] == "94.59" and shown[4][-1] == "-33.3, paper -2.4"
    assert shown[5][-1] == ""


def test_every_row_says_how_it_was_measured():
    for recipe_of, label in ((tables, document.asked_label), (trained, document.trained_label)):
        labels = [label(row) for row in recipe_of.ROWS]
        assert len(set(labels)) == len(labels) and not any("``" in text for text in labels)


def test_a_verdict_needs_what_was_collected_for_it(effects):
    effects[1]["column"] = "PCK@0.20"
    collect.write_results("x", {"command": "make x", "rows": effects})
    with pytest.raises(ValueError, match="no effect of k-2 on mPCK: collect again"):
        document.paper_rows("x", PAPER_ROWS, lambda row: row.name)


def test_what_folding_loses_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "RESULTS", tmp_path)
    row = {"weights": "bf16, folded", "equal": 18.9, "distance": 0.854, "PCK@0.20": 86.5}
    found = {"command": "python -m x", "images": 1400, "lost": 31.34, "rows": [row]}
    collect.write_results("folding", found)
    text = document.folding()
    assert "lose 31.3% of their update" in text and "1,400 drawings" in text
    assert text.splitlines()[-1] == "| bf16, folded | 18.9 | 0.85 | 86.5 |"


def test_what_recipes_measure_is_what_results_hold():
    """A row that is added, or renamed, is to be measured."""
    for name, rows in (("tables", tables.ROWS), ("trained", trained.ROWS)):
        expected = []
        for row in rows:
            expected += [f"{row.name}, {part}" for part in row.parts] or [row.name]
        assert [row["name"] for row in collect.read_results(name)["rows"]] == expected
