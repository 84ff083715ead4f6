"""What a training run leaves in its folder: checkpoints, log.jsonl, curves.png.

A checkpoint is a model folder (config.json, adapter.safetensors) with state.safetensors, what
resuming needs, beside it. Only rank 0 writes. Nothing is half-written: a file or folder is written
beside its name and then renamed.
"""

import json
import os
import re
import shutil
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from support import parallel
from support.files import refuse_special, write_whole
from support.json_files import format_json, parse_json, read_json_lines
from support.pictures import cut_name
from support.quote import cut
from support.shapes import COUNT, NUMBER, OBJECT, Maybe, OrNull

KEEP = 3  # newest checkpoints; the best is kept beside them

# A line of log.jsonl, see `describe_step`; "val": what was measured after the step.
LOGGED = {
    "step": COUNT,
    "loss": NUMBER,
    "lr": NUMBER,
    "digits": Maybe(NUMBER),
    "gradient": Maybe(NUMBER),
    "pairs_per_s": Maybe(NUMBER),
    "tokens_per_s": Maybe(NUMBER),
    "waiting": Maybe(NUMBER),
    "GB": Maybe(NUMBER),
    "val": Maybe({"PCK@0.20": NUMBER, "PCK@0.05": NUMBER}),
}
# What state.safetensors holds besides tensors. "best": what train_options.choose_best gives.
STATE = {"step": COUNT, "best": OrNull((NUMBER, COUNT)), "settings": OBJECT}
# What AdamW keeps of a parameter: how many steps it took, and two moments.
MOMENTS = {"step", "exp_avg", "exp_avg_sq"}
# Of a matrix that Muon updates
MUON_MOMENTS = {"momentum"}


class Start(NamedTuple):
    """Where a run goes on. folder: the newest checkpoint, None if there is none; state: its state;
    log: what log.jsonl holds of the steps before it, on rank 0 alone, which writes it."""

    folder: Path | None
    state: dict
    log: list


@contextmanager
def explain_unwritten(path):
    """OSError naming the path and the remedy, if writing it fails in this block."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{path} cannot be written ({error}): make room; "
            "training continues with --resume, its checkpoints are untouched"
        ) from None


@contextmanager
def write_whole_folder(folder):
    """A new folder beside `folder` to write into: renamed when the block is done, removed if it
    fails. What stands under the name before must be removed in the block."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def save_tensors(tensors, path, metadata=None):
    """Write a safetensors file with the mode of any other file."""
    # The mode that save_file sets lets only the owner read, whatever the umask.
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata)
    path.chmod(mode)


def list_checkpoints(out):
    """The complete checkpoints of a run, oldest first."""
    found = Path(out).glob("step-*")
    return sorted(p for p in found if re.fullmatch("step-[0-9]+", p.name))


def write_checkpoint(folder, config, tensors, state):
    """Write a checkpoint, complete or not there at all.

    config: a CapeLLMConfig; tensors: the adapter; state: {"optimiser": {parameter: {name: tensor}},
    "random": (processes, n) bytes, "settings": {...}}, and whatever else JSON holds.
    """
    moments = {}
    for parameter, tensors_of_parameter in state["optimiser"].items():
        for name, tensor in tensors_of_parameter.items():
            moments[f"{parameter}/{name}"] = tensor
    others = state.keys() - {"optimiser", "random"}
    rest = {k: json.dumps(state[k], allow_nan=False) for k in sorted(others)}
    with explain_unwritten(folder), write_whole_folder(folder) as partial:
        (partial / "config.json").write_text(config.to_json())
        save_tensors(tensors, partial / "adapter.safetensors")
        save_tensors(moments | {"random": state["random"]}, partial / "state.safetensors", rest)
        # Synced to the disk before the folder is renamed, so that a power cut empties no file.
        for path in [*partial.iterdir(), partial]:
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)
            os.close(file)


def remove_old_checkpoints(out, best_step, keep=KEEP):
    """Remove all but the newest `keep` checkpoints and the one of `best_step`, if any."""
    for old in list_checkpoints(out)[:-keep]:
        if best_step is None or old.name != f"step-{best_step:07d}":
            shutil.rmtree(old)


