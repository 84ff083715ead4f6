"""Train CapeLLM (Sections 3.3 and 4.1; Tables 3, 4, 12 and 15).

    torchrun --nproc_per_node 4 train.py                # weights/ and data/mp100, as in the paper
    python train.py --init nano --data FOLDER --descriptions FOLDER         # your own photographs
    python train.py                     # nothing at hand: the embedded nano model on the drawings

`train` is the loop; below it comes what it calls, then what prepares it. Around it, in support/:
train_options.py, batches.py (which pairs make a step), parallel.py (several processes).

Interrupted and resumed, a run ends with the same weights: a step's pairs and their augmentation
follow from the seed and the step, and checkpoints keep the state of dropout's random numbers. On a
CPU these are the same bit by bit, on a GPU with --deterministic.
"""

import math
import signal
import time
from typing import Callable, NamedTuple

import torch
import torch.distributed as dist
from tqdm import tqdm

import data
from capellm import CapeLLM, Codec
from lora import LoRALinear, merge_lora
from study import keypoint_token
from study.instructions import INSTRUCTIONS
from study.validation import share_instances, validate
from study.views import WideViews
from support import (
    batches,
    check,
    checkpoints,
    determinism,
    launch,
    parallel,
    signals,
    train_options,
)
from support.folders import CapeLLMConfig, fill_tensors
from support.optimisers import Joined, make_optimiser
from support.weights import AS_STORED

# The adapters of Section 4.1, alpha and dropout as in the authors' code. Table 15: the parts that
# have them, and those trained in whole.
PAPER_LORA = {"rank": 8, "alpha": 16, "dropout": 0.05, "parts": ["vision", "llm"]}
ADAPTED_PARTS = {"lora": ["vision", "llm"], "frozen": ["llm"], "full": ["llm"], "everything": []}
WHOLE_PARTS = {"lora": [], "frozen": [], "full": ["vision"], "everything": ["vision", "llm"]}


class Learner(NamedTuple):
    """The model, and what changes it."""

    model: CapeLLM
    loss: torch.nn.Module  # (pixels, conversations) -> the loss, and that of digits alone
    synchronise: Callable  # of a bool: will the next backward pass share its gradients?
    optimiser: torch.optim.Optimizer | Joined
    parameters: dict  # {name: parameter}, what is trained
    deterministic: bool


class StepResult(NamedTuple):
    """Means and sums over all processes' passes, then what this process did."""

    loss: float
    digits: float  # the loss of digits alone
    tokens: float
    gradient: float  # the norm
    signals: float  # that ask to stop
    losses: list  # of this process's passes
    waited: float  # seconds, for images


def train(learner: Learner, pairs, passes, division, options, settings, validation, state):
    """Go on from a checkpoint's state. Returns the step reached, the best, the signals that came.

    passes: an iterator of batches.Pass; division: of a step among processes and passes; options: of
    the command line; settings: what decides the result, for --resume; validation: a Validation or
    None; state: {"step", "best", ...} of the checkpoint.
    """
    step, best, rank = state["step"], state["best"], division.rank
    noted = signals.note_signals()
    with tqdm(total=options.steps, initial=step, disable=rank > 0, unit="step") as bar:
        while step < options.steps and not train_options.has_stalled(options, step, best):
            began = time.time()
            # A batch of pairs in micro-batches, whose gradients add up.
            measured = accumulate_gradients(learner, passes, division, noted)
            if not math.isfinite(measured.loss + measured.gradient):
                batches.end_run(step, measured, pairs, division)

            parallel.clip_gradients(learner.parameters.values(), measured.gradient, options.clip)
            # The learning rate rises over 3% of the steps, then falls along half a cosine.
            factor = scale_lr(step, options.steps)
            lr = options.lr * factor
            for group in learner.optimiser.param_groups:
                group["lr"] = group["initial_lr"] * factor
            learner.optimiser.step()
            learner.optimiser.zero_grad()
            step += 1

            record = checkpoints.describe_step(step, lr, measured, division.batch, began)
            if options.val_every and (step % options.val_every == 0 or step == options.steps):
                record["val"] = validate(learner.model, validation)
                best = train_options.choose_best(best, record["val"], step)
            # Circles are calibrated for these weights, or not: support/radius.py.
            learner.model.config.radius_scale = record.get("val", {}).get("radius_scale")
            if rank == 0:
                checkpoints.append_to_log(options.out, record)
                bar.set_postfix(loss=record["loss"], lr=lr, pairs_per_s=record["pairs_per_s"])
                bar.update()
            has_stalled = train_options.has_stalled(options, step, best)
            is_last = step == options.steps or has_stalled or measured.signals > 0
            if step % options.save_every == 0 or "val" in record or is_last:
                save_run(learner, options, settings, division, step, best)
            if is_last:
                break
    return step, best, noted


