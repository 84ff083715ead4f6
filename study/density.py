"""What a model thinks of every place: p(x, y) of one keypoint (Eq. 6, Section 4.4).

    found = compute_density(model, pixels, keypoint)
    find_mode(found.p), find_region(found.p, 0.9).sum(), find_best_point(found.p, radius=0.1)

p lies on the grid of all answers: p[i, j] is the mass of the answer (i / 1000, j / 1000). The paper
draws answers and smooths them (`smooth_samples`). Here the tree of digits is enumerated instead: x
has 1 + 10 + 100 prefixes, and behind each of its 1000 values stand as many of y. Improbable
prefixes are not read. `compute_density` gets the model as an argument; the functions behind it take
any p (1000, 1000) that sums to 1.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from decode import compute_log_p, extend_branches
from llama import KVCache
from support.tensors import send

# Values of a coordinate.
GRID = 1000
# Prefixes in one pass through the model.
PREFIXES_AT_ONCE = 128
# Values of x whose y are read together: this bounds the cache.
X_AT_ONCE = 32
# Answers that are drawn and smoothed, as in Figure 5: the paper does not say how many.
DRAWS = 100


class Density(NamedTuple):
    """p: (1000, 1000) float64; spread: the mass of unread prefixes; prefixes: how many were read.

    A prefix that is not read stands for a block of answers. The mass of the block is exact, and it
    is spread evenly. So no probability computed from p, of whatever set of answers, is wrong by
    more than `spread`. That bounds neither NLL nor entropy: an answer in such a block may be far
    more or less likely than p says, and of all ways to fill the block the even one has the most
    entropy.
    """

    p: torch.Tensor
    spread: float
    prefixes: int


@torch.inference_mode()
def compute_density(model, pixels, keypoint, cut=1e-4, category=None, listed=None):
    """The Density of the answers to one keypoint's question.

    model: a CapeLLM; pixels: (3, S, S); category and listed: as for `CapeLLM.answer`. cut: prefixes
    of less probability are not read; with 0 all are, 111,111 if K = 3. A prefix that is read gives
    all that follow it more than 0. ValueError if cut is none, or there are no digits.
    """
    if not 0 <= cut <= 1:
        raise ValueError(
            f"cut is {cut}, expected a probability: 0 reads every prefix, 1 hardly any"
        )
    codec = model.codec
    if model.config.output == "token":
        raise ValueError("a model that answers with <KEYPOINT> has no density (Table 17)")
    (V,) = model.image_tokens(pixels[None])
    trunk, (question,) = model.prepare_questions(V, [keypoint], category, listed)
    length = len(trunk) + count_branch_tokens(codec, question)
    cache = KVCache(model.llm.config, 1, length, trunk.dtype, model.device)
    model.llm(trunk[None], cache=cache)

    rows = torch.ones(1, cache.length, dtype=torch.bool, device=model.device)
    certain = torch.ones(1, dtype=torch.float64)
    x = read_coordinate(model, cache, rows, [question], certain, cut, followed=True)
    p_x = x.mass[0]  # (1000,)
    p = p_x[:, None].repeat(1, GRID) / GRID
    spread = float(p_x[p_x < cut].sum())
    prefixes = x.prefixes

    # All digits of x but the last are in the cache: row_of[prefix] is what follows them.
    row_of = torch.zeros(GRID, dtype=torch.long)
    row_of[x.codes] = torch.arange(len(x.codes))
    likely = (p_x >= cut).nonzero()[:, 0]
    length = cache.length
    for i in range(0, len(likely), X_AT_ONCE):
        values = likely[i : i + X_AT_ONCE]
        feed = [[codec.ids[value % codec.base]] + codec.comma for value in values.tolist()]
        parents = send(row_of[values // codec.base], x.rows.device)
        y = read_coordinate(model, cache, x.rows[parents], feed, p_x[values], cut, followed=False)
        p[values] = y.mass
        spread += y.spread
        prefixes += y.prefixes
        cache.truncate(length)
    return Density(p, spread, prefixes)


def count_branch_tokens(codec, question):
    """How many tokens besides the trunk are in the cache at the same time."""
    # Of x: prefixes without their last digit, and the longest ones. Of y: what one group needs.
    inner = sum(codec.base**k for k in range(codec.K - 1))
    longest = codec.base ** (codec.K - 1)
    y = (X_AT_ONCE * inner + PREFIXES_AT_ONCE) * (1 + len(codec.comma))
    return len(question) + inner + longest + y


class Coordinate(NamedTuple):
    """What was read of one coordinate, x or y, behind n branches.

    mass: (n, 1000) of each of its values; spread: the part of the mass that is spread over blocks;
    prefixes: how many were read. Of the read prefixes without the last digit, m of them: codes
    (m,), their digits as a number, and rows (m, S), the tokens that their ends see.
    """

    mass: torch.Tensor
    spread: float
    prefixes: int
    codes: torch.Tensor
    rows: torch.Tensor


def read_coordinate(model, cache, rows, feed, mass, cut, followed):
    """Read the next coordinate of n branches off the cache, digit by digit.

    rows: (n, S), the tokens that the branches see; feed: for each branch the tokens up to its first
    digit; mass: (n,), the branches' probabilities; followed: whether anything will follow the
    coordinate. Returns a Coordinate.
    """
    codec, base = model.codec, model.codec.base
    values = torch.zeros(len(rows), GRID, dtype=torch.float64)
    # A prefix is a branch and the digits behind it, here written as a number.
    branch = torch.arange(len(rows))
    code = torch.zeros(len(rows), dtype=torch.long)
    spread, prefixes = 0.0, 0
    for digit in range(codec.K):
        if digit:
            low, read = mass < cut, mass >= cut
            # A block is the values that begin with the same digits.
            blocks = values.view(len(values), base**digit, -1)
            blocks[branch[low], code[low]] = mass[low, None] / blocks.shape[2]
            spread += float(mass[low].sum())
            mass, branch, code = mass[read], branch[read], code[read]
            # Each row has `base` successors.
            rows = rows[send(read.nonzero()[:, 0] // base, rows.device)]
            feed = [[codec.ids[d]] for d in (code % base).tolist()]
        keep = followed or digit < codec.K - 1
        p, rows = read_digit(model, cache, rows, feed, keep)
        prefixes += len(feed)
        codes = code
        mass = (mass[:, None] * p).flatten()
        code = (code[:, None] * base + torch.arange(base)).flatten()
        branch = branch.repeat_interleave(base)
    values[branch, code] = mass
    return Coordinate(values, spread, prefixes, codes, rows)


def read_digit(model, cache, rows, feed, keep):
    """Feed n branches, in batches, and read the digit that follows each.

    keep: whether the fed tokens stay in the cache. Tokens from which nothing grows would only be
    looked at, and masked, by all others. Returns probabilities (n, base) and rows (n, S') of the
    branches' ends.
    """
    p = [torch.empty(0, model.codec.base, dtype=torch.float64)]
    ends = [rows[:0]]
    length = cache.length
    for i in range(0, len(feed), PREFIXES_AT_ONCE):
        part = feed[i : i + PREFIXES_AT_ONCE]
        tokens = [token for branch in part for token in branch]
        lengths = [len(branch) for branch in part]
        seen = pad_rows(rows[i : i + PREFIXES_AT_ONCE], cache.length)
        new = extend_branches(model, cache, seen, [0] * len(part), tokens, lengths)
        p.append(compute_log_p(model, new.hidden).exp().cpu())
        if keep:
            ends.append(new.rows)
        else:
            cache.truncate(length)
    return torch.cat(p), torch.cat([pad_rows(end, cache.length) for end in ends])


def pad_rows(rows, length):
    """Rows over the first tokens of the cache, as rows over `length` tokens: they see no other."""
    return F.pad(rows, (0, length - rows.shape[1]))


def find_mode(p):
    """The likeliest answer (x, y)."""
    return find_point(int(p.argmax()))


def find_point(n):
    """The n-th answer as (x, y)."""
    return n // GRID / GRID, n % GRID / GRID


def find_mean(p):
    """The expected (x, y), which minimises the mean squared distance."""
    values = torch.arange(GRID, dtype=p.dtype) / GRID
    return float(p.sum(1) @ values), float(p.sum(0) @ values)


def find_median(p):
    """The least x, and the least y, with half of the mass at or below it."""
    half = 0.5 * p.sum()
    x = int((p.sum(1).cumsum(0) < half).sum())
    y = int((p.sum(0).cumsum(0) < half).sum())
    return x / GRID, y / GRID


def find_region(p, q):
    """The credible region, a mask (1000, 1000): the fewest answers that hold the mass q."""
    mass, order = p.flatten().sort(descending=True)
    chosen = mass.cumsum(0) - mass < q
    return torch.zeros_like(chosen).scatter(0, order, chosen).view(p.shape)


def compute_entropy(p):
    """The NLL to expect of truths drawn from p, as `compute_nll` has it.

    0 if p is even, -log(10^6) = -13.8 if one answer holds all.
    """
    return float(torch.special.entr(p).sum()) - 2 * math.log(GRID)


def has_answer(truth):
    """Whether an answer stands for the place (x, y): it lies inside the crop, in [0, 0.9995)."""
    return all(0 <= value < 1 - 0.5 / GRID for value in truth)


def find_cell(truth):
    """The answer (i, j) that stands for a place (x, y). ValueError if the place has none."""
    if not has_answer(truth):
        raise ValueError(
            f"{tuple(truth)} lies outside the crop, where coordinates are in [0, 0.9995): "
            "it has no density"
        )
    # The last number below 0.9995 is 999.5 after rounding.
    i, j = (min(int(GRID * value + 0.5), GRID - 1) for value in truth)
    return i, j


def compute_nll(p, truth):
    """-log of the density at the true (x, y), in nats, per unit of area (that of the crop is 1).

    0 if p is even. ValueError if the truth lies outside the crop.
    """
    return float(-(p[find_cell(truth)] * GRID**2).log())


def compute_level(p, truth, u):
    """The q from which on the credible region of mass q holds the true (x, y).

    Over truths drawn from p it is even in (0, 1). u: drawn from [0, 1), it orders the truth among
    equally likely answers, of which a region holds some. ValueError as in `compute_nll`.
    """
    at = p[find_cell(truth)]
    return float(p[p > at].sum() + u * at * (p == at).sum())


def find_best_point(p, radius):
    """The answer (x, y) with the most mass closer than radius, and this mass.

    radius is relative to the crop; with radius = t the mass is the expected PCK@t of a square crop.
    Of equally good answers the one nearest the mean is taken. The mass around all places at once is
    a convolution of p with a disc.
    """
    # Rounded: 1000 * 0.07 is 70.00000000000001.
    radius = round(GRID * radius, 6)
    reach = min(math.ceil(radius), GRID)
    width = 2 * reach + 1
    offsets = torch.arange(-reach, reach + 1, dtype=p.dtype)
    disc = (offsets[:, None].hypot(offsets) < radius).to(p.dtype)
    padded = F.pad(p, [reach] * 4)

    window = find_window(p, padded, disc)
    looked = padded[window]
    # Sizes that are fast to transform. What wraps around stays in the first 2 reach.
    size = [math.ceil(n / 64) * 64 for n in looked.shape]
    mass = torch.fft.irfft2(torch.fft.rfft2(looked, size) * torch.fft.rfft2(disc, size), size)
    mass = mass[width - 1 : looked.shape[0], width - 1 : looked.shape[1]]

    # The transform rounds: equal masses differ by less than 1e-9.
    found = (mass > mass.max() - 1e-9).nonzero()
    found = found + torch.tensor([part.start for part in window])
    x, y = (found - GRID * torch.tensor(find_mean(p), dtype=p.dtype)).T
    x, y = found[int(x.hypot(y).argmin())].tolist()
    return (x / GRID, y / GRID), float(mass.max())


def find_window(p, padded, disc):
    """The rows and columns of `padded`, two slices, that hold the disc around every candidate.

    p is padded by the disc's reach on all sides. If the whole strip of rows (or columns) under a
    disc has less mass than the disc around the mode or the median, no disc there has more.
    """
    width = len(disc)
    guesses = []
    for place in (find_mode(p), find_median(p)):
        i, j = find_cell(place)
        guesses.append((padded[i : i + width, j : j + width] * disc).sum())
    window = []
    for axis in (1, 0):
        below = F.pad(padded.sum(axis).cumsum(0), (1, 0))
        strips = below[width:] - below[:-width]
        centres = (strips > max(guesses) - 2e-9).nonzero()[:, 0]
        window.append(slice(int(centres[0]), int(centres[-1]) + width))
    return tuple(window)


def smooth_samples(samples, bandwidth):
    """Kernel density estimate of samples (n, 2): a Gaussian around each, cut off at the crop.

    bandwidth: the Gaussians' standard deviation.
    """
    values = torch.arange(GRID, dtype=torch.float64) / GRID
    samples = torch.as_tensor(samples, dtype=torch.float64).view(-1, 2)

    def smooth(centres):
        """(n, 1000): a row for each centre, which sums to 1."""
        distances = (values - centres[:, None]) / bandwidth
        return torch.softmax(-(distances**2) / 2, 1)

    x, y = samples.T
    return smooth(x).T @ smooth(y) / len(samples)


def make_gaussian(centre, sigma):
    """The heatmap that others assume: a Gaussian around (x, y), cut off at the crop."""
    return smooth_samples([centre], sigma)


def draw_samples(p, generator, n=DRAWS):
    """n answers (n, 2) drawn from p, as if the model had sampled them, and a bandwidth for them.

    The bandwidth is that of Scott's rule, at least one step of the grid.
    """
    at = p.flatten().multinomial(n, replacement=True, generator=generator)
    samples = torch.stack([at // GRID, at % GRID], 1).double() / GRID
    deviation = float(samples.var(0).mean()) ** 0.5
    return samples, max(deviation * n ** (-1 / 6), 1 / GRID)


def compute_gaussian_nll(centres, truths, sigma):
    """`compute_nll` of `make_gaussian` for many at once, (n,).

    centres, truths: (n, 2), the truths inside the crop; sigma: a number or (n, 1).
    """
    centres = torch.as_tensor(centres, dtype=torch.float64)
    truths = torch.as_tensor(truths, dtype=torch.float64)
    sigma = torch.as_tensor(sigma, dtype=torch.float64)
    truths = (GRID * truths + 0.5).floor().clamp(max=GRID - 1) / GRID
    # The crop ends half a step of the grid beyond its first and its last value.
    low = torch.special.log_ndtr((-0.0005 - centres) / sigma)
    high = torch.special.log_ndtr((0.9995 - centres) / sigma)
    log_inside = high + torch.log1p(-(low - high).exp())
    exponent = ((truths - centres) / sigma) ** 2 / 2
    return (exponent + (sigma * math.tau**0.5).log() + log_inside).sum(1)


def find_best_sigma(centres, truths):
    """The standard deviation with the least mean `compute_gaussian_nll`, from 0.001 to 10.

    Golden-section search over its logarithm.
    """

    def cost(log_sigma):
        return float(compute_gaussian_nll(centres, truths, math.exp(log_sigma)).mean())

    low, high = math.log(0.001), math.log(10)
    ratio = (5**0.5 - 1) / 2
    while high - low > 1e-4:
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        if cost(a) < cost(b):
            high = b
        else:
            low = a
    return math.exp((low + high) / 2)
