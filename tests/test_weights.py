"""support/weights.py and support/folders.py: tensors that are no numbers, files that are not whole.

That names and shapes are checked is tested on a model, in test_llama.py.
"""

import json
import os
import signal
import struct
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from capellm import CapeLLM
from helpers import one_line
from support.folders import fill_tensors
from support.weights import load_weights

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def make_model():
    with torch.device("meta"):
        return torch.nn.ModuleDict({"a": torch.nn.Linear(7, 5), "b": torch.nn.Linear(3, 2)})


def draw_tensors(dtype):
    return {name: torch.randn(t.shape).to(dtype) for name, t in make_model().state_dict().items()}


def fill(folder, dtype=None):
    """As of an adapter.safetensors."""
    own = {name: torch.empty_like(t, device="cpu") for name, t in make_model().state_dict().items()}
    fill_tensors(own, folder)
    return own


def load(folder, dtype=None):
    return load_weights(make_model(), folder, dtype).state_dict()


READERS = {"model.safetensors": load, "adapter.safetensors": fill}


@settings(max_examples=60, deadline=None)
@given(
    file=st.sampled_from(list(READERS)),
    dtype=st.sampled_from(DTYPES),
    target=st.sampled_from([torch.float32, torch.bfloat16]),
    name=st.sampled_from(list(make_model().state_dict())),
    place=st.integers(0, 1000),
    value=st.sampled_from([float("nan"), float("inf"), -float("inf")]),
)
def test_a_tensor_with_nan_or_infinity_is_refused(
    file, dtype, target, name, place, value, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("weights")
    tensors = draw_tensors(dtype)
    save_file(tensors, folder / file)
    READERS[file](folder, target)
    tensors[name].view(-1)[place % tensors[name].numel()] = value
    save_file(tensors, folder / file)
    with pytest.raises(ValueError) as error:
        READERS[file](folder, target)
    assert f"{name} in {folder / file} holds NaN or infinity" in one_line(error)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_numbers_are_numbers(dtype, tmp_path):
    """Though their sum is infinite."""
    tensors = draw_tensors(dtype)
    tensors["a.weight"].fill_(torch.finfo(dtype).max)
    save_file(tensors, tmp_path / "model.safetensors")
    found = load(tmp_path, dtype)
    assert all(found[name].equal(tensor) for name, tensor in tensors.items())


def test_what_becomes_infinite_in_half_precision_is_refused(tmp_path):
    tensors = draw_tensors(torch.float32)
    tensors["b.bias"][0] = 1e38
    save_file(tensors, tmp_path / "model.safetensors")
    load(tmp_path, torch.bfloat16)
    with pytest.raises(ValueError, match="b.bias in .* holds NaN or infinity"):
        load(tmp_path, torch.float16)


@pytest.mark.parametrize("file", READERS)
@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_weights_of_other_types_are_refused(file, dtype, tmp_path):
    tensors = draw_tensors(torch.float32)
    tensors["b.bias"] = tensors["b.bias"].to(dtype)
    save_file(tensors, tmp_path / file)
    with pytest.raises(ValueError, match="b.bias is of type .* expected F64 or F32") as error:
        READERS[file](tmp_path)
    assert file in one_line(error)


@settings(max_examples=150, deadline=None)
@given(
    file=st.sampled_from(list(READERS)),
    at=st.integers(0, 500),
    inserted=st.binary(max_size=6),
    removed=st.integers(0, 400),
)
def test_damaged_bytes_are_refused_in_a_line(file, at, inserted, removed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    path = folder / file
    save_file(draw_tensors(torch.float32), path)
    content = path.read_bytes()
    path.write_bytes(content[:at] + inserted + content[at + removed:])
    try:
        found = READERS[file](folder)
    except ValueError as error:
        text = str(error)
        assert str(folder) in text and text.isprintable() and len(text) < 600
    else:
        assert all(tensor.isfinite().all() for tensor in found.values())


@pytest.mark.parametrize("file", READERS)
def test_long_names_and_control_characters_are_cut(file, tmp_path):
    tensors = draw_tensors(torch.float32)
    for name in ("x" * 5000, "bell \x07, escape \x1b[31m"):
        save_file(tensors | {name: torch.zeros(1)}, tmp_path / file)
        with pytest.raises(ValueError) as error:
            READERS[file](tmp_path)
        assert one_line(error).isprintable() and len(str(error.value)) < 600


def write_header(path, tensors, size):
    header = json.dumps(tensors).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))


@pytest.mark.parametrize("shape", [[2**62], [2**32, 2**32], [10**9, 10**9]])
def test_sizes_that_the_file_cannot_hold_are_refused(shape, tmp_path):
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 8]}
    write_header(tmp_path / "model.safetensors", {"a.bias": entry}, 8)
    with pytest.raises(ValueError, match="model.safetensors"):
        load(tmp_path)


# Shards.


def write_shards(folder, weight_map=None):
    tensors = list(draw_tensors(torch.float32).items())
    names = {}
    for number, part in enumerate([dict(tensors[:2]), dict(tensors[2:])]):
        file = f"model-{number}.safetensors"
        save_file(part, folder / file)
        names |= dict.fromkeys(part, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map or names}))
    return index


def test_shards_without_their_index_are_named(tmp_path):
    write_shards(tmp_path).unlink()
    with pytest.raises(FileNotFoundError, match="index.json not found, .* model-0") as error:
        load(tmp_path)
    one_line(error)


@pytest.mark.parametrize("value", [3, None, ["model-0.safetensors"], {}, "", "\0", "x" * 5000, "é"])
def test_an_index_that_names_no_file_is_refused(value, tmp_path):
    index = write_shards(tmp_path, {"a.bias": value})
    with pytest.raises((ValueError, FileNotFoundError), match="index") as error:
        load(tmp_path)
    assert len(one_line(error)) < 2 * len(str(index)) + 400


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    write_shards(tmp_path)
    save_file(draw_tensors(torch.float32), tmp_path / "model-1.safetensors")
    with pytest.raises(ValueError, match="which model-0.safetensors holds, too") as error:
        load(tmp_path)
    one_line(error)


# What is no regular file.


@contextmanager
def limit_seconds(seconds):
    """TimeoutError after some seconds, also in what waits for a file to be written."""

    def stop(number, frame):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


FILES = ["config.json", "adapter.safetensors"]
FILES += ["vision/config.json", "vision/model.safetensors", "llm/tokenizer.model"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_regular_file_is_not_waited_for(file, make, model_folder, tmp_path):
    for path in model_folder.rglob("*"):
        if path.is_file() and str(path.relative_to(model_folder)) != file:
            (tmp_path / path.relative_to(model_folder)).parent.mkdir(exist_ok=True)
            os.symlink(path, tmp_path / path.relative_to(model_folder))
    (tmp_path / file).parent.mkdir(exist_ok=True)
    make(tmp_path / file)
    with limit_seconds(20), pytest.raises((ValueError, OSError)) as error:
        CapeLLM.from_pretrained(tmp_path)
    assert str(tmp_path) in one_line(error)
