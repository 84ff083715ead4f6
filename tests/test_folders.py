"""A model folder: read as it was written, and what is wrong with it named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from capellm import CapeLLM
from helpers import one_line
from support.folders import CapeLLMConfig, fill_tensors, find_backbone, is_saved, read_model_config
from support.tokenizer import Tokenizer


def write_config(folder, **changes):
    config = {"vision": "vision", "llm": "llm"} | changes
    (folder / "config.json").write_text(json.dumps(config))


def test_a_configuration_comes_back(tmp_path):
    vision, llm = tmp_path / "vision", tmp_path / "llm"
    vision.mkdir()
    llm.mkdir()
    lora = {"rank": 8, "alpha": 16, "dropout": 0.05, "parts": ["llm"]}
    config = CapeLLMConfig(str(vision), str(llm), 112, 1, lora, ["vision"], "steps")
    (tmp_path / "config.json").write_text(config.to_json())
    assert read_model_config(tmp_path) == config


@pytest.mark.parametrize("everything, whole", [(False, []), (True, ["vision", "llm"])])
def test_older_folders_are_read(tmp_path, everything, whole):
    """They say `everything` where newer ones name the parts."""
    for name in ("vision", "llm"):
        (tmp_path / name).mkdir()
    write_config(tmp_path, everything=everything)
    assert read_model_config(tmp_path).whole == whole


def test_entries_that_are_missing_are_the_paper_s(tmp_path):
    (tmp_path / "vision").mkdir()
    (tmp_path / "llm").mkdir()
    write_config(tmp_path)
    config = read_model_config(tmp_path)
    assert (config.image_size, config.K, config.lora) == (224, 3, None)
    assert (config.whole, config.instruction, config.output) == ([], "base", "text")


def test_a_backbone_inside_the_folder_comes_first(tmp_path, monkeypatch):
    model, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    (model / "vision").mkdir(parents=True)
    for name in ("vision", "llm"):
        (elsewhere / name).mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    assert find_backbone(model, "vision") == str(model / "vision")
    assert find_backbone(model, "llm") == str(elsewhere / "llm")
    assert find_backbone(model, str(elsewhere / "vision")) == str(elsewhere / "vision")


@pytest.mark.parametrize(
    "text, problem",
    [
        ("{", "config.json: this is no JSON from column 2 on"),
        ("[]", r"config.json: this is \[\], not an object"),
        ('{"vision": "v"}', "cannot be read.*llm"),
        ('{"vision": "v", "llm": "l", "depth": 3}', "cannot be read.*depth"),
        ('{"vision": "v", "llm": "l", "instruction": "steps-qa"}', 'is "steps-qa", not "base" or'),
        ('{"vision": "v", "llm": "l", "instruction": "rhymes"}', 'is "rhymes", not "base" or'),
    ],
)
def test_a_configuration_that_cannot_be_read_is_named(text, problem, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=problem) as error:
        read_model_config(tmp_path)
    assert str(tmp_path / "config.json") in one_line(error)


def test_a_folder_without_a_configuration_is_no_model(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(FileNotFoundError, match="no model folder") as error:
            read_model_config(folder)
        assert str(folder) in one_line(error)


EXPECTED = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}


def test_tensors_come_back(tmp_path):
    tensors = {"a": torch.rand(2, 3), "b": torch.rand(4)}
    save_file(tensors, tmp_path / "adapter.safetensors")
    own = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    fill_tensors(own, tmp_path)
    for name, tensor in tensors.items():
        assert torch.equal(own[name], tensor)


def test_what_is_saved_follows_from_the_parts_trained_in_whole():
    adapters = "vision.encoder.layer.0.query.lora_A", "llm.model.layers.0.q_proj.lora_B"
    others = "vision.layernorm.weight", "llm.model.norm.weight"
    config = CapeLLMConfig("vision", "llm")
    assert all(is_saved(name, config) for name in (*adapters, "projection.weight"))
    assert not any(is_saved(name, config) for name in others)
    config.whole = ["vision"]
    assert [is_saved(name, config) for name in others] == [True, False]


@pytest.mark.parametrize(
    "tensors, problem",
    [
        ({"a": torch.zeros(2, 3)}, r"b is missing \(1 such"),
        (EXPECTED | {"c": torch.zeros(1)}, r"c is not expected \(1 such"),
        (EXPECTED | {"b": torch.zeros(5)}, r"shape of b is \(5,\).* expected \(4,\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tensors, problem, tmp_path):
    save_file(tensors, tmp_path / "adapter.safetensors")
    with pytest.raises(ValueError, match=problem) as error:
        fill_tensors(EXPECTED, tmp_path)
    assert "adapter.safetensors" in one_line(error)


def test_a_file_that_is_missing_or_cut_is_named(tmp_path):
    path = tmp_path / "adapter.safetensors"
    with pytest.raises(FileNotFoundError, match="adapter.safetensors is missing"):
        fill_tensors(EXPECTED, tmp_path)
    save_file(EXPECTED, path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        fill_tensors(EXPECTED, tmp_path)


@pytest.fixture
def backbones(tmp_path):
    """Empty folders of the two."""
    (tmp_path / "vision").mkdir()
    (tmp_path / "llm").mkdir()
    return tmp_path


LORA = {"rank": 8, "alpha": 16, "dropout": 0.05, "parts": ["llm"]}
TRAINED = {"rounds": "fixed", "k": 4, "tune": "lora", "first": None}
WRONG = [0, -1, 10**9, 1.5, "8", "", "x" * 5000, "\x1b\ud800", float("nan"), float("inf")]
WRONG += [True, [], ["8"], {}, {"a": 1}]
# Of these, what an entry may be.
TEXTS = ["8", "\x1b\ud800"]
GOOD = {
    "alpha": [1.5],
    "dropout": [0],
    "radius_scale": [1.5, None],
    "split": [0],
    "parts": [[]],
    "whole": [[]],
    "rounds": TEXTS,
    "tune": TEXTS,
    "vocabulary": TEXTS,
    "architecture": [None],
}
PLACES = [
    *((name,) for name in CapeLLMConfig.__dataclass_fields__),
    *(("lora", name) for name in LORA),
    *(("trained", name) for name in TRAINED),
]


@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_every_entry_is_checked(place, backbones):
    """What is accepted is of the type that the rest of the program computes with."""
    for value in WRONG:
        entries = {"lora": dict(LORA), "trained": dict(TRAINED)}
        *table, name = place
        (entries[table[0]] if table else entries)[name] = value
        write_config(backbones, **entries)
        try:
            found = read_model_config(backbones)
        except (ValueError, FileNotFoundError) as error:
            text = str(error)
            assert str(backbones / "config.json") in text and text.isprintable()
            assert len(text) < len(str(backbones)) + 500
        else:
            assert value in GOOD[name], (found, value)


def test_a_lora_rank_that_is_no_rank_is_named(backbones):
    for rank in (0, "8", 10**9, True, None):
        write_config(backbones, lora=LORA | {"rank": rank})
        with pytest.raises(ValueError, match="lora.rank is .*, not a whole number from 1"):
            read_model_config(backbones)


@pytest.mark.parametrize("part", ["vision", "llm"])
@pytest.mark.parametrize("name", ["/data/old-machine/weights", "x" * 300, "x/" * 2000])
def test_a_path_of_another_machine_is_named_with_its_file(part, name, backbones):
    write_config(backbones, **{part: name})
    with pytest.raises(FileNotFoundError, match=f"says that {part} is in") as error:
        read_model_config(backbones)
    assert str(backbones / "config.json") in one_line(error) and name[:20] in str(error.value)


def test_a_backbone_given_as_a_model_is_named(model_folder):
    for part in ("vision", "llm"):
        with pytest.raises(ValueError, match="is of a backbone .* not of a whole CapeLLM"):
            read_model_config(model_folder / part)


def test_the_tokenizer_of_training_is_remembered(model_folder, tmp_path):
    """Another one that fits by its numbers is refused: answers would be nonsense."""
    model = CapeLLM.from_pretrained(model_folder)
    folder = shutil.copytree(model_folder, tmp_path / "model")
    model.config.vision, model.config.llm = "vision", "llm"
    (folder / "config.json").write_text(model.config.to_json())
    CapeLLM.from_pretrained(folder)
    file = folder / "llm" / "tokenizer.model"
    # A field that sentencepiece does not know.
    file.write_bytes(file.read_bytes() + b"\xf8\x06\x01")
    assert Tokenizer(file).vocab_size == model.tokenizer.vocab_size
    with pytest.raises(ValueError, match="is not the tokenizer that the model was trained with"):
        CapeLLM.from_pretrained(folder)


def test_a_crop_that_patches_do_not_fill_is_refused(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"image_size": 30}))
    with pytest.raises(ValueError, match="image_size 30 does not fit the encoder in .* of 14"):
        CapeLLM.from_pretrained(folder)
