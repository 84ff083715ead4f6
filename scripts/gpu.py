"""What a GPU does, measured: models of the paper's size, and nano beside the CPU's. A GPU needed.

    python -m scripts.gpu paper         # Llama-3.1-8B and ViT-L/14, random weights
    python -m scripts.gpu nano          # answers and training of nano, beside the CPU's
    python -m scripts.document

They write results/gpu-paper.json and gpu-nano.json. *paper* writes 17 GB of weights into the folder
for temporary files, has `transformers` and `peft` do the same work in turn (scripts/reference.py),
and trains for some steps as a user would. What is kept are medians. It takes 45 GB of the GPU's
memory; a pass of 16 pairs takes more.
"""

import argparse
import shlex
import shutil
import statistics
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.profiler import ProfilerActivity, profile

import data
from capellm import CapeLLM
from scripts import bench, folding, recipe
from scripts.collect import write_results
from scripts.reference import SHAPES, make_keypoints, write_model
from support import launch
from support.checkpoints import read_log
from support.descriptions import describe_categories
from support.options import Parser, read_positive
from support.tokenizer import Tokenizer

DEVICE = "cuda"
SHAPE = SHAPES["llama8b"]
# Keypoints of the two ways to ask
SINGLE, CUMULATIVE = 17, 4
# What names of attention's forward kernels hold, and what they are called here
ATTENTION = {"sdpa": "cuDNN", "flash_fwd": "flash", "fmha_cutlassf": "efficient"}
# Pairs in a pass, and in a step, of train.py
RUNS = ((1, 128), (16, 64))
# Of nano's runs: steps, those to the checkpoint that is resumed, pairs a step and a pass
STEPS, HALF = 8, 4
BATCH, MICRO_BATCH = 16, 4
TRAINED = {
    "adapters": ("--tune", "lora"),
    "adapters, --deterministic": ("--tune", "lora", "--deterministic"),
    "everything": ("--tune", "everything"),
    "everything, --deterministic": ("--tune", "everything", "--deterministic"),
}


# The paper's size.


def describe_machine():
    properties = torch.cuda.get_device_properties(0)
    memory = round(properties.total_memory / 1e9, 1)
    return {"name": properties.name, "memory, GB": memory, "torch": torch.__version__}


def name_attention(kernel):
    """Which of PyTorch's attentions a kernel starts, "" if none."""
    kernel = kernel.lower()
    # Flash may add up parts in a second kernel.
    if "combine" in kernel:
        return ""
    return next((kind for word, kind in ATTENTION.items() if word in kernel), "")


def count_kernels(run, model):
    """What the GPU does in a run: kernels and copies, their seconds, attention's kernels."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run(model)
        torch.cuda.synchronize()
    events = [e for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    attention = Counter(name_attention(event.name) for event in events)
    del attention[""]
    busy = sum(event.time_range.elapsed_us() for event in events) / 1e6
    return {"kernels": len(events), "busy, s": busy, "attention": dict(sorted(attention.items()))}


def measure_peak(run, model):
    """Bytes of the model, and of what a run adds to them at most."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(model)
    added = torch.cuda.max_memory_allocated() - before
    return added + sum(p.nbytes for p in model.parameters())


def measure_work(name, work, models, repeat):
    """A row of results/: each side's seconds, GB, kernels."""
    row, seconds = {"work": name}, {side: [] for side in models}
    peaks = {}
    for side, model in models.items():
        # What only the first run does is not timed.
        work.run(model)
        peaks[side] = measure_peak(work.run, model)
    for n in range(repeat):
        order = list(models) if n % 2 == 0 else list(models)[::-1]
        for side in order:
            seconds[side].append(bench.timed(work.run, DEVICE, models[side])[0])
    for side, model in models.items():
        median = statistics.median(seconds[side])
        row[f"{side}, s"] = round(median, 4)
        row[f"{side}, GB"] = round(peaks[side] / 1e9, 2)
        counted = count_kernels(work.run, model)
        row[f"{side}, kernels"] = counted["kernels"]
        row[f"{side}, busy"] = round(100 * counted["busy, s"] / median)
        row[f"{side}, attention"] = counted["attention"]
    if len(models) == 2:
        pairs = zip(seconds["reference"], seconds["ours"], strict=True)
        row["times faster"] = round(statistics.median(r / o for r, o in pairs), 2)
    bench.say(row)
    return row


