"""Rotary position embedding in a config.json: its older spelling and its newer one, checked."""

from typing import Annotated, TypedDict

from support.fields import Range, check_value
from support.quote import quote

Theta = Annotated[float, Range(1, 1e12)]
Factor = Annotated[float, Range(1e-3, 1e6)]


class Llama3Scaling(TypedDict):
    """What `rope_type` "llama3" needs, see llama.compute_frequencies."""

    factor: Factor
    low_freq_factor: Factor
    high_freq_factor: Factor
    original_max_position_embeddings: Annotated[int, Range(1, 2**30)]


def merge_rope(raw):
    """Entries of a config.json with rope_theta and rope_scaling as older files have them.

    Newer ones keep both in one table, rope_parameters. ValueError if a file says two things.
    """
    older, newer = raw.get("rope_scaling"), raw.get("rope_parameters")
    check_value("rope_scaling", older, dict | None)
    check_value("rope_parameters", newer, dict | None)
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
    theta = merged["rope_theta"]
    if theta is None and find_rope_type(merged) == "llama3":
        raise ValueError("rope_theta is missing, which Llama 3 has: use the official config.json")
    return raw | {"rope_theta": theta, "rope_scaling": merged}


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
    numbers = {name: scaling[name] for name in Llama3Scaling.__annotations__ if name in scaling}
    check_value("rope scaling", numbers, Llama3Scaling)
    if numbers["low_freq_factor"] >= numbers["high_freq_factor"]:
        raise ValueError("rope scaling: low_freq_factor is not below high_freq_factor")
