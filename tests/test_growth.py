"""scripts/growth.py: its formulas against modules, tensors and operations counted one by one.

And docs/growth.md against its output.
"""

import contextlib
import io
import math
import os
import random
import re
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import data
from capellm import CapeLLM, Codec
from dino import DINOv2, DINOv2Config
from llama import Config, KVCache, Llama
from lora import add_lora
from scripts import growth
from scripts.growth import LLM, Vision
from support import attention
from support.descriptions import DESCRIPTIONS
from support.folders import CapeLLMConfig
from support.tokenizer import Tokenizer

DOCUMENT = Path(__file__).parent.parent / "docs/growth.md"
V = Vision(2, 48, 2, N=16, table=25)
# Heads are wider together than the model.
M = LLM(2, 32, 80, 4, 2, 12, 340)


def config_of(m):
    return Config(m.V, m.D, m.I, m.L, m.H, m.G, m.d)


def llama(m):
    return Llama(config_of(m))


def dino(v):
    return DINOv2(DINOv2Config(v.C, v.L, v.H, image_size=14 * math.isqrt(v.table)))


def capellm_of(v, m, tokenizer, lora=False):
    """Random weights; with adapters, frozen but for what is trained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = CapeLLMConfig("", "", 14 * math.isqrt(v.N))
        model = CapeLLM(dino(v), llama(m), tokenizer, config)
        if lora:
            model.requires_grad_(False)
            add_lora(model.vision, ["query", "value"])
            add_lora(model.llm, ["q_proj", "v_proj"])
            model.projection.requires_grad_(True)
    return model


@pytest.fixture(scope="module")
def model(tiny_tokenizer):
    return capellm_of(V, M._replace(V=tiny_tokenizer.vocab_size), tiny_tokenizer).eval()


def count(run):
    """What torch counts.

    The plain kernel is decomposed into products that it sees; it computes all of the causal square.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def square(m, n, past=0):
    """Operations of the half of the square that a causal kernel leaves out, unlike the plain."""
    return 4 * m.L * m.H * m.d * (n * (past + n) - growth.chain(n, past))


# Parameters.


@pytest.mark.parametrize("m", [growth.LLAMA8B, M])
@pytest.mark.parametrize("v", [growth.LARGE, V])
def test_parameters(v, m):
    with torch.device("meta"):
        vision, llm, projection = dino(v), llama(m), v.C * m.D
    assert sum(p.numel() for p in llm.parameters()) == growth.llm_parameters(m)
    assert sum(p.numel() for p in vision.parameters()) == growth.vision_parameters(v)
    add_lora(vision, ["query", "value"], growth.RANK)
    add_lora(llm, ["q_proj", "v_proj"], growth.RANK)
    adapters = 0
    for net in (vision, llm):
        adapters += sum(p.numel() for name, p in net.named_parameters() if "lora" in name)
    assert adapters + projection == growth.trained_parameters(v, m)


# Inference.


@settings(max_examples=5, deadline=None)
@given(
    L=st.integers(1, 3),
    H=st.sampled_from([(2, 1), (4, 2), (3, 3)]),
    d=st.integers(2, 8),
    width=st.integers(8, 40),
    T=st.integers(1, 20),
    past=st.integers(1, 9),
    read=st.integers(1, 20),
)
def test_operations_of_a_language_model(L, H, d, width, T, past, read):
    m = LLM(L, 24, width, *H, 2 * d, 50)
    net, cache, read = llama(m), KVCache(config_of(m), 1, past + T), min(read, T)

    def run():
        hidden = net(torch.randn(1, T, m.D), cache=cache, wanted=(slice(None), slice(T - read, T)))
        net.logits(hidden)

    with torch.inference_mode():
        net(torch.randn(1, past, m.D), cache=cache)
        found = count(run)
    passed = growth.Pass(0, T, T * (past + T), read * m.V, read, past + T)
    assert found == growth.operations([passed], V, m)
    assert cache.k.nbytes + cache.v.nbytes == (past + T) * growth.kv_bytes(m, 4)


def test_operations_of_the_official_models():
    """Llama-3.1-8B and ViT-L/14 themselves, without weights."""
    v, m = growth.LARGE, growth.LLAMA8B
    with torch.device("meta"), torch.inference_mode():
        vision, llm, projection = dino(v), llama(m), torch.nn.Linear(v.C, m.D, bias=False)
        pixels = torch.randn(1, 3, 224, 224)
        found = count(lambda: llm(projection(vision(pixels))))
    passed = growth.Pass(1, v.N, v.N**2, 0, v.N, v.N)
    assert found == growth.operations([passed], v, m)


WAYS = [("single", 1), ("single", 5), ("single", 40), ("cumulative", 1), ("cumulative", 5)]


