"""Rotary position embedding in a config.json: its older spelling and its newer one, checked."""

from typing import Annotated

from support.quote import quote
from support.shapes import OBJECT, OrNull, between, check_shape, whole_between

Theta = Annotated[float, between(1, 1e12)]
FACTOR = between(1e-3, 1e6)
# What `rope_type` "llama3" needs, see llama.compute_frequencies.
LLAMA3 = {
    "factor": FACTOR,
    "low_freq_factor": FACTOR,
    "high_freq_factor": FACTOR,
    "original_max_position_embeddings": whole_between(1, 2**30),
}


def merge_rope(raw):
    """Entries of a config.json with rope_theta and rope_scaling as older files have them.

    Newer ones keep both in one table, rope_parameters. ValueError if a file says two things.
    """
    older, newer = raw.get("rope_scaling"), raw.get("rope_parameters")
    check_shape(older, OrNull(OBJECT), "rope_scaling")
    check_shape(newer, OrNull(OBJECT), "rope_parameters")
    merged = {"rope_theta": raw.get("rope_theta"), **(older or {})}
    for name, value in (newer or {}).items():
        known = merged.setdefault(name, value)
        if known is None:
            merged[name] = value
        elif value != known:
            raise ValueError(
                f"{name} is {quote(known)}, but {quote(value)} in rope_parameters: "
                "use the official config.json"
            )
    theta, kind = merged["rope_theta"], find_rope_type(merged)
    if theta is None and kind == "llama3":
        raise ValueError("rope_theta is missing, which Llama 3 has: use the official config.json")
    # Equal in all files that say the same.
    scaling = {"rope_type": kind}
    if kind == "llama3":
        scaling |= {name: merged[name] for name in LLAMA3 if name in merged}
    return raw | {"rope_theta": theta, "rope_scaling": scaling}


def find_rope_type(scaling):
    found = [(scaling or {}).get(name) for name in ("rope_type", "type")]
    return next((kind for kind in found if kind is not None), "default")


def check_scaling(scaling):
    """ValueError unless positions are scaled in a way that llama.py implements."""
    kind = find_rope_type(scaling)
    if kind not in ("default", "llama3"):
        raise ValueError(f"rope type {quote(kind)} is not supported, only 'llama3'")
    if kind == "default":
        return
    check_shape(scaling, LLAMA3, "rope scaling")
    if scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
        raise ValueError("rope scaling: low_freq_factor is not below high_freq_factor")