def accumulate_gradients(learner: Learner, passes, division, noted) -> StepResult:
    """Go forward and backward through this process's passes of a step.

    Gradients add up to those of the mean loss over the step's pairs, of all processes.
    """
    device = learner.model.device
    loss, digits, tokens = torch.zeros(3, device=device)
    losses, waited = [], 0.0
    sizes = division.list_own_sizes()
    for n, size in enumerate(sizes):
        began = time.time()
        current = next(passes)
        waited += time.time() - began
        # Processes exchange gradients once a step, and average them.
        learner.synchronise(n == len(sizes) - 1)
        pixels = current.pixels.to(device, non_blocking=True)
        # A process that has no pairs left for this pass goes through it with weight 0.
        weight = size / division.batch
        with determinism.compute_in_order(learner.deterministic):
            pass_loss, pass_digits = learner.loss(pixels, current.conversations)
            (pass_loss * weight * division.world).backward()
        losses.append(pass_loss.detach())
        loss += weight * pass_loss.detach()
        digits += weight * pass_digits
        tokens += current.tokens if size else 0
    sums = torch.stack([loss, digits, tokens, loss.new_full((), len(noted))])
    if division.world > 1:
        dist.all_reduce(sums)
    gradient = parallel.compute_norm(learner.parameters.values())
    # One read-back a step, which waits for all passes.
    loss, digits, tokens, stop_signals, gradient = torch.stack([*sums, gradient]).tolist()
    return StepResult(loss, digits, tokens, gradient, stop_signals, losses, waited)


def scale_lr(step: int, steps: int, warmup=0.03) -> float:
    """Factor on the learning rate: linear warm-up (Section 4.1), then half a cosine down to 0."""
    start = max(1, round(warmup * steps))
    if step < start:
        return (step + 1) / start
    return 0.5 * (1 + math.cos(math.pi * (step - start) / max(1, steps - start)))


def save_run(learner, options, settings, division, step, best):
    """Write a checkpoint, remove old ones, draw the curves: rank 0, with what the others send."""
    model, rank, world = learner.model, division.rank, division.world
    out = options.out
    state = parallel.gather_state(learner.optimiser, learner.parameters, model.device, rank, world)
    state |= {"step": step, "best": best, "settings": settings}
    adapter = {n: parallel.gather_tensor(t, rank) for n, t in model.adapter().items()}
    if rank > 0:
        return
    checkpoints.write_checkpoint(out / f"step-{step:07d}", model.config, adapter, state)
    checkpoints.remove_old_checkpoints(out, best[1] if best else None)
    checkpoints.draw_own_curves(out)


def open_model(options, device) -> CapeLLM:
    """The model folder --init, or a model of two backbones, with what --tune needs (Table 15).

    Base weights are bf16 on a GPU, what is trained is fp32.
    """
    whole = WHOLE_PARTS[options.tune]
    dtype = torch.float32 if "llm" in whole else launch.choose_dtype(device)
    # What will be sharded starts on the CPU, since processes share a file's pages.
    start = torch.device("cpu") if options.fsdp else device
    # Backbones become fp32 then, layer by layer: they have no adapters to fold in.
    is_widened_in_shards = options.fsdp and not options.init
    if options.init:
        model = CapeLLM.from_pretrained(options.init, dtype, start, merge=False)
        train_options.check_init(options, model.config, whole)
    else:
        if is_widened_in_shards and "llm" in whole:
            dtype = AS_STORED
        model = CapeLLM.assemble(CapeLLMConfig(options.vision, options.llm), dtype, start)
    for part in whole:
        if not is_widened_in_shards:
            merge_lora(getattr(model, part).float())
    present = model.config.lora or PAPER_LORA | {"parts": []}
    kept = [part for part in present["parts"] if part not in whole]
    model.config.lora, model.config.whole = present | {"parts": kept}, whole
    model.adapt(PAPER_LORA | {"parts": ADAPTED_PARTS[options.tune]})
    if options.digits:
        model.config.K, model.codec = options.digits, Codec(model.tokenizer, options.digits)
    if options.output_format == "token" and model.config.output == "text":
        keypoint_token.add_token(model)
    return model


