"""Measurements that are too long for the tests: beside transformers and peft, paired.

    python -m scripts.bench load                     # time and peak memory of loading
    python -m scripts.bench infer --repeat 3         # keypoints asked alone, or after the others
    python -m scripts.bench train                    # a step with one pair, with all of an image
    python -m scripts.bench density                  # the density, 100 samples

Both sides read the same random weights (scripts/reference.py), inference with the adapters merged.
In each repetition both run one after the other, and so does the matrix product whose rate the
shares refer to; what is printed are medians, of ratios too. Before, each piece of work runs once in
a process of its own, where memory peaks and answers are taken: the two sides must agree. What is
measured is also written into out/bench/, from where scripts.collect takes it.
"""

import argparse
import json
import math
import multiprocessing
import random
import shlex
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

import data
from capellm import CapeLLM, Codec
from dino import DINOv2Config
from llama import Config
from scripts.loading import measure_loading
from scripts.markdown import write_table
from scripts.reference import (
    ANSWER,
    LORA,
    SHAPES,
    Reference,
    make_keypoints,
    write_model,
)
from study.density import Density, compute_density
from support import launch
from support.options import Parser, read_positive
from support.tokenizer import Tokenizer

OUT = Path("out/bench")
SIDES = ("reference", "ours")
# Tokens of a question: prompts of 257 + 58, pairs of 257 + 4 x (60 + 14)
QUESTION = {"infer": 58, "train": 60, "density": 58}
# Tokens that all questions begin with
SHARED = 7
# Rounds of a pair
K = 4
SAMPLES = 100


def open_model(side, what, folder, shape, device, checked):
    """checked: for the numbers that must agree, so no dropout, and the reference is not free."""
    training = what == "train"
    if side == "reference":
        model = Reference(folder, shape["dtype"], device, merge=not training, free=not checked)
    else:
        model = CapeLLM.from_pretrained(folder, shape["dtype"], device, merge=not training)
        for name in model.adapter():
            model.get_parameter(name).requires_grad_(training)
    return model.train(training and not checked)


def chain(new, past=0):
    """Pairs of query and key where new tokens follow past ones."""
    return new * past + new * (new + 1) // 2