def explain_removal(folder):
    """What to do about a checkpoint that is damaged."""
    return f"remove {folder}, and --resume continues the checkpoint before it"


def read_state(folder, settings):
    """The state of the checkpoint to continue, as write_checkpoint takes it.

    ValueError if it is damaged or was written under other settings.
    """
    file, remedy = folder / "state.safetensors", explain_removal(folder)
    refuse_special(file)
    try:
        with safe_open(file, framework="pt") as saved:
            texts = saved.metadata() or {}
            state = {"optimiser": {}, "random": saved.get_tensor("random")}
            for key in sorted(set(saved.keys()) - {"random"}):
                parameter, _, name = key.rpartition("/")
                state["optimiser"].setdefault(parameter, {})[name] = saved.get_tensor(key)
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(f"{file} is damaged ({cut(error)}): {remedy}") from None
    for name, shape in STATE.items():
        if name not in texts:
            raise ValueError(f"{file}: {name} is missing: {remedy}")
        state[name] = parse_json(texts[name], shape, f"{file}, {name}", remedy)
    if state["step"] != int(folder.name.removeprefix("step-")):
        raise ValueError(f"{file} is of step {state['step']}: {remedy}")
    check_settings(folder, state["settings"], settings)
    return state


def check_settings(folder, before, settings):
    """ValueError naming the settings in which a checkpoint differs from the run to be continued."""
    different = []
    for name, value in settings.items():
        if before.get(name) != value:
            is_fingerprint = name.startswith("the ")
            was = f"{name} was {cut(before.get(name))}, is {cut(value)}"
            different.append(f"{name} changed" if is_fingerprint else was)
    if different:
        raise ValueError(
            f"{folder} is of another run: {'; '.join(different)}. "
            "Resume as it was started, or choose another --out"
        )


def check_state(folder, state, parameters, device, rank):
    """ValueError if a state read from a checkpoint does not fit the parameters {name: parameter},
    or the device that this process computes on."""
    file, remedy = folder / "state.safetensors", explain_removal(folder)
    for name in sorted(state["optimiser"].keys() ^ parameters.keys()):
        problem = "missing" if name in parameters else "not expected"
        raise ValueError(f"{file}: what the optimiser keeps of {name} is {problem}: {remedy}")
    for name, moments in state["optimiser"].items():
        problem = find_wrong_moment(moments, parameters[name], state["step"])
        if problem:
            raise ValueError(f"{file}: {name}/{problem}: {remedy}")
    try:
        torch.Generator(device).set_state(state["random"][rank].clone())
    except (RuntimeError, TypeError, IndexError):
        raise ValueError(
            f"{file}: its random numbers are not of this kind of device ({device.type}): "
            f"resume on the other, or {remedy}"
        ) from None


def find_wrong_moment(moments, parameter, step):
    """What is wrong with what is kept of a parameter for so many steps; None if nothing."""
    expected = MUON_MOMENTS if "momentum" in moments else MOMENTS
    for name in sorted(moments.keys() ^ expected):
        return f"{name} is " + ("missing" if name in expected else "not expected")
    for name in sorted(expected - {"step"}):
        tensor = moments[name]
        if tensor.shape != parameter.shape or tensor.dtype != parameter.dtype:
            return f"{name} is {tuple(tensor.shape)}, {tensor.dtype}, as its parameter is not"
        if not tensor.isfinite().all() or (name == "exp_avg_sq" and (tensor < 0).any()):
            return f"{name} holds what is no number, or below 0"
    if "step" not in expected:
        return None
    kept = moments["step"]
    if kept.shape != () or kept.is_complex() or not 1 <= kept.item() <= step:
        return f"step is no number from 1 to {step}"
    return None


def read_newest_state(out, settings, rank=0, world=1):
    """Where a run goes on. ValueError if it cannot go on from what is in its folder."""
    found = parallel.ask_first(partial(find_newest, out), rank, world)
    if not found:
        return Start(None, {"step": 0, "best": None}, [])
    state = read_state(found, settings)
    log = [] if rank > 0 else [r for r in read_log(out) if r["step"] <= state["step"]]
    return Start(found, state, log)


