"""Train CapeLLM (Sections 3.3 and 4.1; Tables 2 and 15).

    torchrun --nproc_per_node 4 train.py                                  # weights/ and data/mp100, the paper's settings
    python train.py --init nano --data FOLDER --descriptions FOLDER       # your own photographs, from the embedded model
    python train.py                                                       # nothing at hand: nano on the drawings

Interrupted and resumed, a run ends with the same weights, bit by bit: the pairs of a step, their augmentation and dropout
follow from the seed and the step alone.
"""
import argparse
import hashlib
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from copy import copy
from functools import partial
from itertools import count, islice
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from support import launch
from study import instructions
import data
import eval as evaluation
from study import metrics
from support import checkpoints
from capellm import CapeLLM
from support import check
from support.folders import CapeLLMConfig
from lora import LoRALinear

BATCH = 128         # pairs an optimiser step: 4 GPUs x 1 x 32 accumulation steps (Section 4.1)
LORA = {"rank": 8, "alpha": 16, "dropout": 0.05, "parts": ["vision", "llm"]}
KEEP = 3            # newest checkpoints; the best is kept beside them
VALIDATION = 200    # images, spread evenly over the validation part
MB = 2 ** 20
STOP = signal.SIGTERM, signal.SIGINT      # end the step, save and leave


def arguments():
    def positive(text, kind=int):
        if not 0 < (value := kind(text)) < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is no positive number")
        return value

    def number(text):
        return positive(text, float)

    p = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", nargs="+", default=["data/mp100"], metavar="FOLDER", help="folders with annotations/ and images/, MP-100's or your own")
    p.add_argument("--split", type=int, default=1, help="MP-100 split, 1 to 5")
    p.add_argument("--skip-missing", action="store_true", help="train without the images that are missing or unreadable")
    p.add_argument("--vision", default="weights/dinov2-large", metavar="FOLDER", help="official DINOv2 folder")
    p.add_argument("--llm", default="weights/Llama-3.1-8B", metavar="FOLDER", help="official Llama, Mistral or Vicuna folder")
    p.add_argument("--init", metavar="FOLDER", help="start from this model folder instead of the two backbones")
    p.add_argument("--descriptions", default=str(data.HERE / "descriptions"), metavar="FOLDER", help="folder of <definition or category>.txt")
    p.add_argument("--instruction", default="base", choices=instructions.INSTRUCTIONS,
                   help="how a conversation reads (Section 3.2, Supplement B.1); the two -qa train the projection alone (Supplement C)")
    p.add_argument("--out", default="runs/capellm", metavar="FOLDER", help="where checkpoints, log.jsonl and curves.png go")
    p.add_argument("--rounds", default="fixed", choices=data.ROUNDS, help="how an image's keypoints are grouped (Section 3.3)")
    p.add_argument("--k", type=positive, default=4, help="rounds of a conversation (fixed, locllm)")
    p.add_argument("--tune", default="lora", choices=["lora", "frozen", "full"],
                   help="train adapters in both backbones, none in the vision encoder, or everything (Table 15)")
    p.add_argument("--epochs", type=number, default=12)
    p.add_argument("--steps", type=positive, help="optimiser steps, instead of --epochs")
    p.add_argument("--batch", type=positive, default=BATCH, help="pairs an optimiser step, over all processes")
    p.add_argument("--micro-batch", type=positive, default=1, help="pairs a process and pass; the rest is accumulated")
    p.add_argument("--share-image", action="store_true",
                   help="compute an image once for its pairs in a pass, which have one augmentation")
    p.add_argument("--lr", type=number, default=5e-4)
    p.add_argument("--fsdp", action="store_true", help="shard weights and optimiser over the GPUs, where one cannot hold them")
    p.add_argument("--checkpoint-activations", action="store_true", help="less memory: compute every layer again going backward")
    p.add_argument("--workers", type=int, default=2, help="processes that load images, for each GPU")
    p.add_argument("--save-every", type=positive, default=200, help="optimiser steps between checkpoints")
    p.add_argument("--val-every", type=positive, help="optimiser steps between measurements on the validation categories")
    p.add_argument("--resume", action="store_true", help="continue the newest checkpoint of --out")
    p.add_argument("--seed", type=int, default=42)
    a = p.parse_args()
    if a.init and any(getattr(a, backbone) != p.get_default(backbone) for backbone in ("vision", "llm")):
        raise ValueError(f"--init {a.init} names its own backbones: leave out --vision and --llm")
    return a


