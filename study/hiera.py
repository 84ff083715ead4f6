"""Hiera, the other vision encoder of Table 14, from official checkpoints (Ryali et al., 2023).

A Transformer in four stages: between two of them a maximum over 2 x 2 tokens halves the sides of
the grid and the width doubles. Early blocks attend within windows of the grid, later ones globally.
Module names are those of the checkpoint.

    model = Hiera.from_pretrained("hiera-large-224-mae-hf")
    features = model(pixels)                        # (B, 3, 224, 224) -> (B, 196, 1152)

`hiera-large-224-hf` pools three times, to 7 x 7 tokens; `hiera-large-224-mae-hf` twice, to 14 x 14.
Table 14 speaks of 20% fewer tokens than DINOv2's 256. The second folder's 196 are 23% fewer, the
first one's 49 are 81% fewer: that the paper means the second is our reading.

Tokens are kept in an order in which pooling and windows are plain views (`unroll`): with an image
of 4 x 4 tokens and one level of pooling, whose windows are a b / c d,

        a b e f         offset 0: a e i m       Pooling is the maximum over the offsets,
        c d g h         offset 1: b f j n       a window is a column: the same place
        i j m n         offset 2: c g k o       in all offsets.
        k l o p         offset 3: d h l p
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from support.configs import BackboneConfig, Count, Epsilon, Pixels, Ratio, Width
from support.pixels import check_pixels
from support.weights import load_backbone

STRIDE = 4  # of the tokens of the first stage, in pixels
MOST_STAGES = 8  # official models have four
POOLED = 4  # tokens, 2 x 2, of which one remains
# Parts of official files that features do not need.
UNUSED = ("pooler.", "encoder_norm.", "decoder.", "multiscale_fusion.")


@dataclass
class HieraConfig(BackboneConfig):
    """The numbers of an architecture, under the names of the official config.json."""

    embed_dim: Width  # of the first stage; it doubles from stage to stage
    depths: list[Count]  # blocks of each stage
    num_heads: list[Width]
    masked_unit_attention: list[bool]  # of each stage, whether it attends within windows
    num_query_pool: Count  # how many times tokens are pooled
    image_size: list[Pixels]  # height and width that the positional table covers
    mlp_ratio: Ratio = 4.0
    layer_norm_eps: Epsilon = 1e-6
    masked_unit_size: list[Width] | None = None  # what the number of stages makes it

    SUPPORTED = {
        "model_type": ("hiera",),
        "hidden_act": ("gelu",),
        "patch_size": ([7, 7],),
        "patch_stride": ([4, 4],),
        "patch_padding": ([3, 3],),
        "query_stride": ([2, 2],),
        "embed_dim_multiplier": (2, None),
    }
    UNSEEN = ("num_heads", "masked_unit_attention", "num_query_pool", "layer_norm_eps")

    def check(self):
        stages = len(self.depths)
        if not 1 <= stages <= MOST_STAGES or 0 in self.depths:
            raise ValueError(f"depths are {self.depths}: need 1 to {MOST_STAGES}, none of them 0")
        for name in ("num_heads", "masked_unit_attention"):
            given = len(getattr(self, name))
            if given != stages:
                raise ValueError(f"{name} are for {given} stages, depths for {stages}")
        for stage, heads in enumerate(self.num_heads):
            self.check_heads(self.embed_dim * 2**stage, heads)
        if self.num_query_pool > self.levels:
            raise ValueError(f"{stages} stages cannot pool {self.num_query_pool} times")
        side = 2**self.levels
        if self.masked_unit_size not in (None, [side, side]):
            raise ValueError(
                f"masked_unit_size is {self.masked_unit_size}, expected {[side, side]}: "
                f"half as large after each of {stages} stages"
            )
        if len(self.image_size) != 2:
            raise ValueError(f"image_size is {self.image_size}, expected height and width")
        for pixels in self.image_size:
            self.check_patch(pixels, STRIDE)

    @property
    def levels(self):
        """How often a window can be pooled."""
        return len(self.depths) - 1

    @property
    def num_hidden_layers(self):
        return sum(self.depths)

    @property
    def hidden_size(self):
        """Width of the features."""
        return self.embed_dim * 2**self.levels


@dataclass
class BlockShape:
    """What differs between blocks."""

    width: int  # of the tokens that come in
    width_out: int
    heads: int
    in_windows: bool
    pools: bool


def list_shapes(c: HieraConfig) -> list[list[BlockShape]]:
    """The shapes of all blocks, stage by stage."""
    stages = []
    for stage, depth in enumerate(c.depths):
        width = c.embed_dim * 2**stage
        blocks = [
            BlockShape(width, width, c.num_heads[stage], c.masked_unit_attention[stage], False)
            for _ in range(depth)
        ]
        if stage > 0:
            first = blocks[0]
            first.width = width // 2
            first.pools = stage <= c.num_query_pool
            # Windows lag one block: this one's keys are still those of the stage before.
            first.in_windows = first.in_windows or c.masked_unit_attention[stage - 1]
        stages.append(blocks)
    return stages


def unroll(x: torch.Tensor, levels: int) -> torch.Tensor:
    """(B, H, W, C) in rows -> (B, 4**levels, windows, C): offset in a window, then the window.

    Offsets are sorted so that the first division by 4 tells apart the tokens that lie together.
    """
    x = x[:, None]  # (B, S, H, W, C)
    for _ in range(levels):
        x = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (B, S, H / 2, 2, W / 2, 2, C)
        x = x.permute(0, 1, 3, 5, 2, 4, 6).flatten(1, 3)  # (B, 4 S, H / 2, W / 2, C)
    return x.flatten(2, 3)


def roll(x: torch.Tensor, height: int) -> torch.Tensor:
    """The inverse of unroll: (B, S, windows, C) -> (B, H, W, C). height: windows in a column."""
    x = x.unflatten(2, (height, -1))  # (B, S, h, w, C)
    while x.shape[1] > 1:
        x = x.unflatten(1, (-1, 2, 2))  # (B, S / 4, 2, 2, h, w, C)
        x = x.permute(0, 1, 4, 2, 5, 3, 6).flatten(4, 5).flatten(2, 3)  # (B, S / 4, 2 h, 2 w, C)
    return x[:, 0]


def pool(x: torch.Tensor) -> torch.Tensor:
    """The maximum over 2 x 2 tokens: (B, S, windows, C) -> (B, S / 4, windows, C)."""
    return x.unflatten(1, (POOLED, -1)).amax(1)


class Embeddings(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.grid = [side // STRIDE for side in c.image_size]
        positions = torch.empty(1, self.grid[0] * self.grid[1], c.embed_dim)
        self.position_embeddings = nn.Parameter(nn.init.normal_(positions, std=0.02))
        projection = nn.Conv2d(3, c.embed_dim, kernel_size=7, stride=STRIDE, padding=3)
        self.patch_embeddings = nn.ModuleDict({"projection": projection})

    def positions(self, height, width):
        """The positional table for height x width tokens, (1, height, width, C)."""
        table = self.position_embeddings.unflatten(1, self.grid)
        if [height, width] == self.grid:
            return table
        columns = table.float().permute(0, 3, 1, 2)
        columns = F.interpolate(columns, size=(height, width), mode="bicubic")
        return columns.permute(0, 2, 3, 1).to(table.dtype)

    def forward(self, pixels):
        x = self.patch_embeddings.projection(pixels.to(self.position_embeddings.dtype))
        x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        return x + self.positions(*x.shape[1:3])


class Attention(nn.Module):
    def __init__(self, shape: BlockShape):
        super().__init__()
        self.shape = shape
        self.qkv = nn.Linear(shape.width, 3 * shape.width_out)
        self.proj = nn.Linear(shape.width_out, shape.width_out)

    def forward(self, x):  # (B, S, windows, C)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.shape.pools:
            q = pool(q)
        windows = q.shape[2]
        q, k, v = (self.split(tokens) for tokens in (q, k, v))
        # Fused kernels know no groups: each counts as an image.
        y = F.scaled_dot_product_attention(*(part.flatten(0, 1) for part in (q, k, v)))
        y = y.unflatten(0, q.shape[:2])  # (B, groups, heads, tokens, d)
        y = y.transpose(2, 3).flatten(3)  # (B, groups, tokens, C)
        if self.shape.in_windows:
            y = y.transpose(1, 2)
        else:
            y = y[:, 0].unflatten(1, (-1, windows))
        return self.proj(y)

    def split(self, tokens):
        """(B, S, windows, C) -> (B, groups, heads, tokens, d): groups attend within themselves."""
        if self.shape.in_windows:
            tokens = tokens.transpose(1, 2)
        else:
            tokens = tokens.flatten(1, 2)[:, None]
        return tokens.unflatten(3, (self.shape.heads, -1)).transpose(2, 3)


class MLP(nn.Module):
    def __init__(self, width, ratio):
        super().__init__()
        self.fc1 = nn.Linear(width, int(width * ratio))
        self.fc2 = nn.Linear(int(width * ratio), width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, c: HieraConfig, shape: BlockShape):
        super().__init__()
        self.pools = shape.pools
        self.layernorm_before = nn.LayerNorm(shape.width, eps=c.layer_norm_eps)
        self.attn = Attention(shape)
        self.layernorm_after = nn.LayerNorm(shape.width_out, eps=c.layer_norm_eps)
        self.mlp = MLP(shape.width_out, c.mlp_ratio)
        self.widens = shape.width != shape.width_out
        if self.widens:
            self.proj = nn.Linear(shape.width, shape.width_out)

    def forward(self, x):  # (B, S, windows, C)
        normalised = self.layernorm_before(x)
        if self.widens:
            # What the attention is added to has been normalised, too.
            x = self.proj(normalised)
        if self.pools:
            x = pool(x)
        x = x + self.attn(normalised)
        return x + self.mlp(self.layernorm_after(x))


class SplitLinear(nn.Module):
    """The joint qkv as three layers, so that LoRA can adapt query and value alone."""

    def __init__(self, joint: nn.Linear):
        super().__init__()
        weights, biases = joint.weight.detach().chunk(3), joint.bias.detach().chunk(3)
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            layer = nn.Linear(*weight.T.shape, device="meta")
            layer.weight, layer.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
            self.add_module(name, layer)

    def forward(self, x):
        return torch.cat((self.query(x), self.key(x), self.value(x)), dim=-1)


class Hiera(nn.Module):
    """Normalised pixels (B, 3, H, W) -> features (B, N, C) of the last stage, row by row.

    As in `transformers`, no LayerNorm follows the last block. Computes in the dtype of its weights.
    ValueError unless windows fill the image.
    """

    def __init__(self, config: HieraConfig):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        stages = []
        for shapes in list_shapes(config):
            blocks = nn.ModuleList(Block(config, shape) for shape in shapes)
            stages.append(nn.ModuleDict({"layers": blocks}))
        self.encoder = nn.ModuleDict({"stages": nn.ModuleList(stages)})

    @property
    def layers(self):
        return [block for stage in self.encoder.stages for block in stage.layers]

    @property
    def unit(self):
        """Pixels a side of a window: sides of images are multiples of it."""
        return STRIDE * 2**self.config.levels

    def count_patches(self, size: int) -> int:
        """N of a square image, `size` pixels a side."""
        return (size // (STRIDE * 2**self.config.num_query_pool)) ** 2

    @classmethod
    def from_pretrained(cls, path, dtype=None, device="cpu") -> "Hiera":
        """Load an official folder; errors: see support.weights.load_weights."""
        config = HieraConfig.from_json(Path(path) / "config.json")
        model = load_backbone(cls, config, path, dtype, device, UNUSED, prefix="hiera.")
        return model.split_qkv()

    def split_qkv(self):
        """Make each joint qkv three layers, for LoRA. Returns self."""
        for layer in self.layers:
            layer.attn.qkv = SplitLinear(layer.attn.qkv)
        return self

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        check_pixels(pixels, self.unit)
        x = unroll(self.embeddings(pixels), self.config.levels)
        for layer in self.layers:
            x = layer(x)
        return roll(x, pixels.shape[2] // self.unit).flatten(1, 2)  # (B, N, C)
