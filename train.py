"""Train CapeLLM with fixed rounds (Sections 3.3 and 4.1).

    torchrun --nproc_per_node 4 train.py --data data/mp100 --vision weights/dinov2-large --llm weights/Llama-3.1-8B
    python train.py                    # no weights, no data at hand: the embedded nano model on the drawings

The defaults are the paper's. A checkpoint is a model folder (config.json, adapter.safetensors) and what resuming needs.
"""
import argparse
import json
import math
import os
import shutil
import time
from pathlib import Path

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


def order(pairs, rank, world, batch, micro):
    """Indices of this process's passes in an epoch: each step's pairs are dealt to the processes in turn."""
    for at in range(0, len(pairs) - batch + 1, batch):
        mine = range(at + rank, at + batch, world)
        yield from (list(mine[i:i + micro]) for i in range(0, len(mine), micro))


def loader(a, pairs, epoch, done, rank, world, device):
    """Batches of an epoch from its step `done` on. Its generator is its own: dropout must not depend on when it was made."""
    pairs.set_epoch(epoch)
    mine = list(order(pairs, rank, world, a.batch, a.micro_batch))
    return torch.utils.data.DataLoader(pairs, batch_sampler=mine[done * a.batch // (world * a.micro_batch):], collate_fn=collate,
                                       num_workers=a.workers, pin_memory=device.type == "cuda", generator=torch.Generator())


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
    """The complete checkpoints of a run, oldest first."""
    return sorted(p for p in Path(out).glob("step-*") if p.name[5:].isdigit())


def random_states(device, world):
    """The random state of every process, (world, n) bytes: dropout continues where it stopped."""
    mine = (torch.cuda.get_rng_state() if device.type == "cuda" else torch.get_rng_state()).to(device)
    if world == 1:
        return mine[None].cpu()
    states = [torch.empty_like(mine) for _ in range(world)]
    dist.all_gather(states, mine)
    return torch.stack(states).cpu()


def open_model(a, device):
    """The model to train: --init, or the two backbones with fresh adapters (base bf16 on a GPU, adapters fp32)."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if a.init:
        return CapeLLM.from_pretrained(a.init, dtype, device, merge=False)
    return CapeLLM.assemble(a.vision, a.llm, lora={"rank": 8, "alpha": 16, "dropout": 0.05}, dtype=dtype, device=device)


def open_pairs(a, model):
    """The training part of all --data folders as fixed-round pairs."""
    instances, names = [], {}
    for folder in a.data:
        more, more_names = data.read_split(folder, a.split, "train")
        instances, names = instances + more, names | more_names
    described = data.describe(instances, names, a.descriptions)
    return data.Pairs(instances, described, model.tokenizer, model.codec, model.image_size, a.k, a.seed)


def collate(items):
    return torch.stack([pixels for pixels, _, _ in items]), [[(ids, labels)] for _, ids, labels in items]


class Loss(torch.nn.Module):
    """DDP synchronises what is called as a module."""
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels, branches):
        return self.model.loss(pixels, branches)


def train(a):
    rank, world, device = setup()
    say = print if rank == 0 else lambda *_: None
    if not a.init and a.data == ["data/mp100"] and not any(Path(p).exists() for p in (a.vision, a.llm, *a.data)):
        say(f"nothing in {a.vision}, {a.llm} and data/mp100: training the embedded nano model on the drawings in data/figures")
        a.init, a.data = str(data.HERE / "nano"), ["data/figures"]
        if rank == 0 and not Path("data/figures").exists():
            import figures
            figures.write_dataset("data/figures")
        if world > 1:
            dist.barrier()
    torch.manual_seed(a.seed)                   # the same adapters on every process
    model = open_model(a, device).train()
    pairs = open_pairs(a, model)
    passes = a.batch // (world * a.micro_batch)
    per_epoch = len(pairs) // a.batch
    if a.batch != passes * world * a.micro_batch:
        raise ValueError(f"--batch {a.batch} cannot be split into {world} processes x --micro-batch {a.micro_batch}")
    if not per_epoch:
        raise ValueError(f"{len(pairs)} pairs in {', '.join(a.data)} make no batch of {a.batch}: lower --batch")
    steps = a.steps or int(a.epochs * per_epoch)
    say(f"{len(pairs.instances)} images, {len(pairs)} pairs an epoch; {steps} steps of {a.batch} pairs = "
        f"{world} processes x {a.micro_batch} x {passes} accumulated")
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=a.lr, weight_decay=0.01)
    loss_of = DistributedDataParallel(Loss(model)) if world > 1 else Loss(model)
    torch.manual_seed(a.seed + rank)            # but dropout of its own
    step, out = 0, Path(a.out)
    if checkpoints(out):
        if not a.resume:
            raise ValueError(f"{out} holds checkpoints of an earlier run: add --resume, or choose another --out")
        newest = checkpoints(out)[-1]
        state = torch.load(newest / "state.pt", weights_only=True)
        if len(state["random"]) != world:
            raise ValueError(f"{newest} was written by {len(state['random'])} processes, here are {world}: start as many")
        model.load_adapter(newest)
        optimiser.load_state_dict(state["optimiser"])
        (torch.cuda.set_rng_state if device.type == "cuda" else torch.set_rng_state)(state["random"][rank])
        step = state["step"]
        say(f"resuming {newest}")
    out.mkdir(parents=True, exist_ok=True)
    log, bar = open(out / "log.jsonl", "a"), tqdm(total=steps, initial=step, disable=rank > 0, unit="step")
    batches = iter(())
    while step < steps:
        began, total, tokens = time.time(), torch.zeros((), device=device), 0
        for n in range(passes):
            if (batch := next(batches, None)) is None:
                epoch, done = divmod(step, per_epoch)
                batches = iter(loader(a, pairs, epoch, done, rank, world, device))
                batch = next(batches)
            pixels, conversations = batch
            tokens += sum(len(ids) for c in conversations for ids, _ in c)
            if world > 1:
                loss_of.require_backward_grad_sync = n == passes - 1    # once an optimiser step
            loss = loss_of(pixels.to(device, non_blocking=True), conversations) / passes
            loss.backward()
            total += loss.detach()
        if world > 1:
            dist.all_reduce(total)
        mean, lr = float(total) / world, a.lr * schedule(step, steps)
        if not math.isfinite(mean):
            raise ValueError(f"the loss is {mean} at step {step}: the last checkpoint is from before; lower --lr or check the data")
        for group in optimiser.param_groups:
            group["lr"] = lr
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        if rank == 0:
            speed = round(tokens * world / (time.time() - began))
            log.write(json.dumps({"step": step, "loss": round(mean, 4), "lr": lr, "tokens_per_s": speed}) + "\n")
            log.flush()
            bar.update()
            bar.set_postfix(loss=f"{mean:.3f}", lr=f"{lr:.1e}")
        if step % a.save_every == 0 or step == steps:
            states = random_states(device, world)
            if rank == 0:
                write(out / f"step-{step:07d}", model, {"step": step, "optimiser": optimiser.state_dict(), "random": states})
                for old in checkpoints(out)[:-KEEP]:
                    shutil.rmtree(old)
    bar.close()
    say(f"done: {out}/step-{step:07d}")          # rank 0 may still be writing it when the others are here
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    data.run("train.py", lambda: train(arguments()))
