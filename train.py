"""Train CapeLLM with fixed rounds (Sections 3.3 and 4.1).

    torchrun --nproc_per_node 4 train.py --data data/mp100 --vision weights/dinov2-large --llm weights/Llama-3.1-8B
    python train.py                    # no weights, no data at hand: the embedded nano model on the drawings

The defaults are the paper's. A checkpoint is a model folder (config.json, adapter.safetensors) and what resuming needs.
"""
import argparse
import json
import math
import os
import random
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

import data
from capellm import CapeLLM

BATCH = 128         # pairs an optimiser step: 4 GPUs x 1 x 32 accumulation steps (Section 4.1)
KEEP = 3            # checkpoints


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", nargs="+", default=["data/mp100"], metavar="FOLDER", help="folders with annotations/ and images/ in MP-100's layout")
    p.add_argument("--split", type=int, default=1, help="MP-100 split, 1 to 5")
    p.add_argument("--vision", default="weights/dinov2-large", metavar="FOLDER", help="official DINOv2 folder")
    p.add_argument("--llm", default="weights/Llama-3.1-8B", metavar="FOLDER", help="official Llama, Mistral or Vicuna folder")
    p.add_argument("--init", metavar="FOLDER", help="start from this model folder instead of the two backbones")
    p.add_argument("--descriptions", default=str(data.HERE / "descriptions"), metavar="FOLDER", help="folder of <definition or category>.txt")
    p.add_argument("--out", default="runs/capellm", metavar="FOLDER", help="where checkpoints and log.jsonl go")
    p.add_argument("--k", type=int, default=4, help="rounds of a conversation (fixed rounds)")
    p.add_argument("--epochs", type=float, default=12)
    p.add_argument("--steps", type=int, help="optimiser steps, instead of --epochs")
    p.add_argument("--batch", type=int, default=BATCH, help="pairs an optimiser step, over all processes")
    p.add_argument("--micro-batch", type=int, default=1, help="pairs a process and pass; the rest is accumulated")
    p.add_argument("--lr", type=float, default=5e-4)
    p.add_argument("--workers", type=int, default=2, help="processes that load images, for each GPU")
    p.add_argument("--save-every", type=int, default=200, help="optimiser steps between checkpoints")
    p.add_argument("--resume", action="store_true", help="continue the newest checkpoint of --out")
    p.add_argument("--seed", type=int, default=42)
    return p.parse_args()


def setup():
    """(rank, world size, device) of this process, under torchrun or alone."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return rank, world, device


def schedule(step, steps, warmup=0.03):
    """Factor on the learning rate: linear warm-up over 3% of the steps, then half a cosine down to 0."""
    start = max(1, round(warmup * steps))
    return (step + 1) / start if step < start else 0.5 * (1 + math.cos(math.pi * (step - start) / max(1, steps - start)))


def order(pairs, epoch, rank, world, batch):
    """Indices of this process for each optimiser step of an epoch: the steps' pairs are dealt to the processes in turn."""
    pairs.set_epoch(epoch)
    for at in range(0, len(pairs) - batch + 1, batch):
        yield list(range(at + rank, at + batch, world))