def list_answers(shape, tokenizer):
    """Pieces of work by name: those of both sides, and those that the reference takes long for."""
    both = bench.infer(shape, tokenizer, DEVICE, [1, CUMULATIVE, SINGLE])
    both |= bench.density(shape, tokenizer, DEVICE, None)
    alone = {}
    for name in (f"{SINGLE} keypoints, cumulative", "the density"):
        alone[name] = both.pop(name)
    both.pop("one greedy answer")
    both.pop(f"{CUMULATIVE} keypoints, single")
    return both, alone


def measure_answers(shape, tokenizer, models, repeat):
    rows, (both, alone) = [], list_answers(shape, tokenizer)
    for name, work in (both | alone).items():
        sides = models if name in both else {"ours": models["ours"]}
        rows.append(measure_work(name, work, sides, repeat))
    return rows


def compare_answers(shape, tokenizer, models):
    """How many of the two sides' answers are the same."""
    asked = make_keypoints(SINGLE, bench.QUESTION["infer"], tokenizer)
    pixels = bench.pixels_of(shape, DEVICE)
    reference = models["reference"]
    reference.free = False
    theirs, ours = reference.answer(pixels, asked)[0], models["ours"].answer(pixels, asked)[0]
    reference.free = True
    same = [list(one) == list(other) for one, other in zip(ours, theirs, strict=True)]
    return {"answers": SINGLE, "same": sum(same)}


@torch.no_grad()
def compare_losses(work, models):
    """The losses of both sides, without dropout."""
    losses = {}
    for side, model in models.items():
        losses[side] = float(bench.loss_of(model.eval(), work.pixels, work.pairs[:1]))
        model.train()
    return losses


def measure_steps(shape, tokenizer, models, repeat):
    """Rows of training steps of both sides, and their losses."""
    works = bench.train(shape, tokenizer, DEVICE, None)
    losses = compare_losses(next(iter(works.values())), models)
    return [measure_work(name, work, models, repeat) for name, work in works.items()], losses


def measure_runs(weights, folder):
    """Rows of train.py, on drawings: pairs a second of its second step, and memory."""
    rows = []
    backbones = ["--vision", weights / "vision", "--llm", weights / "llm"]
    for micro_batch, batch in RUNS:
        out = weights / f"run-{micro_batch}"
        settings = ["--data", folder, "--steps", 2, "--batch", batch, "--micro-batch", micro_batch]
        recipe.run("train.py", *backbones, *settings, "--out", out)
        last = read_log(out)[-1]
        row = {"micro-batch": micro_batch, "batch": batch, "pairs/s": last["pairs_per_s"]}
        rows.append(row | {name: last[name] for name in ("waiting", "GB") if name in last})
        shutil.rmtree(out)
    return rows


def open_reference(what, folder, shape):
    return bench.open_model("reference", what, folder, shape, DEVICE, checked=False)


def prepare_training(model):
    """Have the model that answered train its adapters and projection."""
    for name in model.adapter():
        model.get_parameter(name).requires_grad_(True)
    model.train()


