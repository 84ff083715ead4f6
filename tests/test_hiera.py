"""study/hiera.py against transformers, with random weights, in both forms of official folders."""

import copy
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import train
from capellm import CapeLLM
from dino import DINOv2
from helpers import one_line
from lora import add_lora, merge_lora
from skirts import write_skirts
from study.encoders import load_encoder
from study.hiera import Hiera, HieraConfig, pool, roll, unroll
from support.folders import CapeLLMConfig

SMALL = dict(embed_dim=8, depths=[2, 3, 3, 2], num_heads=[1, 2, 4, 8])
# Hiera-Large, as published.
LARGE = dict(embed_dim=144, depths=[2, 6, 36, 4], num_heads=[2, 4, 8, 16])
# A decoder, which the folder of masked pre-training has.
DECODER = dict(decoder_hidden_size=16, decoder_depth=1, decoder_num_heads=2)
WINDOWS = [True, True, False, False]


def randomise_all(model):
    """No zero bias and no unit scale may hide a mistake."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{kind: (folder, transformers' encoder)} of both official forms."""
    plain = randomise_all(transformers.HieraModel(transformers.HieraConfig(**SMALL)))
    config = transformers.HieraConfig(num_query_pool=2, **SMALL, **DECODER)
    masked = randomise_all(transformers.HieraForPreTraining(config))
    made = {}
    for kind, model in {"plain": plain, "mae": masked}.items():
        folder = tmp_path_factory.mktemp(kind)
        model.save_pretrained(folder)
        made[kind] = folder, getattr(model, "hiera", model)
    # Masked training hides windows in embeddings; the features that we want hide none.
    made["mae"][1].embeddings.patch_embeddings.is_mae = False
    made["mae"][1].embeddings.is_mae = False
    return made


