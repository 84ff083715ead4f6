"""What a model thinks of every place: p(x, y) of a keypoint on the grid of 1000 x 1000 coordinates (Eq. 6, Section 4.4).

    found = density(model, pixels, keypoint)
    mode(found.p), region(found.p, 0.9).sum(), best(found.p, radius=0.1)

The paper draws answers and smooths them (`sample_density`). Here the tree of digits is enumerated instead: x has
1 + 10 + 100 prefixes, and behind each of its 1000 values stand as many of y. Improbable branches are left unread.
Everything but `density` takes any p (1000, 1000) that sums to 1: p[i, j] is the mass of the answer (i / 1000, j / 1000).
"""
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

import data
from llama import KVCache

SIDE = 1000         # values of a coordinate
BATCH = 64          # branches in one pass
GROUP = 32          # values of x whose y are read together: it bounds the cache


class Density(NamedTuple):
    """p: (1000, 1000) float64, see above; spread: the mass of which only the block is known; prefixes: how many were read.

    A prefix that was not read stands for a block of answers: the block's mass is exact, and it is spread evenly. So no
    probability computed from p, of whatever set of answers, is wrong by more than `spread`.
    """
    p: torch.Tensor
    spread: float
    prefixes: int


@torch.inference_mode()
def density(model, pixels, keypoint, cut=1e-4):
    """Density of the answers to one keypoint's question. model: CapeLLM; pixels (3, S, S).

    cut: prefixes of less probability than this are not read; with 0 all are, 111,111 for K = 3.
    """
    if not 0 <= cut <= 1:
        raise ValueError(f"cut is {cut}, expected a probability: 0 reads every prefix, 1 hardly any")
    codec, trunk = model.codec, model.context(pixels, [keypoint])
    question = data.question(model.tokenizer, keypoint, model.instruction) + codec.open
    nodes = sum(codec.base ** k for k in range(codec.K))            # prefixes of one coordinate
    room = len(question) + nodes + GROUP * (nodes + len(codec.comma))
    cache = KVCache(model.llm.config, 1, trunk.shape[1] + room, trunk.dtype, model.device)
    model.llm(trunk, cache=cache)
    rows = torch.ones(1, cache.length, dtype=torch.bool, device=model.device)
    (x,), _, prefixes, codes, rows = coordinate(model, cache, rows, [question], torch.ones(1, dtype=torch.float64), cut)
    p, length, parent = x[:, None].repeat(1, SIDE) / SIDE, cache.length, torch.zeros(SIDE, dtype=torch.long)
    parent[codes] = torch.arange(len(codes))
    spread = float(x[x < cut].sum())
    read = (x >= cut).nonzero()[:, 0]                               # none of a spread block: they are below
    for i in range(0, len(read), GROUP):
        c = read[i:i + GROUP]
        feed = [[codec.ids[n % codec.base]] + codec.comma for n in c.tolist()]
        p[c], lost, n, _, _ = coordinate(model, cache, rows[parent[c // codec.base].to(rows.device)], feed, x[c], cut)
        spread, prefixes = spread + lost, prefixes + n
        cache.truncate(length)
    return Density(p, spread, prefixes)


def coordinate(model, cache, rows, feed, mass, cut):
    """The next coordinate of n branches off the cache, digit by digit.

    rows (n, S): what they see; feed: tokens of each up to the first digit; mass (n,): their probabilities.
    Returns the joint mass (n, 1000) with its values, how much of it was spread, how many prefixes were read, and of
    those before the last digit codes (m,) and rows (m, S').
    """
    ids, base, n = model.codec.ids, model.codec.base, len(rows)
    values, spread, prefixes = torch.zeros(n, SIDE, dtype=torch.float64), 0.0, 0
    branch, code = torch.arange(n), torch.zeros(n, dtype=torch.long)
    for k in range(model.codec.K):
        if k:
            low, read = mass < cut, mass >= cut
            block = values.view(n, base ** k, -1)                   # answers that share a prefix of k digits
            block[branch[low], code[low]] = mass[low, None] / block.shape[2]
            spread += float(mass[low].sum())
            mass, branch, code = mass[read], branch[read], code[read]
            rows = rows.repeat_interleave(base, 0)[read.to(rows.device)]
            feed = [[ids[d]] for d in (code % base).tolist()]
        p, rows = extend(model, cache, rows, feed)
        prefixes, codes = prefixes + len(feed), code
        mass = (mass[:, None] * p).flatten()
        code = (code[:, None] * base + torch.arange(base)).flatten()
        branch = branch.repeat_interleave(base)
    values[branch, code] = mass
    return values, spread, prefixes, codes, rows


def extend(model, cache, rows, feed):
    """CapeLLM.extend in batches: probabilities (n, base) of the digit that follows each branch, and rows (n, S') of the ends."""
    p, ends = [torch.empty(0, model.codec.base, dtype=torch.float64)], [rows[:0]]
    for i in range(0, len(feed), BATCH):
        seen = F.pad(rows[i:i + BATCH], (0, cache.length - rows.shape[1]))
        _, end, log_p = model.extend(cache, seen, feed[i:i + BATCH])
        p.append(log_p.exp())
        ends.append(end)
    return torch.cat(p), torch.cat([F.pad(end, (0, cache.length - end.shape[1])) for end in ends])


# ------------------------------------------------------------------ what follows from p

def mode(p):
    """The likeliest answer (x, y)."""
    return point(int(p.argmax()))


def point(n):
    """(x, y) of the n-th answer."""
    return n // SIDE / SIDE, n % SIDE / SIDE


def mean(p):
    """The expected (x, y), which minimises the mean squared distance."""
    values = torch.arange(SIDE, dtype=p.dtype) / SIDE
    return float(p.sum(1) @ values), float(p.sum(0) @ values)


def median(p):
    """The least x, and the least y, with half of the mass at or below it."""
    return tuple(int((p.sum(axis).cumsum(0) < 0.5 * p.sum()).sum()) / SIDE for axis in (1, 0))


def region(p, q):
    """The credible region: the fewest answers that together hold the mass q, a mask (1000, 1000)."""
    mass, order = p.flatten().sort(descending=True)
    chosen = mass.cumsum(0) - mass < q
    return torch.zeros_like(chosen).scatter(0, order, chosen).view(p.shape)


def entropy(p):
    """In nats: log(10^6) = 13.8 where p is even, 0 where one answer holds all."""
    return float(torch.special.entr(p).sum())


def nll(p, truth):
    """-log of the density at the true (x, y), in nats, per unit of area (the crop's is 1): 0 where p is even.

    ValueError where a coordinate of the truth has no code: it lies outside the crop.
    """
    if not all(map(data.Codec.has_code, truth)):
        raise ValueError(f"{tuple(truth)} lies outside the crop, where coordinates are in [0, 0.9995): it has no density")
    i, j = (min(int(SIDE * y + 0.5), SIDE - 1) for y in truth)
    return float(-(p[i, j] * SIDE ** 2).log())


def best(p, radius):
    """The answer (x, y) with the most mass closer than radius (relative to the crop), and that mass: the expected PCK.

    With radius = t that is PCK@t of a square crop. Of equally good answers the one nearest the mean is taken.
    """
    radius = round(SIDE * radius, 6)                                # 1000 * 0.07 is 70.00000000000001
    reach = min(math.ceil(radius), SIDE)
    n = torch.arange(-reach, reach + 1, dtype=p.dtype)
    ball = (n[:, None].hypot(n) < radius).to(p.dtype)
    size = [SIDE + reach] * 2                                       # what wraps around stays off the grid
    mass = torch.fft.irfft2(torch.fft.rfft2(p, size) * torch.fft.rfft2(ball, size), size)[reach:, reach:]
    x, y = (torch.arange(SIDE, dtype=p.dtype) - SIDE * m for m in mean(p))
    distance = x[:, None].hypot(y).masked_fill(mass < mass.max() - 1e-9, torch.inf)     # 1e-9: rounding of the transform
    return point(int(distance.argmin())), float(mass.max())


# ------------------------------------------------------------------ what the paper compares

def sample_density(samples, bandwidth):
    """Kernel density estimate of samples (n, 2): a Gaussian of this standard deviation around each, cut off at the crop."""
    values = torch.arange(SIDE, dtype=torch.float64) / SIDE
    samples = torch.as_tensor(samples, dtype=torch.float64).view(-1, 2)
    x, y = (torch.softmax(-((values - s[:, None]) / bandwidth) ** 2 / 2, 1) for s in samples.T)     # (n, 1000), sum 1
    return x.T @ y / len(samples)


def gaussian(centre, sigma):
    """The heatmap that others assume: one Gaussian of fixed variance around a point (x, y), cut off at the crop."""
    return sample_density([centre], sigma)