def measure_paper(shape, folder, repeat):
    with tempfile.TemporaryDirectory() as weights:
        weights = Path(weights)
        # Numbers are drawn on the GPU: a CPU takes minutes.
        with torch.device(DEVICE):
            write_model(weights, shape)
        torch.cuda.empty_cache()
        tokenizer = Tokenizer.from_pretrained(weights / "llm")
        load = partial(CapeLLM.from_pretrained, weights, shape["dtype"], DEVICE)
        loading, ours = bench.timed(load, DEVICE)
        models = {"reference": open_reference("infer", weights, shape), "ours": ours}
        compared = compare_answers(shape, tokenizer, models)
        answers = measure_answers(shape, tokenizer, models, repeat)
        del models["reference"]
        torch.cuda.empty_cache()
        models["reference"] = open_reference("train", weights, shape)
        prepare_training(ours)
        steps, losses = measure_steps(shape, tokenizer, models, repeat)
        del models, ours
        torch.cuda.empty_cache()
        runs = measure_runs(weights, folder)
    return {
        "loading, s": round(loading, 1),
        "same answers": compared,
        "losses": losses,
        "rows": answers + steps,
        "runs": runs,
    }


# nano.


def measure_nano(folder, images):
    """Answers of nano on the GPU beside those of the CPU, in fp32 and bf16."""
    instances, names = data.read_split(folder, 1, "test")
    described = describe_categories(instances, names)
    count = min(images, len(instances))
    chosen = [instances[n * len(instances) // count] for n in range(count)]
    models = {
        "fp32": CapeLLM.from_pretrained("nano", torch.float32),
        "fp32 on the GPU": CapeLLM.from_pretrained("nano", torch.float32, DEVICE),
        "bf16 on the GPU": CapeLLM.from_pretrained("nano", torch.bfloat16, DEVICE),
    }
    rows = folding.compare(folding.ask(models, chosen, described))
    bench.say(rows)
    return {"images": count, "rows": rows}


def train_nano(out, folder, options):
    """Train nano for STEPS steps, with a checkpoint after HALF. Returns the adapter's tensors."""
    settings = ["--init", "nano", "--data", folder, "--steps", STEPS, "--batch", BATCH]
    settings += ["--micro-batch", MICRO_BATCH, "--save-every", HALF, "--workers", 0, "--resume"]
    recipe.run("train.py", *settings, *options, "--out", out)
    return load_file(recipe.checkpoint(out, STEPS) / "adapter.safetensors")


def is_same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def measure_repetition(folder, options):
    """Whether a run, done again or interrupted and resumed, ends with the same weights."""
    with tempfile.TemporaryDirectory() as runs:
        runs = Path(runs)
        once = train_nano(runs / "once", folder, options)
        again = train_nano(runs / "again", folder, options)
        half = recipe.checkpoint(runs / "once", HALF)
        shutil.copytree(half, recipe.checkpoint(runs / "resumed", HALF))
        resumed = train_nano(runs / "resumed", folder, options)
    found = {"again": is_same(once, again), "resumed": is_same(once, resumed)}
    bench.say(f"{' '.join(options)}: {found}")
    return found


def measure_repetitions(folder):
    with ThreadPoolExecutor() as pool:
        results = pool.map(partial(measure_repetition, folder), TRAINED.values())
        return [{"trained": n} | found for n, found in zip(TRAINED, results, strict=True)]


def main():
    p = Parser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = p.add_argument
    add("what", choices=["paper", "nano"], help="models of the paper's size, or nano")
    add("--repeat", type=read_positive, default=5, metavar="N", help="times each side is measured")
    add("--data", default="data/figures", metavar="FOLDER", help="the drawings")
    add("--limit", type=read_positive, default=100, help="drawings that nano is asked about")
    a = p.parse_args()
    if not torch.cuda.is_available():
        raise ValueError("no GPU here that PyTorch can use")
    launch.take_device(0, 1)
    if a.what == "paper":
        found = measure_paper(SHAPE, a.data, a.repeat)
    else:
        found = measure_nano(a.data, a.limit)
        found["repetition"] = measure_repetitions(a.data)
    command = "python -m scripts.gpu " + shlex.join(sys.argv[1:])
    found = {"command": command, "machine": describe_machine()} | found
    write_results(f"gpu-{a.what}", found)
    print(f"results/gpu-{a.what}.json")


if __name__ == "__main__":
    launch.run("scripts.gpu", main)