def put_in_rows(tokens, levels, height, width):
    """Tokens (N, C) in Hiera's order as (height, width, C), by the coordinates of each.

    A token's number is its offset in a window, then the window. The offset has a digit of base 4
    for each level, the finest first: 2 dy + dx, in tokens of that level.
    """
    windows_right = width // 2**levels
    windows = windows_right * (height // 2**levels)
    rows = torch.empty(height, width, tokens.shape[-1])
    for number, token in enumerate(tokens):
        offset, window = divmod(number, windows)
        y, x = divmod(window, windows_right)
        for level in reversed(range(levels)):
            digit = offset // 4 ** (levels - 1 - level) % 4
            y, x = 2 * y + digit // 2, 2 * x + digit % 2
        rows[y, x] = token
    return rows


@pytest.mark.parametrize("kind, side", [("plain", 7), ("mae", 14)])
def test_features_equal_transformers_in_rows(folders, kind, side):
    folder, hf = folders[kind]
    ours = Hiera.from_pretrained(folder)
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        found = ours(pixels)
        expected = hf(pixels, output_hidden_states=True).reshaped_hidden_states[-1]
    assert found.shape == (2, side**2, 64) == (2, ours.count_patches(224), ours.config.hidden_size)
    torch.testing.assert_close(found, expected.flatten(1, 2), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind, stride, levels", [("plain", 32, 0), ("mae", 16, 1)])
def test_other_sizes_resample_positions(folders, kind, stride, levels):
    folder, hf = folders[kind]
    ours = Hiera.from_pretrained(folder)
    pixels = torch.randn(1, 3, 256, 256)
    # transformers unrolls tokens for the size in its configuration.
    embedded = hf.embeddings(pixels, interpolate_pos_encoding=True)[0]
    grid = embedded.view(1, 64, 64, -1)
    with torch.no_grad():
        torch.testing.assert_close(ours.embeddings(pixels), grid, atol=1e-5, rtol=1e-5)
        unrolled = transformers.models.hiera.modeling_hiera.unroll(
            embedded, (256, 256), (4, 4), [[2, 2]] * 3
        )
        tokens = hf.encoder(unrolled).last_hidden_state[0]
        found = ours(pixels)[0]
    side = 256 // stride
    assert found.shape == (side**2, 64)
    expected = put_in_rows(tokens, levels, side, side)
    torch.testing.assert_close(found, expected.flatten(0, 1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_unroll_sorts_by_offset_then_window(levels):
    height, width = 3 * 2**levels, 2 * 2**levels
    rows = torch.arange(height * width, dtype=torch.float).view(1, height, width, 1)
    unrolled = unroll(rows, levels)
    assert unrolled.shape == (1, 4**levels, 6, 1)
    assert put_in_rows(unrolled.flatten(0, 2), levels, height, width).equal(rows[0])
    assert roll(unrolled, 3).equal(rows)


def test_pool_takes_the_maximum_of_neighbours():
    x = torch.randn(2, 24, 16, 5)
    pooled = roll(pool(unroll(x, 3)), 3)
    expected = torch.nn.functional.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    assert pooled.equal(expected)


def write_large(folder, **changed):
    folder.mkdir(exist_ok=True)
    config = transformers.HieraConfig(**LARGE).to_dict() | changed
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "config.json"


def test_hiera_large_has_the_published_size(tmp_path):
    with torch.device("meta"):
        model = Hiera(HieraConfig.from_json(write_large(tmp_path)))
        pooler = torch.nn.LayerNorm(1152)
    unused = sum(p.numel() for p in pooler.parameters())
    assert sum(p.numel() for p in model.parameters()) + unused == 212_586_912
    assert model.count_patches(224) == 49 and model.config.hidden_size == 1152
    masked = HieraConfig.from_json(write_large(tmp_path, num_query_pool=2))
    with torch.device("meta"):
        assert Hiera(masked).count_patches(224) == 196


def test_adapters_of_hiera_large(tmp_path):
    with torch.device("meta"):
        model = Hiera(HieraConfig.from_json(write_large(tmp_path))).split_qkv()
        add_lora(model, ["query", "value"])
    adapters = [p for name, p in model.named_parameters() if ".lora_" in name]
    assert sum(p.numel() for p in adapters) == 859_392
    assert len(adapters) == 48 * 2 * 2


def test_adapters_change_query_and_value_rows_alone(folders):
    folder, _ = folders["mae"]
    model = Hiera.from_pretrained(folder)
    joint = Hiera.from_pretrained(folder)
    add_lora(model, ["query", "value"])
    model.eval()
    for name, p in model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(p.data, std=0.3)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before, adapted = joint(pixels), model(pixels)
        merge_lora(model)
        merged = model(pixels)
    assert not torch.allclose(before, adapted, atol=1e-2)
    torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=1e-4)
    stored = load_file(folder / "model.safetensors")
    first = model.layers[0].attn.qkv
    weight = stored["hiera.encoder.stages.0.layers.0.attn.qkv.weight"]
    query, key, value = weight.chunk(3)
    assert first.key.weight.equal(key)
    assert not first.query.weight.equal(query) and not first.value.weight.equal(value)


def test_gradients_equal_transformers(folders):
    folder, hf = folders["plain"]
    # In float64: in float32 rounding alone moves a few of the gradients by a hundredth.
    ours, theirs = Hiera.from_pretrained(folder, torch.float64), copy.deepcopy(hf).double()
    pixels = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    found, expected = (p.clone().requires_grad_() for p in (pixels, pixels))
    ours(found).square().sum().backward()
    theirs(expected).last_hidden_state.square().sum().backward()
    assert expected.grad.abs().max() > 0
    torch.testing.assert_close(found.grad, expected.grad, atol=1e-6, rtol=1e-6)


def test_load_encoder_knows_both(folders, model_folder, tmp_path):
    assert isinstance(load_encoder(folders["mae"][0]), Hiera)
    assert isinstance(load_encoder(model_folder / "vision"), DINOv2)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ValueError) as error:
        load_encoder(tmp_path)
    assert "model_type 'clip' is not supported, only" in one_line(error)


def test_capellm_answers_with_hiera(folders, model_folder, tmp_path):
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "parts": ["vision", "llm"]}
    folder = folders["mae"][0]
    config = CapeLLMConfig(str(folder), str(model_folder / "llm"), 64, lora=lora)
    model = CapeLLM.assemble(config, torch.float32)
    assert model.image_tokens(torch.randn(1, 3, 64, 64)).shape == (1, 16, 32)
    assert any(name.startswith("vision.") for name in model.adapter())


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"masked_unit_size": [4, 4]}, "masked_unit_size is [4, 4], expected [8, 8]"),
        ({"patch_size": [5, 5]}, "patch_size [5, 5] is not supported, only [7, 7]"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' is not supported"),
        ({"num_heads": None}, "lacks num_heads"),
        ({"num_heads": [2, 4]}, "num_heads are for 2 stages, depths for 4"),
    ],
)
def test_what_is_not_implemented_is_refused(tmp_path, changed, message):
    with pytest.raises(ValueError) as error:
        HieraConfig.from_json(write_large(tmp_path, **changed))
    assert message in one_line(error)


def test_pixels_that_windows_do_not_fill_are_refused(folders):
    model = Hiera.from_pretrained(folders["mae"][0])
    with pytest.raises(ValueError) as error:
        model(torch.randn(1, 3, 112, 112))
    assert "H and W multiples of 32" in one_line(error)


def test_a_missing_tensor_is_named(folders, tmp_path):
    folder, _ = folders["plain"]
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.stages.1.layers.0.proj.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ValueError) as error:
        Hiera.from_pretrained(tmp_path)
    assert "lack encoder.stages.1.layers.0.proj.bias" in one_line(error)


def test_training_starts_from_hiera(folders, model_folder, tmp_path, monkeypatch):
    """`train.py --vision FOLDER` adapts query and value; the checkpoint answers as it did."""
    data = tmp_path / "data"
    data.mkdir()
    write_skirts(data)
    words = ["--vision", folders["mae"][0], "--llm", model_folder / "llm"]
    words += ["--data", data, "--descriptions", data]
    words += ["--batch", 2, "--steps", 1, "--workers", 0, "--out", tmp_path / "run"]
    monkeypatch.setattr("sys.argv", ["train.py", *map(str, words)])
    train.main()
    checkpoint = tmp_path / "run" / "step-0000001"
    names = load_file(checkpoint / "adapter.safetensors").keys()
    adapted = {name.split(".qkv.")[1] for name in names if name.startswith("vision.")}
    assert adapted == {f"{q}.lora_{side}" for q in ("query", "value") for side in "AB"}
    model = CapeLLM.from_pretrained(checkpoint)
    assert model.image_tokens(torch.randn(1, 3, 224, 224)).shape == (1, 196, 32)
