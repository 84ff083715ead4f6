"""A model folder: config.json, adapter.safetensors, and the two backbones there or elsewhere."""

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, NotRequired, TypedDict

from study.instructions import INSTRUCTIONS
from support.fields import Text, fill_dataclass
from support.json_files import read_json
from support.quote import cut, quote
from support.shapes import OBJECT, between, whole_between
from support.tokenizer import Tokenizer
from support.weights import check_finite, check_stored, open_tensors

Part = Literal["vision", "llm"]
Instruction = Literal[*INSTRUCTIONS]
# What pre-training asks has no answer in coordinates.
Asked = Literal[*(name for name, i in INSTRUCTIONS.items() if not i.pretraining)]


class Lora(TypedDict):
    """How adapters are made, see CapeLLM.adapt."""

    rank: Annotated[int, whole_between(1, 1024)]
    alpha: Annotated[float, between(1e-6, 1e6)]
    dropout: Annotated[float, between(0, 0.999)]
    parts: list[Part]


class Trained(TypedDict):
    """train.py's options that a table of the paper varies."""

    split: NotRequired[Annotated[int, whole_between(0, 1000)]]
    rounds: Text
    k: Annotated[int, whole_between(1, 1000)] | None
    tune: Text
    instruction: NotRequired[Instruction]
    descriptions: NotRequired[Text]
    first: Instruction | None


class Architecture(TypedDict):
    """Of each backbone: see BackboneConfig.fingerprint."""

    vision: Text
    llm: Text


@dataclass
class CapeLLMConfig:
    """config.json of a model folder."""

    vision: Text  # folders of the backbones, inside the model folder or elsewhere
    llm: Text
    image_size: Annotated[int, whole_between(1, 2048)] = 224  # pixels a side of the crop
    K: Literal[1, 3] = 3  # tokens of a coordinate
    lora: Lora | None = None
    whole: list[Part] = field(default_factory=list)  # whose own weights were trained, and saved
    instruction: Asked = "base"
    output: Literal["text", "token"] = "text"  # digits, or a <KEYPOINT>, study.keypoint_token
    trained: Trained | None = None
    radius_scale: Annotated[float, between(1e-3, 1e3)] | None = None  # support.radius calibrates it
    vocabulary: Text | None = None  # Tokenizer.fingerprint; None: not noted
    architecture: Architecture | None = None

    def to_json(self):
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"


def is_added(name):
    """Whether a parameter is none of a backbone's: by name. It is fp32 in every model."""
    added = ("projection.", "point_decoder.")
    return name.startswith(added) or name.endswith((".lora_A", ".lora_B", ".new_row"))


def is_saved(name, config):
    """Whether adapter.safetensors holds a parameter: what was trained, by name."""
    return is_added(name) or name.partition(".")[0] in config.whole


def read_model_config(folder) -> CapeLLMConfig:
    """The configuration in a model folder, with the backbones' folders found.

    FileNotFoundError or ValueError name the file.
    """
    folder = Path(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no model folder: config.json is missing")
    raw = read_json(path, OBJECT, "get it again")
    if "model_type" in raw:
        raise ValueError(
            f"{path} is of a backbone ({quote(raw['model_type'])}), not of a whole CapeLLM: name a "
            "folder that train.py wrote, or nano"
        )
    # Older folders know two cases only.
    if raw.pop("everything", False) is True:
        raw["whole"] = ["vision", "llm"]
    try:
        config = fill_dataclass(CapeLLMConfig, raw)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    found = {part: find_backbone(folder, raw[part]) for part in ("vision", "llm")}
    for part, backbone in found.items():
        if not os.path.isdir(backbone):
            raise FileNotFoundError(
                f"{path} says that {part} is in {quote(raw[part])}, which is no folder here: "
                "correct it there"
            )
    return replace(config, **found)


def find_backbone(folder, name):
    """The absolute path of a backbone: inside the model folder, or where the name says."""
    inside = folder / name
    # Unlike Path.exists, false for a name that is too long.
    return str((inside if os.path.exists(inside) else Path(name)).absolute())


def load_tokenizer(config):
    """The Tokenizer beside a model's language model; ValueError if it is not that of training."""
    tokenizer = Tokenizer.from_pretrained(config.llm)
    if config.vocabulary not in (None, tokenizer.fingerprint):
        raise ValueError(
            f"{tokenizer.file} is not the tokenizer that the model was trained with: "
            "copy that one there"
        )
    return tokenizer


def note_origins(config, tokenizer, vision, llm):
    """The config of a model made of these, a CapeLLMConfig.

    ValueError if a backbone's config.json is not that of training: it may fit the same tensors,
    and make other answers of them.
    """
    found = {"vision": vision.config.fingerprint, "llm": llm.config.fingerprint}
    for part, fingerprint in found.items():
        if config.architecture and config.architecture[part] != fingerprint:
            file = Path(getattr(config, part)) / "config.json"
            raise ValueError(
                f"{file} says other numbers than that which the model was trained with: "
                "copy that one there"
            )
    return replace(config, vocabulary=tokenizer.fingerprint, architecture=found)


def move_tensor(tensor, own):
    """A file's tensor, as it is to be copied into one of the model's."""
    return tensor.to(own.device)


def fill_tensors(own, folder, prepare=move_tensor):
    """Fill tensors {name: tensor} from the adapter.safetensors of a folder, one at a time.

    Names and shapes must be the same: ValueError names the tensor that is not. prepare: of a file's
    tensor and the model's, what is copied, for tensors that are sharded.
    """
    path = Path(folder) / "adapter.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: a model folder holds config.json and adapter.safetensors"
        )
    with open_tensors(path) as tensors:
        wrong = sorted(own.keys() ^ tensors.keys())
        if wrong:
            problem = "missing" if wrong[0] in own else "not expected"
            raise ValueError(f"{path}: {cut(wrong[0])} is {problem} ({len(wrong)} such tensors)")
        for name, tensor in own.items():
            check_stored(name, tensors.get_slice(name), tensor, path)
        for name, tensor in own.items():
            value = tensors.get_tensor(name)
            check_finite(name, value, path)
            tensor.copy_(prepare(value, tensor))
