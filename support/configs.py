"""The official config.json of a backbone, in a dataclass; what is not implemented is refused."""

from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Annotated

from support.digest import compute_fingerprint
from support.fields import check_fields
from support.json_files import read_json
from support.quote import quote
from support.shapes import OBJECT, between, whole_between

# Far above any official model: a number beyond is a mistake, which would keep a machine busy.
Width = Annotated[int, whole_between(1, 2**17)]
Count = Annotated[int, whole_between(0, 1024)]
Rows = Annotated[int, whole_between(1, 2**22)]  # of a vocabulary
Pixels = Annotated[int, whole_between(1, 2**13)]
Ratio = Annotated[float, between(0.125, 64)]
Epsilon = Annotated[float, between(1e-12, 0.1)]
Scale = Annotated[float, between(0, 1e6)]


class BackboneConfig:
    """What the dataclasses of the backbones share: the fields' hints are checked, then `check`."""

    # Entries of config.json that change the computation, and the values that are implemented;
    # None among them: the entry may be missing or null.
    SUPPORTED = {}
    # Fields that the shapes of weights do not show.
    UNSEEN = ()
    # Entries that may be [side, side] as well as a side.
    SQUARES = ()

    def __post_init__(self):
        check_fields(self)
        self.check()

    def check(self):
        """ValueError if fields, each good by itself, contradict each other."""

    @staticmethod
    def check_heads(width, heads):
        if width % heads:
            raise ValueError(f"{heads} heads cannot share a width of {width}: need a divisor")

    @staticmethod
    def check_patch(image, patch):
        if image < patch:
            raise ValueError(f"image_size {image} is smaller than a patch of {patch} pixels")

    @property
    def fingerprint(self):
        """A text that differs if a field does that the shapes of weights do not show."""
        fields_of_self = asdict(self)
        unseen = {name: fields_of_self[name] for name in self.UNSEEN}
        return compute_fingerprint(sorted(flatten(unseen)))

    @classmethod
    def translate(cls, raw):
        """The entries of a config.json as the fields have them."""
        return raw | {name: read_square(name, raw.get(name)) for name in cls.SQUARES}

    @classmethod
    def from_json(cls, path):
        """Read an official config.json.

        FileNotFoundError or ValueError name the file and the entry.
        """
        raw = read_config(path, cls.SUPPORTED)
        required = [f.name for f in fields(cls) if f.default is MISSING]
        missing = [name for name in required if raw.get(name) is None]
        if missing:
            raise ValueError(f"{path} lacks {', '.join(missing)}: use the official config.json")
        try:
            raw = cls.translate(raw)
            return cls(**{f.name: raw[f.name] for f in fields(cls) if raw.get(f.name) is not None})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def flatten(entries, name=""):
    """["name.field value"] of nested entries; 1 and 1.0 are the same."""
    texts = []
    for key, value in entries.items():
        if isinstance(value, dict):
            texts += flatten(value, f"{name}{key}.")
        else:
            is_number = isinstance(value, (int, float))
            texts.append(f"{name}{key} {float(value) if is_number else value}")
    return texts


def read_config(path, supported):
    """A config.json as a dict, its entries compared with {entry: values that are implemented}.

    Raises FileNotFoundError or ValueError naming the file and the entry.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: a model folder needs its official config.json")
    raw = read_json(path, OBJECT, "get it again")
    if "model_type" in supported and {"vision", "llm"} <= raw.keys():
        raise ValueError(
            f"{path} is of a whole CapeLLM, not of a backbone: name one of its two backbones"
        )
    for key, known in supported.items():
        if raw.get(key) not in known:
            names = " or ".join("null" if value is None else repr(value) for value in known)
            raise ValueError(f"{path}: {key} {quote(raw.get(key))} is not supported, only {names}")
    return raw


def read_square(name, value):
    """The side of a square [side, side]; what is no list as it is."""
    if not isinstance(value, list):
        return value
    if len(value) != 2 or value[0] != value[1]:
        raise ValueError(f"{name} is {quote(value)}, expected a square")
    return value[0]
