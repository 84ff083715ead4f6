"""Operations, bytes and memory of CapeLLM, computed: every number of docs/growth.md.

    python -m scripts.growth                                       # what docs/growth.md has
    python -m scripts.growth --peak 989 --bandwidth 3350 --gpus 8  # other GPUs

A multiply-add is 2 operations. Counted are matrix products and attention, the latter as its kernels
see it: half of the square where the mask is causal; of a tree all of it on a GPU, on a CPU block by
block.
"""

import argparse
import json
import math
from pathlib import Path
from typing import NamedTuple

from scripts.markdown import write_table
from support import launch
from support.options import Parser, read_positive, read_positive_float

# Tokens of a question in Llama 3's vocabulary, q: the mean over the training part of split 1
QUESTION = 54
# Of these, s, what all begin with: "USER: Can you identify location of"
SHARED = 7
# Tokens of `[0.`, `,0.`, `]` and the end of text
OPEN, COMMA, CLOSE, END = 3, 3, 1, 1
# Tokens of a coordinate
DIGITS = 3
# k, the rank of the adapters, tokens of a chain
ROUNDS, RANK, LIMIT = 4, 8, 2048
# Questions in a pass: ours, the authors' published code
BRANCHES, PLAIN_BATCH = 32, 15
# Instances of a category (the paper: "about 200"); the share of their keypoints that the public
# annotations of split 1's training categories label
INSTANCES, LABELLED = 200, 0.895
# Section 4.1; query images and queries of a category in Table 2
EPOCHS, BATCH, TESTED, EPISODES = 12, 128, 2000, 200 * 15
# Pixels of a patch's side
PATCH = 14


class Vision(NamedTuple):
    """Shape of a vision encoder."""

    # Layers, width, heads
    L: int
    C: int
    H: int
    # Patches of an image, positions stored
    N: int = 256
    table: int = 37**2


class LLM(NamedTuple):
    """Shape of a language model."""

    # Layers, width, width of the MLP
    L: int
    D: int
    I: int  # noqa: E741, one letter as all sizes here
    # Heads, key-value heads, width of a head, vocabulary
    H: int
    G: int
    d: int
    V: int


class Pass(NamedTuple):
    """One call of the model."""

    # Computed by the vision encoder
    images: int
    # New tokens of the language model
    tokens: int
    # Of query and key
    pairs: int
    # Of a word at a position
    scores: int
    # Tokens whose hidden state somebody reads
    read: int
    # Tokens in the cache afterwards
    cache: int


class Machine(NamedTuple):
    """GPUs: operations, bytes a second and bytes."""

    # Operations a second of one GPU, and those that inference reaches
    peak: float
    rate: float
    # Of its memory, bytes a second
    bandwidth: float
    # Between GPUs and of a GPU's memory, GB/s and GB
    link: float
    memory: float
    gpus: int


LARGE = Vision(24, 1024, 16)
LLAMA8B = LLM(32, 4096, 14336, 32, 8, 128, 128256)


# Parameters.


def matrices(m):
    """Weights of a layer that every token is multiplied with."""
    return m.D * (2 * m.H * m.d + 2 * m.G * m.d + 3 * m.I)


def llm_parameters(m):
    return m.L * (matrices(m) + 2 * m.D) + m.D + 2 * m.V * m.D


def vision_parameters(v):
    return v.L * (12 * v.C**2 + 15 * v.C) + (3 * PATCH**2 + 5 + v.table) * v.C


def llm_adapters(m, r=RANK):
    """Weights of the adapters on query and value of the language model."""
    return r * m.L * (2 * m.D + m.H * m.d + m.G * m.d)


def vision_adapters(v, r=RANK):
    return r * v.L * 4 * v.C


def trained_parameters(v, m, r=RANK):
    """Projection, and adapters on query and value of both."""
    return v.C * m.D + vision_adapters(v, r) + llm_adapters(m, r)


# Inference.


def chain(n, past=0):
    """Pairs of query and key where n tokens follow past ones."""
    return n * past + n * (n + 1) // 2


def answer():
    """Tokens of an answer and its end."""
    return OPEN + COMMA + CLOSE + END + 2 * DIGITS


def steps(q):
    """Tokens a branch is fed in each pass, until all digits of its answer are decided."""
    return [q + OPEN, *[1] * (DIGITS - 1), 1 + COMMA, *[1] * (DIGITS - 1)]