def operations(shape, images, tokens, pairs, scores, training=False):
    """Floating-point operations, 2 for a multiply-add.

    images: through the vision encoder and the projection; tokens: through the language model;
    pairs: of query and key in its attention; scores: of a vocabulary entry at a position.

    Every matrix takes 2 x weights x tokens, attention 4 x width x pairs a layer. Training adds the
    gradients of inputs, as much again (attention: twice), and those of weights for what is trained,
    adapters and projection. Norms, activations, rotations and the optimiser are not counted, nor
    that nothing asks for gradients before the first adapter.
    """
    v, m = DINOv2Config(**shape["vision"]), Config(**shape["llm"])
    rank = LORA["rank"] if training else 0
    N, C = (v.image_size // v.patch_size) ** 2, v.hidden_size
    D, layers = m.hidden_size, m.num_hidden_layers
    q, kv = m.num_attention_heads * m.head_dim, m.num_key_value_heads * m.head_dim
    seen = images * v.num_hidden_layers * (N + 1)
    llm = layers * tokens * D * (2 * q + 2 * kv + 3 * m.intermediate_size)
    frozen = seen * 12 * C**2 + llm + scores * D
    trained = images * N * C * D + rank * (seen * 4 * C + layers * tokens * (2 * D + q + kv))
    attention = seen * (N + 1) * C + layers * q * pairs
    patching = images * N * C * 3 * v.patch_size**2
    if training:
        return 2 * patching + 4 * frozen + 6 * (trained + 2 * attention)
    return 2 * patching + 2 * frozen + 2 * (trained + 2 * attention)


def tree_operations(shape, trunk, branches, scores, training=False):
    """Operations of one image, a trunk of tokens, and branches of so many tokens off it."""
    pairs = chain(trunk) + sum(chain(branch, trunk) for branch in branches)
    return operations(shape, 1, trunk + sum(branches), pairs, scores, training)


def trunk_of(shape):
    """Tokens of an image and the start token."""
    return 1 + (shape["vision"]["image_size"] // shape["vision"]["patch_size"]) ** 2


def count_ours(shape, n, cumulative):
    """Operations of n answers: read up to their last digit, and of earlier rounds all.

    What all questions begin with is read once.
    """
    trunk, rounds = trunk_of(shape), QUESTION["infer"] + ANSWER
    shared, longest = 0, 1
    if cumulative:
        longest = (data.MAX_TOKENS - trunk) // rounds
    elif n > 1:
        shared = SHARED
    # The last digit, `]` and the end of text of a chain are not read.
    branches = [min(longest, n - i) * rounds - 3 - shared for i in range(0, n, longest)]
    return tree_operations(shape, trunk + shared, branches, n * 60)


def count_reference(shape, n, cumulative):
    """Operations of n answers, each with all that is before it, and all logits."""
    trunk, rounds = trunk_of(shape), QUESTION["infer"] + ANSWER
    longest = (data.MAX_TOKENS - trunk) // rounds if cumulative else 1
    # All but the last token and the end of text
    whole = [trunk + i % longest * rounds + rounds - 2 for i in range(n)]
    scores = n * (ANSWER - 1) * shape["llm"]["vocab_size"]
    return operations(shape, n, sum(whole), sum(map(chain, whole)), scores)


# A piece of work has three methods: run(model) -> result is timed; check(model, result) -> answers
# and values, which are equal on both sides, values to rounding; count(side, result) -> operations
# that this side's way takes.


@dataclass
class Inference:
    """Answers to keypoints of one image."""

    shape: dict
    pixels: torch.Tensor
    asked: list
    cumulative: bool = False

    def run(self, model):
        return model.answer(self.pixels, self.asked, cumulative=self.cumulative)

    def check(self, model, result):
        return result

    def count(self, side, result):
        counted = count_ours if side == "ours" else count_reference
        return counted(self.shape, len(self.asked), self.cumulative)


def count_prefixes(shape, prefixes, whole):
    """Operations of digit prefixes of one keypoint, `whole` of them with all digits of x.

    Each is read once: a token, 3 more behind the whole of x, and each of them sees the question
    and some 4 more.
    """
    start = trunk_of(shape) + QUESTION["density"] + 3
    tokens = prefixes - 1 + 3 * whole
    pairs = chain(start) + tokens * chain(1, start + 3)
    return operations(shape, 1, start + tokens, pairs, 10 * prefixes)


@dataclass
class Sampling:
    """Samples of one keypoint; ours share the question, and what digits they have in common."""

    shape: dict
    pixels: torch.Tensor
    keypoint: data.Keypoint

    def run(self, model):
        return model.answer(self.pixels, [self.keypoint] * SAMPLES, decoding="sampling")

    def check(self, model, result):
        return [], []

    def count(self, side, result):
        if side == "reference":
            return count_reference(self.shape, SAMPLES, False)
        coordinates = result[0]
        codes = [f"{round(1000 * x):03}{round(1000 * y):03}" for x, y in coordinates]
        read = [len({code[:n] for code in codes}) for n in range(6)]
        return count_prefixes(self.shape, sum(read), read[3])


@dataclass
class Distribution:
    """The density of one keypoint; the reference's, as the paper's, are samples."""

    shape: dict
    pixels: torch.Tensor
    keypoint: data.Keypoint

    def sampling(self):
        return Sampling(self.shape, self.pixels, self.keypoint)

    def run(self, model):
        if isinstance(model, CapeLLM):
            return compute_density(model, self.pixels, self.keypoint)
        return self.sampling().run(model)

    def check(self, model, result):
        """The greedy answer, and its mass."""
        answers, mass = model.answer(self.pixels, [self.keypoint])[:2]
        if isinstance(model, CapeLLM):
            mass = [float(result.p[round(1000 * x), round(1000 * y)]) for x, y in answers]
        return answers, mass

    def count(self, side, result):
        if side == "reference":
            return self.sampling().count(side, None)
        followed = int((result.p.sum(1) >= 1e-4).sum())
        return count_prefixes(self.shape, result.prefixes, followed)


def loss_of(model, pixels, conversations):
    if isinstance(model, CapeLLM):
        return model.loss_of_branches(pixels[None], [conversations]).total
    (conversation,) = conversations
    return model.loss(pixels[None], conversation)


@dataclass
class Training:
    """One optimiser step on an image's pairs.

    Ours hang off one trunk, the reference's follow each other, accumulated.
    """

    shape: dict
    pixels: torch.Tensor
    pairs: list

    def run(self, model):
        trained = [p for p in model.parameters() if p.requires_grad]
        optimiser, total = torch.optim.AdamW(trained, lr=5e-4, weight_decay=0.01), 0
        ours = isinstance(model, CapeLLM)
        for part in [self.pairs] if ours else [[pair] for pair in self.pairs]:
            loss = loss_of(model, self.pixels, part) * len(part) / len(self.pairs)
            loss.backward()
            total += float(loss.detach())
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in trained))
        optimiser.step()
        optimiser.zero_grad()
        return total, norm

    def check(self, model, result):
        return [], result

    def count(self, side, result):
        trunk, words = trunk_of(self.shape), self.shape["llm"]["vocab_size"]
        branches = [len(pair.ids) for pair in self.pairs]
        if side == "ours":
            scores = K * ANSWER * len(branches) * words
            return tree_operations(self.shape, trunk, branches, scores, True)
        total = 0
        for branch in branches:
            scores = (trunk + branch) * words
            total += tree_operations(self.shape, trunk, [branch], scores, True)
        return total


