"""The vision encoder: DINOv2 S, B, L or g, with or without registers, from official checkpoints.

CapeLLM's f_phi (paper Sec. 3.1; ViT-L/14): a photo becomes one feature per patch, taken after the last LayerNorm.
Oquab et al., "DINOv2" (2023); registers: Darcet et al. (2023). Module names are the names in the checkpoint.

    model = DINOv2.from_pretrained("dinov2-large")  # a folder: config.json and model.safetensors
    features = model(pixels)                        # (B, 3, 224, 224) -> (B, 256, 1024)
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from support.weights import load_weights, skip_initialisation


@dataclass
class DINOv2Config:
    """The numbers of an architecture, under the names of the official config.json; defaults as in the release."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    mlp_ratio: float = 4
    layer_norm_eps: float = 1e-6
    layerscale_value: float = 1.0
    qkv_bias: bool = True
    use_swiglu_ffn: bool = False
    image_size: int = 518  # pixels a side of the square that the positional table covers
    patch_size: int = 14
    num_register_tokens: int = 0

    @classmethod
    def from_json(cls, path):
        """Read an official config.json (a Path). What this file does not implement is refused, not ignored."""
        if not path.is_file():
            raise FileNotFoundError(f"{path} not found: a model folder needs its official config.json")
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON ({error}): download it again") from None
        for key, known in {"hidden_act": (None, "gelu"), "model_type": ("dinov2_with_registers", "dinov2")}.items():
            if raw.get(key) not in known:
                raise ValueError(f"{path}: {key} {raw.get(key)!r} is not supported, only {known[-1]!r}")
        try:
            return cls(**{f.name: raw[f.name] for f in fields(cls) if f.name in raw})
        except TypeError as error:
            raise ValueError(f"{path}: {str(error).replace('DINOv2Config.__init__() ', '')}") from None


class Embeddings(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.grid = c.image_size // c.patch_size
        drawn = lambda n: nn.Parameter(nn.init.normal_(torch.empty(1, n, c.hidden_size), std=0.02))
        self.cls_token = drawn(1)
        # A buffer, not a parameter: only masked pre-training uses it, but official checkpoints hold it.
        self.register_buffer("mask_token", torch.zeros(1, c.hidden_size))
        self.position_embeddings = drawn(1 + self.grid**2)
        self.registers = c.num_register_tokens
        if self.registers:
            self.register_tokens = drawn(self.registers)
        self.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(3, c.hidden_size, c.patch_size, c.patch_size)})

    def positions(self, height, width):
        """The positional table for height x width patches, (1, 1 + height * width, C), resampled in fp32.

        The rules are those of the original release, with which the weights were trained: plain models pass a scale
        factor that is 0.1 patch too large (transformers passes the size), models with registers the size, antialiased.
        """
        if (height, width) == (self.grid, self.grid):
            return self.position_embeddings
        table = self.position_embeddings.float()
        patches = table[:, 1:].unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)  # (1, C, grid, grid)
        if self.registers:
            patches = F.interpolate(patches, size=(height, width), mode="bicubic", antialias=True)
        else:
            scale = ((height + 0.1) / self.grid, (width + 0.1) / self.grid)
            patches = F.interpolate(patches, scale_factor=scale, mode="bicubic")
        return torch.cat((table[:, :1], patches.flatten(2).transpose(1, 2)), dim=1).to(self.position_embeddings.dtype)

    def forward(self, pixels):
        x = self.patch_embeddings.projection(pixels.to(self.cls_token.dtype))  # (B, C, height, width)
        positions = self.positions(*x.shape[2:])
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)), dim=1) + positions
        if self.registers:  # after the positions: registers have none
            x = torch.cat((x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]), dim=1)
        return x  # (B, 1 + registers + N, C)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, names = c.num_attention_heads, ("query", "key", "value")
        self.attention = nn.ModuleDict({name: nn.Linear(c.hidden_size, c.hidden_size, c.qkv_bias) for name in names})
        self.output = nn.ModuleDict({"dense": nn.Linear(c.hidden_size, c.hidden_size)})

    def forward(self, x):  # (B, T, C)
        q, k, v = (project(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, d)
                   for project in self.attention.values())
        return self.output.dense(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.fc1 = nn.Linear(c.hidden_size, int(c.hidden_size * c.mlp_ratio))
        self.fc2 = nn.Linear(int(c.hidden_size * c.mlp_ratio), c.hidden_size)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):  # the MLP of g
    def __init__(self, c):
        super().__init__()
        hidden = (int(int(c.hidden_size * c.mlp_ratio) * 2 / 3) + 7) // 8 * 8  # three matrices cost what two did
        self.weights_in, self.weights_out = nn.Linear(c.hidden_size, 2 * hidden), nn.Linear(hidden, c.hidden_size)

    def forward(self, x):
        gate, value = self.weights_in(x).chunk(2, dim=-1)
        return self.weights_out(F.silu(gate) * value)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm1 = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        self.attention = Attention(c)
        self.layer_scale1 = nn.ParameterDict({"lambda1": torch.full((c.hidden_size,), float(c.layerscale_value))})
        self.norm2 = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        self.mlp = SwiGLU(c) if c.use_swiglu_ffn else MLP(c)
        self.layer_scale2 = nn.ParameterDict({"lambda1": torch.full((c.hidden_size,), float(c.layerscale_value))})

    def forward(self, x):  # (B, T, C)
        x = x + self.layer_scale1.lambda1 * self.attention(self.norm1(x))
        return x + self.layer_scale2.lambda1 * self.mlp(self.norm2(x))


class DINOv2(nn.Module):
    """Normalised pixels (B, 3, H, W) -> features (B, N, C) of the patches, row by row; no CLS token, no registers.

    Computes in the dtype of its weights. ValueError unless H and W are multiples of the patch size.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))})
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    @classmethod
    def from_pretrained(cls, path, dtype=None, device="cpu"):
        """Load an official folder, as `llama.load_weights` does."""
        with torch.device("meta"), skip_initialisation():
            model = cls(DINOv2Config.from_json(Path(path) / "config.json"))
        return load_weights(model, path, dtype, device)

    def forward(self, pixels):
        patch = self.config.patch_size
        if pixels.dim() != 4 or pixels.shape[1] != 3 or any(side < 1 or side % patch for side in pixels.shape[2:]):
            raise ValueError(f"pixels are {tuple(pixels.shape)}, expected (B, 3, H, W), H and W multiples of {patch}")
        x = self.embeddings(pixels)
        for layer in self.encoder.layer:
            x = layer(x)
        return self.layernorm(x)[:, 1 + self.config.num_register_tokens :]  # (B, N, C)
