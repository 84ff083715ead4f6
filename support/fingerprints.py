"""Fingerprints: short texts by which a resumed run knows that its inputs are still the same."""

from contextlib import suppress
from pathlib import Path

from support.digest import compute_fingerprint
from support.files import refuse_special
from support.folders import read_model_config
from support.tokenizer import find_vocabulary
from support.weights import list_weight_files


def list_backbone_files(folder, has_vocabulary):
    """Those files of a backbone's folder that are read. Whatever else lies there decides nothing.

    ValueError or FileNotFoundError if it is no such folder.
    """
    folder = Path(folder)
    files = [folder / "config.json", *list_weight_files(folder)]
    if folder / "model.safetensors" not in files:
        files.append(folder / "model.safetensors.index.json")
    if has_vocabulary:
        files.append(find_vocabulary(folder))
    return sorted(files)


def fingerprint_model(vision, llm, init=None):
    """Of backbones, and of the model folder to start from: names and sizes of the files that are
    read, and the first MiB of each."""
    files = list_backbone_files(vision, False) + list_backbone_files(llm, True)
    if init:
        files += [Path(init) / "adapter.safetensors", Path(init) / "config.json"]
    parts = []
    for path in files:
        parts += [path.name, path.stat().st_size, read_start(path)]
    return compute_fingerprint(parts)


def read_start(path):
    """The first MiB of a file. ValueError if it is a pipe, which would keep us waiting."""
    refuse_special(path)
    with open(path, "rb") as file:
        return file.read(2**20)


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
    the names and sizes of the files that are read.
    """
    parts = [repr(described)]
    folder = Path(model_folder)
    # If there is no model, loading it will say what is wrong.
    with suppress(OSError, ValueError):
        config = read_model_config(folder)
        adapter = folder / "adapter.safetensors"
        parts += [(folder / "config.json").read_bytes(), read_start(adapter)]
        parts.append(adapter.stat().st_size)
        for backbone, has_vocabulary in ((config.vision, False), (config.llm, True)):
            files = list_backbone_files(backbone, has_vocabulary)
            parts.append([(file.name, file.stat().st_size) for file in files])
    for i in instances:
        parts += [f"{i.id} {i.image.name} {i.category} {i.bbox}", i.keypoints.tobytes()]
    return compute_fingerprint(parts)