def groups(K, size):
    return [min(size, K - i) for i in range(0, K, size)]


def looked_at(n, new, own, trunk, block):
    """Pairs of query and key where n branches with `own` cached tokens each grow by new ones.

    Rows attend in blocks of `block`, each to the columns up to its last row; None: all together.
    """
    pairs, block = 0, block or n * new
    for first in range(0, n * new, block):
        last = min(first + block, n * new) - 1
        branches = last // new - first // new
        columns = trunk + (branches + 1) * own + branches * new + last % new + 1
        pairs += (last - first + 1) * columns
    return pairs


def single(K, q, v, m, block=None, shared=SHARED):
    """Passes of CapeLLM.answer: the image and what all questions begin with, then branches off it.

    Of one keypoint all but the question's last token belongs to the trunk. block: rows that attend
    together; None: all, as on a GPU.
    """
    s = shared if K > 1 else q + OPEN - 1
    trunk = 1 + v.N + s
    yield Pass(1, trunk, chain(trunk), 0, trunk, trunk)
    for n in groups(K, BRANCHES):
        own = 0
        for new in steps(q - s):
            pairs = looked_at(n, new, own, trunk, block)
            own += new
            yield Pass(0, n * new, pairs, 10 * n, n, trunk + n * own)


def cumulative(K, q, v, m, block=None):
    """The image, then a chain of rounds, begun anew where it would pass LIMIT."""
    trunk = 1 + v.N
    yield Pass(1, trunk, chain(trunk), 0, trunk, trunk)
    S, behind = trunk, 0
    for _ in range(K):
        if S + behind + q + answer() > LIMIT:
            S, behind = trunk, 0
        for new in steps(behind + q):
            pairs = looked_at(1, new, S, 0, block)
            S += new
            yield Pass(0, new, pairs, 10, 1, S)
        behind = 1 + CLOSE + END


def plain(K, q, v, m, rounds=0):
    """The authors' code: image and prompt again for every keypoint, all logits of all positions.

    Then token by token to `]`.
    """
    for n in groups(K, PLAIN_BATCH):
        S = 1 + v.N + rounds * (q + answer()) + q
        yield Pass(n, n * S, n * chain(S), n * S * m.V, n * S, n * S)
        for _ in range(answer() - END - 1):
            S += 1
            yield Pass(0, n, n * S, n * m.V, n, n * S)


def plain_cumulative(K, q, v, m):
    """The same with the earlier rounds, which are read again, too."""
    longest = (LIMIT - 1 - v.N) // (q + answer())
    for i in range(K):
        yield from plain(1, q, v, m, i % longest)


WAYS = {
    "single": single,
    "plain": plain,
    "cumulative": cumulative,
    "plain, cumulative": plain_cumulative,
}


def vision_operations(v, m):
    """Patches, layers with attention, projection."""
    S = v.N + 1
    patches = 2 * v.N * 3 * PATCH**2 * v.C
    return patches + v.L * (24 * S * v.C**2 + 4 * S**2 * v.C) + 2 * v.N * v.C * m.D


def operations(passes, v, m):
    """Operations of passes; the last MLP computes only the tokens that are read."""
    total = 0
    for p in passes:
        total += p.images * vision_operations(v, m)
        total += 2 * m.L * p.tokens * matrices(m)
        total -= 6 * m.D * m.I * (p.tokens - p.read)
        total += 4 * m.L * m.H * m.d * p.pairs
        total += 2 * m.D * p.scores
    return total


def kv_bytes(m, b=2):
    """Keys and values of a token, b bytes a number."""
    return 2 * m.L * m.G * m.d * b


def moved(p, v, m, b=2):
    """Bytes that a pass must read: weights, and the cache. Ten rows of the head are nothing."""
    head = m.V * m.D if p.scores >= m.V else 0
    vision = v.L * 12 * v.C**2 + v.C * m.D if p.images else 0
    return b * (m.L * matrices(m) + head + vision) + kv_bytes(m, b) * p.cache


def seconds(passes, v, m, rate, bandwidth):
    """No pass is faster than its operations allow, nor than its bytes."""
    return sum(max(operations([p], v, m) / rate, moved(p, v, m) / bandwidth) for p in passes)


