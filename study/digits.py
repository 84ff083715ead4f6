"""Table 9: how a digit is chosen.

Each way maps log p of the digits (n, base) to logits, from which `draw_digits` samples a digit.
Contrastive search, which compares hidden states too, is in decode.py.
"""

from functools import partial

import torch


def sharpen(log_p, temperature):
    return log_p / temperature


def keep_likeliest(log_p, k=torch.inf, mass=torch.inf):
    """Keep the k likeliest digits, or the fewest that hold the mass; of equal ones the lower."""
    p, order = log_p.exp().sort(dim=-1, descending=True, stable=True)
    before = p.cumsum(-1) - p
    rank = torch.arange(p.shape[-1], device=p.device)
    kept = (before < mass) & (rank < k)
    kept = kept.scatter(-1, order, kept)  # from the order of rank back to that of digits
    return log_p.masked_fill(~kept, -torch.inf)


DECODING = {
    "greedy": partial(keep_likeliest, k=1),
    "sampling": partial(sharpen, temperature=1),
    "temperature": partial(sharpen, temperature=0.6),
    "top-3": partial(keep_likeliest, k=3),
    "top-5": partial(keep_likeliest, k=5),
    "nucleus": partial(keep_likeliest, mass=0.92),
    "contrastive": None,  # see `decode.Forest.choose_by_contrast`
}


def draw_digits(log_p, decoding, u) -> torch.Tensor:
    """Sample a digit (n,) from each row of log p (n, base), with u (n,) in [0, 1)."""
    # It is the number of digits whose cumulative probability is at most u.
    cdf = DECODING[decoding](log_p).softmax(-1).cumsum(-1)
    return (cdf / cdf[:, -1:] <= u[:, None]).sum(-1)


def check_way(decoding, cumulative):
    if decoding not in DECODING:
        raise ValueError(f"decoding {decoding!r} is not known: choose one of {', '.join(DECODING)}")
    if cumulative not in (False, True, "confidence"):
        raise ValueError(f"cumulative is {cumulative!r}, expected False, True or 'confidence'")
