"""Operations, bytes and memory of CapeLLM on paper: every number of growth.md.

    python -m scripts.growth                                       # the tables of growth.md
    python -m scripts.growth --peak 989 --bandwidth 3350 --gpus 8  # other GPUs

Operations: 2 for a multiply-add, of matrix products and attention, the latter as its kernels see it: half of the square where
the mask is causal; of a tree all of it on a GPU, on a CPU block by block.
"""
import argparse
import json
from collections import namedtuple
from pathlib import Path

QUESTION = 54                   # q: tokens of a question, Llama 3's vocabulary, mean over the training part of split 1
SHARED = 7                      # s: of these, what all begin with, "USER: Can you identify location of"
OPEN, COMMA, CLOSE, END = 3, 3, 1, 1                                        # tokens of `[0.` `,0.` `]` and the end of text
ROUNDS, RANK, LIMIT = 4, 8, 2048                                            # k, of the adapters, tokens of a chain
BRANCHES, PLAIN_BATCH = 32, 15                                              # questions in a pass: ours, the authors' code
INSTANCES, LABELLED = 200, 6123 / 8381                                      # see inputs()
EPOCHS, BATCH, TESTED, EPISODES = 12, 128, 2000, 200 * 15                   # Section 4.1, Table 2; queries of a category

Vision = namedtuple("Vision", "L C H N table", defaults=(256, 37 ** 2)) # layers, width, heads, patches, positions stored
LLM = namedtuple("LLM", "L D I H G d V tied", defaults=(False,))        # layers, width, MLP, heads, kv heads, head, vocabulary
Pass = namedtuple("Pass", "images tokens pairs scores read cache")      # one call: see operations and moved
LARGE, SMALL = Vision(24, 1024, 16), Vision(12, 384, 6, table=256)
LLAMA8B, M135 = LLM(32, 4096, 14336, 32, 8, 128, 128256), LLM(30, 576, 1536, 9, 3, 64, 49152, True)


# ------------------------------------------------------------------ parameters

def matrices(m):
    """Weights of a layer that every token is multiplied with."""
    return m.D * (2 * m.H * m.d + 2 * m.G * m.d + 3 * m.I)


def llm_parameters(m):
    return m.L * (matrices(m) + 2 * m.D) + m.D + m.V * m.D * (1 if m.tied else 2)


def vision_parameters(v):
    return v.L * (12 * v.C ** 2 + 15 * v.C) + (3 * 14 ** 2 + 5 + v.table) * v.C


def trained_parameters(v, m, r=RANK):
    """Projection, and adapters on query and value of both."""
    return v.C * m.D + r * (v.L * 4 * v.C + m.L * (2 * m.D + m.H * m.d + m.G * m.d))


# ------------------------------------------------------------------- inference

def chain(n, past=0):
    """Pairs of query and key where n tokens follow past ones."""
    return n * past + n * (n + 1) // 2


def answer(digits=3):
    return OPEN + COMMA + CLOSE + END + 2 * digits


def steps(q, digits=3):
    """Tokens a branch is fed in each pass, until the 2 x digits of its answer are decided."""
    return [q + OPEN, *[1] * (digits - 1), 1 + COMMA, *[1] * (digits - 1)]


def groups(K, size):
    return [min(size, K - i) for i in range(0, K, size)]


def looked_at(n, new, own, trunk, block):
    """Pairs of query and key where n branches with `own` cached tokens each grow by new ones, in blocks of rows (llama.blocks_of)."""
    pairs = 0
    for first in range(0, n * new, block or n * new):
        last = min(first + (block or n * new), n * new) - 1
        branches = last // new - first // new
        pairs += (last - first + 1) * (trunk + (branches + 1) * own + branches * new + last % new + 1)
    return pairs


def single(K, q, v, m, digits=3, block=None, shared=SHARED):
    """Passes of CapeLLM.answer: the image and what all questions begin with, of one keypoint all but the last token, then
    branches off it. block: rows that attend together; None: all, as on a GPU."""
    s = shared if K > 1 else q + OPEN - 1
    trunk = 1 + v.N + s
    yield Pass(1, trunk, chain(trunk), 0, trunk, trunk)
    for n in groups(K, BRANCHES):
        own = 0
        for new in steps(q - s, digits):
            pairs, own = looked_at(n, new, own, trunk, block), own + new
            yield Pass(0, n * new, pairs, n * (10 if digits == 3 else 1000), n, trunk + n * own)