def find_newest(out):
    """The newest checkpoint, or None."""
    refuse_special(Path(out) / "log.jsonl")
    found = list_checkpoints(out)
    return found[-1] if found else None


def read_log(out):
    """The lines of log.jsonl, {"step": ...}; a line that a crash cut short is left out."""
    file = Path(out) / "log.jsonl"
    return read_json_lines(file, LOGGED, "remove this line") if file.exists() else []


def write_log(out, log):
    """Write log.jsonl anew, without what a Start left out: what is done again is logged again."""
    path = out / "log.jsonl"
    with explain_unwritten(path), write_whole(path) as partial:
        partial.write_text("".join(format_json(record) + "\n" for record in log))


def describe_step(step, lr, measured, batch, began):
    """A line of log.jsonl about a step of `batch` pairs that began at a time.

    measured: its loss, digits, tokens and the seconds waited. waiting: the share of the time that
    was spent waiting for images. GB: what PyTorch's tensors took of a GPU at most, so far.
    """
    seconds = time.time() - began
    record = {
        "step": step,
        "loss": round(measured.loss, 4),
        "digits": round(measured.digits, 4),
        "gradient": round(measured.gradient, 4),
        "lr": lr,
        "pairs_per_s": round(batch / seconds, 2),
        "tokens_per_s": round(measured.tokens / seconds),
        "waiting": round(measured.waited / seconds, 3),
    }
    if torch.cuda.is_available():
        record["GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return record


def append_to_log(out, record):
    """Add a line to log.jsonl."""
    path = out / "log.jsonl"
    with explain_unwritten(path), open(path, "a") as file:
        file.write(format_json(record) + "\n")


def average_behind(values, width):
    """For each value the mean of the `width` values before it and of itself."""
    means = []
    for i in range(len(values)):
        window = values[max(0, i - width):i + 1]
        means.append(sum(window) / len(window))
    return means


def draw_curves(runs, path):
    """Draw the loss, learning rate and validation PCK of runs {label: folder} into one picture.

    ImportError without matplotlib.
    """
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    logs = {label: read_log(out) for label, out in runs.items()}
    validated = any("val" in record for log in logs.values() for record in log)
    titles = ["loss (mean of the last tenth)", "learning rate"]
    if validated:
        titles.append("validation PCK, %")
    size = (5 * len(titles), 3.5)
    figure, axes = pyplot.subplots(1, len(titles), figsize=size, constrained_layout=True)
    for label, log in logs.items():
        # Between dollars matplotlib expects a formula.
        label = cut_name(cut(label)).replace("$", r"\$")
        steps = [record["step"] for record in log]
        losses = [record["loss"] for record in log]
        smooth = average_behind(losses, width=max(1, len(log) // 10))
        line, = axes[0].plot(steps, smooth, label=label)
        colour = line.get_color()
        axes[0].plot(steps, losses, color=colour, alpha=0.1)
        axes[1].plot(steps, [record["lr"] for record in log], color=colour)
        measured = [record for record in log if "val" in record]
        if measured:
            at = [record["step"] for record in measured]
            for name, style in (("PCK@0.20", "-"), ("PCK@0.05", "--")):
                pck = [100 * record["val"][name] for record in measured]
                axes[2].plot(at, pck, style, marker=".", color=colour, label=f"{label} {name}")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xlabel="step")
    axes[0].legend()
    if validated:
        axes[2].legend()
    pyplot.close(figure)
    kind = Path(path).suffix[1:].lower() or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise ValueError(f"{path}: curves are not drawn as .{cut(kind)}: name it .png or .pdf")
    with explain_unwritten(path), write_whole(Path(path)) as partial:
        figure.savefig(partial, format=kind)


def draw_own_curves(out):
    """Draw a run's curves.png, or say with its first checkpoint what is missing for that."""
    try:
        draw_curves({out.name: out}, out / "curves.png")
    except ImportError:
        if len(list_checkpoints(out)) == 1:
            tqdm.write("no curves.png: pip install matplotlib")
    except ValueError as error:
        # Someone has changed the log meanwhile: no reason to end a training.
        tqdm.write(f"no curves.png: {error}")
