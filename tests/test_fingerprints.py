"""Fingerprints: equal for equal inputs, other ones for others."""

import hashlib
import json
import random
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from capellm import CapeLLM
from damage import damage_value, make_special
from support.coco import Instance
from support.digest import compute_fingerprint
from support.files import ROOT
from support.fingerprints import fingerprint_evaluation, fingerprint_model, read_start


def test_a_fingerprint_is_that_of_all_parts_in_a_row():
    """The first 12 digits of SHA-256."""
    expected = hashlib.sha256(b"weights7[1, 2]").hexdigest()[:12]
    assert compute_fingerprint([b"weights", 7, [1, 2]]) == expected


def test_a_fingerprint_changes_with_words_and_annotations(tmp_path):
    def instance(x=1.0, **more):
        keypoints = np.array([[x, 2, 1]], np.float32)
        return Instance(1, tmp_path / "a.png", 5, keypoints, (0.0, 0.0, 9.0, 9.0))._replace(**more)

    described = {5: [("eye", "an eye")]}
    first = fingerprint_evaluation("nowhere", described, [instance()])
    assert fingerprint_evaluation("nowhere", described, [instance()]) == first and len(first) == 12
    others = [
        fingerprint_evaluation("nowhere", {5: [("eye", "the eye")]}, [instance()]),
        fingerprint_evaluation("nowhere", described, [instance(x=1.5)]),
        fingerprint_evaluation("nowhere", described, [instance(bbox=(0.0, 0.0, 9.0, 8.0))]),
        fingerprint_evaluation("nowhere", described, [instance(image=tmp_path / "b.png")]),
        fingerprint_evaluation("nowhere", described, []),
    ]
    assert len({first, *others}) == 6


def test_a_fingerprint_changes_with_the_model(tmp_path):
    for backbone in ("vision", "llm"):
        (tmp_path / backbone).mkdir()
        (tmp_path / backbone / "config.json").write_bytes(b"{}")
        (tmp_path / backbone / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "llm" / "tokenizer.model").write_bytes(b"words")
    (tmp_path / "config.json").write_text(json.dumps({"vision": "vision", "llm": "llm"}))
    (tmp_path / "adapter.safetensors").write_bytes(b"adapter")
    found = {fingerprint_evaluation(tmp_path, {}, [])}
    (tmp_path / "adapter.safetensors").write_bytes(b"adopter")
    found.add(fingerprint_evaluation(tmp_path, {}, []))
    (tmp_path / "llm" / "model.safetensors").write_bytes(b"longer weights")
    found.add(fingerprint_evaluation(tmp_path, {}, []))
    assert len(found) == 3


EXTRAS = ("tokenizer_config.json", "generation_config.json", "other.safetensors", "a.model")


@pytest.fixture
def own_model(model_folder, tmp_path):
    """A model folder whose language model is in two shards, among files that nothing reads."""
    folder = shutil.copytree(model_folder, tmp_path / "model")
    llm = folder / "llm"
    tensors = load_file(llm / "model.safetensors")
    (llm / "model.safetensors").unlink()
    places = {}
    for n, (name, tensor) in enumerate(sorted(tensors.items())):
        shard = f"shard-{n % 2}.safetensors"
        places.setdefault(shard, {})[name] = tensor
    for shard, part in places.items():
        save_file(part, llm / shard)
    weight_map = {name: shard for shard, part in places.items() for name in part}
    index = json.dumps({"weight_map": weight_map})
    (llm / "model.safetensors.index.json").write_text(index)
    for inside in (folder, llm, folder / "vision"):
        for name in EXTRAS:
            (inside / name).write_text("{}")
        (inside / "consolidated.safetensors").symlink_to("nowhere")
        (inside / "cache.json").mkdir()
    (folder / "vision" / "model.safetensors.index.json").write_text("{}")
    (folder / "vision" / "tokenizer.model").write_text("{}")
    return folder


def fingerprint_all(folder):
    """Both fingerprints of a model folder; None if one cannot be had."""
    try:
        trained = fingerprint_model(folder / "vision", folder / "llm", folder)
    except (OSError, ValueError):
        trained = None
    return trained, fingerprint_evaluation(folder, {}, [])


def can_be_loaded(folder):
    try:
        CapeLLM.from_pretrained(folder)
    except (OSError, ValueError):
        return False
    return True


def test_exactly_what_is_read_has_a_part_in_the_fingerprint(own_model):
    """Without a file that is read the model cannot be loaded; all others may come and go."""
    before = fingerprint_all(own_model)
    assert None not in before and can_be_loaded(own_model)
    files = [path for path in own_model.rglob("*") if path.is_file() or path.is_symlink()]
    read = []
    for path in files:
        away = path.rename(own_model.parent / "away")
        if can_be_loaded(own_model):
            assert fingerprint_all(own_model) == before, path
        else:
            read.append(path.relative_to(own_model).as_posix())
            assert not set(fingerprint_all(own_model)) & set(before), path
        away.rename(path)
    assert sorted(read) == [
        "adapter.safetensors",
        "config.json",
        "llm/config.json",
        "llm/model.safetensors.index.json",
        "llm/shard-0.safetensors",
        "llm/shard-1.safetensors",
        "llm/tokenizer.model",
        "vision/config.json",
        "vision/model.safetensors",
    ]
    # And each of them counts with what it holds.
    for name in read:
        content = (own_model / name).read_bytes()
        (own_model / name).write_bytes(content + b" ")
        trained, evaluated = fingerprint_all(own_model)
        assert trained != before[0] and evaluated != before[1]
        (own_model / name).write_bytes(content)
    # The start of what has the same size, too: of backbones the training's fingerprint alone.
    for name in read:
        content = (own_model / name).read_bytes()
        (own_model / name).write_bytes(b"x" + content[1:])
        if "index" not in name:
            assert fingerprint_all(own_model)[0] != before[0]
        (own_model / name).write_bytes(content)
    assert fingerprint_all(own_model) == before


def test_files_that_nothing_reads_change_no_earlier_fingerprint():
    """Runs that were interrupted before these were left out go on: nano has none."""
    parts = []
    for folder in ("vision", "llm", "."):
        for path in sorted((ROOT / "nano" / folder).iterdir()):
            if path.suffix in (".json", ".safetensors", ".model"):
                parts += [path.name, path.stat().st_size, path.read_bytes()[: 2**20]]
    nano = ROOT / "nano"
    assert fingerprint_model(nano / "vision", nano / "llm", nano) == compute_fingerprint(parts)


def test_a_damaged_model_has_a_fingerprint(tmp_path, model_folder):
    """Loading it will say what is wrong."""
    folder = shutil.copytree(model_folder, tmp_path / "model")
    rng, config = random.Random(0), json.loads((folder / "config.json").read_text())
    for _ in range(100):
        (folder / "config.json").write_bytes(damage_value(rng, config))
        assert len(fingerprint_evaluation(folder, {}, [])) == 12


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_keeps_nobody_waiting(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps({"vision": str(tmp_path), "llm": "."}))
    make_special(tmp_path / "adapter.safetensors", kind)
    with pytest.raises(ValueError, match="adapter.safetensors is no regular file"):
        read_start(tmp_path / "adapter.safetensors")
    assert fingerprint_evaluation(tmp_path, {}, []) == fingerprint_evaluation("nowhere", {}, [])