def cumulative(K, q, v, m, block=None):
    """The image, then a chain of rounds, begun anew where it would pass LIMIT."""
    yield Pass(1, 1 + v.N, chain(1 + v.N), 0, 1 + v.N, 1 + v.N)
    S, behind = 1 + v.N, 0
    for _ in range(K):
        if S + behind + q + answer() > LIMIT:
            S, behind = 1 + v.N, 0
        for new in steps(behind + q):
            pairs, S = looked_at(1, new, S, 0, block), S + new
            yield Pass(0, new, pairs, 10, 1, S)
        behind = 1 + CLOSE + END


def plain(K, q, v, m, rounds=0):
    """The authors' code: image and prompt again for every keypoint, all logits of all positions, then token by token to `]`."""
    for n in groups(K, PLAIN_BATCH):
        S = 1 + v.N + rounds * (q + answer()) + q
        yield Pass(n, n * S, n * chain(S), n * S * m.V, n * S, n * S)
        for _ in range(answer() - END - 1):
            S += 1
            yield Pass(0, n, n * S, n * m.V, n, n * S)


def plain_cumulative(K, q, v, m):
    """The same with the earlier rounds, which are read again, too."""
    longest = (LIMIT - 1 - v.N) // (q + answer())
    return (p for i in range(K) for p in plain(1, q, v, m, i % longest))


def vision_operations(v, m):
    """Patches, layers with attention, projection."""
    S = v.N + 1
    return 2 * v.N * 3 * 14 ** 2 * v.C + v.L * (24 * S * v.C ** 2 + 4 * S ** 2 * v.C) + 2 * v.N * v.C * m.D


def operations(passes, v, m):
    """images seen; new tokens, the last MLP for `read` of them; pairs of query and key; scores: of a word at a position."""
    return sum(p.images * vision_operations(v, m) + 2 * m.L * p.tokens * matrices(m) - 6 * m.D * m.I * (p.tokens - p.read)
               + 4 * m.L * m.H * m.d * p.pairs + 2 * m.D * p.scores for p in passes)


def kv_bytes(m, b=2):
    """Keys and values of a token, b bytes a number."""
    return 2 * m.L * m.G * m.d * b


def moved(p, v, m, b=2):
    """Bytes that a pass must read: weights, and keys and values of `cache` tokens. Ten rows of the head are nothing."""
    head = m.V * m.D if p.scores >= m.V else 0
    return b * (m.L * matrices(m) + head + bool(p.images) * (v.L * 12 * v.C ** 2 + v.C * m.D)) + kv_bytes(m, b) * p.cache


def seconds(passes, v, m, rate, bandwidth):
    """No pass is faster than its operations allow, nor than its bytes."""
    return sum(max(operations([p], v, m) / rate, moved(p, v, m) / bandwidth) for p in passes)


# -------------------------------------------------------------------- training

def training(v, m, rounds, q=QUESTION, shared=False):
    """Operations of an image's conversations, rounds of each: layers forward, the rest forward, backward. shared: one trunk.

    Frozen matrices hand on the gradient of their input, as much as forward; that of their weights nobody needs. Attention and
    what is trained take twice as much. Not taken off: nothing before the first adapter needs a gradient.
    """
    branches, trunk, images = [n * (q + answer()) for n in rounds], 1 + v.N, 1 if shared else len(rounds)
    tokens = images * trunk + sum(branches)
    pairs = tokens ** 2 if shared and len(rounds) > 1 else sum(chain(trunk + n) for n in branches)
    frozen = 2 * (images * trunk * v.L * 12 * v.C ** 2 + tokens * m.L * matrices(m))
    adapters = 2 * trained_parameters(v._replace(L=0), m) - 2 * v.C * m.D
    adapters = tokens * adapters + images * trunk * 2 * RANK * v.L * 4 * v.C
    attention = 4 * (images * v.L * v.C * trunk ** 2 + m.L * m.H * m.d * pairs)
    projection, patches = 2 * images * v.N * v.C * m.D, 2 * images * v.N * 3 * 14 ** 2 * v.C
    head = 2 * m.D * m.V * sum(rounds) * answer()
    return (frozen + adapters + attention, projection + patches + head,
            frozen + head + 2 * (adapters + attention + projection))


