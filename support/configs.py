"""The official config.json of a backbone, in a dataclass; what is not implemented is refused."""

import json
from dataclasses import MISSING, fields
from pathlib import Path


def read_config(path, supported):
    """A config.json as a dict.

    supported: {entry: values that are implemented}, of entries that change the computation; None
    among the values: the entry may be missing or null. Raises FileNotFoundError or ValueError
    naming the file and the entry.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: a model folder needs its official config.json")
    try:
        raw = dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a JSON object ({error}): download it again") from None
    for key, known in supported.items():
        if raw.get(key) not in known:
            names = " or ".join("null" if value is None else repr(value) for value in known)
            raise ValueError(f"{path}: {key} {raw.get(key)!r} is not supported, only {names}")
    return raw


def fill_config(cls, raw, path):
    """The dataclass `cls` filled from those entries of a config.json that it has fields for."""
    required = [f.name for f in fields(cls) if f.default is MISSING]
    missing = [name for name in required if raw.get(name) is None]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: use the official config.json")
    known = {f.name: raw[f.name] for f in fields(cls) if raw.get(f.name) is not None}
    try:
        return cls(**known)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
