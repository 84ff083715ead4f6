"""A model folder: config.json, adapter.safetensors, and the two backbones there or elsewhere."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from study.instructions import INSTRUCTIONS
from support.weights import check_shape


@dataclass
class CapeLLMConfig:
    """config.json of a model folder."""

    vision: str  # folders of the backbones, inside the model folder or elsewhere
    llm: str
    image_size: int = 224  # pixels a side of the crop
    K: int = 3  # tokens of a coordinate
    lora: dict | None = None  # {"rank", "alpha", "dropout", "parts"}, see CapeLLM.adapt
    everything: bool = False  # all weights are in adapter.safetensors, because all were trained
    instruction: str = "base"  # a name of study.instructions

    def to_json(self):
        return json.dumps(asdict(self), indent=1) + "\n"


def read_model_config(folder) -> CapeLLMConfig:
    """The configuration in a model folder, with the backbones' folders found.

    FileNotFoundError or ValueError name the file.
    """
    folder = Path(folder)
    path = folder / "config.json"
    try:
        config = CapeLLMConfig(**json.loads(path.read_bytes()))
        vision = find_backbone(folder, config.vision)
        llm = find_backbone(folder, config.llm)
        if config.instruction not in INSTRUCTIONS:
            known = ", ".join(INSTRUCTIONS)
            raise ValueError(f"instruction {config.instruction!r} is not one of {known}")
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{folder} is no model folder: config.json is missing") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error})") from None
    return replace(config, vision=vision, llm=llm)


def find_backbone(folder, name):
    """The absolute path of a backbone: inside the model folder, or where the name says."""
    inside = folder / name
    return str((inside if inside.exists() else Path(name)).absolute())


def read_tensors(path, expected, device):
    """The tensors of a file, {name: tensor}; names and shapes must be those of `expected`."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: a model folder holds config.json and adapter.safetensors"
        )
    try:
        tensors = load_file(path, device=str(device))
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or cut short ({error}): copy or save it again"
        ) from None
    wrong = sorted(expected.keys() ^ tensors.keys())
    if wrong:
        problem = "missing" if wrong[0] in expected else "not expected"
        raise ValueError(f"{path}: {wrong[0]} is {problem} ({len(wrong)} such tensors)")
    for name, tensor in tensors.items():
        check_shape(name, tensor, expected[name], path)
    return tensors