@pytest.mark.parametrize("way, K", WAYS)
def test_operations_of_answers(model, way, K, monkeypatch):
    """And the tokens in their cache. A chain has room for two rounds."""
    asked = [data.Keypoint(f"part {i:02}", "It sees.") for i in range(K)]
    m = M._replace(V=model.llm.config.vocab_size)
    questions = [data.write_question(model.tokenizer, k) for k in asked]
    (q,) = {len(question) for question in questions}
    limit, lengths = 1 + V.N + 2 * (q + growth.answer()), []
    monkeypatch.setattr(data, "MAX_TOKENS", limit)
    monkeypatch.setattr(growth, "LIMIT", limit)
    forward = model.llm.forward

    def watched(x, positions=None, mask=None, cache=None, **more):
        out = forward(x, positions, mask, cache, **more)
        lengths.append(cache.length)
        return out

    monkeypatch.setattr(model.llm, "forward", watched)
    pixels, chained = torch.randn(3, 56, 56), way == "cumulative"
    found = count(lambda: model.answer(pixels, asked, cumulative=chained))
    if chained:
        passes = list(growth.cumulative(K, q, V, m, block=attention.BLOCK_ROWS))
    else:
        shared = len(os.path.commonprefix(questions))
        passes = list(growth.single(K, q, V, m, block=attention.BLOCK_ROWS, shared=shared))
    assert lengths == [p.cache for p in passes]
    assert found - square(m, passes[0].tokens) == growth.operations(passes, V, m)


def test_operations_of_the_plain_way(model, monkeypatch):
    """Batches of 15, cumulative one after the other; a loop that does what `plain` says."""
    m, q, K, trunk = M._replace(V=model.llm.config.vocab_size), 20, 17, 1 + V.N
    monkeypatch.setattr(growth, "LIMIT", trunk + 3 * (q + growth.answer()))

    def answer_plainly(n, tokens):
        cache = KVCache(model.llm.config, n, trunk + tokens + 13)
        V_of_images = model.image_tokens(torch.randn(n, 3, 56, 56))
        ids = torch.zeros(n, tokens, dtype=torch.long)
        x = model.sequence(V_of_images, ids)
        # The tokens of `[0.abc,0.def]`
        for _ in range(13):
            scores = model.llm.logits(model.llm(x, cache=cache))
            x = model.llm.embed(scores[:, -1:].argmax(-1))

    def run(batches):
        for n, tokens in batches:
            answer_plainly(n, tokens)

    with torch.inference_mode():
        found = count(lambda: run([(15, q), (2, q)])) - K * square(m, trunk + q)
        assert found == growth.operations(growth.plain(K, q, V, m), V, m)
        lengths = [q + i % 3 * (q + growth.answer()) for i in range(5)]
        found = count(lambda: run([(1, n) for n in lengths]))
        found -= sum(square(m, trunk + n) for n in lengths)
        assert found == growth.operations(growth.plain_cumulative(5, q, V, m), V, m)


# Training.


@pytest.mark.parametrize("rounds", [[4], [4, 4, 2]])
def test_operations_of_training(tiny_tokenizer, rounds, monkeypatch):
    """Forward and backward, on one trunk, in one block, as on a GPU.

    But for the gradients that the first vision layer does not need.
    """
    monkeypatch.setattr(attention, "BLOCK_ROWS", 10**6)
    m = M._replace(V=tiny_tokenizer.vocab_size)
    model, codec = capellm_of(V, m, tiny_tokenizer, lora=True).train(), Codec(tiny_tokenizer)
    keypoint, place, conversations = data.Keypoint("eye", "It sees."), (0.123, 0.456), []
    for n in rounds:
        asked = [(keypoint, place)] * n
        conversations.append(data.write_conversation(tiny_tokenizer, codec, asked))
    pixels, q = torch.randn(1, 3, 56, 56), len(data.write_question(tiny_tokenizer, keypoint))

    def loss():
        return model.loss_of_branches(pixels, [conversations]).total

    forward, both = count(loss), count(lambda: loss().backward())
    step = growth.training(V, m, rounds, q, shared=True)
    S = 1 + V.N
    chained = S + len(conversations[0].ids) if len(rounds) == 1 else 0
    assert forward == step.layers + step.rest + square(m, chained)
    # Gradients of the inputs of q, k, v and both A; of the keys
    unneeded = S * (6 * V.C**2 + 4 * growth.RANK * V.C) + 2 * S**2 * V.C
    assert both - forward == step.backward + 2 * square(m, chained) - unneeded


def test_shared_trunk_saves_trunks():
    """Operations are a sum over conversations, but for the trunk, and for pairs of tokens."""
    v, m = growth.LARGE, growth.LLAMA8B._replace(H=0)
    one, two = growth.training(v, m, [4]), growth.training(v, m, [4, 4])
    shared, trunk = growth.training(v, m, [4, 4], shared=True), growth.training(v, m, [0])
    assert two == tuple(2 * x for x in one)
    assert shared == tuple(x - t for x, t in zip(two, trunk, strict=True))


