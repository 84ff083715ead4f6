"""What a model thinks of every place: p(x, y) of a keypoint on the grid of 1000 x 1000 coordinates (Eq. 6, Section 4.4).

    found = density(model, pixels, keypoint)
    mode(found.p), region(found.p, 0.9).sum(), best(found.p, radius=0.1)

The paper draws answers and smooths them (`sample_density`). Here the tree of digits is enumerated instead: x has
1 + 10 + 100 prefixes, and behind each of its 1000 values stand as many of y. Improbable branches are left unread.
Everything but `density` takes any p (1000, 1000) that sums to 1: p[i, j] is the mass of the answer (i / 1000, j / 1000).
"""
import math
from collections import defaultdict
from typing import NamedTuple

import torch
import torch.nn.functional as F

from decode import extend as extend_branches
from llama import KVCache

SIDE = 1000         # values of a coordinate
BATCH = 128         # branches in one pass
GROUP = 32          # values of x whose y are read together: it bounds the cache
SAMPLES = 100       # answers that are drawn and smoothed, as in Figure 5; the paper does not say how many


class Density(NamedTuple):
    """p: (1000, 1000) float64, see above; spread: the mass of which only the block is known; prefixes: how many were read.

    A prefix that was not read stands for a block of answers: the block's mass is exact, and it is spread evenly. So no
    probability computed from p, of whatever set of answers, is wrong by more than `spread`. That bounds neither NLL nor
    entropy: an answer in such a block may be far more or less likely than p says, and no entropy is larger than p's.
    """
    p: torch.Tensor
    spread: float
    prefixes: int


