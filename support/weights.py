"""Official safetensors, checked by name and shape, into a model built on the meta device."""

import os
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from support.json_files import read_json
from support.launch import choose_dtype, list_first
from support.quote import cut
from support.shapes import Each, Kind

FLOATS = ("F64", "F32", "F16", "BF16")
AS_STORED = "as stored"  # a dtype: that of each tensor in its file
INDEX = {"weight_map": Each(Kind("the name of a file", (str,), 1, 255))}


class skip_initialisation(torch.overrides.TorchFunctionMode):
    """Leave parameters undrawn: weights from a file replace them, and drawing takes seconds."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"]
        return function(*args, **kwargs)


def load_backbone(cls, config, folder, dtype=None, device="cpu", ignored=(), prefix=""):
    """The model cls(config) with the weights in its official folder: see load_weights."""
    # Of a wrong number of layers, thousands would be built for seconds before a name is missing.
    stored = sum(len(read_names(file)) for file in list_weight_files(Path(folder)))
    if config.num_hidden_layers > stored:
        raise ValueError(
            f"{Path(folder) / 'config.json'} says {config.num_hidden_layers} layers, but the "
            f"weights hold {stored} tensors; both must be of the same model"
        )
    with torch.device("meta"), skip_initialisation():
        model = cls(config)
    return load_weights(model, folder, dtype, device, ignored, prefix)


def read_names(file):
    with open_tensors(file) as tensors:
        return list(tensors.keys())


def load_weights(model, folder, dtype=None, device="cpu", ignored=(), prefix=""):
    """Fill a model built on the meta device, one tensor at a time; return it in eval mode.

    dtype None: bf16 on CUDA, fp32 elsewhere; it may be AS_STORED. ignored: parts of names in
    the files that are not read; prefix: what names in the files may begin with and the model's do
    not. Every tensor is checked: what is missing, left over or misshapen raises ValueError by
    name. FileNotFoundError if there are no safetensors.
    """
    if dtype is None:
        dtype = choose_dtype(torch.device(device))
    expected, loaded = model.state_dict(), {}
    files = list_weight_files(Path(folder))
    check_headers(files, folder, expected, ignored, prefix)
    for file in files:
        with open_tensors(file) as tensors:
            for stored_name in tensors.keys():
                name = stored_name.removeprefix(prefix)
                if name in expected:
                    stored = tensors.get_tensor(stored_name)
                    # If nothing changes, this is the file's own pages, not a copy.
                    loaded[name] = stored.to(device, stored.dtype if dtype == AS_STORED else dtype)
                    # What is narrowed may overflow, what is widened does not.
                    check_finite(name, min(loaded[name], stored, key=count_bytes), file)
    model.load_state_dict(loaded, assign=True)
    return model.eval()


def count_bytes(tensor):
    return tensor.nbytes


def check_headers(files, folder, expected, ignored, prefix):
    """ValueError unless files hold the expected tensors, before any of these is read."""
    found, unexpected = {}, []
    for file in files:
        with open_tensors(file) as tensors:
            for stored_name in tensors.keys():
                name = stored_name.removeprefix(prefix)
                if name in found:
                    raise ValueError(f"{file} holds {name}, which {found[name].name} holds, too")
                if name in expected:
                    check_stored(name, tensors.get_slice(stored_name), expected[name], file)
                    found[name] = file
                elif not any(part in name for part in ignored):
                    unexpected.append(name)
    refuse_names(folder, "lack", sorted(expected.keys() - found))
    refuse_names(folder, "hold what this model has not:", unexpected)


@contextmanager
def open_tensors(file):
    """A file as safetensors.safe_open gives it; ValueError naming it if it is damaged."""
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{file} is not a whole safetensors file ({cut(error)}): download or save it again"
        ) from None


def check_stored(name, stored, expected, file):
    """ValueError naming a tensor unless a file's slice has the expected shape, and floats."""
    shape, kind = tuple(stored.get_shape()), stored.get_dtype()
    if shape != expected.shape:
        raise ValueError(
            f"shape of {name} is {cut(shape)} in {file}, expected {tuple(expected.shape)}"
        )
    if kind not in FLOATS:
        raise ValueError(f"{name} is of type {kind} in {file}, expected {' or '.join(FLOATS)}")


def check_finite(name, value, file):
    """ValueError naming a tensor that holds NaN or infinity."""
    # A sum takes a tenth of a second a GB, isfinite seconds; but it can overflow by itself.
    if not value.sum().isfinite() and not value.isfinite().all():
        raise ValueError(f"{name} in {file} holds NaN or infinity: download or train it again")


def refuse_names(folder, problem, names):
    if names:
        raise ValueError(
            f"the weights in {folder} {problem} {list_first([cut(name) for name in names])}; "
            "config.json and safetensors must be of the same model"
        )


def list_weight_files(folder):
    """The safetensors files of a model folder: the single one, or the shards of its index."""
    single = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        return list_shards(index)
    pickles = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pth", ".pt"))
    if pickles:
        raise ValueError(
            f"{folder} has its weights only as pickles ({pickles[0]}), which can run code and are "
            "never loaded: convert them to safetensors if you trust them, with transformers: "
            "AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW), or AutoModel for "
            "vision"
        )
    others = sorted(p.name for p in folder.glob("*.safetensors"))
    if others:
        raise FileNotFoundError(
            f"{index} not found, which says what is in {list_first(others)}: download it, too"
        )
    raise FileNotFoundError(f"{single} not found: download the model's safetensors into {folder}")


def list_shards(index):
    names = read_json(index, INDEX, "get it again")["weight_map"]
    shards = sorted({index.parent / Path(name).name for name in names.values()})
    for shard in shards:
        if not os.path.isfile(shard):
            raise FileNotFoundError(
                f"{cut(shard)} not found, but {index.name} names it: download it too"
            )
    return shards