def adapter_bytes(width):
    """Kept for the backward pass, of a token in an adapter: its input in fp32, dropout's mask, A's output."""
    return 5 * width + 4 * RANK


def llm_bytes(m):
    """The same of a layer, bf16: norms in fp32; query and output; key and value; softmax; gate, silu, up; adapters."""
    return 2 * (4 * m.D + 4) + 4 * m.H * m.d + 4 * m.G * m.d + 4 * m.H + 6 * m.I + 2 * adapter_bytes(m.D)


def vision_bytes(v):
    """Norms with mean and deviation; query, key, value, output; softmax; GELU; adapters."""
    return 2 * (2 * v.C + 4) + 8 * v.C + 4 * v.H + 8 * v.C + 2 * adapter_bytes(v.C)


def activations(v, m, tokens, again=False):
    """Of one image, bytes; again: with --checkpoint-activations, inputs of layers and all of the one at work."""
    whole = (v.N + 1) * vision_bytes(v), tokens * llm_bytes(m)
    inputs = 2 * (v.L * (v.N + 1) * v.C + m.L * tokens * m.D)
    return inputs + max(whole) if again else v.L * whole[0] + m.L * whole[1]


# ------------------------------------------------------------------ the tables

WAYS = {"single": single, "plain": plain, "cumulative": cumulative, "plain, cumulative": plain_cumulative}