# Training.


class Step(NamedTuple):
    """Operations of training: layers forward, the rest forward, backward."""

    layers: int
    rest: int
    backward: int


def training(v, m, rounds, q=QUESTION, shared=False):
    """Step of an image's conversations; rounds: of each. shared: they hang off one trunk.

    Frozen matrices hand on the gradient of their input, as much as forward; that of their weights
    nobody needs. Attention and what is trained take twice as much. Not taken off: nothing before
    the first adapter needs a gradient.
    """
    branches = [n * (q + answer()) for n in rounds]
    trunk, images = 1 + v.N, 1 if shared else len(rounds)
    tokens, seen = images * trunk + sum(branches), images * trunk
    pairs = sum(chain(trunk + n) for n in branches)
    if shared and len(rounds) > 1:
        # The mask is a tree: kernels look at the square.
        pairs = tokens**2
    frozen = 2 * (seen * v.L * 12 * v.C**2 + tokens * m.L * matrices(m))
    adapters = 2 * (tokens * llm_adapters(m) + seen * vision_adapters(v))
    attention = 4 * (images * v.L * v.C * trunk**2 + m.L * m.H * m.d * pairs)
    projection = 2 * images * v.N * v.C * m.D
    patches = 2 * images * v.N * 3 * PATCH**2 * v.C
    head = 2 * m.D * m.V * sum(rounds) * answer()
    return Step(
        layers=frozen + adapters + attention,
        rest=projection + patches + head,
        backward=frozen + head + 2 * (adapters + attention + projection),
    )


def adapter_bytes(width):
    """Kept for the backward pass, of a token: input in fp32, dropout's mask, A's output."""
    return 5 * width + 4 * RANK


def llm_bytes(m):
    """Kept of a token by a layer of the language model, bf16.

    Of attention its inputs, its output and, of each head and query, the logarithm of what softmax
    divides by: fused kernels keep no scores, and compute them again.
    """
    norms = 2 * (2 * m.D + 4)
    query_output, key_value, softmax = 4 * m.H * m.d, 4 * m.G * m.d, 4 * m.H
    gate_silu_up = 6 * m.I
    attention = query_output + key_value + softmax
    return norms + attention + gate_silu_up + 2 * adapter_bytes(m.D)


def vision_bytes(v):
    """Kept of a token by a layer of the vision encoder, bf16."""
    norms = 2 * (2 * v.C + 4)
    attention, softmax = 8 * v.C, 4 * v.H
    gelu = 8 * v.C
    return norms + attention + softmax + gelu + 2 * adapter_bytes(v.C)


def activations(v, m, tokens, checkpointed=False):
    """Of one image, bytes; --checkpoint-activations keeps inputs of layers, and one layer whole."""
    vision, llm = (v.N + 1) * vision_bytes(v), tokens * llm_bytes(m)
    if checkpointed:
        return 2 * (v.L * (v.N + 1) * v.C + m.L * tokens * m.D) + max(vision, llm)
    return v.L * vision + m.L * llm


def mask_bytes(m, tokens):
    """Of a tree, for all layers: a number in bf16 for each query head of a group."""
    return 2 * m.H // m.G * tokens**2


def pair_tokens(v, pairs=1):
    """Tokens of an image and so many conversations of k rounds."""
    return 1 + v.N + pairs * ROUNDS * (QUESTION + answer())


# The tables.


def show(title, heads, rows):
    """Print a Markdown table."""
    print(f"\n{title}\n\n{write_table(heads, rows)}", end="")


def mp100(part):
    """Numbers of keypoints of the categories of a part of split 1."""
    path = Path(__file__).parent.parent / "descriptions/mp100.json"
    facts = json.loads(path.read_bytes())
    sizes = {c["id"]: c["keypoints"] for c in facts["categories"]}
    return [sizes[i] for i in facts["splits"]["1"][part]]


def show_answers(machine, v, m):
    """What answers to the keypoints of an image take."""
    K = 17
    for name, way in WAYS.items():
        passes = list(way(K, QUESTION, v, m))
        tera = operations(passes, v, m) / 1e12
        read = sum(moved(p, v, m) for p in passes) / 1e9
        cache = max(p.cache for p in passes) * kv_bytes(m) / 1e9
        print(
            f"{K} keypoints, {name}: {len(passes)} passes, {tera:,.1f} TFLOP, {read:,.0f} GB read, "
            f"{cache:.2f} GB in the cache"
        )