def kept(run, net):
    """Bytes of the tensors that autograd keeps in run, weights left out."""
    own, found = {p.untyped_storage()._cdata for p in net.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            # Holds on to it, so that no other gets its address.
            found[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(s.nbytes() for s in found.values())


def kept_by(net, names, layers, x, checkpointed):
    """What a net with adapters keeps, in bf16, with dropout."""
    add_lora(net.to(torch.bfloat16).requires_grad_(False), names, growth.RANK)
    for layer in layers if checkpointed else ():
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    return kept(lambda: net.train()(x), net)


SHAPES = [
    (V, LLM(2, 64, 160, 4, 2, 16, 9), 48),
    (Vision(2, 64, 4, N=9, table=16), LLM(2, 32, 88, 2, 2, 24, 9), 33),
]


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("v, m, tokens", SHAPES)
def test_activations(v, m, tokens, checkpointed):
    """What one layer more keeps; checkpointed its input alone."""
    side = 14 * math.isqrt(v.N)
    pixels, seen = torch.randn(1, 3, side, side), []
    x, read = torch.randn(1, tokens, m.D, dtype=torch.bfloat16, requires_grad=True), []
    for L in (2, 3):
        net = dino(v._replace(L=L))
        layers = net.encoder.layer
        seen.append(kept_by(net, ["query", "value"], layers, pixels, checkpointed))
        net = llama(m._replace(L=L))
        layers = net.model.layers
        read.append(kept_by(net, ["q_proj", "v_proj"], layers, x, checkpointed))
    of_vision = 2 * v.C if checkpointed else growth.vision_bytes(v)
    # On a CPU a norm keeps its input in fp32, a GPU's kernel in bf16.
    of_llm = 2 * m.D if checkpointed else growth.llm_bytes(m) + 2 * 2 * m.D
    assert seen[1] - seen[0] == (v.N + 1) * of_vision
    assert read[1] - read[0] == tokens * of_llm


# Data, and the document.


def test_what_is_counted_in_the_data():
    """Tokens in Llama 3's vocabulary, and groups of k."""
    tokenizer = Tokenizer(Path(find_spec("llama_models").origin).parent / "llama3/tokenizer.model")
    facts, codec = data.read_mp100(), Codec(tokenizer)
    definitions = {c["id"]: c["definition"] for c in facts["categories"]}
    described = []
    for i in facts["splits"]["1"]["train"]:
        described.append(data.read_descriptions(DESCRIPTIONS / f"{definitions[i]}.txt"))
    assert growth.mp100("train") == [len(d) for d in described]
    questions = [data.write_question(tokenizer, k) for d in described for k in d]
    assert round(sum(map(len, questions)) / len(questions)) == growth.QUESTION
    assert len(os.path.commonprefix(questions)) == growth.SHARED
    around = len(codec.open), len(codec.comma), len(codec.close)
    assert around == (growth.OPEN, growth.COMMA, growth.CLOSE)
    assert len(codec.encode(0, 0)) == growth.answer()
    assert sum(growth.steps(0)) == growth.answer() - growth.CLOSE - growth.END - 1
    # So the last group is filled up with keypoints of its own category, all different.
    assert min(growth.mp100("train")) > growth.ROUNDS
    for d in described:
        groups = data.group_fixed(range(len(d)), growth.ROUNDS, random.Random(0), [0] * len(d), 0)
        assert len(groups) == -(-len(d) // growth.ROUNDS)


@pytest.mark.parametrize("labelled", [0.3, 0.895])
def test_pairs_are_groups_with_a_labelled_keypoint(labelled):
    """As `data.group_fixed` leaves them: how many there are, and how many rounds they have."""
    K, k, trials, draw = 11, growth.ROUNDS, 4000, random.Random(0)
    found = [0] * (k + 1)
    for _ in range(trials):
        askable = [j for j in range(K) if draw.random() < labelled]
        for group in data.group_fixed(askable, k, draw, [0] * K, 0):
            found[len(group)] += 1
    groups = trials * -(-K // k)
    found[0] = groups - sum(found)
    shares = growth.share_of_groups(labelled)
    assert sum(shares) == pytest.approx(1)
    for n, share in zip(found, shares, strict=True):
        assert n / groups == pytest.approx(share, abs=0.015)


def numbers(text):
    return set(re.findall(r"\d+(?:[.,]\d+)*", text))


def table_rows(text):
    return [line for line in text.splitlines() if line.startswith("|")]


def test_the_document_holds_what_is_printed(monkeypatch):
    """Tables line by line, other numbers one by one.

    Formulas and flags, between backticks or indented, apart.
    """
    monkeypatch.setattr(sys, "argv", ["growth.py"])
    with contextlib.redirect_stdout(io.StringIO()) as out:
        growth.main()
    document, printed = DOCUMENT.read_text(), out.getvalue()
    held, said = table_rows(document), table_rows(printed)
    assert [row for row in held if row not in said and numbers(row)] == []
    assert set(said) <= set(held)
    prose = []
    for line in document.splitlines():
        if not line.startswith(("|", "    ")):
            prose.append(line)
    assert numbers(re.sub("`[^`]*`", "", "\n".join(prose))) <= numbers(printed)
