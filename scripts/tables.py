"""The paper's tables that need no other training: nano asked about the same drawings in each way.

    python -m scripts.tables --limit 200            # `make tables LIMIT=200`

Each row is measured into a folder of its own below out/tables-200; those that are there are left
alone, an interrupted one continues. The instructions `diverse` and `random` are not among them:
they ask what `base` asks. At the end follow the densities of fewer drawings (Section 4.4).
"""

import shlex
import shutil
from pathlib import Path

from scripts import recipe
from scripts.recipe import FIGURES, Row
from study.pairs import PAIRS
from support import launch
from support.options import Parser, read_positive

MODEL = "nano"
SIMPLE = "descriptions/simple"
DENSITY, DENSE = Path("out/density"), 100


def decoded(name):
    """A row of Table 9."""
    return Row(f"decoding-{name}", "Table 9", asked=f"--decoding {name}", paper={"decoding": name})


ROWS = (
    Row("base", "Table 2", paper={}),
    Row("pairs", "Table 2", asked="--pairs", paper={"protocol": PAIRS}, of="base"),
    Row("cumulative-fixed", "Table 3", asked="--cumulative", paper={"cumulative": "fixed"}),
    Row("cumulative-confidence", "Table 3", asked="--cumulative confidence"),
    Row("descriptions-vague", "Table 5", asked="--descriptions descriptions/vague"),
    Row("names-simple", "Table 6", asked=f"--names {SIMPLE}", paper={"texts": "simple names"}),
    Row(
        "descriptions-simple",
        "Table 6",
        asked=f"--descriptions {SIMPLE} --names descriptions",
        paper={"texts": "simple descriptions"},
    ),
    Row("both-simple", "Table 6", asked=f"--descriptions {SIMPLE}", paper={"texts": "simple"}),
    Row(
        "instruction-replaced",
        "Table 7",
        asked="--instruction replaced",
        paper={"asked": "replaced"},
    ),
    Row("instruction-names", "Table 7", asked="--instruction names", paper={"asked": "names"}),
    # nano reads 12 x 12 patches, the paper's model 16 x 16: 13, 14 and 18 stand beside 17, 18, 24.
    Row("image-size-182", "Table 8", asked="--image-size 182", paper={"image_size": 238}),
    Row("image-size-196", "Table 8", asked="--image-size 196", paper={"image_size": 252}),
    Row("image-size-252", "Table 8", asked="--image-size 252", paper={"image_size": 336}),
    decoded("sampling"),
    decoded("temperature"),
    decoded("top-3"),
    decoded("top-5"),
    decoded("nucleus"),
    decoded("contrastive"),
    Row("instruction-list", "Table 10", asked="--instruction list"),
    Row("instruction-outline", "Table 11", asked="--instruction outline"),
    Row("instruction-steps", "Table 13", asked="--instruction steps"),
    Row(
        "occlude",
        "Figure 4",
        asked="--occlude 0.2 0.4 0.6",
        parts=("20% covered", "40% covered", "60% covered"),
    ),
)


def copy_answers(folder, to):
    """Let an evaluation start with the answers of another one that asked the same."""
    to.mkdir(parents=True, exist_ok=True)
    for name in ("results.json", "instances.jsonl"):
        shutil.copy(folder / name, to)


def measure(row, out, limit):
    folder = out / row.name
    if recipe.is_done(folder, MODEL):
        return
    if row.of:
        copy_answers(out / row.of, folder)
    recipe.ask(folder, MODEL, "--data", FIGURES, "--limit", limit, *shlex.split(row.asked))


def main():
    p = Parser(description=__doc__.split("\n")[0])
    p.add_argument(
        "--limit", type=read_positive, default=200, help="drawings asked about (default: 200)"
    )
    a = p.parse_args()
    out = Path(f"out/tables-{a.limit}")
    for row in ROWS:
        measure(row, out, a.limit)
    recipe.compare([out / row.name for row in ROWS], out)
    recipe.evaluate(DENSITY, MODEL, "--data", FIGURES, "--limit", DENSE, "--density")
    print((DENSITY / "results.md").read_text())


if __name__ == "__main__":
    launch.run("scripts.tables", main)