def show_training(machine, v, m):
    """What sharing an image saves."""
    one = training(v, m, [ROUNDS])
    print(
        f"A conversation of {ROUNDS} rounds: {sum(one) / 1e12:.1f} TFLOP, with "
        f"--checkpoint-activations {(sum(one) + one.layers) / 1e12:.1f}."
    )
    for n in (4, 17):
        shared = training(v, m, [ROUNDS] * n, shared=True)
        print(
            f"{n} about one image, --share-image: {n * sum(one) / sum(shared):.1f} times fewer "
            f"operations, {activations(v, m, pair_tokens(v, n)) / 1e9:.1f} GB of activations, "
            f"{mask_bytes(m, pair_tokens(v, n)) / 1e9:.2f} GB of masks."
        )


def list_kept(v, m):
    """What a GPU keeps beside activations, in GB: micro-batch 1, --tune lora."""
    P = vision_parameters(v) + llm_parameters(m)
    return {
        "weights, bf16": 2 * P / 1e9,
        # 4 bytes each
        "adapters, projection: weight, gradient, two moments": 16 * trained_parameters(v, m) / 1e9,
        "logits of the answers": 14 * m.V * ROUNDS * answer() / 1e9,
    }


def show_memory(machine, v, m):
    P, parts = vision_parameters(v) + llm_parameters(m), list_kept(v, m)
    rows = [(name, size, size) for name, size in parts.items()]
    for tokens in (pair_tokens(v), LIMIT):
        kept = activations(v, m, tokens) / 1e9
        less = activations(v, m, tokens, True) / 1e9
        whole = sum(parts.values())
        rows.append((f"activations, {tokens:,} tokens", kept, less))
        rows.append((f"sum, {tokens:,} tokens", whole + kept, whole + less))
    show(
        "Memory of a GPU, Llama-3.1-8B, micro-batch 1, --tune lora",
        ("GB", "plain", "--checkpoint-activations"),
        [(name, f"{kept:.2f}", f"{less:.2f}") for name, kept, less in rows],
    )
    show_sharding(machine, v, m, P)


def show_sharding(machine, v, m, P):
    """What --fsdp of P parameters takes."""
    n = machine.gpus
    root, layers = 4 * m.V * m.D / 1e9, 4 * matrices(m) / 1e9
    # Layers forward and backward, the rest once
    fetched = (n - 1) / n * (4 * P / 1e9 - root)
    beside = sum(training(v, m, [ROUNDS])) / machine.rate
    # fp32: weight, gradient, two moments
    shard, full, vision = 16 * P / n / 1e9, 16 * P / 1e9, 16 * vision_parameters(v) / 1e9
    # Gathered in bf16; gradients are bf16, and fp32 where processes average them
    whole = shard + 4 * root + layers + activations(v, m, LIMIT, True) / 1e9
    print(
        f"\nOf {machine.memory:.0f} GB. --fsdp on {n} GPUs: shards of {2 * P / n / 1e9:.1f} GB, "
        f"embedding and head whole {root:.1f} GB, two layers {layers:.1f} GB;\n"
        f"fetched for a pass {fetched:.0f} GB, at {machine.link:.0f} GB/s "
        f"{fetched / machine.link:.1f} s, beside {beside:.2f} s of operations.\n"
        f"--tune full: the vision encoder in fp32, with gradients and moments {vision:.1f} GB.\n"
        f"--tune everything, fp32: {full:.0f} GB; with --fsdp {shard:.0f} GB, embedding and head "
        f"gathered in bf16 with their gradients {4 * root:.1f} GB, two layers {layers:.1f} GB;\n"
        f"in all, activations checkpointed, {whole:.0f} GB."
    )


def share_of_groups(labelled, k=ROUNDS):
    """Of groups of k keypoints, the shares that have 0, 1, ... k labelled ones.

    Each keypoint is labelled independently of the others, with the same probability.
    """
    shares = []
    for n in range(k + 1):
        shares.append(math.comb(k, n) * labelled**n * (1 - labelled) ** (k - n))
    return shares


