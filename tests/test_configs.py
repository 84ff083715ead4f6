"""support/configs.py: whatever stands in a field, one line says what is wrong, or nothing is."""

import json
import math

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from dino import DINOv2Config
from helpers import one_line
from llama import Config
from study.hiera import HieraConfig

LONG = "x" * 5000
SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA = transformers.LlamaConfig(
    num_key_value_heads=8, head_dim=128, rope_parameters=SCALING | {"rope_theta": 5e5}
)
OFFICIAL = {
    DINOv2Config: transformers.Dinov2WithRegistersConfig().to_dict() | {"layerscale_value": 1.0},
    HieraConfig: transformers.HieraConfig().to_dict(),
    Config: LLAMA.to_dict(),
}
FIELDS = [(kind, name) for kind in OFFICIAL for name in kind.__dataclass_fields__]
WRONG = ["8", LONG, "\x1b[31m\ud800", -1, 10**13, 1e300, math.nan, math.inf, -math.inf, [], ["8"]]
WRONG += [[1, 2, 3], [math.nan, math.nan], {}, {LONG: LONG}, True, False, None]


def write(folder, entries):
    path = folder / "config.json"
    path.write_text(json.dumps(entries))
    return path


def read(kind, path):
    """The configuration, or None where it is refused in a line that names the file."""
    try:
        return kind.from_json(path)
    except ValueError as error:
        text = str(error)
        assert text.startswith(str(path)) and text.isprintable(), text
        assert len(text) < len(str(path)) + 400
        return None


@pytest.mark.parametrize("kind", OFFICIAL)
def test_official_entries_are_read(kind, tmp_path):
    assert read(kind, write(tmp_path, OFFICIAL[kind]))


@pytest.mark.parametrize("kind, name", FIELDS)
def test_a_field_of_another_type_or_range_is_refused(kind, name, tmp_path):
    """Or makes no difference: null and what is absent stand for the default."""
    expected = read(kind, write(tmp_path, OFFICIAL[kind]))
    for value in WRONG:
        found = read(kind, write(tmp_path, OFFICIAL[kind] | {name: value}))
        is_switch = type(getattr(expected, name)) is type(value) is bool
        # Unknown entries of a table are nobody's.
        is_default = value is None or (name == "rope_scaling" and type(value) is dict)
        assert found in (None, expected) or is_switch or is_default, value


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=9,
)
field_of_a_config = st.sampled_from(
    [(kind, name) for kind, entries in OFFICIAL.items() for name in entries]
    + [(Config, "rope_scaling"), (Config, "rope_theta"), (HieraConfig, "masked_unit_size")]
)


@settings(max_examples=400, deadline=None)
@given(changed=field_of_a_config, value=any_json)
def test_any_value_of_any_entry_is_read_or_refused(changed, value, tmp_path_factory):
    kind, name = changed
    read(kind, write(tmp_path_factory.mktemp("config"), OFFICIAL[kind] | {name: value}))


@pytest.mark.parametrize("name", SCALING)
def test_every_number_of_a_scaling_is_checked(name, tmp_path):
    for value in WRONG[:12]:
        rope = SCALING | {"rope_theta": 5e5, name: value}
        assert read(Config, write(tmp_path, OFFICIAL[Config] | {"rope_parameters": rope})) is None


def test_theta_stands_in_either_place(tmp_path):
    """But not with two values, and not in neither where Llama 3's scaling is."""
    old = {"rope_theta": 5e5, "rope_scaling": SCALING, "rope_parameters": None}
    mixed = {"rope_theta": 5e5, "rope_parameters": SCALING}
    both = mixed | {"rope_parameters": SCALING | {"rope_theta": 5e5}}
    for entries in (old, mixed, both):
        config = read(Config, write(tmp_path, OFFICIAL[Config] | entries))
        assert (config.rope_theta, config.rope_type) == (5e5, "llama3")
        assert config.rope_scaling["factor"] == 8
    two = {"rope_theta": 1e4, "rope_parameters": SCALING | {"rope_theta": 5e5}}
    other = {"rope_scaling": SCALING | {"factor": 32.0}}
    neither = {"rope_parameters": SCALING}
    for entries in (two, other, neither):
        assert read(Config, write(tmp_path, OFFICIAL[Config] | entries)) is None


@pytest.mark.parametrize(
    "kind, entries, message",
    [
        (DINOv2Config, {"num_attention_heads": 7}, "7 heads cannot share a width of"),
        (DINOv2Config, {"image_size": 7}, "image_size 7 is smaller than a patch"),
        (DINOv2Config, {"image_size": [518, 224]}, "expected a square"),
        (HieraConfig, {"depths": [2, 0, 16, 3]}, "none of them 0"),
        (HieraConfig, {"num_query_pool": 4}, "4 stages cannot pool 4 times"),
        (HieraConfig, {"num_heads": [1, 2, 4, 7]}, "7 heads cannot share a width of"),
        (HieraConfig, {"image_size": [224]}, "expected height and width"),
        (Config, {"vision": "v", "llm": "l"}, "is of a whole CapeLLM, not of a backbone"),
    ],
)
def test_fields_that_contradict_each_other_are_named(kind, entries, message, tmp_path):
    path = write(tmp_path, OFFICIAL[kind] | entries)
    with pytest.raises(ValueError) as error:
        kind.from_json(path)
    assert message in one_line(error) and str(path) in str(error.value)


def test_a_square_may_be_written_as_two_sides(tmp_path):
    pair = {"image_size": [518, 518], "patch_size": [14, 14]}
    config = read(DINOv2Config, write(tmp_path, OFFICIAL[DINOv2Config] | pair))
    assert (config.image_size, config.patch_size) == (518, 14)


NO_OBJECTS = [b"", b"\xff\xfe", b"[" * 100_000, b'"Invalid password."', b"3"]


@pytest.mark.parametrize("content", NO_OBJECTS, ids=range(len(NO_OBJECTS)))
def test_what_is_no_object_is_refused(content, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    for kind in OFFICIAL:
        assert read(kind, path) is None
