"""Fingerprints: short texts by which a resumed run knows that its inputs are still the same."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path


def compute_fingerprint(parts):
    """A short text that differs when one of the parts does: bytes, or anything that has a text."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else str(part).encode())
    return digest.hexdigest()[:12]


def fingerprint_weights(folders):
    """Of model folders: the names and sizes of their files, and the first MiB of each."""
    parts = []
    for folder in folders:
        for path in sorted(Path(folder).iterdir()):
            if path.suffix in (".json", ".safetensors", ".model"):
                with open(path, "rb") as file:
                    parts += [path.name, path.stat().st_size, file.read(2**20)]
    return compute_fingerprint(parts)


def fingerprint_instances(instances):
    """Of annotations and of the sizes of their image files."""
    parts = []
    for i in instances:
        size = i.image.stat().st_size
        parts += [i.id, i.image.name, i.category, i.bbox, i.keypoints.tobytes(), size]
    return compute_fingerprint(parts)


def fingerprint_evaluation(model_folder, described, instances):
    """Of what an evaluation reads: the model's weights, the descriptions and the annotations.

    Of a model folder config.json counts, of the adapter its size and first MiB, of the backbones
    the names and sizes of their files.
    """
    parts = [repr(described)]
    folder = Path(model_folder)
    # If there is no model, loading it will say what is wrong.
    with suppress(OSError, ValueError, KeyError, TypeError):
        config = (folder / "config.json").read_bytes()
        with open(folder / "adapter.safetensors", "rb") as file:
            size = os.fstat(file.fileno()).st_size
            parts += [config, file.read(2**20), size]
        for backbone in ("vision", "llm"):
            files = sorted((folder / json.loads(config)[backbone]).glob("*"))
            parts.append([(f.name, f.stat().st_size) for f in files if f.is_file()])
    for i in instances:
        parts += [f"{i.id} {i.image.name} {i.category} {i.bbox}", i.keypoints.tobytes()]
    return compute_fingerprint(parts)