def show_published(machine, v, m):
    """Hours of the paper's training and of its evaluation (Section 4.1, Table 2)."""
    sets = mp100("train")
    groups = INSTANCES * sum(-(-K // ROUNDS) for K in sets)
    # A group without a labelled keypoint is no pair; of the others the unlabelled ones fall out.
    shares = share_of_groups(LABELLED)
    pairs = groups * (1 - shares[0])
    flop = again = 0
    for n in range(1, ROUNDS + 1):
        step = training(v, m, [n])
        flop += groups * shares[n] * sum(step)
        again += groups * shares[n] * (sum(step) + step.layers)
    whole = groups * sum(training(v, m, [ROUNDS]))
    rounds = ROUNDS * LABELLED / (1 - shares[0])
    print(
        f"\nMP-100, split 1 (Section 4.1): {len(sets)} categories, {sum(sets):,} keypoints; "
        f"{INSTANCES} instances each, {INSTANCES * len(sets):,} images, {groups:,} groups of "
        f"{ROUNDS};\n{LABELLED:.1%} of keypoints labelled, independently: {pairs:,.0f} pairs an "
        f"epoch of {rounds:.1f} rounds; {EPOCHS} epochs of batch {BATCH}: "
        f"{EPOCHS * pairs / BATCH:,.0f} steps, {EPOCHS * flop / 1e18:.1f} EFLOP.\n"
        "Were the keypoints of a group labelled all or none, "
        f"{EPOCHS * LABELLED * groups / BATCH:,.0f} steps."
    )
    rows = []
    for share in (0.25, 0.4, 0.6):
        rate = machine.gpus * share * machine.peak
        hours = [f"{EPOCHS * epoch / rate / 3600:.1f}" for epoch in (flop, again, whole)]
        rows.append((f"{share:.0%}", *hours, f"{BATCH * flop / pairs / rate:.1f}"))
    heads = ("share of the peak", "plain", "--checkpoint-activations", "all labelled", "s a step")
    show("Hours of training", heads, rows)


def show_test_part(machine, v, m):
    test, rows = mp100("test"), []
    for name, way in WAYS.items():
        each = []
        for K in test:
            passes = way(K, QUESTION, v, m)
            each.append(seconds(passes, v, m, machine.rate, machine.bandwidth))
        t = sum(each) / len(test)
        minutes = TESTED * t / machine.gpus / 60
        hours = EPISODES * len(test) * t / machine.gpus / 3600
        rows.append((name, f"{t:.2f}", f"{minutes:.0f}", f"{hours:.1f}"))
    mean, queries = sum(test) / len(test), EPISODES * len(test)
    heads = ("way", "s an image", f"minutes, {TESTED:,} images", f"hours, {queries:,} queries")
    show(f"Test part: {len(test)} categories, {mean:.1f} keypoints each", heads, rows)


def arguments():
    p = Parser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = p.add_argument
    add("--gpus", type=read_positive, default=4, metavar="N", help="number of GPUs")
    add("--peak", type=read_positive_float, default=155, metavar="TFLOPS",
        help="TFLOP/s of a GPU: dense, bf16, as its data sheet says")
    add("--share", type=read_positive_float, default=0.4, metavar="SHARE",
        help="part of the peak that inference reaches")
    add("--bandwidth", type=read_positive_float, default=768, metavar="GB/S",
        help="GB/s between a GPU and its memory")
    add("--link", type=read_positive_float, default=25, metavar="GB/S", help="GB/s between GPUs")
    add("--memory", type=read_positive_float, default=48, metavar="GB", help="memory of a GPU")
    return p.parse_args()


def main():
    a = arguments()
    peak = a.peak * 1e12
    machine = Machine(peak, a.share * peak, a.bandwidth * 1e9, a.link, a.memory, a.gpus)
    print(
        f"{a.gpus} GPUs of {a.memory:.0f} GB, {a.peak:.0f} TFLOP/s (bf16, dense), "
        f"{a.bandwidth:.0f} GB/s; {a.share:.0%} of the peak at inference.\n"
        f"1 GB: 10^9 bytes. Questions of {QUESTION} tokens, answers of {answer()}.\n"
    )
    parts = (show_answers, show_training, show_memory, show_published, show_test_part)
    for part in parts:
        part(machine, LARGE, LLAMA8B)


if __name__ == "__main__":
    launch.run("scripts.growth", main)
