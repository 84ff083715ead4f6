"""Draw the loss, learning rate and validation PCK of runs into one picture.

    python -m scripts.curves runs/a runs/b --out curves.png
"""

from pathlib import Path

from support import launch
from support.checkpoints import draw_curves, read_log
from support.options import Parser


def main():
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="FOLDER", help="--out of train.py")
    parser.add_argument("--labels", nargs="+", metavar="NAME",
                        help="one for each run, instead of the folder's name")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), metavar="FILE",
                        help="the picture (default: %(default)s)")
    options = parser.parse_args()
    for run in options.runs:
        if not read_log(run):
            raise FileNotFoundError(f"{run / 'log.jsonl'} not found or empty: "
                                    "give folders that train.py wrote")
    labels = options.labels or [run.name for run in options.runs]
    if len(labels) != len(options.runs) or len(set(labels)) != len(labels):
        raise ValueError(f"--labels: {len(options.runs)} runs need as many different names, "
                         f"not {', '.join(labels)}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    runs = dict(zip(labels, options.runs, strict=True))
    try:
        draw_curves(runs, options.out)
    except ImportError:
        raise ValueError("drawing needs matplotlib: pip install matplotlib") from None
    print(options.out)


if __name__ == "__main__":
    launch.run("scripts.curves", main)