def pixels_of(shape, device):
    side = shape["vision"]["image_size"]
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, side, side, generator=generator).to(device)


def infer(shape, tokenizer, device, counts):
    asked = make_keypoints(max(counts), QUESTION["infer"], tokenizer)
    pixels, works = pixels_of(shape, device), {}
    for n in counts:
        name = "1 keypoint" if n == 1 else f"{n} keypoints"
        works[f"{name}, single"] = Inference(shape, pixels, asked[:n])
        if n > 1:
            works[f"{name}, cumulative"] = Inference(shape, pixels, asked[:n], True)
    return works


def train(shape, tokenizer, device, counts):
    codec, rng, rounds = Codec(tokenizer), random.Random(0), []
    for keypoint in make_keypoints(4 * K, QUESTION["train"], tokenizer):
        rounds.append((keypoint, (rng.random() * 0.999, rng.random() * 0.999)))
    pairs = []
    for i in range(0, len(rounds), K):
        pairs.append(data.write_conversation(tokenizer, codec, rounds[i : i + K]))
    pixels = pixels_of(shape, device)
    return {
        f"a pair of {K} rounds": Training(shape, pixels, pairs[:1]),
        f"an image's {len(pairs)} pairs of {K} rounds": Training(shape, pixels, pairs),
    }


def density(shape, tokenizer, device, counts):
    (keypoint,) = make_keypoints(1, QUESTION["density"], tokenizer)
    pixels = pixels_of(shape, device)
    return {
        "one greedy answer": Inference(shape, pixels, [keypoint]),
        f"{SAMPLES} samples": Sampling(shape, pixels, keypoint),
        "the density": Distribution(shape, pixels, keypoint),
    }


WORKS = {"infer": infer, "train": train, "density": density}


class Settings(NamedTuple):
    """What is measured, and where; a process of its own gets it."""

    what: str
    shape: str
    device: str
    threads: int
    keypoints: list
    repeat: int
    only: str | None


