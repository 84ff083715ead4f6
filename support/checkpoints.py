"""What a training run leaves in its folder: checkpoints, log.jsonl, curves.png.

A checkpoint is a model folder (config.json, adapter.safetensors) and state.safetensors, what resuming needs. Only rank 0 writes.
"""
import json
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor, distribute_tensor



def whole(tensor, rank):
    """A tensor without its shards, on the CPU of rank 0; the others must call, too, and keep nothing."""
    tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return tensor.contiguous().cpu() if rank == 0 else None


def like(tensor, p):
    """A whole tensor, where the parameter p is and sharded as it; AdamW's count of steps stays on the CPU."""
    if not tensor.dim():
        return tensor
    tensor = tensor.to(p.device)
    return distribute_tensor(tensor, p.device_mesh, p.placements) if isinstance(p, DTensor) else tensor


def random_states(device, world):
    """The random state of every process, (world, n) bytes: dropout continues where it stopped."""
    mine = (torch.cuda.get_rng_state() if device.type == "cuda" else torch.get_rng_state()).to(device)
    if world == 1:
        return mine[None].cpu()
    states = [torch.empty_like(mine) for _ in range(world)]
    dist.all_gather(states, mine)
    return torch.stack(states).cpu()


def list_checkpoints(out):
    """The complete checkpoints of a run, oldest first."""
    return sorted(p for p in Path(out).glob("step-*") if p.name[5:].isdigit())


@contextmanager
def written(path):
    """The name beside `path` to write to: renamed once complete, or removed. OSError names the path and the remedy."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    except (OSError, SafetensorError) as e:
        shutil.rmtree(partial, ignore_errors=True) if partial.is_dir() else partial.unlink(missing_ok=True)
        raise unwritten(path, e) from None


def unwritten(path, e):
    return OSError(f"{path} cannot be written ({e}): make room; training continues with --resume, its checkpoints are untouched")


def save(tensors, path, metadata=None):
    """save_file, but with the mode of any other file: its own lets the owner alone read, whatever the umask."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata)
    path.chmod(mode)


def write(folder, config, tensors, state):
    """A checkpoint, complete or not there at all: written beside, brought to the disk, then renamed.

    state: {"optimiser": {parameter: {name: tensor}}, "random": (processes, n) bytes, "settings": {...}, and other JSON}.
    """
    with written(folder) as beside:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        (beside / "config.json").write_text(config.to_json())
        save(tensors, beside / "adapter.safetensors")
        moments = {f"{name}/{k}": t for name, moments in state["optimiser"].items() for k, t in moments.items()}
        metadata = {k: json.dumps(v) for k, v in state.items() if k not in ("optimiser", "random")}
        save(moments | {"random": state["random"]}, beside / "state.safetensors", metadata)
        for path in [*beside.iterdir(), beside]:
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)
            os.close(file)


def read_state(folder, settings):
    """The state of the checkpoint to continue; ValueError where it is damaged or was written under other settings."""
    file = folder / "state.safetensors"
    try:
        with safe_open(file, framework="pt") as saved:
            state = {k: json.loads(v) for k, v in saved.metadata().items()}
            state |= {"optimiser": {}, "random": saved.get_tensor("random")}
            for key in sorted(set(saved.keys()) - {"random"}):      # on all processes alike: each is dealt out by all
                name, _, k = key.rpartition("/")
                state["optimiser"].setdefault(name, {})[k] = saved.get_tensor(key)
        before = state["settings"]
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError) as e:
        raise ValueError(f"{file} is damaged ({e}): remove {folder}, and --resume continues the checkpoint before it") from None
    if different := [f"{k} changed" if k.startswith("the ") else f"{k} was {before.get(k)}, is {v}"     # the: fingerprints
                     for k, v in settings.items() if before.get(k) != v]:
        raise ValueError(f"{folder} is of another run: {'; '.join(different)}. Resume as it was started, or choose another --out")
    return state


def read_log(out):
    """The lines of log.jsonl, {"step": ...}; a line that a crash cut short is left out."""
    file, records = Path(out) / "log.jsonl", []
    for line in file.read_text().splitlines() if file.exists() else ():
        with suppress(ValueError):
            records.append(json.loads(line))
    return records


def cut_log(out, step):
    """Leave out of log.jsonl what follows a step: what is done again is logged again."""
    with written(out / "log.jsonl") as beside:
        beside.write_text("".join(json.dumps(r) + "\n" for r in read_log(out) if r["step"] <= step))


def log(out, record):
    """Add a line to log.jsonl."""
    try:
        with open(out / "log.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as e:
        raise unwritten(out / "log.jsonl", e) from None


def curves(runs, path):
    """Draw loss, learning rate and validation PCK of runs {label: folder} into one picture. ImportError without matplotlib."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    logs = {label: read_log(out) for label, out in runs.items()}
    validated = any("val" in r for log in logs.values() for r in log)
    figure, axes = pyplot.subplots(1, 2 + validated, figsize=(5 * (2 + validated), 3.5), constrained_layout=True)
    for label, log in logs.items():
        steps, width = [r["step"] for r in log], max(1, len(log) // 10)
        losses = [r["loss"] for r in log]
        smooth = [sum(losses[max(0, i - width):i + 1]) / len(losses[max(0, i - width):i + 1]) for i in range(len(log))]
        line, = axes[0].plot(steps, smooth, label=label)
        axes[0].plot(steps, losses, color=line.get_color(), alpha=0.1)
        axes[1].plot(steps, [r["lr"] for r in log], color=line.get_color())
        for name, style in (("PCK@0.20", "-"), ("PCK@0.05", "--")) if validated else ():
            points = [(r["step"], 100 * r["val"][name]) for r in log if "val" in r]
            axes[2].plot(*zip(*points), style, marker=".", color=line.get_color(), label=f"{label} {name}") if points else None
    for axis, title in zip(axes, (f"loss (mean of {width + 1} steps)", "learning rate", "validation PCK, %")):
        axis.set(title=title, xlabel="step")
    axes[0].legend()
    if validated:
        axes[2].legend()
    pyplot.close(figure)
    with written(Path(path)) as beside:
        figure.savefig(beside, format=Path(path).suffix[1:] or "png")


def tensorboard(out, step):
    """TensorBoard's writer where it is installed; it hides what an earlier one wrote after this step."""
    try:
        from torch.utils.tensorboard import SummaryWriter
        return SummaryWriter(out / "tensorboard", purge_step=step + 1)
    except ImportError:
        return None