def write(folder, model, state=None):
    """A model folder, complete or not there at all: written beside, then renamed."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    (beside / "config.json").write_text(json.dumps(model.config, indent=1) + "\n")
    save_file({n: t.contiguous() for n, t in model.adapter().items()}, beside / "adapter.safetensors")
    if state is not None:
        torch.save(state, beside / "state.pt")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(beside, folder)


def checkpoints(out):
    return sorted(p for p in Path(out).glob("step-*") if p.name[5:].isdigit())


def collate(items):
    return torch.stack([i[0] for i in items]), [[(ids, labels)] for _, ids, labels in items]


def train(a):
    rank, world, device = setup()
    say = print if rank == 0 else lambda *_, **__: None
    torch.manual_seed(a.seed + rank)
    if not a.init and not Path(a.vision).exists() and not Path(a.llm).exists() and a.data == ["data/mp100"]:
        say(f"no weights in {a.vision} and {a.llm}: training the embedded nano model on the drawings in data/figures")
        a.init, a.data = str(data.HERE / "nano"), ["data/figures"]
        if rank == 0 and not Path("data/figures").exists():
            import figures
            figures.write("data/figures")
        if world > 1:
            dist.barrier()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if a.init:
        model = CapeLLM.from_pretrained(a.init, dtype, device, merge=False)
        model.config |= {b: os.path.abspath(p) if (p := os.path.join(a.init, model.config[b])) and os.path.exists(p) else model.config[b]
                         for b in ("vision", "llm")}
    else:
        model = CapeLLM.assemble(a.vision, a.llm, lora={"rank": 8, "alpha": 16, "dropout": 0.05}, dtype=dtype, device=device)
    model.train()
    instances, names = [], {}
    for folder in a.data:
        more, more_names = data.read_split(folder, a.split, "train")
        instances, names = instances + more, names | more_names
    pairs = data.Pairs(instances, data.describe(instances, names, a.descriptions), model.tokenizer, model.codec,
                       model.image_size, a.k, a.seed)
    if a.batch % (world * a.micro_batch):
        raise ValueError(f"--batch {a.batch} cannot be split into {world} processes x --micro-batch {a.micro_batch}")
    per_epoch = len(pairs) // a.batch
    if per_epoch == 0:
        raise ValueError(f"{len(pairs)} pairs in {', '.join(a.data)} make no batch of {a.batch}: lower --batch")
    steps = a.steps or int(a.epochs * per_epoch)
    say(f"{len(instances)} images, {len(names)} categories, {len(pairs)} pairs an epoch; {steps} steps of {a.batch} pairs "
        f"= {world} x {a.micro_batch} x {a.batch // (world * a.micro_batch)}")
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=a.lr, weight_decay=0.01)
    ddp = DistributedDataParallel(Loss(model)) if world > 1 else Loss(model)
    step, out = 0, Path(a.out)
    if a.resume and checkpoints(out):
        newest = checkpoints(out)[-1]
        state = torch.load(newest / "state.pt", weights_only=True, map_location=device)
        model.load_adapter(newest)
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
        torch.set_rng_state(state["rng"][rank].cpu())
        say(f"resuming {newest}")
    elif checkpoints(out):
        raise ValueError(f"{out} holds checkpoints of an earlier run: add --resume, or choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    log = open(out / "log.jsonl", "a") if rank == 0 else None
    bar = tqdm(total=steps, initial=step, disable=rank > 0, unit="step")
    while step < steps:
        epoch, done = divmod(step, per_epoch)
        batches = list(order(pairs, epoch, rank, world, a.batch))[done:]
        micro = [b[i:i + a.micro_batch] for b in batches for i in range(0, len(b), a.micro_batch)]
        loader = iter(torch.utils.data.DataLoader(pairs, batch_sampler=micro, collate_fn=collate, num_workers=a.workers,
                                                  pin_memory=device.type == "cuda"))
        for batch in batches:
            began, total, tokens = time.time(), 0.0, 0
            passes = len(batch) // a.micro_batch
            for n in range(passes):
                pixels, conversations = next(loader)
                tokens += sum(len(ids) for b in conversations for ids, _ in b)
                if world > 1:                           # one synchronisation an optimiser step
                    ddp.require_backward_grad_sync = n == passes - 1
                loss = ddp(pixels.to(device, non_blocking=True), conversations) / passes
                loss.backward()
                total += loss.detach()
            lr = a.lr * schedule(step, steps)
            for group in optimiser.param_groups:
                group["lr"] = lr
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            total = total.clone()
            if world > 1:
                dist.all_reduce(total)
                total /= world
            if not torch.isfinite(total):
                raise ValueError(f"the loss is {float(total)} at step {step}: no checkpoint was written after it; lower --lr or look at the data")
            step += 1
            if rank == 0:
                log.write(json.dumps({"step": step, "loss": round(float(total), 4), "lr": lr, "tokens_per_s": round(tokens * world / (time.time() - began))}) + "\n")
                log.flush()
                bar.update()
                bar.set_postfix(loss=f"{float(total):.3f}", lr=f"{lr:.1e}")
            if step % a.save_every == 0 or step == steps:
                rng = [torch.get_rng_state()]
                if world > 1:
                    rng = [None] * world
                    dist.all_gather_object(rng, torch.get_rng_state())
                if rank == 0:
                    write(out / f"step-{step:07d}", model, {"step": step, "optimiser": optimiser.state_dict(), "rng": rng})
                    for old in checkpoints(out)[:-KEEP]:
                        shutil.rmtree(old)
            if step == steps:
                break
    bar.close()
    say(f"done: {checkpoints(out)[-1]}")
    if world > 1:
        dist.destroy_process_group()


class Loss(torch.nn.Module):
    """DDP synchronises what is called as a module."""
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels, branches):
        return self.model.loss(pixels, branches)


if __name__ == "__main__":
    try:
        train(arguments())
    except (ValueError, FileNotFoundError) as e:
        sys.exit(f"train.py: {e}") if False else (print(f"train.py: {e}", file=sys.stderr), sys.exit(2))
