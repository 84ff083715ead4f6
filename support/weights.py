"""Official safetensors, checked by name and shape, into a model built on the meta device."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from support.launch import list_first


class skip_initialisation(torch.overrides.TorchFunctionMode):
    """Leave parameters undrawn: weights from a file replace them, and drawing takes seconds."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"]
        return function(*args, **kwargs)


def load_weights(model, folder, dtype=None, device="cpu", ignored=(), prefix=""):
    """Fill a model built on the meta device, one tensor at a time; return it in eval mode.

    dtype None: fp32 on the CPU, bf16 elsewhere. ignored: parts of names in the files that are not
    read; prefix: what names in the files may begin with and the model's do not. Every tensor is
    checked: what is missing, left over or misshapen raises ValueError by name. FileNotFoundError
    if there are no safetensors.
    """
    if dtype is None:
        dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    expected = model.state_dict()
    loaded, unexpected = {}, []
    for file in list_weight_files(Path(folder)):
        try:
            with safe_open(file, framework="pt") as tensors:
                for stored_name in tensors.keys():
                    name = stored_name.removeprefix(prefix)
                    if name in expected:
                        value = tensors.get_tensor(stored_name)
                        check_shape(name, value, expected[name], file)
                        # If nothing changes, this is the file's own pages, not a copy.
                        loaded[name] = value.to(device, dtype)
                    elif not any(part in name for part in ignored):
                        unexpected.append(name)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{file} is not a whole safetensors file ({error}): download it again"
            ) from None
    refuse_names(folder, "lack", sorted(expected.keys() - loaded))
    refuse_names(folder, "hold what this model has not:", unexpected)
    model.load_state_dict(loaded, assign=True)
    return model.eval()


def check_shape(name, value, expected, file):
    if value.shape != expected.shape:
        raise ValueError(
            f"shape of {name} is {tuple(value.shape)} in {file}, expected {tuple(expected.shape)}"
        )


def refuse_names(folder, problem, names):
    if names:
        raise ValueError(
            f"the weights in {folder} {problem} {list_first(names)}; "
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
    raise FileNotFoundError(f"{single} not found: download the model's safetensors into {folder}")


def list_shards(index):
    try:
        names = json.loads(index.read_text())["weight_map"].values()
        shards = sorted({index.parent / Path(name).name for name in names})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{index} is not an index of shards: download it again") from None
    for shard in shards:
        if not shard.is_file():
            raise FileNotFoundError(
                f"{shard} not found, but {index.name} names it: download it too"
            )
    return shards
