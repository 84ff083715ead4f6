"""What a GPU does, measured: models of the paper's size, and nano beside the CPU's. A GPU needed.

    python -m scripts.gpu paper         # Llama-3.1-8B and ViT-L/14, random weights
    python -m scripts.gpu nano          # answers and training of nano, beside the CPU's
    python -m scripts.document

Both write into results/gpu.json. *paper* writes 17 GB of weights into the folder for temporary
files and loads them into `transformers`, too: it takes 45 GB of the GPU's memory and of the
machine's. Both sides do the same work in turn (scripts/reference.py); what is kept are medians.
"""

import argparse
import shutil
import statistics
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.profiler import ProfilerActivity, profile

import data
from capellm import CapeLLM, Codec
from scripts import bench, folding, growth, recipe
from scripts.collect import read_results, write_results
from scripts.reference import ANSWER, SHAPES, make_keypoints, write_model
from support import launch, parallel
from support.descriptions import describe_categories
from support.options import Parser, read_positive
from support.tokenizer import Tokenizer

DEVICE = "cuda"
SHAPE = SHAPES["llama8b"]
# Keypoints of the two ways to ask
SINGLE, CUMULATIVE = 17, 4
# What names of attention's forward kernels hold, and what they are called here
ATTENTION = {"cudnn": "cuDNN", "flash_fwd": "flash", "fmha_cutlassf": "efficient"}
# Pairs of different images in a pass
MICRO_BATCHES = (1, 2, 4, 8, 16)
STEPS, HALF = 8, 4
TRAINED = {
    "adapters": ("--tune", "lora"),
    "adapters, --deterministic": ("--tune", "lora", "--deterministic"),
    "everything": ("--tune", "everything"),
    "everything, --deterministic": ("--tune", "everything", "--deterministic"),
}


# The machine.


def measure_copies():
    """Bytes a second that a copy within the GPU's memory reads and writes."""
    source = torch.empty(2**31, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    seconds = [bench.timed(target.copy_, DEVICE, source)[0] for _ in range(10)]
    return 2 * source.nbytes / statistics.median(seconds)


def describe_machine():
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory, GB": round(properties.total_memory / 1e9, 1),
        "torch": torch.__version__,
        "product, TFLOP/s": round(bench.product_rate(torch.bfloat16, DEVICE) / 1e12, 1),
        "copy, GB/s": round(measure_copies() / 1e9),
    }


# What is computed beside what is measured.