def choose_trained(model, tune, instruction):
    """Unfreeze what --tune trains (Table 15): what is saved; to pre-train, the projection."""
    is_pretraining = INSTRUCTIONS[instruction].pretraining
    for name in model.adapter():
        if is_pretraining:
            is_frozen = not name.startswith("projection.")
        else:
            is_frozen = tune == "frozen" and name.startswith("vision.")
        model.get_parameter(name).requires_grad_(not is_frozen)
    # Frozen adapters act as at inference: without dropout.
    for module in model.modules():
        if isinstance(module, LoRALinear) and not module.lora_A.requires_grad:
            module.dropout = 0.0
    # After pre-training the model is asked for coordinates, as usual.
    model.config.instruction = "base" if is_pretraining else instruction


def make_learner(model: CapeLLM, options, device, world) -> Learner:
    """The model's loss, and the optimiser of what is trained."""
    loss, synchronise = parallel.distribute_model(
        model, options.share_image, options.fsdp, device, world
    )
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimiser = make_optimiser(trained, options.lr, options.optimiser)
    return Learner(model, loss, synchronise, optimiser, trained, options.deterministic)


def read_instances(options, part, rank, world):
    """Usable instances and {category id: list[Keypoint]}, checked and counted for the reader."""

    def read():
        found, described = check.read_folders(
            options.data, options.split, part, options.descriptions
        )
        usable, table = check.check_images(found, options.skip_missing)
        print(f"{part}\n{table}")
        return usable, described

    return parallel.ask_first(read, rank, world)


def make_pairs(options, model, instances, described) -> data.Pairs:
    size = model.config.image_size
    trunk = 1 + model.vision.count_patches(size)
    is_wide = options.augmentation == "wide"
    augment = WideViews(instances, described) if is_wide else data.load_augmented
    pairs = data.Pairs(
        instances, described, model.tokenizer, model.codec, size, options.k, options.seed,
        augment, options.rounds, trunk, options.instruction, options.share_image,
    )
    if len(pairs) == 0:
        folders = ", ".join(options.data)
        raise ValueError(f"{folders}: no image has a keypoint inside its box, nothing to train on")
    return pairs


def main():
    signals.leave_at_once()
    options = train_options.read_options(__doc__.split("\n")[0], data.GROUPINGS)
    determinism.prepare(options.deterministic)
    rank, world, device = launch.setup()
    train_options.fall_back_on_nano(options, rank, world)
    train_options.check_options(options, rank, world)
    instances, described = read_instances(options, "train", rank, world)
    train_options.fill_open_options(options, instances, rank, world)
    validation = None
    if options.val_every:
        validation = share_instances(*read_instances(options, "val", rank, world), rank, world)

    # New adapters start equal on all processes.
    torch.manual_seed(options.seed)
    model = open_model(options, device)
    choose_trained(model.train(), options.tune, options.instruction)
    model.config.trained = train_options.describe_training(options, model.config)
    pairs = make_pairs(options, model, instances, described)
    division = batches.Division(options.batch, options.micro_batch, rank, world)
    if options.steps is None:
        options.steps = batches.count_steps(pairs, options.epochs, options.batch)
    settings = train_options.collect_settings(options, model.config, pairs, world)
    parallel.check_equal(settings, rank, world)
    newest, state, log = checkpoints.read_newest_state(options.out, settings, rank, world)
    if rank == 0:
        print(train_options.describe_run(options, model, pairs, world, newest))

    if options.checkpoint_activations:
        parallel.checkpoint_activations(model)
    learner = make_learner(model, options, device, world)
    # From here on each process draws dropout of its own.
    torch.manual_seed(options.seed + rank)
    if newest:
        fill_tensors(model.adapter(), newest, parallel.spread_tensor)
        checkpoints.check_state(newest, state, learner.parameters, device, rank)
        parallel.restore_state(state, learner.optimiser, learner.parameters, device, rank)
    passes = batches.load_passes(
        pairs, division, state["step"], options.share_image, options.workers, device
    )
    if rank == 0:
        options.out.mkdir(parents=True, exist_ok=True)
        checkpoints.write_log(options.out, log)
    step, best, noted = train(
        learner, pairs, passes, division, options, settings, validation, state
    )
    parallel.wait_for_all(world)
    if rank == 0:
        print(train_options.describe_end(options, step, best))
    if signal.SIGINT in noted:
        raise KeyboardInterrupt


if __name__ == "__main__":
    launch.run("train.py", main, train_options.MEMORY)
