"""Measurements that are too long for the tests: beside transformers and peft, paired, on models with random weights.

    python -m scripts.bench load                     # time and peak memory of loading a language model
    python -m scripts.bench infer --repeat 3         # 1, 4, 17, 68 keypoints, each asked alone or after the others
    python -m scripts.bench train                    # a step with one pair, and with all pairs of an image
    python -m scripts.bench density                  # the exact density, and the 100 samples that the paper draws for one

The reference does the same work the straightforward way: image and prompt of every keypoint in one batch, `generate` with
its cache. Both sides read the same weights, inference with the adapters merged. In each repetition both run one after the
other, and so does the matrix product whose rate the shares refer to; what is printed are medians, of ratios too. Before, each
piece of work runs once in a process of its own, where memory peaks and answers are taken: the two sides must agree.
"""
import argparse
import json
import math
import multiprocessing
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from pathlib import Path
from typing import Callable, NamedTuple

import torch
from safetensors.torch import load_file, save_file

import data
from capellm import CapeLLM, Codec
from support.folders import CapeLLMConfig
from dino import DINOv2, DINOv2Config
from llama import Config, Llama
from study import density as exact
from study import instructions
from support.tokenizer import Tokenizer

ROOT = Path(__file__).parent.parent

SIDES = ("reference", "ours")
LLAMA3 = dict(rms_norm_eps=1e-5, rope_theta=500000.0)
# 1.5 billion parameters in bf16: Llama 3.2's proportions
LOADED = LLAMA3 | dict(vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=20, num_attention_heads=32,
                       num_key_value_heads=8, head_dim=64, tie_word_embeddings=True)
# The positional tables are those of the image, because transformers resamples others unlike the original (dino.py).
SHAPES = {
    "small": {"dtype": torch.float32,       # 135 million parameters, and ViT-S/14
              "vision": dict(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=224, patch_size=14),
              "llm": LLAMA3 | dict(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                                   num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True)},
    "tiny": {"dtype": torch.float32,
             "vision": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14),
             "llm": LLAMA3 | dict(vocab_size=1024, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                  num_attention_heads=2, num_key_value_heads=1)},
    "llama8b": {"dtype": torch.bfloat16,    # the paper's: Llama-3.1-8B and ViT-L/14
                "vision": dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, image_size=224, patch_size=14),
                "llm": LLAMA3 | dict(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                                     num_attention_heads=32, num_key_value_heads=8)}}
LORA = {"rank": 8, "alpha": 16, "dropout": 0.05, "parts": ["vision", "llm"]}
QUESTION = {"infer": 58, "train": 60, "density": 58}       # tokens: prompts of 257 + 58, pairs of 257 + 4 x (60 + 14)
SHARED = 7          # tokens that all questions begin with
ANSWER = 14         # tokens of [0.abc,0.def] and the end of text
BATCH = 15          # keypoints in a batch of the reference, as in the authors' code
K = 4               # rounds of a pair
SAMPLES = 100
WORDS = [c + v for c in "bcdfghjklmnpqrstvwxz" for v in "aeiou"]


# ------------------------------------------------------------- models of random weights

def write_backbone(folder, model, config, dtype):
    """A folder as published: config.json and safetensors. model: on the meta device, for names and shapes."""
    folder.mkdir(exist_ok=True)
    tensors = {n: random_like(t, 1.5, dtype) if t.dim() > 1 else torch.full(t.shape, float(not n.endswith("bias")), dtype=dtype)
               for n, t in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))


def random_like(tensor, gain, dtype=torch.float32):
    """Uniform, of a variance that lets activations keep their size: logits then differ clearly, and none wins everywhere."""
    bound = gain * math.sqrt(3 / tensor.shape[-1])
    return torch.empty(tensor.shape, dtype=dtype).uniform_(-bound, bound)


def write_llm(folder, shape, dtype):
    with torch.device("meta"):
        model = Llama(Config(**shape))
    kind = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu"}
    write_backbone(folder, model, shape | kind, dtype)


