"""Official model folders: safetensors, checked by name and shape, into a model built on the meta device."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open


class skip_initialisation(torch.overrides.TorchFunctionMode):
    """Parameters are not drawn at random: that takes seconds on the meta device, and weights from a file replace them."""
    def __torch_function__(self, function, types, args=(), kwargs=None):
        drawing = getattr(function, "__module__", None) == "torch.nn.init"
        return kwargs["tensor"] if drawing else function(*args, **kwargs or {})


def load_weights(model, folder, dtype=None, device="cpu", rename=lambda name: name):
    """Fill a model built on the meta device from a folder's safetensors, one tensor at a time; returns it, in eval mode.

    rename(name in the file) gives the name in the model, or None to ignore the tensor. dtype None: fp32 on the CPU,
    bf16 elsewhere. Every tensor is checked; what is missing, left over or misshapen raises ValueError by name.
    """
    dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16)
    expected, loaded, unexpected = model.state_dict(), {}, []
    for file in weight_files(Path(folder)):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():
                    target = rename(name)
                    if target not in expected:
                        unexpected += [name] if target else []
                        continue
                    value, shape = tensors.get_tensor(name), expected[target].shape
                    if value.shape != shape:
                        raise ValueError(f"shape of {name} is {tuple(value.shape)} in {file}, expected {tuple(shape)}")
                    loaded[target] = value.to(device, dtype)  # as it is where nothing changes: the file's own pages
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} is not a whole safetensors file ({error}): download it again") from None
    for names, what in ((sorted(expected.keys() - loaded), "lack"), (unexpected, "hold what this model has not:")):
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            raise ValueError(f"the weights in {folder} {what} {', '.join(names[:4])}{more}; "
                             "config.json and safetensors must be of the same model")
    model.load_state_dict(loaded, assign=True)
    return model.eval()


def weight_files(folder):
    """The safetensors files of a model folder: the single one, or the shards that its index names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        try:
            shards = sorted({folder / Path(name).name for name in json.loads(index.read_text())["weight_map"].values()})
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{index} is not an index of shards: download it again") from None
        for shard in shards:
            if not shard.is_file():
                raise FileNotFoundError(f"{shard} not found, but {index.name} names it: download it too")
        return shards
    if pickles := sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pth", ".pt")):
        raise ValueError(f"{folder} has its weights only as pickles ({pickles[0]}), which can run code and are never loaded: "
                         "convert them to safetensors where you trust them, with transformers: "
                         "AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW), or AutoModel for vision")
    raise FileNotFoundError(f"{single} not found: download the model's safetensors into {folder}")
