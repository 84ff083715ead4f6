"""What the recipes share: train and evaluate in processes of their own, once."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

PROCESSES = 2
FIGURES = "data/figures"


class Row(NamedTuple):
    """A row of one of the paper's tables, measured anew with nano."""

    # Of its folder below out/
    name: str
    # "Table 9", of the paper
    table: str
    # Of train.py, of eval.py
    trained: str = ""
    asked: str = ""
    # How the paper measured it, as study.paper.find_published takes it; None if it did not
    paper: dict | None = None
    # The row whose answers are counted anew, or whose model is asked, instead of its own
    of: str = ""
    # The row that it is compared with, "" for the first
    against: str = ""
    # Trained first with this instruction, which trains the projection alone
    first: str = ""
    # Trained with this vision encoder, pre-trained beside nano's language model
    vision: str = ""
    # Measured beside the answers, as `eval.py --compare` names it, and shown instead of them
    parts: tuple = ()


def run(*arguments):
    """Run Python with these arguments, and end with its exit code where it fails."""
    arguments = [str(argument) for argument in arguments]
    print("$ python", shlex.join(arguments), flush=True)
    code = subprocess.run([sys.executable, *arguments]).returncode
    if code:
        sys.exit(code)


def torchrun(*arguments):
    """Run one of the commands in two processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", PROCESSES]
    run(*launcher, *arguments)


def checkpoint(run_folder, step):
    return Path(run_folder) / f"step-{step:07d}"


def train(out, steps, *arguments):
    """Train up to a step, from where an interrupted run stopped. Returns the model folder."""
    model = checkpoint(out, steps)
    if not model.is_dir():
        torchrun("train.py", *arguments, "--workers", 0, "--steps", steps, "--resume", "--out", out)
    return model


def is_done(out, model):
    """Whether results are there, and are no older than the model."""
    results, weights = Path(out) / "results.json", Path(model) / "adapter.safetensors"
    return results.is_file() and results.stat().st_mtime >= weights.stat().st_mtime


def ask(out, model, *arguments):
    """Evaluate a model, from where an interrupted evaluation stopped."""
    torchrun("eval.py", "--model", model, *arguments, "--resume", "--out", out)


def evaluate(out, model, *arguments):
    """Evaluate a model unless that is done."""
    if not is_done(out, model):
        ask(out, model, *arguments)


def compare(folders, out):
    """Write the table of several evaluations of the same images into out/compare.json and .md."""
    run("eval.py", "--compare", *folders, "--out", out)


def draw_curves(runs, out, labels=()):
    labels = ["--labels", *labels] if labels else []
    run("-m", "scripts.curves", *runs, *labels, "--out", out)