@torch.inference_mode()
def compute_density(model, pixels, keypoint, cut=1e-4, category="object", listed=None):
    """Density of the answers to one keypoint's question. model: CapeLLM; pixels (3, S, S); category, listed: as in `answer`.

    cut: prefixes of less probability than this are not read; with 0 all are, 111,111 for K = 3. A read prefix gives all that
    follow it more than 0.
    """
    if not 0 <= cut <= 1:
        raise ValueError(f"cut is {cut}, expected a probability: 0 reads every prefix, 1 hardly any")
    codec, (trunk, (question,)) = model.codec, model.prepare_questions(pixels, [keypoint], category, listed)
    inner = sum(codec.base ** k for k in range(codec.K - 1))        # prefixes of one coordinate, but for the longest
    room = len(question) + inner + codec.base ** (codec.K - 1) + (GROUP * inner + BATCH) * (1 + len(codec.comma))
    cache = KVCache(model.llm.config, 1, trunk.shape[1] + room, trunk.dtype, model.device)
    model.llm(trunk, cache=cache)
    rows = torch.ones(1, cache.length, dtype=torch.bool, device=model.device)
    (x,), _, prefixes, codes, rows = coordinate(model, cache, rows, [question], torch.ones(1, dtype=torch.float64), cut, True)
    p, length, parent = x[:, None].repeat(1, SIDE) / SIDE, cache.length, torch.zeros(SIDE, dtype=torch.long)
    parent[codes] = torch.arange(len(codes))
    spread = float(x[x < cut].sum())
    read = (x >= cut).nonzero()[:, 0]                               # none of a spread block: they are below
    for i in range(0, len(read), GROUP):
        c = read[i:i + GROUP]
        feed = [[codec.ids[n % codec.base]] + codec.comma for n in c.tolist()]
        p[c], lost, n, _, _ = coordinate(model, cache, rows[parent[c // codec.base].to(rows.device)], feed, x[c], cut, False)
        spread, prefixes = spread + lost, prefixes + n
        cache.truncate(length)
    return Density(p, spread, prefixes)


def coordinate(model, cache, rows, feed, mass, cut, more):
    """The next coordinate of n branches off the cache, digit by digit. more: whether anything will follow it.

    rows (n, S): what they see; feed: tokens of each up to the first digit; mass (n,): their probabilities.
    Returns the joint mass (n, 1000) with its values, how much of it was spread, how many prefixes were read, and of
    those before the last digit codes (m,) and, for what follows, rows (m, S').
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
        p, rows = extend(model, cache, rows, feed, keep=more or k < model.codec.K - 1)
        prefixes, codes = prefixes + len(feed), code
        mass = (mass[:, None] * p).flatten()
        code = (code[:, None] * base + torch.arange(base)).flatten()
        branch = branch.repeat_interleave(base)
    values[branch, code] = mass
    return values, spread, prefixes, codes, rows


def extend(model, cache, rows, feed, keep):
    """CapeLLM.extend in batches: probabilities (n, base) of the digit that follows each branch, and rows (n, S') of the ends.

    keep: whether they stay in the cache. Those that nobody grows from would only be looked at, and masked, by all others.
    """
    p, ends, length = [torch.empty(0, model.codec.base, dtype=torch.float64)], [rows[:0]], cache.length
    for i in range(0, len(feed), BATCH):
        seen = F.pad(rows[i:i + BATCH], (0, cache.length - rows.shape[1]))
        part = feed[i:i + BATCH]
        _, end, log_p = extend_branches(model, cache, seen, [t for tokens in part for t in tokens], list(map(len, part)))
        p.append(log_p.exp().cpu())
        if keep:
            ends.append(end)
        else:
            cache.truncate(length)
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
    """The `nll` to expect of truths drawn from p: 0 where p is even, -log(10^6) = -13.8 where one answer holds all."""
    return float(torch.special.entr(p).sum()) - 2 * math.log(SIDE)


def on_grid(y):
    return 0 <= y < 1 - 0.5 / SIDE


def cell(truth):
    """The answer (i, j) that stands for a place (x, y). ValueError where a coordinate has no code: it lies outside the crop."""
    if not all(map(on_grid, truth)):
        raise ValueError(f"{tuple(truth)} lies outside the crop, where coordinates are in [0, 0.9995): it has no density")
    return tuple(min(int(SIDE * y + 0.5), SIDE - 1) for y in truth)


def nll(p, truth):
    """-log of the density at the true (x, y), in nats, per unit of area (the crop's is 1): 0 where p is even.

    ValueError where the truth lies outside the crop.
    """
    return float(-(p[cell(truth)] * SIDE ** 2).log())


def level(p, truth, u):
    """The q from which on the credible region of mass q holds the true (x, y): over truths drawn from p it is even in (0, 1).

    u: drawn from [0, 1), orders the truth among equally likely answers, of which a region holds some. ValueError as in `nll`.
    """
    at = p[cell(truth)]
    return float(p[p > at].sum() + u * at * (p == at).sum())


def best(p, radius):
    """The answer (x, y) with the most mass closer than radius (relative to the crop), and that mass: the expected PCK.

    With radius = t that is PCK@t of a square crop. Of equally good answers the one nearest the mean is taken.
    """
    radius = round(SIDE * radius, 6)                                # 1000 * 0.07 is 70.00000000000001
    reach = min(math.ceil(radius), SIDE)
    n, wide = torch.arange(-reach, reach + 1, dtype=p.dtype), 2 * reach + 1
    ball = (n[:, None].hypot(n) < radius).to(p.dtype)
    padded, part = F.pad(p, [reach] * 4), []
    guesses = [(padded[i:i + wide, j:j + wide] * ball).sum() for i, j in map(cell, (mode(p), median(p)))]
    for axis in (1, 0):     # where the whole strip between c - reach and c + reach has less than a guess, no ball has more
        below = F.pad(padded.sum(axis).cumsum(0), (1, 0))
        centres = (below[wide:] - below[:-wide] > max(guesses) - 2e-9).nonzero()[:, 0]
        part.append(slice(int(centres[0]), int(centres[-1]) + wide))
    looked = padded[tuple(part)]
    size = [-(-n // 64) * 64 for n in looked.shape]                 # fast sizes; what wraps around stays in the first 2 reach
    mass = torch.fft.irfft2(torch.fft.rfft2(looked, size) * torch.fft.rfft2(ball, size), size)
    mass = mass[wide - 1:looked.shape[0], wide - 1:looked.shape[1]]
    found = (mass > mass.max() - 1e-9).nonzero() + torch.tensor([s.start for s in part])    # 1e-9: rounding of the transform
    x, y = (found - SIDE * torch.tensor(mean(p), dtype=p.dtype)).T
    return tuple(n / SIDE for n in found[int(x.hypot(y).argmin())].tolist()), float(mass.max())


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


def drawn(p, generator, n=SAMPLES):
    """n answers (n, 2) drawn from p, as if the model had sampled them, and the bandwidth to smooth them with: Scott's rule."""
    at = p.flatten().multinomial(n, replacement=True, generator=generator)
    samples = torch.stack([at // SIDE, at % SIDE], 1).double() / SIDE
    return samples, max(float(samples.var(0).mean()) ** 0.5 * n ** (-1 / 6), 1 / SIDE)


def gaussian_nll(centres, truths, sigma):
    """`nll` of `gaussian` for many at once: centres, truths (n, 2), inside the crop; sigma: a number or (n, 1). Returns (n,)."""
    centres, truths, sigma = (torch.as_tensor(v, dtype=torch.float64) for v in (centres, truths, sigma))
    truths = (SIDE * truths + 0.5).floor().clamp(max=SIDE - 1) / SIDE
    low, high = (torch.special.log_ndtr((edge - centres) / sigma) for edge in (-0.0005, 0.9995))
    inside = high + torch.log1p(-(low - high).exp())                # log of the mass that is not cut off
    return (((truths - centres) / sigma) ** 2 / 2 + (sigma * math.tau ** 0.5).log() + inside).sum(1)


def best_sigma(centres, truths):
    """The standard deviation that makes the mean of `gaussian_nll` least, between 0.001 and 10: golden-section search."""
    low, high, ratio = math.log(0.001), math.log(10), (5 ** 0.5 - 1) / 2
    cost = lambda s: float(gaussian_nll(centres, truths, math.exp(s)).mean())
    while high - low > 1e-4:
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if cost(a) < cost(b) else (a, high)
    return math.exp((low + high) / 2)


def study(model, pixels, keypoints, truths, greedy, thresholds, rng, **question):
    """Densities of an image's keypoints, compared with truths and greedy answers (K, 2). All places are relative to the crop.

    Returns {name: points (K, 2), of "PCK-optimal" (K, T, 2): one for each threshold} and {keypoint: numbers}: nll, entropy, both
    per unit of area, level, spread, prefixes (how many were read: its cost); without nll and level where the truth is outside
    the crop. rng: random.Random; question: as for `density`.
    """
    points, numbers = defaultdict(list), {}
    for keypoint, truth, first in zip(keypoints, truths.tolist(), greedy.tolist()):
        p, spread, prefixes = compute_density(model, pixels, keypoint, **question)
        samples = drawn(p, torch.Generator().manual_seed(rng.getrandbits(32)))
        u = rng.random()
        for name, place in (("mode", mode(p)), ("mean", mean(p)), ("median", median(p)),
                            ("PCK-optimal", [best(p, t)[0] for t in thresholds]),
                            (f"mode of {SAMPLES} samples, smoothed", mode(sample_density(*samples)))):
            points[name].append(place)
        numbers[keypoint.name] = {"truth": truth, "greedy": first, "entropy": entropy(p), "spread": spread, "prefixes": prefixes}
        if all(map(on_grid, truth)):
            numbers[keypoint.name] |= {"nll": nll(p, truth), "level": level(p, truth, u)}
    return points, numbers
