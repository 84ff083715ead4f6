"""dino.py against transformers and a restatement of the original release's positional table."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file

from dino import DINOv2, DINOv2Config
from helpers import one_line

PLAIN = transformers.Dinov2Config, transformers.Dinov2Model
REGISTERS = transformers.Dinov2WithRegistersConfig, transformers.Dinov2WithRegistersModel
SIDES = [(224, 224), (252, 252), (336, 336), (518, 518), (224, 308), (42, 14)]


def reference(kind=PLAIN, **settings):
    """A transformers model whose every parameter is random.

    No zero bias and no unit scale may hide a mistake.
    """
    config, model = kind
    torch.manual_seed(0)
    sizes = dict(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, image_size=518, patch_size=14
    )
    hf = model(config(**sizes | settings)).eval()
    with torch.no_grad():
        for p in hf.parameters():
            p.add_(torch.randn_like(p), alpha=0.2)
    return hf


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """save_and_load(kind, **settings): a transformers model, and ours loaded from its folder."""

    def save_and_load(kind=PLAIN, **settings):
        folder = tmp_path_factory.mktemp("dino")
        hf = reference(kind, **settings)
        hf.save_pretrained(folder)
        return hf, DINOv2.from_pretrained(folder)

    return save_and_load


def patches(hf, pixels):
    registers = getattr(hf.config, "num_register_tokens", 0)
    with torch.no_grad():
        return hf(pixels).last_hidden_state[:, 1 + registers :]


def original_table(table, height, width, offset, antialias):
    """(1, 1 + M * M, C) -> (1, 1 + height * width, C), as the release does.

    That is `interpolate_pos_encoding` of github.com/facebookresearch/dinov2. Its plain models set
    offset 0.1 and no antialiasing, its `_reg` models 0.0 and antialiasing.
    """
    M = int(math.sqrt(table.shape[1] - 1))
    if (height, width) == (M, M):
        return table
    kwargs = {"size": (height, width)}
    if offset:
        kwargs = {"scale_factor": (float(height + offset) / M, float(width + offset) / M)}
    grid = table[:, 1:].float().reshape(1, M, M, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, mode="bicubic", antialias=antialias, **kwargs)
    assert grid.shape[-2:] == (height, width)
    rows = grid.permute(0, 2, 3, 1).reshape(1, height * width, -1)
    return torch.cat((table[:, :1].float(), rows), dim=1)


def use_original_table(hf, offset, antialias):
    def interpolate(x, height, width):
        table = hf.embeddings.position_embeddings
        return original_table(table, height // 14, width // 14, offset, antialias)

    hf.embeddings.interpolate_pos_encoding = interpolate


@pytest.mark.parametrize(
    "kind, settings, offset",
    [
        (PLAIN, {}, 0.1),
        (PLAIN, {"use_swiglu_ffn": True, "qkv_bias": False}, 0.1),
        (REGISTERS, {"num_register_tokens": 4}, 0.0),
    ],
    ids=["plain", "swiglu", "registers"],
)
def test_features_equal_transformers_with_the_original_table(checkpoint, kind, settings, offset):
    hf, ours = checkpoint(kind, **settings)
    use_original_table(hf, offset, antialias=offset == 0)
    for sides in SIDES:
        pixels = torch.randn(1, 3, *sides)
        features = ours(pixels)
        assert features.shape == (1, sides[0] // 14 * (sides[1] // 14), 48)
        assert (features - patches(hf, pixels)).abs().max() <= 1e-4, sides


def test_own_size_needs_no_resampling(checkpoint):
    """So transformers is left untouched."""
    for settings in ({}, {"image_size": 64, "patch_size": 8}):
        hf, ours = checkpoint(**settings)
        pixels = torch.randn(2, 3, hf.config.image_size, hf.config.image_size)
        assert (ours(pixels) - patches(hf, pixels)).abs().max() <= 1e-4


def test_transformers_resamples_the_plain_table_by_another_rule(checkpoint):
    """transformers passes the size, the release a scale that is 0.1 patch too large.

    With registers, the two agree.
    """
    pixels = torch.randn(1, 3, 224, 224)
    hf, ours = checkpoint(REGISTERS)
    assert (ours(pixels) - patches(hf, pixels)).abs().max() <= 1e-4
    hf, ours = checkpoint(PLAIN)
    assert (ours(pixels) - patches(hf, pixels)).abs().max() > 1e-2
    # A smooth table: one horizontal wave over the photo. The sampling points of the two rules
    # drift apart from left to right, by 37/16 - 37/16.1 = 0.0144 table cells a patch: 0.22 cells,
    # 4% of the wave's height, at the edge.
    wave = torch.sin(2 * math.pi * (torch.arange(37) + 0.5) / 37)
    table = wave.expand(37, 37).reshape(1, -1, 1).expand(-1, -1, 48)
    with torch.no_grad():
        for model in (hf, ours):
            model.embeddings.position_embeddings[:, 1:] = table
        theirs = hf.embeddings.interpolate_pos_encoding(torch.empty(1, 257, 48), 224, 224)
        gap = (ours.embeddings.positions(16, 16) - theirs)[0, 1:, 0].view(16, 16).abs()
    # Times the wave's slope, which is 1 at the edge.
    drift = (37 / 16 - 37 / 16.1) * 15.5 * 2 * math.pi / 37
    # A cubic kernel bends slopes a little.
    assert ((gap[:, 15] > 0.75 * drift) & (gap[:, 15] < 1.25 * drift)).all()
    assert gap[:, 15].min() > 5 * gap[:, 0].max()


def test_table_is_resampled_in_fp32_whatever_the_dtype(checkpoint):
    for kind, offset in ((PLAIN, 0.1), (REGISTERS, 0.0)):
        _, ours = checkpoint(kind)
        ours.bfloat16()
        table = ours.embeddings.position_embeddings
        expected = original_table(table, 16, 16, offset, antialias=offset == 0)
        assert torch.equal(ours.embeddings.positions(16, 16), expected.bfloat16())


def test_computes_in_the_dtype_of_its_weights(checkpoint):
    _, ours = checkpoint(image_size=56)
    pixels = torch.randn(1, 3, 56, 56)
    exact = ours(pixels)
    rounded = ours.bfloat16()(pixels)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().mean() < 0.02 * exact.abs().mean()


def test_patches_come_row_by_row():
    # No layers: patches do not mix.
    model = DINOv2(DINOv2Config(16, 0, 2, image_size=56, num_register_tokens=2))
    pixels = torch.randn(1, 3, 28, 70)
    touched = pixels.clone()
    # Row 1, column 3 of 2 x 5 patches.
    touched[:, :, 14:28, 42:56] += 1
    changed = (model(touched) - model(pixels)).abs().sum(-1)[0]
    assert changed.nonzero().tolist() == [[1 * 5 + 3]]


@pytest.mark.parametrize(
    "width, layers, heads, swiglu, registers",
    [
        (384, 12, 6, False, 0),
        (768, 12, 12, False, 0),
        (1024, 24, 16, False, 0),
        (1536, 40, 24, True, 0),
        (384, 12, 6, False, 4),
        (1024, 24, 16, False, 4),
    ],
)
def test_official_sizes_have_the_published_number_of_parameters(
    width, layers, heads, swiglu, registers
):
    # Of (width, registers), the mask token included.
    published = {(384, 0): 22_056_576, (768, 0): 86_580_480, (1024, 0): 304_368_640}
    settings = dict(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        use_swiglu_ffn=swiglu,
    )
    with torch.device("meta"):
        ours = DINOv2(DINOv2Config(**settings, num_register_tokens=registers))
        config, model = REGISTERS if registers else PLAIN
        hf = model(config(**settings, image_size=518, patch_size=14))
    count = sum(tensor.numel() for tensor in ours.state_dict().values())
    assert count == sum(p.numel() for p in hf.parameters())
    assert count == published.get((width, registers), count)


@pytest.mark.parametrize("kind", [PLAIN, REGISTERS], ids=["plain", "registers"])
def test_what_we_save_transformers_loads(checkpoint, tmp_path, kind):
    hf, ours = checkpoint(kind, image_size=56)
    save_file(ours.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    hf.config.save_pretrained(tmp_path)
    again, report = kind[1].from_pretrained(tmp_path, output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[problem]
    assert list(again.state_dict()) == list(hf.state_dict())
    for name, tensor in hf.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    "shape", [(1, 3, 225, 224), (1, 3, 224, 230), (1, 3, 0, 14), (1, 1, 224, 224), (3, 224, 224)]
)
def test_wrong_pixels_are_refused(shape):
    model = DINOv2(DINOv2Config(8, 1, 1, image_size=28))
    with pytest.raises(ValueError, match=r"pixels are .* H and W multiples of 14"):
        model(torch.zeros(shape))


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "config.json: this is no JSON from column 2 on"),
        ('{"model_type": "vit"}', "model_type 'vit' is not supported, only 'dinov2'"),
        ('{"hidden_size": 8}', "model_type None is not supported"),
        (
            '{"model_type": "dinov2", "hidden_act": "relu"}',
            "hidden_act 'relu' is not supported, only 'gelu'",
        ),
        (
            '{"model_type": "dinov2", "hidden_size": 8, "num_hidden_layers": 1}',
            "json lacks num_attention_heads",
        ),
    ],
)
def test_wrong_config_is_named(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        DINOv2.from_pretrained(tmp_path)
    one_line(error)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json not found"):
        DINOv2.from_pretrained(tmp_path)
    sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=28)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2"} | sizes))
    with pytest.raises(FileNotFoundError, match="safetensors"):
        DINOv2.from_pretrained(tmp_path)
