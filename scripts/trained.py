"""The paper's tables that need training, in miniature: nano, trained further as each row says.

    python -m scripts.trained           # `make trained`

Each row is trained and measured into a folder of its own below out/trained; those that are there
are left alone, an interrupted one continues.
"""

import argparse
import shlex
from pathlib import Path

from scripts import recipe
from scripts.recipe import FIGURES, Row
from support import launch

OUT = Path("out/trained")
STEPS, BATCH, LIMIT = 200, 16, 200
VAGUE = "--descriptions descriptions/vague"
CURVES = ("base", "rounds-dynamic", "rounds-locllm", "tune-frozen", "tune-full")

ROWS = (
    Row("base", "Table 4", "--rounds fixed --k 4", paper=96.98),
    Row("rounds-dynamic", "Table 4", "--rounds dynamic", paper=96.05),
    Row("rounds-locllm", "Table 4", "--rounds locllm", paper=94.85),
    # Trained in rounds, asked cumulatively.
    Row("base-cumulative", "Table 3", asked="--cumulative", paper=94.59, of="base"),
    Row(
        "rounds-dynamic-cumulative",
        "Table 3",
        asked="--cumulative",
        paper=97.28,
        of="rounds-dynamic",
    ),
    Row(
        "rounds-locllm-cumulative",
        "Table 3",
        asked="--cumulative",
        paper=93.39,
        of="rounds-locllm",
    ),
    Row("descriptions-vague", "Table 5", VAGUE, VAGUE, paper=91.97),
    # Trained with one instruction, asked with another.
    Row("base-asked-replaced", "Table 7", asked="--instruction replaced", paper=95.28, of="base"),
    Row("base-asked-names", "Table 7", asked="--instruction names", paper=95.15, of="base"),
    Row("instruction-random", "Table 7", "--instruction random", paper=96.65),
    Row(
        "random-asked-replaced",
        "Table 7",
        asked="--instruction replaced",
        paper=96.39,
        of="instruction-random",
    ),
    Row(
        "random-asked-names",
        "Table 7",
        asked="--instruction names",
        paper=96.07,
        of="instruction-random",
    ),
    Row("instruction-replaced", "Table 7", "--instruction replaced"),
    Row("instruction-names", "Table 10", "--instruction names", paper=96.22),
    Row("instruction-list", "Table 10", "--instruction list", paper=95.80),
    Row("instruction-diverse", "Table 11", "--instruction diverse", paper=96.56),
    Row("instruction-outline", "Table 11", "--instruction outline", paper=96.27),
    Row("k-1", "Table 12", "--k 1", paper=96.89),
    Row("k-2", "Table 12", "--k 2", paper=95.30),
    Row("k-6", "Table 12", "--k 6", paper=96.36),
    Row("k-8", "Table 12", "--k 8", paper=96.16),
    Row("instruction-steps", "Table 13", "--instruction steps", paper=96.48),
    Row("tune-frozen", "Table 15", "--tune frozen", paper=95.07),
    Row("tune-full", "Table 15", "--tune full", paper=55.31),
    Row("first-direct-qa", "Table 18", paper=96.60, first="direct-qa"),
    Row("first-steps-qa", "Table 18", paper=96.23, first="steps-qa"),
)


def train(row):
    """The model folder that a row trains, or whose model it asks."""
    if row.of:
        return recipe.checkpoint(OUT / row.of / "run", STEPS)
    folder, init = OUT / row.name, "nano"
    settings = ["--data", FIGURES, "--batch", BATCH, "--micro-batch", 4, "--save-every", 50]
    if row.first:
        more = ["--init", init, "--instruction", row.first]
        init = recipe.train(folder / "first", STEPS, *settings, *more)
    return recipe.train(folder / "run", STEPS, *settings, "--init", init, *shlex.split(row.trained))


def main():
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    for row in ROWS:
        model = train(row)
        asked = ["--data", FIGURES, "--limit", LIMIT, *shlex.split(row.asked)]
        recipe.evaluate(OUT / row.name, model, *asked)
    recipe.compare([OUT / row.name for row in ROWS], OUT)
    recipe.draw_curves([OUT / name / "run" for name in CURVES], OUT / "curves.png", CURVES)


if __name__ == "__main__":
    launch.run("scripts.trained", main)