def table(title, heads, rows):
    print(f"\n{title}\n\n| {' | '.join(heads)} |\n|---|{'---:|' * (len(heads) - 1)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


def mp100(part):
    """Numbers of keypoints of the categories of a part of split 1."""
    facts = json.loads((Path(__file__).parent.parent / "descriptions/mp100.json").read_bytes())
    sizes = {c["id"]: c["keypoints"] for c in facts["categories"]}
    return [sizes[i] for i in facts["splits"]["1"][part]]


def sizes(a, v, m):
    rows = (("DINOv2 ViT-L/14, positions of 37 x 37 patches", vision_parameters(v), 2), ("Llama-3.1-8B", llm_parameters(m), 2),
            ("projection", v.C * m.D, 4), (f"adapters, rank {RANK}", trained_parameters(v, m) - v.C * m.D, 4))
    table("Sizes", ("part", "parameters", "bytes each", "GB"), [(n, f"{p:,}", b, f"{p * b / 1e9:.3f}") for n, p, b in rows])
    print(f"\nKeys and values: {kv_bytes(m):,} bytes a token, {(1 + v.N) * kv_bytes(m) / 1e6:.1f} MB an image of {1 + v.N}.")


def inference(a, v, m):
    rows, q, one, trunk = [], QUESTION, sum(steps(QUESTION - SHARED)), 1 + v.N
    for K in (1, 17, 68):
        for name, way in WAYS.items():
            ps = list(way(K, q, v, m))
            total = sum(p.tokens for p in ps), operations(ps, v, m) / 1e12, sum(moved(p, v, m) for p in ps) / 1e9
            most = max(p.cache for p in ps) * kv_bytes(m) / 1e9, max(p.scores for p in ps) * 4 / 1e9
            rows.append((f"{K}, {name}", len(ps), "{:,}".format(total[0]), "{:,.1f}".format(total[1]), "{:,.0f}".format(total[2]),
                         f"{seconds(ps, v, m, a.rate, a.bandwidth):.2f}", *(f"{x:.2f}" for x in most)))
    heads = "keypoints, way", "passes", "tokens", "TFLOP", "GB read", "s", "cache, GB", "logits, GB"
    table("Inference, Llama-3.1-8B", heads, rows)
    again, n, trunk = trunk + q + answer() - END - 1, BRANCHES * steps(q - SHARED)[0], trunk + SHARED
    print(f"\nA keypoint more: {one} tokens, plain {again}, {again / one:.1f} times as many; an image: {trunk / one:.1f}.\n"
          f"{BRANCHES} questions at once: {n} tokens, {trunk + BRANCHES * one:,} in the cache; scores of a layer "
          f"{4 * m.H * n * (trunk + n) / 1e6:.0f} MB.\n"
          f"One token for three digits: {len(steps(q, 1))} passes for {len(steps(q))}, {sum(steps(q - SHARED, 1))} tokens for {one}.")


def train(a, v, m):
    rows, length = [], lambda n: 1 + v.N + n * ROUNDS * (QUESTION + answer())
    for n in (1, 4, 17):
        own, tree = (training(v, m, [ROUNDS] * n, shared=shared) for shared in (False, True))
        flop = [x / 1e12 / n for x in (sum(own), sum(tree), sum(tree) + tree[0])]
        memory = [activations(v, m, length(n), again) / 1e9 for again in (False, True)]
        rows.append((n, f"{length(n):,}", *(f"{x:.1f}" for x in flop[:2]), f"{flop[0] / flop[1]:.2f}", f"{flop[2]:.1f}",
                     *(f"{x:.2f}" for x in memory), f"{(n > 1) * 4 * m.H * length(n) ** 2 / 1e9:.2f}"))
    table(f"Training, conversations of {ROUNDS} rounds about one image", (
        "conversations", "tokens", "TFLOP each", "image once", "times fewer", "checkpointed", "kept, GB", "checkpointed, GB",
        "scores, GB"), rows)
    layers, rest, back = training(v, m, [ROUNDS])
    forward, again = (layers + rest) / 1e12, layers / 1e12
    print(f"\nOne: {forward:.2f} TFLOP forward, {back / 1e12:.2f} backward, {again:.2f} to compute layers again.\n"
          f"Kept: {llm_bytes(m):,} bytes of a token in a layer of the language model, {vision_bytes(v):,} in one of the encoder.")


def memory(a, v, m):
    P, n, root = vision_parameters(v) + llm_parameters(m), a.gpus, 4 * m.V * m.D / 1e9
    parts = {"weights, bf16": 2 * P / 1e9,
             "adapters, projection: weight, gradient, two moments": 16 * trained_parameters(v, m) / 1e9,
             "logits of the answers": 14 * m.V * ROUNDS * answer() / 1e9}
    rows = [(name, x, x) for name, x in parts.items()]
    for T in (1 + v.N + ROUNDS * (QUESTION + answer()), LIMIT):
        rows.append((f"activations, {T:,} tokens", *(activations(v, m, T, again) / 1e9 for again in (False, True))))
        rows.append((f"sum, {T:,} tokens", *(sum(parts.values()) + x for x in rows[-1][1:])))
    table("Memory of a GPU, micro-batch 1, --tune lora", ("GB", "plain", "--checkpoint-activations"),
          [(name, *(f"{x:.2f}" for x in xs)) for name, *xs in rows])
    fetched = (n - 1) / n * (4 * P / 1e9 - root)                # layers forward and backward, the rest once
    print(f"\nOf {a.memory:.0f} GB. --fsdp on {n} GPUs: shards of {2 * P / n / 1e9:.1f} GB, embedding and head whole "
          f"{root:.1f} GB, two layers {4 * matrices(m) / 1e9:.1f} GB;\nfetched for a pass {fetched:.0f} GB, at {a.link:.0f} GB/s "
          f"{fetched / a.link:.1f} s, beside {sum(training(v, m, [ROUNDS])) / a.rate:.2f} s of operations.\n"
          f"--tune full, fp32: {16 * P / 1e9:.0f} GB; with --fsdp {16 * P / n / 1e9:.0f} GB, embedding and head whole with their gradients "
          f"{4 * root:.1f} GB, two layers {8 * matrices(m) / 1e9:.1f} GB;\nin all, activations checkpointed, "
          f"{16 * P / n / 1e9 + 4 * root + 8 * matrices(m) / 1e9 + activations(v, m, T, True) / 1e9:.0f} GB.")


def published(a, v, m):
    sets, test = mp100("train"), mp100("test")
    pairs, ops = INSTANCES * sum(-(-K // ROUNDS) for K in sets), training(v, m, [ROUNDS])
    left, flop = pairs * LABELLED, (sum(ops), sum(ops) + ops[0])
    print(f"\nMP-100, split 1 (Section 4.1): {len(sets)} categories, {sum(sets):,} keypoints; {INSTANCES} instances each, "
          f"{INSTANCES * len(sets):,} images, {pairs:,} pairs;\n{LABELLED:.0%} labelled: {left:,.0f} an epoch (estimates); "
          f"{EPOCHS} epochs of batch {BATCH}: {EPOCHS * left / BATCH:,.0f} steps, {EPOCHS * left * flop[0] / 1e18:.1f} EFLOP.")
    rows = []
    for share in (0.25, 0.4, 0.6):
        rate = a.gpus * share * a.peak
        hours = [EPOCHS * left * flop[0] / rate, EPOCHS * left * flop[1] / rate, EPOCHS * pairs * flop[0] / rate]
        rows.append((f"{share:.0%}", *(f"{t / 3600:.1f}" for t in hours), f"{BATCH * flop[0] / rate:.1f}"))
    table("Hours of training", ("share of the peak", "plain", "--checkpoint-activations", "all labelled", "s a step"), rows)
    rows = []
    for name, way in WAYS.items():
        t = sum(seconds(way(K, QUESTION, v, m), v, m, a.rate, a.bandwidth) for K in test) / len(test)
        rows.append((name, f"{t:.2f}", f"{TESTED * t / a.gpus / 60:.0f}", f"{EPISODES * len(test) * t / a.gpus / 3600:.1f}"))
    table(f"Test part: {len(test)} categories, {sum(test) / len(test):.1f} keypoints each",
          ("way", "s an image", f"minutes, {TESTED:,} images", f"hours, {EPISODES * len(test):,} queries"), rows)


def small():
    """What README's measurements on two CPU cores compare with, fp32."""
    v, m, K, q, rate = SMALL, M135, 17, 58, 136e9
    ps, one, trunk = list(single(K, q, v, m, block=128)), sum(steps(q - SHARED)), 1 + v.N + SHARED
    tree = Pass(1, trunk + K * one, chain(trunk) + K * chain(one, trunk), 60 * K, trunk + 6 * K, 0)
    digits = [p for i, p in enumerate(ps[1:]) if i % len(steps(q))]
    rows = (("17 keypoints, only pairs of the tree", [tree]), ("17 keypoints, pairs as its kernels see them", ps), ("- image", ps[:1]),
            ("- questions", ps[1::len(steps(q))]), ("- digits", digits), ("17 keypoints, plain", plain(K, q, v, m)),
            ("4 keypoints, plain", plain(4, q, v, m)))
    rows = [(name, operations(list(ps), v, m)) for name, ps in rows]
    rows.append(("pair of 4 rounds, 553 tokens", sum(training(v, m, [ROUNDS], 60))))
    table(f"{llm_parameters(m) / 1e6:.0f} million parameters and ViT-S/14, questions of {q} tokens, {rate / 1e9:.0f} GFLOP/s",
          ("work", "GFLOP", "s at that rate"), [(n, f"{x / 1e9:,.0f}", f"{x / rate:.2f}") for n, x in rows])


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--peak", type=float, default=155, help="TFLOP/s of a GPU, dense bf16")
    p.add_argument("--share", type=float, default=0.4, help="of it, reached at inference")
    p.add_argument("--bandwidth", type=float, default=768, help="GB/s of its memory")
    p.add_argument("--link", type=float, default=25, help="GB/s between GPUs")
    p.add_argument("--memory", type=float, default=48, help="GB")
    p.add_argument("--gpus", type=int, default=4)
    a = p.parse_args()
    a.peak, a.bandwidth = a.peak * 1e12, a.bandwidth * 1e9
    a.rate = a.share * a.peak
    print(f"{a.gpus} GPUs of {a.memory:.0f} GB, {a.peak / 1e12:.0f} TFLOP/s (bf16, dense), {a.bandwidth / 1e9:.0f} GB/s; "
          f"{a.share:.0%} of the peak at inference.\n1 GB: 10^9 bytes. Questions of {QUESTION} tokens, answers of {answer()}.")
    for part in (sizes, inference, train, memory, published):
        part(a, LARGE, LLAMA8B)
    small()


if __name__ == "__main__":
    main()