def schedule(step, steps, warmup=0.03):
    """Factor on the learning rate: linear warm-up over 3% of the steps, then half a cosine down to 0."""
    start = max(1, round(warmup * steps))
    return (step + 1) / start if step < start else 0.5 * (1 + math.cos(math.pi * (step - start) / max(1, steps - start)))


# ------------------------------------------------- which pairs make which step

class Stream(torch.utils.data.Dataset):
    """The pairs of all epochs in a row; an item is (epoch, i)."""
    def __init__(self, pairs):
        self.pairs, self.epoch = copy(pairs), None

    def at(self, epoch):
        if epoch != self.epoch:
            self.pairs.set_epoch(epoch)
            self.epoch = epoch
        return self.pairs

    def __getitem__(self, place):
        return self.at(place[0])[place[1]]

    def places(self, first):
        """(epoch, i) of the pairs from number `first` on, without end."""
        for epoch in count():
            n = len(self.at(epoch))
            yield from ((epoch, i) for i in range(first, n))
            first = max(0, first - n)


def sizes(batch, world, micro):
    """Pairs in each pass of a step: as many passes for each process, even in size, or empty."""
    n = world * math.ceil(batch / (world * micro))
    return [(batch + i) // n for i in range(n)]


def dealt(passes, rank, world):
    """A process's passes, dealt in turn, there and back: sorted by length they are an equal load."""
    return [passes[n + (world - 1 - rank if n // world % 2 else rank)] for n in range(0, len(passes), world)]


def pack(rows, sizes):
    """Rows, lists of pairs that share an image, in passes of these sizes, as ordered. One is cut only where no other fits."""
    rows, passes = list(rows), []
    for size in sizes:
        passes.append([])
        while room := size - len(passes[-1]):
            row = rows.pop(next((n for n, row in enumerate(rows) if len(row) <= room), 0))
            passes[-1] += row[:room]
            if row[room:]:
                rows.insert(0, row[room:])
    return passes


def passes(pairs, step, batch, rank, world, micro):
    """This process's places of each pass from `step` on. Those of like length share a pass, for little padding.

    An empty pass is the step's shortest pair instead: it weighs nothing.
    """
    stream = Stream(pairs)
    places = stream.places(step * batch)
    while True:
        rows, tokens = {}, {}
        for epoch, i in islice(places, batch):
            view = stream.at(epoch).plans[i].view                # the same for pairs that share an image
            rows.setdefault(view, []).append((epoch, i))
            tokens[view] = tokens.get(view, 0) + stream.pairs.count_tokens(i)
        order = [rows[view] for view in sorted(rows, key=tokens.get, reverse=True)]
        parts = pack(order, sizes(batch, world, micro))
        yield from (part or order[-1][-1:] for part in dealt(parts, rank, world))


def unstoppable(_):
    """A worker leaves when its process does: torchrun and terminals signal both, and the process still has a step to finish."""
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)


def collate(items):
    """Images (B, 3, S, S), each with its conversations: neighbours of the same pixels are branches off one image."""
    images, branches = [], []
    last = None
    for pixels, conversation, view in items:
        if view != last:
            images.append(pixels)
            branches.append([])
        last = view
        branches[-1].append(conversation)
    return torch.stack(images), branches


# -------------------------------------------------------------------- the model

def open_model(a, device):
    """The model to train, --init or the two backbones, with requires_grad on what --tune trains (Table 15).

    Base weights are bf16 on a GPU, adapters and projection fp32; where everything is trained, everything is fp32. What --fsdp
    shards is on the CPU, where processes share the file's pages (of bf16 files: --tune full holds fp32 copies).
    """
    place = torch.device("cpu") if a.fsdp else device
    dtype = torch.bfloat16 if device.type == "cuda" and a.tune != "full" else torch.float32
    if a.init:
        model = CapeLLM.from_pretrained(a.init, dtype, place, merge=a.tune == "full")
        if a.tune == "lora" and not model.config.everything:
            model.adapt(LORA)                                   # one trained with --tune frozen lacks the vision encoder's
    else:
        parts = {"lora": ["vision", "llm"], "frozen": ["llm"], "full": []}[a.tune]
        model = CapeLLM.assemble(CapeLLMConfig(a.vision, a.llm, lora=LORA | {"parts": parts} if parts else None), dtype, place)
    pretraining = instructions.INSTRUCTIONS[a.instruction].pretraining
    model.config.instruction = "base" if pretraining else a.instruction
    if a.tune == "full":
        model.config.lora, model.config.everything = None, True
    elif model.config.everything:
        raise ValueError(f"{a.init} holds a model of which everything was trained: go on with --tune full")
    for name in model.adapter():
        frozen = not name.startswith("projection.") if pretraining else a.tune == "frozen" and name.startswith("vision.")
        model.get_parameter(name).requires_grad_(not frozen)
    for module in model.modules():
        if isinstance(module, LoRALinear) and not module.lora_A.requires_grad:
            module.p = 0.0                              # what is frozen answers as it will when asked
    return model


class Loss(torch.nn.Module):
    """DDP synchronises what is called as a module."""
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels, branches):
        return self.model.loss_of_branches(pixels, branches)


def distribute(model, fsdp, device, world):
    """The module to call for a loss, and a switch: synchronise gradients in the next backward pass?

    fully_shard moves a layer to the device and keeps this process's shard of it, so that no GPU holds the whole model.
    Gradients of adapters wait whole for the last pass of a step; those of everything, as large as the model, are added to
    shards after each. That was read in its source, and never run on a GPU.
    """
    if fsdp:
        mesh = dist.device_mesh.init_device_mesh(device.type, (world,))
        for layer in [*model.vision.encoder.layer, *model.llm.model.layers]:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        for method in ("loss", "loss_of_branches", "answer"):
            register_fsdp_forward_method(model, method)
        return Loss(model), (lambda sync: None) if model.config.everything else model.set_requires_gradient_sync
    if world == 1:
        return Loss(model), lambda sync: None
    parallel = DistributedDataParallel(Loss(model), init_sync=False, gradient_as_bucket_view=True)    # all loaded the same
    return parallel, partial(setattr, parallel, "require_backward_grad_sync")


def optimiser_of(model, lr):
    """AdamW; biases and norms, which only full training trains, do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = {0.01: [p for p in trained if p.dim() > 1], 0.0: [p for p in trained if p.dim() < 2]}
    return torch.optim.AdamW([{"params": params, "weight_decay": decay} for decay, params in groups.items() if params], lr=lr)


def parameters_of(optimiser, model):
    """{name: parameter} in the optimiser's order."""
    names = {id(p): n for n, p in model.named_parameters()}
    return {names[id(p)]: p for group in optimiser.param_groups for p in group["params"]}


def fingerprint(*parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else str(part).encode())
    return digest.hexdigest()[:12]


def settings_of(a, model, pairs, steps, world):
    """What decides the result of a run, for --resume. Of weight files the size and the first MiB count."""
    folders = [Path(f) for f in (model.config.vision, model.config.llm, a.init) if f]
    files = [f for folder in folders for f in sorted(folder.iterdir()) if f.suffix in (".json", ".safetensors", ".model")]
    weights = [part for f in files for part in (f.name, f.stat().st_size, open(f, "rb").read(MB))]
    content = [part for i in pairs.instances for part in (i.id, i.image.name, i.category, i.bbox, i.keypoints.tobytes())]
    content += [i.image.stat().st_size for i in pairs.instances]
    names = ("split", "rounds", "k", "tune", "instruction", "batch", "micro_batch", "share_image", "lr", "seed")
    return {f"--{n.replace('_', '-')}": getattr(a, n) for n in names} | {
        "steps": steps, "processes": world, "instances": len(pairs.instances), "the model": fingerprint(*weights),
        "the data": fingerprint(*content), "the descriptions": fingerprint(pairs.described)}


def validate(model, instances, described, rank, world):
    """PCK on validation images. instances: this process's; all processes' records are gathered."""
    look = lambda i: data.load_crop(i, model.config.image_size)[0].to(model.device)
    model.eval()
    records = [evaluation.measure(model, i, described[i.category], None, look) for i in instances]
    model.train()
    if world > 1:
        gathered = [None] * world
        dist.all_gather_object(gathered, records)
        records = [r for share in gathered for r in share]
    scores = metrics.summary(records)
    return {name: round(scores[name], 4) for name in (*metrics.PCK, "mPCK")}


# --------------------------------------------------------------------- the run

def train(a):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())        # before the first step nothing is lost
    rank, world, device = launch.setup()
    say = print if rank == 0 else lambda *_: None
    if not a.init and a.data == ["data/mp100"] and not any(Path(p).exists() for p in (a.vision, a.llm, *a.data)):
        say(f"nothing in {a.vision}, {a.llm} and data/mp100: training the embedded nano model on the drawings in data/figures")
        a.init, a.data = str(data.HERE / "nano"), ["data/figures"]
        if rank == 0 and not Path("data/figures").exists():
            command = [sys.executable, "-m", "drawings", "--out", str(Path("data/figures").resolve())]
            drawn = subprocess.run(command, cwd=data.HERE)
            if drawn.returncode:
                sys.exit(drawn.returncode)                      # it has said why
        if world > 1:
            dist.barrier()
    if a.fsdp and world == 1:
        raise ValueError("--fsdp shards over processes: start them with torchrun --nproc_per_node N train.py ...")
    if a.share_image and a.micro_batch == 1:
        raise ValueError("--share-image shares within a pass, which --micro-batch 1 leaves to one pair: raise it")
    if a.workers < 0:
        raise ValueError(f"--workers {a.workers}: 0 loads images in the training process itself")
    pretraining = instructions.INSTRUCTIONS[a.instruction].pretraining
    if pretraining and a.tune == "full":
        raise ValueError(f"--instruction {a.instruction} trains the projection alone: leave out --tune full")
    if pretraining and a.val_every:
        raise ValueError(f"--val-every measures coordinates, --instruction {a.instruction} asks for names: leave one out")
    out = Path(a.out)
    if checkpoints.list_checkpoints(out) and not a.resume:
        raise ValueError(f"{out} holds checkpoints of an earlier run: add --resume, or choose another --out")
    instances, described = check.read_folders(a.data, a.split, "train", a.descriptions)
    instances, table = check.check_images(instances, a.skip_missing)
    say(table)
    if a.val_every:
        unseen, described_unseen = check.read_folders(a.data, a.split, "val", a.descriptions)
        unseen, _ = check.check_images(unseen, a.skip_missing)
        unseen = [unseen[n * len(unseen) // min(VALIDATION, len(unseen))] for n in range(min(VALIDATION, len(unseen)))]
        unseen = unseen if a.fsdp else unseen[rank::world]      # shards are gathered by all, so all must go the same way
    torch.manual_seed(a.seed)                                   # the same adapters on every process
    model = open_model(a, device).train()
    trunk = 1 + (model.config.image_size // model.vision.config.patch_size) ** 2
    pairs = data.Pairs(instances, described, model.tokenizer, model.codec, model.config.image_size, a.k, a.seed, rounds=a.rounds, trunk=trunk,
                       instruction=a.instruction, share=a.share_image)
    if not len(pairs):
        raise ValueError(f"{', '.join(a.data)}: no image has a keypoint inside its box, nothing to train on")
    share, split = dealt(sizes(a.batch, world, a.micro_batch), rank, world), (a.batch, rank, world, a.micro_batch)
    stream, part = Stream(pairs), a.epochs % 1
    steps = a.steps or max(1, round((sum(len(stream.at(e)) for e in range(int(a.epochs))) + part * len(pairs)) / a.batch))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    say(f"{len(instances)} instances, {len(pairs)} pairs in the first epoch; {trained:,} parameters trained; {steps} steps of "
        f"{a.batch} pairs: {world} processes x {len(share)} passes of up to {a.micro_batch}")
    settings = settings_of(a, model, pairs, steps, world)
    step, best, state = 0, None, None
    if checkpoints.list_checkpoints(out):
        newest = checkpoints.list_checkpoints(out)[-1]
        state = checkpoints.read_state(newest, settings)
        model.load_adapter(newest)
        step, best = state["step"], state["best"]
        say(f"resuming {newest}")
    if a.checkpoint_activations:
        for layer in [*model.vision.encoder.layer, *model.llm.model.layers]:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    loss_of, synchronise = distribute(model, a.fsdp, device, world)
    optimiser = optimiser_of(model, a.lr)
    parameters = parameters_of(optimiser, model)
    torch.manual_seed(a.seed + rank)                            # but dropout of its own
    if state:
        for name, p in parameters.items():
            optimiser.state[p] = {k: checkpoints.like(t, p) for k, t in state["optimiser"][name].items()}
        (torch.cuda.set_rng_state if device.type == "cuda" else torch.set_rng_state)(state["random"][rank].clone())
    loader = torch.utils.data.DataLoader(Stream(pairs), batch_sampler=passes(pairs, step, *split), collate_fn=collate,
                                         num_workers=a.workers, pin_memory=device.type == "cuda", generator=torch.Generator(),
                                         worker_init_fn=unstoppable)
    batches = iter(loader)
    if rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        checkpoints.cut_log(out, step)
        board = checkpoints.tensorboard(out, step)
    stop = []                                                   # signals that ask to stop
    for number in STOP:
        signal.signal(number, lambda number, _: stop.append(number))
    with tqdm(total=steps, initial=step, disable=rank > 0, unit="step") as bar:
        began = time.time()
        while step < steps:
            losses, waited = [], 0.0
            sums = torch.zeros(5, device=device)                    # loss, digits' loss, tokens, stop, gradient
            for n, size in enumerate(share):
                asked = time.time()
                pixels, conversations = next(batches)
                waited += time.time() - asked
                synchronise(n == len(share) - 1)                    # once an optimiser step
                with torch.autocast(device.type, torch.bfloat16, enabled=a.tune == "full" and device.type == "cuda"):
                    loss, digits = loss_of(pixels.to(device, non_blocking=True), conversations)
                weight = size / a.batch
                (loss * weight * world).backward()                  # synchronising averages over processes
                losses.append(loss.detach())
                sums[:2] += weight * torch.stack([loss.detach(), digits])
                sums[2] += sum(len(ids) for c in conversations for ids, _ in c) if size else 0
            sums[3], sums[4] = len(stop), norm(parameters.values())
            if world > 1:
                dist.all_reduce(sums)
            mean, digits, tokens, stopping, gradient = sums.tolist()
            if not math.isfinite(mean + gradient):
                refuse(mean, gradient, step, losses, share, passes(pairs, step, *split), pairs, rank, world)
            for group in optimiser.param_groups:
                group["lr"] = a.lr * schedule(step, steps)
            optimiser.step()
            optimiser.zero_grad()
            step += 1
            took = time.time() - began
            record = {"step": step, "loss": round(mean, 4), "digits": round(digits, 4), "lr": optimiser.param_groups[0]["lr"],
                      "pairs_per_s": round(a.batch / took, 2), "tokens_per_s": round(tokens / took), "waiting": round(waited / took, 3)}
            if a.val_every and (step % a.val_every == 0 or step == steps):
                record["val"] = validate(model, unseen, described_unseen, rank, 1 if a.fsdp else world)
                best = max(best or [-1, 0], [record["val"]["mPCK"], step])
            if rank == 0:
                checkpoints.log(out, record)
                for name, value in (record | record.get("val", {})).items() if board else ():
                    board.add_scalar(name, value, step) if isinstance(value, float) else None
                bar.set_postfix(loss=f"{mean:.3f}", digits=f"{digits:.3f}", lr=f"{record['lr']:.1e}", pairs=f"{record['pairs_per_s']:.1f}/s",
                                tokens=f"{record['tokens_per_s']}/s")
                bar.update()
            if step % a.save_every == 0 or step == steps or "val" in record or stopping:
                moments = {n: {k: checkpoints.whole(t, rank) for k, t in optimiser.state[p].items()} for n, p in parameters.items()}
                state = {"step": step, "best": best, "settings": settings, "random": checkpoints.random_states(device, world),
                         "optimiser": moments}
                tensors = {n: checkpoints.whole(t, rank) for n, t in model.adapter().items()}
                if rank == 0:
                    checkpoints.write(out / f"step-{step:07d}", model.config, tensors, state)
                    for old in checkpoints.list_checkpoints(out)[:-KEEP]:
                        if not best or old.name != f"step-{best[1]:07d}":
                            shutil.rmtree(old)
                    try:
                        checkpoints.curves({out.name: out}, out / "curves.png")
                    except ImportError:
                        if step <= a.save_every:
                            bar.write("no curves.png: pip install matplotlib")
            if stopping:
                break
            began = time.time()
    if world > 1:
        dist.barrier()                                          # rank 0 may still be writing
    say(f"{'stopped, --resume continues' if step < steps else 'done'}: {out}/step-{step:07d}")
    if signal.SIGINT in stop:
        raise KeyboardInterrupt


def norm(parameters):
    """Of their gradients, of which a process may hold a shard: what is not finite anywhere makes the sum over processes so."""
    gradients = [p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad for p in parameters if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def refuse(mean, gradient, step, losses, share, places, pairs, rank, world):
    """End a run whose loss or gradient is not finite, before its weights are not: one process names the samples of the passes
    at fault, of all processes; where only the gradient is not finite, of all passes."""
    stream, known = Stream(pairs), not math.isfinite(mean)
    samples = [stream.at(epoch).name_sample(i) for loss, size, at in zip(losses, share, places)
               if size and not (known and math.isfinite(loss)) for epoch, i in at]
    gathered = [samples]
    if world > 1:
        gathered = [None] * world
        dist.all_gather_object(gathered, samples)
    if rank > 0:
        sys.exit(2)
    samples = list(dict.fromkeys(s for share in gathered for s in share))
    what = f"loss is {mean}" if known else f"gradient is {gradient}"
    raise ValueError(f"the {what} at step {step + 1}, from {launch.some(samples)}: look at these, or "
                     "continue with a lower --lr from the last checkpoint in another --out with --init")


if __name__ == "__main__":
    launch.run("train.py", lambda: train(arguments()))
