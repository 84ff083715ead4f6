"""Draw the loss, learning rate and validation PCK of runs into one picture.

    python -m scripts.curves runs/a runs/b --out curves.png
"""

import argparse
from pathlib import Path

from support import launch
from support.checkpoints import curves, read_log


def main():
    p = argparse.ArgumentParser(description="Draw the loss, learning rate and validation PCK of runs into one picture.")
    p.add_argument("runs", nargs="+", type=Path, metavar="FOLDER", help="--out of train.py")
    p.add_argument("--labels", nargs="+", metavar="NAME", help="one for each run, instead of the folder's name")
    p.add_argument("--out", type=Path, default=Path("curves.png"), metavar="FILE")
    a = p.parse_args()
    for run in a.runs:
        if not read_log(run):
            raise FileNotFoundError(f"{run / 'log.jsonl'} not found or empty: give folders that train.py wrote")
    labels = a.labels or [run.name for run in a.runs]
    if len(set(labels)) != len(a.runs):
        raise ValueError(f"--labels: {len(a.runs)} runs need as many different names, not {', '.join(labels)}")
    a.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        curves(dict(zip(labels, a.runs)), a.out)
    except ImportError:
        raise ValueError("drawing needs matplotlib: pip install matplotlib") from None
    print(a.out)


if __name__ == "__main__":
    launch.run("scripts.curves", main)
