"""How far off an answer may be: the radius that holds the truth nine times out of ten.

    find_radii(found, model.config.radius_scale)

A greedy answer comes with the probabilities of all digits that were not chosen, each given the
digits before it. What would follow them was not read; here the mass of such a digit lies at the
nearest place that it can mean: after 0.37, a 5 in the place of the 3 may mean 0.500 to 0.599 and
counts as 0.500. x and y count as independent. The radius around the answer that holds 0.9 of this
mass costs no pass of the model, and is too small. So it is multiplied by a number of the model,
`radius_scale` in its config.json, which is measured on validation images: by train.py with
--val-every, or by study/coverage.py.

study/density.py reads the digits that would follow, too, but for improbable prefixes: closer, at
the cost of many passes.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

LEVEL = 0.9
HALVINGS = 12  # of the greatest distance in the crop: to less than a thousandth of its side
LEAST = 0.0005  # answers are rounded so
LEAST_FACTOR, MOST_FACTOR = 0.001, 1000.0


def find_radii(found, scale=None):
    """The radii around answers, relative to the crop's side. None where there are no digits.

    found: list of support.passes.Decoded; scale: of the model, None if it is not calibrated.
    """
    if not found or found[0].p is None:
        return [None] * len(found)
    p = torch.stack([one.p for one in found])
    digits = torch.tensor([one.digits for one in found])
    return (measure_radii(p, digits) * (scale or 1)).clamp(min=LEAST).tolist()


def measure_radii(p, digits, level=LEVEL):
    """Radii (n,) that hold this share of the mass. p: (n, 2 K, base); digits: (n, 2 K)."""
    (dx, p_x), (dy, p_y) = map(spread_mass, p.chunk(2, 1), digits.chunk(2, 1))
    dy, order = dy.sort(1)
    # Of y, the mass of the nearest 0, 1, 2, ... places.
    nearest = F.pad(p_y.gather(1, order).cumsum(1), (1, 0))
    low, high = torch.zeros(len(p), dtype=p.dtype), torch.full((len(p),), 2**0.5, dtype=p.dtype)
    for _ in range(HALVINGS):
        radius = (low + high) / 2
        reach = radius[:, None] ** 2 - dx**2
        places = torch.searchsorted(dy, reach.clamp(min=0).sqrt(), right=True)
        held = (p_x * nearest.gather(1, places) * (reach >= 0)).sum(1)
        low = torch.where(held < level, radius, low)
        high = torch.where(held < level, high, radius)
    return high


def spread_mass(p, digits):
    """Where a coordinate may be: distances from the answer (n, M) and their mass (n, M).

    p: (n, K, base); digits: (n, K). M = K base. A digit that is followed by others has no mass of
    its own.
    """
    n, K, base = p.shape
    distances, masses = [], []
    before = torch.ones(n, 1, dtype=p.dtype)
    for k in range(K):
        width = base ** (K - 1 - k)
        powers = base ** torch.arange(K - 1 - k, -1, -1)
        first = torch.arange(base) * width - (digits[:, k:] @ powers)[:, None]
        last = first + width - 1
        # 0 for the digit itself
        distances.append(torch.maximum(first, -last).clamp(min=0) / base**K)
        mass, chosen = before * p[:, k], digits[:, k, None]
        before = mass.gather(1, chosen)
        masses.append(mass if k == K - 1 else mass.scatter(1, chosen, 0))
    return torch.cat(distances, 1).to(p.dtype), torch.cat(masses, 1)


def scale_radii(radii, affine, size):
    """Radii in pixels of the image. affine, size: as of data.map_to_image."""
    side = math.hypot(affine[0, 0], affine[1, 0]) * size
    return [None if radius is None else radius * side for radius in radii]


def find_radius_scale(groups):
    """How many times larger circles hold LEVEL of the truths; each group counts the same.

    groups: of each the distances of truths from answers, in radii of their circles.
    """
    ratios = np.concatenate(groups)
    weights = np.concatenate([np.full(len(group), 1 / len(group)) for group in groups])
    order = ratios.argsort()
    held = weights[order].cumsum() / len(groups)
    # The last sum may miss 1 by a rounding.
    factor = ratios[order][min(np.searchsorted(held, LEVEL), len(ratios) - 1)]
    # Upwards, so that circles hold no less.
    return min(max(math.ceil(1e4 * factor) / 1e4, LEAST_FACTOR), MOST_FACTOR)
