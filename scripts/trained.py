"""The paper's tables that need training, in miniature: nano, trained further as each row says.

    python -m scripts.trained           # `make trained`

Each row is trained and measured into a folder of its own below out/trained; those that are there
are left alone, an interrupted one continues.
"""

import shlex
from pathlib import Path

from scripts import recipe
from scripts.recipe import FIGURES, Row
from support import launch
from support.options import Parser

OUT = Path("out/trained")
STEPS, BATCH, LIMIT = 200, 16, 200
VAGUE = "--descriptions descriptions/vague"
CURVES = ("base", "rounds-dynamic", "rounds-locllm", "tune-frozen", "tune-full")
TOKEN = "--output-format token"
# Of Table 14: each encoder learns to see, then to answer with nano's language model. One process.
PRETRAINING = ("--llm", "nano/llm", "--eyes", 700, "--words", 0, "--names", 0, "--rounds", 600)


def instructed(name, table):
    """A row that is trained and asked with an instruction, as in the paper."""
    paper = {"trained": name, "asked": name}
    return Row(f"instruction-{name}", table, f"--instruction {name}", paper=paper)


ROWS = (
    Row("base", "Table 4", "--rounds fixed --k 4", paper={}),
    Row("rounds-dynamic", "Table 4", "--rounds dynamic", paper={"rounds": "dynamic", "k": None}),
    Row("rounds-locllm", "Table 4", "--rounds locllm", paper={"rounds": "locllm", "k": None}),
    # Trained in rounds, asked cumulatively.
    Row(
        "base-cumulative", "Table 3", asked="--cumulative", paper={"cumulative": "fixed"}, of="base"
    ),
    Row(
        "rounds-dynamic-cumulative",
        "Table 3",
        asked="--cumulative",
        paper={"rounds": "dynamic", "k": None, "cumulative": "fixed"},
        of="rounds-dynamic",
        against="rounds-dynamic",
    ),
    Row(
        "rounds-locllm-cumulative",
        "Table 3",
        asked="--cumulative",
        paper={"rounds": "locllm", "k": None, "cumulative": "fixed"},
        of="rounds-locllm",
        against="rounds-locllm",
    ),
    Row("descriptions-vague", "Table 5", VAGUE, VAGUE, paper={"texts": "vague"}),
    # Trained with one instruction, asked with another.
    Row(
        "base-asked-replaced",
        "Table 7",
        asked="--instruction replaced",
        paper={"asked": "replaced"},
        of="base",
    ),
    Row(
        "base-asked-names",
        "Table 7",
        asked="--instruction names",
        paper={"asked": "names"},
        of="base",
    ),
    instructed("random", "Table 7"),
    Row(
        "random-asked-replaced",
        "Table 7",
        asked="--instruction replaced",
        paper={"trained": "random", "asked": "replaced"},
        of="instruction-random",
        against="instruction-random",
    ),
    Row(
        "random-asked-names",
        "Table 7",
        asked="--instruction names",
        paper={"trained": "random", "asked": "names"},
        of="instruction-random",
        against="instruction-random",
    ),
    Row("instruction-replaced", "Table 7", "--instruction replaced"),
    instructed("names", "Table 10"),
    instructed("list", "Table 10"),
    instructed("diverse", "Table 11"),
    instructed("outline", "Table 11"),
    instructed("diverse-outline", "Table 11"),
    Row("k-1", "Table 12", "--k 1", paper={"k": 1}),
    Row("k-2", "Table 12", "--k 2", paper={"k": 2}),
    Row("k-6", "Table 12", "--k 6", paper={"k": 6}),
    Row("k-8", "Table 12", "--k 8", paper={"k": 8}),
    instructed("steps", "Table 13"),
    Row(
        "steps-true-category",
        "Table 13",
        asked="--true-category",
        of="instruction-steps",
        against="instruction-steps",
    ),
    Row("vision-dinov2", "Table 14", paper={}, vision="dinov2", against="vision-dinov2"),
    Row(
        "vision-hiera",
        "Table 14",
        paper={"vision": "hiera"},
        vision="hiera",
        against="vision-dinov2",
    ),
    Row("tune-frozen", "Table 15", "--tune frozen", paper={"tune": "frozen"}),
    Row("tune-full", "Table 15", "--tune full", paper={"tune": "full"}),
    Row("tune-everything", "Table 15", "--tune everything"),
    Row("token", "Table 17", TOKEN, paper={"output": "token"}),
    Row(
        "token-steps",
        "Table 17",
        f"{TOKEN} --instruction steps",
        paper={"output": "token", "trained": "steps", "asked": "steps"},
        against="instruction-steps",
    ),
    Row("first-direct-qa", "Table 18", paper={"first": "direct-qa"}, first="direct-qa"),
    Row("first-steps-qa", "Table 18", paper={"first": "steps-qa"}, first="steps-qa"),
)


def train(row):
    """The model folder that a row trains, or whose model it asks."""
    if row.of:
        return recipe.checkpoint(OUT / row.of / "run", STEPS)
    folder, init = OUT / row.name, "nano"
    settings = ["--data", FIGURES, "--batch", BATCH, "--micro-batch", 4, "--save-every", 50]
    if row.vision:
        init = folder / "pretrain" / "model"
        if not init.is_dir():
            more = ["--vision", row.vision, "--data", FIGURES, "--out", init.parent]
            recipe.run("-m", "nano.pretrain", *PRETRAINING, *more)
    if row.first:
        more = ["--init", init, "--instruction", row.first]
        init = recipe.train(folder / "first", STEPS, *settings, *more)
    return recipe.train(folder / "run", STEPS, *settings, "--init", init, *shlex.split(row.trained))


def main():
    Parser(description=__doc__.split("\n")[0]).parse_args()
    for row in ROWS:
        model = train(row)
        asked = ["--data", FIGURES, "--limit", LIMIT, *shlex.split(row.asked)]
        recipe.evaluate(OUT / row.name, model, *asked)
    recipe.compare([OUT / row.name for row in ROWS], OUT)
    recipe.draw_curves([OUT / name / "run" for name in CURVES], OUT / "curves.png", CURVES)


if __name__ == "__main__":
    launch.run("scripts.trained", main)