class Measured(NamedTuple):
    """Of one piece of work on one side, seconds and rates of the product: of each repetition."""

    seconds: list
    rates: list
    operations: float
    # Of the run whose numbers are checked
    answers: list
    values: list
    peak: int
    result: object = None


def timed(run, device, *arguments):
    """(seconds, what it returned)"""
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = run(*arguments)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, result


def product_rate(dtype, device):
    """Operations a second of a matrix product, the yardstick for all shares."""
    n = 1024 if device == "cpu" else 8192
    a, b = torch.randn(2, n, n, dtype=dtype, device=device)
    return 2 * n**3 / statistics.median(timed(torch.mm, device, a, b)[0] for _ in range(10))


def resident():
    """Most memory (bytes) that this process held. getrusage would count the parent's in."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status names no VmHWM: memory is measured on Linux")


def works_of(settings, folder):
    tokenizer = Tokenizer.from_pretrained(folder / "llm")
    prepare = WORKS[settings.what]
    return prepare(SHAPES[settings.shape], tokenizer, settings.device, settings.keypoints)


def run_alone(name, side, folder, settings):
    """One piece of work, once: the numbers to compare, and peak memory in bytes."""
    torch.set_num_threads(settings.threads)
    work, shape = works_of(settings, folder)[name], SHAPES[settings.shape]
    model = open_model(side, settings.what, folder, shape, settings.device, checked=True)
    result = work.run(model)
    cuda = settings.device == "cuda"
    peak = torch.cuda.max_memory_allocated() if cuda else resident()
    return work.check(model, result), peak


def say(text):
    print(text, file=sys.stderr, flush=True)


def check_each(works, sides, folder, settings):
    """{(work, side): (answers, values), peak} from processes of their own."""
    checks = {}
    for name in works:
        for side in sides:
            say(f"{name}: memory and numbers, {side}")
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                checks[name, side] = pool.apply(run_alone, (name, side, folder, settings))
    return checks


def time_each(works, models, settings):
    """({(work, side): seconds}, {(work, side): its last result}, rates of the product)"""
    device, dtype = settings.device, SHAPES[settings.shape]["dtype"]
    for model in models.values():
        # What only the first run does is not timed.
        next(iter(works.values())).run(model)
    seconds, results, rates = {}, {}, []
    for n in range(settings.repeat):
        rates.append(product_rate(dtype, device))
        order = list(models) if n % 2 == 0 else list(models)[::-1]
        for name, work in works.items():
            for side in order:
                took, results[name, side] = timed(work.run, device, models[side])
                seconds.setdefault((name, side), []).append(took)
                say(f"{name}: {side} {took:.2f} s")
    return seconds, results, rates


def measure(settings):
    """{(work, side): Measured}"""
    shape, sides = SHAPES[settings.shape], [settings.only] if settings.only else SIDES
    torch.set_num_threads(settings.threads)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        say("writing the model")
        write_model(folder, shape)
        works = works_of(settings, folder)
        checks = check_each(works, sides, folder, settings)
        models = {}
        for side in sides:
            models[side] = open_model(side, settings.what, folder, shape, settings.device, False)
        seconds, results, rates = time_each(works, models, settings)
    found = {}
    for key, result in results.items():
        name, side = key
        (answers, values), peak = checks[key]
        counted = works[name].count(side, result)
        found[key] = Measured(seconds[key], rates, counted, answers, values, peak, result)
    return found


def row_of(name, found):
    """What results/cost.json holds of a piece of work, by side."""
    row = {"work": name}
    for side in SIDES:
        if (name, side) not in found:
            continue
        m = found[name, side]
        row[f"{side}, s"] = round(statistics.median(m.seconds), 2)
        row[f"{side}, GFLOP"] = round(m.operations / 1e9, 1)
        row[f"{side}, GB"] = round(m.peak / 1e9, 2)
        shares = [m.operations / t / rate for t, rate in zip(m.seconds, m.rates, strict=True)]
        row[f"{side}, of the rate"] = round(statistics.median(shares), 2)
    if (name, "ours") in found:
        ours = found[name, "ours"]
        ideal = ours.operations / statistics.median(ours.rates)
        row["at the rate of a product, s"] = round(ideal, 1)
        if isinstance(ours.result, Density):
            row |= {"prefixes": ours.result.prefixes, "spread": round(ours.result.spread, 3)}
    if (name, "ours") in found and (name, "reference") in found:
        row |= compare(found[name, "reference"], found[name, "ours"])
    return row


def compare(reference, ours):
    """How much faster, paired, and how many answers are the same."""
    ratios = [r / o for r, o in zip(reference.seconds, ours.seconds, strict=True)]
    row = {"times faster": round(statistics.median(ratios), 2)}
    if reference.answers:
        same = [r == o for r, o in zip(reference.answers, ours.answers, strict=True)]
        row["same answers"] = f"{sum(same)} of {len(same)}"
    return row


def show(rows):
    """Print a table with a column for each entry that a row has."""
    heads = list(dict.fromkeys(key for row in rows for key in row))
    print(write_table(heads, [[row.get(head, "") for head in heads] for row in rows]))


def agree(name, reference, ours):
    """SystemExit unless the answers are the same and the values close, fp32."""
    same = reference[0] == ours[0]
    for r, o in zip(reference[1], ours[1], strict=True):
        same = same and math.isclose(r, o, rel_tol=1e-3)
    if not same:
        raise SystemExit(f"{name}: the two differ, the reference has {reference}, ours {ours}")


def write_rows(what, rows):
    """Into out/bench/, with the command, for scripts.collect."""
    command = "python -m scripts.bench " + shlex.join(sys.argv[1:])
    OUT.mkdir(parents=True, exist_ok=True)
    rows = [{"work": row["work"], "command": command} | row for row in rows]
    (OUT / f"{what}.json").write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n")


def bench(settings):
    found = measure(settings)
    names = list(dict.fromkeys(name for name, _ in found))
    rows = [row_of(name, found) for name in names]
    rates = next(iter(found.values())).rates
    print(
        f"{settings.what}, {settings.shape}, {settings.device}, {settings.threads} threads, "
        f"median of {settings.repeat}; a matrix product reaches "
        f"{statistics.median(rates) / 1e9:,.0f} GFLOP/s\n"
    )
    show(rows)
    if SHAPES[settings.shape]["dtype"] == torch.float32 and not settings.only:
        for name in names:
            sides = [found[name, side] for side in SIDES]
            agree(name, *((m.answers, m.values) for m in sides))
    write_rows(settings.what, rows)


def main():
    p = Parser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    cuda = torch.cuda.is_available()
    add = p.add_argument
    add("what", choices=["load", *WORKS], help="loading, answers, a training step, a density")
    add("--repeat", type=read_positive, default=5, metavar="N", help="times each side is measured")
    add("--only", choices=SIDES, help="measure one of the two sides alone (not for load)")
    add("--shape", choices=SHAPES, default="small", help="size of the models (not for load)")
    add("--keypoints", type=read_positive, nargs="+", default=[1, 4, 17, 68], metavar="K",
        help="how many keypoints infer asks for, each number measured in turn")
    add("--threads", type=read_positive, default=torch.get_num_threads(), metavar="N",
        help="CPU threads of each process (not for load)")
    add("--device", choices=["cpu", "cuda"], default="cuda" if cuda else "cpu",
        help="where both sides compute (not for load)")
    a = p.parse_args()
    if a.what == "load":
        row = measure_loading(a.repeat)
        show([row])
        write_rows("load", [row])
    else:
        bench(Settings(a.what, a.shape, a.device, a.threads, a.keypoints, a.repeat, a.only))


if __name__ == "__main__":
    launch.run("scripts.bench", main)
