"""Fingerprints: equal for equal inputs, other ones for others."""

import hashlib
import json

import numpy as np

from support.coco import Instance
from support.fingerprints import (
    compute_fingerprint,
    fingerprint_evaluation,
    fingerprint_weights,
)


def test_a_fingerprint_is_that_of_all_parts_in_a_row():
    """The first 12 digits of SHA-256."""
    expected = hashlib.sha256(b"weights7[1, 2]").hexdigest()[:12]
    assert compute_fingerprint([b"weights", 7, [1, 2]]) == expected


def test_weights_are_told_apart(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"0" * 2**21)
    (tmp_path / "README.md").write_text("not part of it")
    before = fingerprint_weights([tmp_path])
    (tmp_path / "README.md").write_text("changed")
    assert fingerprint_weights([tmp_path]) == before
    for content in (b"0" * 2**21 + b"0", b"1" + b"0" * (2**21 - 1)):
        (tmp_path / "model.safetensors").write_bytes(content)
        assert fingerprint_weights([tmp_path]) != before


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
        (tmp_path / backbone / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text(json.dumps({"vision": "vision", "llm": "llm"}))
    (tmp_path / "adapter.safetensors").write_bytes(b"adapter")
    found = {fingerprint_evaluation(tmp_path, {}, [])}
    (tmp_path / "adapter.safetensors").write_bytes(b"adopter")
    found.add(fingerprint_evaluation(tmp_path, {}, []))
    (tmp_path / "llm" / "model.safetensors").write_bytes(b"longer weights")
    found.add(fingerprint_evaluation(tmp_path, {}, []))
    assert len(found) == 3