def write_tokenizer(file):
    """A vocabulary in Llama 3's format: the bytes, so that digits are single tokens, and each word of a question as one token."""
    words = re.findall(" ?[A-Za-z]+", instructions.QUESTION.format(name="", description="")) + [f" {w}" for w in WORDS]
    tokens = [bytes([i]) for i in range(256)] + [w.encode() for w in dict.fromkeys(words)]
    file.write_text("".join(f"{b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens)))


def write_model(folder, shape):
    """A CapeLLM folder of this shape; no adapter is zero."""
    torch.manual_seed(0)
    with torch.device("meta"):
        vision = DINOv2(DINOv2Config(**shape["vision"]))
    write_backbone(folder / "vision", vision, shape["vision"] | {"model_type": "dinov2"}, shape["dtype"])
    write_llm(folder / "llm", shape["llm"], shape["dtype"])
    write_tokenizer(folder / "llm/tokenizer.model")
    model = CapeLLM.assemble(CapeLLMConfig(str(folder / "vision"), str(folder / "llm"), shape["vision"]["image_size"], 3, LORA), shape["dtype"])
    save_file({n: random_like(t, 0.5) for n, t in model.adapter().items()}, folder / "adapter.safetensors")
    (folder / "config.json").write_text(model.config.to_json())


def keypoints(n, tokens, tokenizer):
    """n keypoints whose question has this many tokens."""
    rng = random.Random(0)
    words = lambda n: " ".join(rng.choices(WORDS, k=n))
    rest = tokens - len(data.write_question(tokenizer, data.Keypoint(words(3), words(1)))) + 1
    return [data.Keypoint(words(3), words(rest)) for _ in range(n)]


# --------------------------------------------------------------------- the reference

class Reference(torch.nn.Module):
    """transformers and peft, with the methods of CapeLLM that are measured. free: it generates what it likes, which is what
    is timed; else the template is forced, and between it digits are, so that answers can be compared."""

    def __init__(self, folder, dtype, device, merge, free):
        super().__init__()
        import transformers
        from peft import LoraConfig, get_peft_model
        transformers.utils.logging.disable_progress_bar()
        adapter, self.free = load_file(folder / "adapter.safetensors"), free
        rank, alpha, dropout = (LORA[k] for k in ("rank", "alpha", "dropout"))
        for part, kind in (("vision", transformers.Dinov2Model), ("llm", transformers.LlamaForCausalLM)):
            lora = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=["q_proj", "v_proj"])
            model = get_peft_model(kind.from_pretrained(folder / part, dtype=dtype), lora)
            for name, tensor in adapter.items():
                if name.startswith(f"{part}."):
                    name = re.sub("attention.(query|value)", lambda m: f"{m[1][0]}_proj", name.removeprefix(f"{part}."))
                    model.get_parameter(f"base_model.model.{name}.default.weight").data.copy_(tensor)
            setattr(self, part, model.merge_and_unload() if merge else model)
        self.projection = torch.nn.Linear(*reversed(adapter["projection.weight"].shape), bias=False)
        self.projection.weight.data.copy_(adapter["projection.weight"])
        self.tokenizer = Tokenizer.from_pretrained(folder / "llm")
        self.codec = c = Codec(self.tokenizer)
        self.template = [*([t] for t in c.open), *[c.ids] * 3, *([t] for t in c.comma), *[c.ids] * 3, *([t] for t in c.close)]
        self.llm.generation_config.update(eos_token_id=None, pad_token_id=0)        # random weights must not end early
        self.to(device)

    def embed(self, pixels, ids):
        """[BOS; V; T] of a batch: pixels (B, 3, S, S), ids a list of B equally long lists."""
        V = self.projection(self.vision(pixels).last_hidden_state[:, 1:].float())
        ids = torch.tensor([[self.tokenizer.bos_id, *i] for i in ids], device=pixels.device)
        T = self.llm.get_input_embeddings()(ids)
        return torch.cat([T[:, :1], V.to(T.dtype), T[:, 1:]], 1)

    def generate(self, pixels, prompts, sample):
        """Answers to prompts about an image (3, S, S): their token ids, and, if greedy and not free, their probabilities."""
        log_p = torch.zeros(len(prompts), dtype=torch.float64, device=pixels.device)

        def digits(ids, scores):
            allowed = torch.tensor(self.template[ids.shape[1]], device=ids.device)
            log_p.add_(scores[:, allowed].double().log_softmax(-1).amax(-1))
            return torch.full_like(scores, -torch.inf).index_copy(1, allowed, scores[:, allowed])

        x = self.embed(pixels.expand(len(prompts), -1, -1, -1), prompts)
        ids = self.llm.generate(inputs_embeds=x, attention_mask=torch.ones(x.shape[:2], dtype=torch.long, device=x.device),
                                max_new_tokens=len(self.template), logits_processor=[] if self.free else [digits],
                                do_sample=sample, **{"top_k": 0} if sample else {})
        return ids.tolist(), log_p.exp().tolist()

    @torch.inference_mode()
    def answer(self, pixels, keypoints, decoding="greedy", cumulative=False):
        """As CapeLLM.answer, without coordinates where it is free. A chain of rounds is read again for each of them."""
        questions, answers, context = [data.write_question(self.tokenizer, k) for k in keypoints], [], []
        trunk = 1 + (pixels.shape[1] // self.vision.config.patch_size) ** 2
        size = 1 if cumulative else BATCH
        for i in range(0, len(questions), size):
            if trunk + len(context) + len(questions[i]) + ANSWER > data.MAX_TOKENS:
                context = []
            answers += zip(*self.generate(pixels, [context + q for q in questions[i:i + size]], decoding == "sampling"))
            if cumulative:
                context = context + questions[i] + answers[-1][0] + [self.tokenizer.eos_id]
        ids, probability = zip(*answers)
        places = [i for i, allowed in enumerate(self.template) if len(allowed) > 1]
        digits = [] if self.free else [[self.codec.ids.index(answer[i]) for i in places] for answer in ids]
        return [[self.codec.value(d[:3]), self.codec.value(d[3:])] for d in digits], list(probability)

    def loss(self, pixels, branches):
        """As CapeLLM.loss, of one image and one pair."""
        ((ids, labels),), = branches
        x = self.embed(pixels, [ids])
        labels = torch.tensor([[data.IGNORE] * (x.shape[1] - len(ids)) + labels], device=x.device)
        return self.llm(inputs_embeds=x, labels=labels).loss, None


def open_model(side, what, folder, shape, device, checked):
    """checked: for the numbers that must agree, so no dropout, and the reference is not free."""
    if side == "reference":
        model = Reference(folder, shape["dtype"], device, what != "train", not checked)
    else:
        model = CapeLLM.from_pretrained(folder, shape["dtype"], device, what != "train")
        for name in model.adapter():
            model.get_parameter(name).requires_grad_(what == "train")
    return model.train(what == "train" and not checked)


# --------------------------------------------------------------------- what is done

class Work(NamedTuple):
    """run(model) -> result, is timed; check(model, result) -> answers, values: equal on both sides, values to rounding;
    count(side, result): operations that this side's way takes."""
    run: Callable
    check: Callable
    count: Callable


def operations(shape, images, tokens, pairs, scores, training=False):
    """Floating-point operations, 2 for a multiply-add. images through the vision encoder and the projection, tokens through
    the language model, pairs of query and key in its attention, scores: of a vocabulary entry at a position.

    Every matrix takes 2 x weights x tokens, attention 4 x width x pairs a layer. Training adds the gradients of inputs, as much
    again (attention: twice), and those of weights for what is trained, adapters and projection. Norms, activations, rotations
    and the optimiser are not counted, nor that nothing asks for gradients before the first adapter.
    """
    v, m, rank = DINOv2Config(**shape["vision"]), Config(**shape["llm"]), LORA["rank"] * training
    N, C, D, layers = (v.image_size // v.patch_size) ** 2, v.hidden_size, m.hidden_size, m.num_hidden_layers
    q, kv = (n * m.head_dim for n in (m.num_attention_heads, m.num_key_value_heads))
    seen = images * v.num_hidden_layers * (N + 1)
    frozen = seen * 12 * C ** 2 + layers * tokens * D * (2 * q + 2 * kv + 3 * m.intermediate_size) + scores * D
    trained = images * N * C * D + rank * (seen * 4 * C + layers * tokens * (2 * D + q + kv))
    attention = seen * (N + 1) * C + layers * q * pairs
    patching = images * N * C * 3 * v.patch_size ** 2
    return 2 * patching + (2 + 2 * training) * frozen + (2 + 4 * training) * (trained + 2 * attention)


def chain(new, past=0):
    """Pairs of query and key where new tokens follow past ones."""
    return new * past + new * (new + 1) // 2


def tree(shape, trunk, branches, scores, training=False):
    """Operations of one image, a trunk of tokens, and branches of so many tokens off it."""
    return operations(shape, 1, trunk + sum(branches), chain(trunk) + sum(chain(b, trunk) for b in branches), scores, training)


def infer_count(shape, n, cumulative):
    """Ours reads answers up to their last digit, and of rounds before others all, and once what all questions begin with; the
    reference all but the last token."""
    trunk, entries, question = trunk_of(shape), shape["llm"]["vocab_size"], QUESTION["infer"]
    shared = SHARED * (n > 1 and not cumulative)
    longest = (data.MAX_TOKENS - trunk) // (question + ANSWER) if cumulative else 1         # rounds of a chain
    chains = [min(longest, n - i) * (question + ANSWER) - 3 for i in range(0, n, longest)]
    whole = [trunk + i % longest * (question + ANSWER) + question + ANSWER - 2 for i in range(n)]
    return {"ours": tree(shape, trunk + shared, [c - shared for c in chains], n * 60),
            "reference": operations(shape, n, sum(whole), sum(map(chain, whole)), n * (ANSWER - 1) * entries)}


def trunk_of(shape):
    return 1 + (shape["vision"]["image_size"] // shape["vision"]["patch_size"]) ** 2


def pixels_of(shape, device):
    return torch.randn(3, *[shape["vision"]["image_size"]] * 2, generator=torch.Generator().manual_seed(0)).to(device)


def infer_work(shape, pixels, asked, cumulative, sample=False):
    n = len(asked)
    decoding = {"decoding": "sampling"} if sample else {"cumulative": cumulative}
    return Work(lambda model: model.answer(pixels, asked, **decoding),
                lambda model, result: ([], []) if sample else result,
                lambda side, _: infer_count(shape, n, cumulative)[side])


def infer(shape, tokenizer, device, counts):
    asked, pixels = keypoints(max(counts), QUESTION["infer"], tokenizer), pixels_of(shape, device)
    return {f"{n} keypoint{'s' * (n > 1)}, {'cumulative' if c else 'single'}": infer_work(shape, pixels, asked[:n], c)
            for n in counts for c in ([False, True] if n > 1 else [False])}


def step(model, pixels, pairs):
    """One optimiser step on an image's pairs: ours hang off one trunk, the reference's follow each other, accumulated."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser, total = torch.optim.AdamW(trained, lr=5e-4, weight_decay=0.01), 0
    for share in [pairs] if isinstance(model, CapeLLM) else [[pair] for pair in pairs]:
        loss = model.loss(pixels[None], [share])[0] * len(share) / len(pairs)
        loss.backward()
        total += float(loss.detach())
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in trained))
    optimiser.step()
    optimiser.zero_grad()
    return total, norm


def train(shape, tokenizer, device, _):
    codec, pixels, rng = Codec(tokenizer), pixels_of(shape, device), random.Random(0)
    rounds = [(k, (rng.random() * 0.999, rng.random() * 0.999)) for k in keypoints(4 * K, QUESTION["train"], tokenizer)]
    pairs = [data.conversation(tokenizer, codec, rounds[i:i + K]) for i in range(0, len(rounds), K)]
    trunk, entries = trunk_of(shape), shape["llm"]["vocab_size"]

    def work(pairs):
        branches = [len(ids) for ids, _ in pairs]
        count = {"ours": tree(shape, trunk, branches, K * ANSWER * len(pairs) * entries, True),
                 "reference": sum(tree(shape, trunk, [b], (trunk + b) * entries, True) for b in branches)}
        return Work(lambda model: step(model, pixels, pairs), lambda model, result: ([], result), lambda side, _: count[side])

    return {f"a pair of {K} rounds": work(pairs[:1]), f"an image's {len(pairs)} pairs of {K} rounds": work(pairs)}


def density(shape, tokenizer, device, _):
    asked, pixels = keypoints(1, QUESTION["density"], tokenizer), pixels_of(shape, device)
    greedy, samples = (infer_work(shape, pixels, asked * n, False, n > 1) for n in (1, SAMPLES))
    start = trunk_of(shape) + QUESTION["density"] + 3                                   # tokens up to the first digit

    def ours(prefixes, whole):
        """Each prefix is read once: a token, 3 more behind the whole of x, and each of them sees the question and some 4 more."""
        tokens = prefixes - 1 + 3 * whole
        return operations(shape, 1, start + tokens, chain(start) + tokens * chain(1, start + 3), 10 * prefixes)

    def drawn(side, found):
        if side == "reference":
            return samples.count(side, None)
        codes = [f"{round(1000 * x):03}{round(1000 * y):03}" for x, y in found[0]]
        read = [len({c[:n] for c in codes}) for n in range(6)]
        return ours(sum(read), read[3])

    def run(model):         # the paper's way are samples
        return exact.density(model, pixels, asked[0]) if isinstance(model, CapeLLM) else samples.run(model)

    def check(model, result):
        """The greedy answer, and its mass."""
        answers, mass = greedy.run(model)
        if isinstance(model, CapeLLM):
            mass = [float(result.p[round(1000 * x), round(1000 * y)]) for x, y in answers]
        return answers, mass

    def count(side, found):
        if side == "reference":
            return samples.count(side, None)
        return ours(found.prefixes, int((found.p.sum(1) >= 1e-4).sum()))

    return {"one greedy answer": greedy, f"{SAMPLES} samples": samples._replace(count=drawn),
            f"density: exact, reference {SAMPLES} samples": Work(run, check, count)}


WORKS = {"infer": infer, "train": train, "density": density}


# ---------------------------------------------------------------------- measuring

def timed(run, device):
    """(seconds, what it returned)"""
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, result


def product_rate(dtype, device):
    """Operations a second of a matrix product, the yardstick for all shares."""
    n = 1024 if device == "cpu" else 8192
    a, b = torch.randn(2, n, n, dtype=dtype, device=device)
    return 2 * n ** 3 / statistics.median(timed(lambda: a @ b, device)[0] for _ in range(10))


def resident():
    """Most memory (bytes) that this process held. The parent's is counted in by getrusage, not here."""
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) * 1024


def alone(name, side, folder, a):
    """One piece of work, once, in a process of its own: the numbers to compare, and peak memory in bytes."""
    torch.set_num_threads(a.threads)
    shape = SHAPES[a.shape]
    work = WORKS[a.what](shape, Tokenizer.from_pretrained(folder / "llm"), a.device, a.keypoints)[name]
    model = open_model(side, a.what, folder, shape, a.device, checked=True)
    result = work.run(model)
    peak = torch.cuda.max_memory_allocated() if a.device == "cuda" else resident()
    return work.check(model, result), peak


def compare(a):
    shape, sides = SHAPES[a.shape], [a.only] if a.only else SIDES
    torch.set_num_threads(a.threads)
    say = lambda *text: print(*text, file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        say("writing the model")
        write_model(folder, shape)
        works = WORKS[a.what](shape, Tokenizer.from_pretrained(folder / "llm"), a.device, a.keypoints)
        checks, rates, seconds, results = {}, [], {}, {}
        for name in works:
            for side in sides:
                say(f"{name}: memory and numbers, {side}")
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    checks[name, side] = pool.apply(alone, (name, side, folder, a))
        models = {side: open_model(side, a.what, folder, shape, a.device, checked=False) for side in sides}
        for model in models.values():
            next(iter(works.values())).run(model)               # what only the first run does is not timed
        for n in range(a.repeat):
            rates.append(product_rate(shape["dtype"], a.device))
            for name, work in works.items():
                for side in sides[::(-1) ** n]:
                    t, results[name, side] = timed(lambda: work.run(models[side]), a.device)
                    seconds.setdefault((name, side), []).append(t)
                    say(f"{name}: {side} {t:.2f} s")
    print(f"{a.what}, {a.shape}, {a.device}, {a.threads} threads, median of {a.repeat}; "
          f"a matrix product reaches {statistics.median(rates) / 1e9:,.0f} GFLOP/s\n")
    counts = {(name, side): works[name].count(side, result) for (name, side), result in results.items()}
    print(*table(works, sides, checks, rates, seconds, counts), sep="\n")
    for found in results.values():
        if isinstance(found, exact.Density):
            print(f"\nthe exact density read {found.prefixes:,} prefixes and spread {found.spread:.3f} of the mass")
    if shape["dtype"] == torch.float32 and not a.only:
        for name in works:
            agree(name, *(checks[name, side][0] for side in SIDES))


def table(works, sides, checks, rates, seconds, counts):
    """Lines of a Markdown table, one piece of work each."""
    share = lambda key: statistics.median(counts[key] / t / r for t, r in zip(seconds[key], rates))
    columns = {"s": lambda key: f"{statistics.median(seconds[key]):.2f}",
               "GFLOP": lambda key: f"{counts[key] / 1e9:,.1f}",
               "of the rate": lambda key: f"{share(key):.0%}",
               "GB": lambda key: f"{checks[key][1] / 1e9:.2f}"}
    both = len(sides) == 2
    heads = [f"{side}, {c}" for c in columns for side in sides] + ["times faster", "same answers"] * both
    yield " | ".join(["|", *heads]) + " |"
    yield "|---|" + "---:|" * (len(columns) * len(sides) + 2 * both)
    for name in works:
        cells = [column((name, side)) for column in columns.values() for side in sides]
        if both:
            (theirs, _), (ours, _) = (checks[name, side][0] for side in SIDES)
            cells.append(f"{statistics.median(r / o for r, o in zip(*(seconds[name, side] for side in SIDES))):.2f}")
            cells.append(f"{sum(t == o for t, o in zip(theirs, ours))} of {len(theirs)}" if theirs else "")
        yield " | ".join([f"| {name}", *cells]) + " |"


def agree(name, reference, ours):
    """SystemExit unless the answers are the same and the values close, fp32."""
    if reference[0] != ours[0] or not all(math.isclose(r, o, rel_tol=1e-3) for r, o in zip(reference[1], ours[1], strict=True)):
        raise SystemExit(f"{name}: the two differ, the reference has {reference}, ours {ours}")


# ---------------------------------------------------------------------- loading

LOADERS = {"capellm": "from llama import Llama; model = Llama.from_pretrained(folder, torch.bfloat16)",
           "transformers": "from transformers import LlamaForCausalLM; "
                           "model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, low_cpu_mem_usage=True)"}
CHILD = """if True:
    import sys, time, torch
    folder, loader, root = sys.argv[1:]
    sys.path.insert(0, root)
    exec(loader.split(";")[0])                      # imports are not loading
    def resident(field):
        return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(field))) * 1024
    before, began = resident("VmRSS"), time.perf_counter()
    exec(loader.split(";")[1].strip())
    total = sum(int(p.view(torch.int16).sum()) for p in model.parameters())     # every weight is really there
    print(time.perf_counter() - began, resident("VmHWM") - before, total)
"""


def load(repeat):
    """Time and peak memory of loading, paired: each repetition runs both, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        write_llm(Path(folder), LOADED, torch.bfloat16)
        size = (Path(folder) / "model.safetensors").stat().st_size
        found = {name: [] for name in LOADERS}
        for _ in range(repeat):
            for name, loader in LOADERS.items():
                command = [sys.executable, "-c", CHILD, folder, loader, str(ROOT)]
                out = subprocess.run(command, capture_output=True, text=True, check=True)
                found[name].append([float(n) for n in out.stdout.split()])
    if len({sums[2] for runs in found.values() for sums in runs}) != 1:
        raise SystemExit("the two loaded different weights")
    print(f"a file of {size / 1e9:.2f} GB, {size / 2e9:.2f} billion parameters, median of {repeat}")
    for name, runs in found.items():
        print(f"{name:13} {statistics.median(r[0] for r in runs):6.2f} s   peak {max(r[1] for r in runs) / size:.2f} x the file")
    print(f"transformers / capellm, paired: {statistics.median(t[0] / o[0] for o, t in zip(*found.values())):.2f}")


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("what", choices=["load", *WORKS])
    p.add_argument("--repeat", type=int, default=5, help="pairs of runs")
    p.add_argument("--only", choices=SIDES, help="measure one side alone (not load)")
    p.add_argument("--shape", choices=SHAPES, default="small", help="of the models (not load)")
    p.add_argument("--keypoints", type=int, nargs="+", default=[1, 4, 17, 68], help="of infer")
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    a = p.parse_args()
    load(a.repeat) if a.what == "load" else compare(a)