def size_of(shape):
    """The two backbones of a shape as scripts.growth has them."""
    v, m = shape["vision"], shape["llm"]
    N = (v["image_size"] // v["patch_size"]) ** 2
    vision = growth.Vision(
        v["num_hidden_layers"], v["hidden_size"], v["num_attention_heads"], N, N
    )
    heads, width = m["num_attention_heads"], m["hidden_size"]
    llm = growth.LLM(
        m["num_hidden_layers"], width, m["intermediate_size"], heads, m["num_key_value_heads"],
        width // heads, m["vocab_size"],
    )
    return vision, llm


def compute_answers(shape, machine, K, way):
    """Seconds that answers to K keypoints take at least: no pass is faster than the machine."""
    v, m = size_of(shape)
    rate, bandwidth = 1e12 * machine["product, TFLOP/s"], 1e9 * machine["copy, GB/s"]
    passes = list(growth.WAYS[way](K, bench.QUESTION["infer"], v, m))
    return growth.seconds(passes, v, m, rate, bandwidth)


def compute_pass(shape, machine, pairs, rounds, shared=True, checkpointed=False):
    """What a pass of training takes at least: seconds, and GB. shared: pairs are of one image."""
    v, m = size_of(shape)
    step = growth.training(v, m, [rounds] * pairs, bench.QUESTION["train"], shared)
    operations = sum(step) + (step.layers if checkpointed else 0)
    branch = rounds * (bench.QUESTION["train"] + ANSWER)
    P = growth.vision_parameters(v) + growth.llm_parameters(m)
    kept = 2 * P + 16 * growth.trained_parameters(v, m) + 14 * m.V * pairs * rounds * ANSWER
    if shared:
        kept += growth.activations(v, m, 1 + v.N + pairs * branch, checkpointed)
    else:
        kept += pairs * growth.activations(v, m, 1 + v.N + branch, checkpointed)
    seconds = operations / (1e12 * machine["product, TFLOP/s"])
    return {"computed, s": round(seconds, 4), "computed, GB": round(kept / 1e9, 2)}


# The paper's size.


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
        for side in list(models) if n % 2 == 0 else list(models)[::-1]:
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


def measure_answers(shape, machine, tokenizer, models, repeat):
    rows, (both, alone) = [], list_answers(shape, tokenizer)
    for name, work in (both | alone).items():
        sides = models if name in both else {"ours": models["ours"]}
        row = measure_work(name, work, sides, repeat)
        if isinstance(work, bench.Inference):
            way = "cumulative" if work.cumulative else "single"
            least = compute_answers(shape, machine, len(work.asked), way)
            row["computed, s"] = round(least, 4)
        rows.append(row)
    return rows


def compare_answers(shape, tokenizer, models):
    """How many of the two sides' answers are the same."""
    asked = make_keypoints(SINGLE, bench.QUESTION["infer"], tokenizer)
    pixels = bench.pixels_of(shape, DEVICE)
    models["reference"].free = False
    reference, ours = (model.answer(pixels, asked)[0] for model in models.values())
    models["reference"].free = True
    same = [list(o) == list(r) for o, r in zip(ours, reference, strict=True)]
    return {"answers": SINGLE, "same": sum(same)}


@torch.no_grad()
def compare_losses(work, models):
    """The losses of both sides, without dropout."""
    losses = {}
    for side, model in models.items():
        losses[side] = float(bench.loss_of(model.eval(), work.pixels, work.pairs[:1]))
        model.train()
    return losses


def write_chain(shape, tokenizer):
    """The longest conversation about an image that training takes, and its rounds."""
    rounds = (data.MAX_TOKENS - bench.trunk_of(shape)) // (bench.QUESTION["train"] + ANSWER)
    asked = make_keypoints(rounds, bench.QUESTION["train"], tokenizer)
    conversation = data.write_conversation(
        tokenizer, Codec(tokenizer), [(keypoint, (0.25, 0.75)) for keypoint in asked]
    )
    return conversation, rounds


def measure_steps(shape, machine, tokenizer, models, repeat):
    """Rows of training steps of both sides, and their losses."""
    rows, works = [], bench.train(shape, tokenizer, DEVICE, None)
    losses = compare_losses(next(iter(works.values())), models)
    for name, work in works.items():
        row = measure_work(name, work, models, repeat)
        rows.append(row | compute_pass(shape, machine, len(work.pairs), bench.K))
    return rows, losses


@dataclass
class Pass:
    """A pass over pairs of different images, without the optimiser's step."""

    pixels: torch.Tensor
    pairs: list

    def run(self, model):
        loss = model.loss(self.pixels.expand(len(self.pairs), -1, -1, -1), self.pairs).total
        loss.backward()
        model.zero_grad()


def measure_passes(shape, machine, tokenizer, ours, repeat):
    """Rows of micro-batches and of the longest chain, and of single pairs with checkpoints."""
    pair, *_ = next(iter(bench.train(shape, tokenizer, DEVICE, None).values())).pairs
    chain, rounds = write_chain(shape, tokenizer)
    pixels = bench.pixels_of(shape, DEVICE)
    works = [(Pass(pixels, [pair] * n), bench.K) for n in MICRO_BATCHES]
    works.append((Pass(pixels, [chain]), rounds))
    rows = []
    for checkpointed in (False, True):
        if checkpointed:
            parallel.checkpoint_activations(ours)
            works = [works[0], works[-1]]
        for work, rounds in works:
            name = f"{len(work.pairs)} of {rounds} rounds"
            if checkpointed:
                name += ", --checkpoint-activations"
            row = measure_work(name, work, {"ours": ours}, repeat)
            row["pairs/s"] = round(len(work.pairs) / row["ours, s"], 1)
            computed = compute_pass(shape, machine, len(work.pairs), rounds, False, checkpointed)
            rows.append(row | computed)
    return rows


def open_reference(what, folder, shape):
    return bench.open_model("reference", what, folder, shape, DEVICE, checked=False)


def prepare_training(model):
    """The model that answered, its adapters and projection to be trained."""
    for name in model.adapter():
        model.get_parameter(name).requires_grad_(True)
    return model.train()


def measure_paper(shape, repeat):
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        bench.say("writing the model")
        # Numbers are drawn on the GPU: a CPU takes minutes.
        with torch.device(DEVICE):
            write_model(folder, shape)
        torch.cuda.empty_cache()
        tokenizer = Tokenizer.from_pretrained(folder / "llm")
        load = partial(CapeLLM.from_pretrained, folder, shape["dtype"], DEVICE)
        loading, ours = bench.timed(load, DEVICE)
        bench.say(f"loaded in {loading:.1f} s")
        models = {"reference": open_reference("infer", folder, shape), "ours": ours}
        compared = compare_answers(shape, tokenizer, models)
        bench.say(compared)
        answers = measure_answers(shape, machine, tokenizer, models, repeat)
        del models["reference"]
        torch.cuda.empty_cache()
        reference = open_reference("train", folder, shape)
        models = {"reference": reference, "ours": prepare_training(ours)}
        del reference
        steps, losses = measure_steps(shape, machine, tokenizer, models, repeat)
        del models["reference"]
        torch.cuda.empty_cache()
        passes = measure_passes(shape, machine, tokenizer, ours, repeat)
    return {
        "machine": machine,
        "loading, s": round(loading, 1),
        "same answers": compared,
        "losses": losses,
        "answers": answers,
        "steps": steps,
        "passes": passes,
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
    settings = ["--init", "nano", "--data", folder, "--steps", STEPS, "--batch", 16]
    settings += ["--micro-batch", 4, "--save-every", HALF, "--workers", 0, "--resume"]
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
    add("--data", default="data/figures", metavar="FOLDER", help="the drawings, for nano")
    add("--limit", type=read_positive, default=100, help="drawings asked about")
    a = p.parse_args()
    if not torch.cuda.is_available():
        raise ValueError("no GPU here that PyTorch can use")
    launch.take_device(0, 1)
    if a.what == "paper":
        found = measure_paper(SHAPE, a.repeat)
    else:
        answers = measure_nano(a.data, a.limit)
        found = {"nano": answers, "repetition": measure_repetitions(a.data)}
    write_results("gpu", read_results("gpu") | found)
    print("results/gpu.json")


if __name__ == "__main__":
    launch.run("scripts.gpu", main)
