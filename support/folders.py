"""A model folder: config.json, adapter.safetensors, and the two backbones there or elsewhere."""

import json
from dataclasses import asdict, dataclass, field, replace
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
    whole: list = field(default_factory=list)  # parts whose own weights were trained, and saved
    instruction: str = "base"  # a name of study.instructions
    output: str = "text"  # digits, or "token": a <KEYPOINT>, see study.keypoint_token
    trained: dict | None = None  # how: train.py's options that a table of the paper varies

    def to_json(self):
        return json.dumps(asdict(self), indent=1) + "\n"


def is_saved(name, config):
    """Whether adapter.safetensors holds a parameter: what was trained, by name."""
    if name.partition(".")[0] in config.whole:
        return True
    added = ("projection.", "point_decoder.")
    return name.startswith(added) or name.endswith((".lora_A", ".lora_B", ".new_row"))


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
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error})") from None
    return replace(config, vision=vision, llm=llm)


def find_backbone(folder, name):
    """The absolute path of a backbone: inside the model folder, or where the name says."""
    inside = folder / name
    return str((inside if inside.exists() else Path(name)).absolute())


def fill_tensors(own, folder, device):
    """Fill tensors {name: tensor} from the adapter.safetensors of a folder.

    Names and shapes must be the same: ValueError names the tensor that is not.
    """
    path = Path(folder) / "adapter.safetensors"
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
    wrong = sorted(own.keys() ^ tensors.keys())
    if wrong:
        problem = "missing" if wrong[0] in own else "not expected"
        raise ValueError(f"{path}: {wrong[0]} is {problem} ({len(wrong)} such tensors)")
    for name, tensor in tensors.items():
        check_shape(name, tensor, own[name], path)
    for name, tensor in own.items():
        tensor.copy_(tensors[name])
