"""The vision encoder: DINOv2 S, B, L or g, with or without registers, from official checkpoints.

CapeLLM's f_phi (Section 3.1; theirs is ViT-L/14): one feature per patch, after the last LayerNorm.
Oquab et al. (2023); registers: Darcet et al. (2023). Module names are those of the checkpoint.

    model = DINOv2.from_pretrained("dinov2-large")  # a folder: config.json and model.safetensors
    features = model(pixels)                        # (B, 3, 224, 224) -> (B, 256, 1024)
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from support.configs import BackboneConfig, Count, Epsilon, Pixels, Ratio, Scale, Width
from support.pixels import check_pixels
from support.weights import load_backbone


@dataclass
class DINOv2Config(BackboneConfig):
    """The numbers of an architecture, under the names of the official config.json."""

    hidden_size: Width
    num_hidden_layers: Count
    num_attention_heads: Width
    mlp_ratio: Ratio = 4
    layer_norm_eps: Epsilon = 1e-6
    layerscale_value: Scale = 1.0
    qkv_bias: bool = True
    use_swiglu_ffn: bool = False
    image_size: Pixels = 518  # a side of the square that the positional table covers
    patch_size: Pixels = 14
    num_register_tokens: Count = 0

    SUPPORTED = {"model_type": ("dinov2", "dinov2_with_registers"), "hidden_act": ("gelu", None)}
    SQUARES = ("image_size", "patch_size")
    UNSEEN = ("num_attention_heads", "layer_norm_eps")

    def check(self):
        self.check_heads(self.hidden_size, self.num_attention_heads)
        self.check_patch(self.image_size, self.patch_size)


def make_tokens(n, width):
    return nn.Parameter(nn.init.normal_(torch.empty(1, n, width), std=0.02))


class Embeddings(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.grid = c.image_size // c.patch_size
        self.cls_token = make_tokens(1, c.hidden_size)
        # Only masked pre-training uses it, but official checkpoints hold it: a buffer.
        self.register_buffer("mask_token", torch.zeros(1, c.hidden_size))
        self.position_embeddings = make_tokens(1 + self.grid**2, c.hidden_size)
        self.registers = c.num_register_tokens
        if self.registers:
            self.register_tokens = make_tokens(self.registers, c.hidden_size)
        projection = nn.Conv2d(3, c.hidden_size, c.patch_size, c.patch_size)
        self.patch_embeddings = nn.ModuleDict({"projection": projection})

    def positions(self, height, width):
        """The positional table for height x width patches, (1, 1 + height * width, C).

        Resampled in fp32, as in the original release: models with registers pass the size, plain
        ones a scale factor that is 0.1 patch too large (transformers passes the size).
        """
        if (height, width) == (self.grid, self.grid):
            return self.position_embeddings
        table = self.position_embeddings.float()
        patches = table[:, 1:].unflatten(1, (self.grid, -1)).permute(0, 3, 1, 2)  # (1, C, h, w)
        if self.registers:
            patches = F.interpolate(patches, size=(height, width), mode="bicubic", antialias=True)
        else:
            scale = ((height + 0.1) / self.grid, (width + 0.1) / self.grid)
            patches = F.interpolate(patches, scale_factor=scale, mode="bicubic")
        patches = patches.flatten(2).transpose(1, 2)  # (1, height * width, C)
        return torch.cat((table[:, :1], patches), dim=1).to(self.position_embeddings.dtype)

    def forward(self, pixels):
        x = self.patch_embeddings.projection(pixels.to(self.cls_token.dtype))  # (B, C, h, w)
        patches = x.flatten(2).transpose(1, 2)  # (B, N, C)
        cls = self.cls_token.expand(len(x), -1, -1)
        x = torch.cat((cls, patches), dim=1) + self.positions(*x.shape[2:])
        # After the positions: registers have none.
        if self.registers:
            registers = self.register_tokens.expand(len(x), -1, -1)
            x = torch.cat((x[:, :1], registers, x[:, 1:]), dim=1)
        return x  # (B, 1 + registers + N, C)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads = (c.num_attention_heads, -1)  # heads, d
        width, names = c.hidden_size, ("query", "key", "value")
        self.attention = nn.ModuleDict({n: nn.Linear(width, width, c.qkv_bias) for n in names})
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width)})

    def forward(self, x):  # (B, T, C)
        q = self.attention.query(x).unflatten(2, self.heads).transpose(1, 2)  # (B, heads, T, d)
        k = self.attention.key(x).unflatten(2, self.heads).transpose(1, 2)
        v = self.attention.value(x).unflatten(2, self.heads).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.output.dense(y.transpose(1, 2).flatten(2))  # (B, T, C)


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.fc1 = nn.Linear(c.hidden_size, int(c.hidden_size * c.mlp_ratio))
        self.fc2 = nn.Linear(int(c.hidden_size * c.mlp_ratio), c.hidden_size)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    def __init__(self, c):
        super().__init__()
        # The MLP of g: three matrices (two in weights_in) of 2/3 the width cost what two did.
        hidden = (int(int(c.hidden_size * c.mlp_ratio) * 2 / 3) + 7) // 8 * 8
        self.weights_in = nn.Linear(c.hidden_size, 2 * hidden)
        self.weights_out = nn.Linear(hidden, c.hidden_size)

    def forward(self, x):
        gate, value = self.weights_in(x).chunk(2, dim=-1)
        return self.weights_out(F.silu(gate) * value)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm1 = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        self.attention = Attention(c)
        scale = torch.full((c.hidden_size,), float(c.layerscale_value))
        self.layer_scale1 = nn.ParameterDict({"lambda1": scale.clone()})
        self.norm2 = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        self.mlp = SwiGLU(c) if c.use_swiglu_ffn else MLP(c)
        self.layer_scale2 = nn.ParameterDict({"lambda1": scale.clone()})

    def forward(self, x):  # (B, T, C)
        x = x + self.layer_scale1.lambda1 * self.attention(self.norm1(x))
        return x + self.layer_scale2.lambda1 * self.mlp(self.norm2(x))


class DINOv2(nn.Module):
    """Normalised pixels (B, 3, H, W) -> features (B, N, C) of the patches, row by row."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.unit = config.patch_size  # sides of images are multiples of it
        self.embeddings = Embeddings(config)
        layers = [Layer(config) for _ in range(config.num_hidden_layers)]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    @property
    def layers(self):
        return self.encoder.layer

    def count_patches(self, size: int) -> int:
        return (size // self.unit) ** 2

    @classmethod
    def from_pretrained(cls, path, dtype=None, device="cpu") -> "DINOv2":
        """Load an official folder; errors: see support.weights.load_weights."""
        config = DINOv2Config.from_json(Path(path) / "config.json")
        return load_backbone(cls, config, path, dtype, device)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        check_pixels(pixels, self.unit)
        x = self.embeddings(pixels)
        for layer in self.layers:
            x = layer(x)
        return self.layernorm(x)[:, 1 + self.config.num_register_tokens :]  # (B, N, C)
