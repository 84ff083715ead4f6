"""The language model: decoder-only transformers of the Llama family, from official checkpoints.

Llama 3.1 / 3.2, Mistral-7B-v0.3 and Vicuna-7B-v1.5 are one architecture with different numbers in
config.json; CapeLLM (Section 3.1) uses Llama-3.1-8B. Module names are the names in the checkpoint.
The model takes embeddings, not ids, because the image enters as embeddings.

    model = Llama.from_pretrained("Llama-3.2-1B")
    tokenizer = Tokenizer.from_pretrained("Llama-3.2-1B")  # support/tokenizer.py
    x = model.embed(torch.tensor([[tokenizer.bos_id, *tokenizer.encode("The nose is at")]]))
    print(tokenizer.decode(model.logits(model(x))[0, -1:].argmax(-1).tolist()))
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from support.attention import attend, split_mask
from support.configs import BackboneConfig, Count, Epsilon, Rows, Width
from support.rope import Theta, check_scaling, find_rope_type, merge_rope
from support.tensors import multiply_in_fp32, send
from support.weights import load_backbone


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        # weight x / sqrt(mean(x^2) + eps), computed in fp32
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rotate(x, cos, sin):
    """Rotary position embedding of x (B, H, T, d), its halves paired as in Hugging Face's files."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def compute_frequencies(config: "Config") -> torch.Tensor:
    """Angle per position of each rotated pair, (head_dim/2,) fp32, on the CPU in any context.

    Llama 3.1 divides the slow ones by `factor`, leaves the fast ones, and blends between
    (llama-models, apply_scaling).
    """
    steps = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu")
    freqs = 1.0 / config.rope_theta ** (steps / config.head_dim)
    if config.rope_type == "llama3":
        s = config.rope_scaling
        low, high = s["low_freq_factor"], s["high_freq_factor"]
        turns = s["original_max_position_embeddings"] * freqs / (2 * math.pi)
        keep = ((turns - low) / (high - low)).clamp(0, 1)
        freqs = (1 - keep) * freqs / s["factor"] + keep * freqs
    return freqs


class Shared(NamedTuple):
    """What all layers share in one forward pass of T new tokens that see S tokens."""

    cos: torch.Tensor  # (1 or B, 1, T, d/2)
    sin: torch.Tensor
    blocks: list  # of the mask, which tokens a token sees: see support.attention
    causal: bool  # a token sees all tokens before it, and no mask is needed
    cache: "KVCache | None"


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.head_dim = c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, c.num_attention_heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.num_attention_heads * c.head_dim, c.hidden_size, bias=False)

    def forward(self, x, i, shared):
        heads = (*x.shape[:2], -1, self.head_dim)
        q = self.q_proj(x).view(heads).transpose(1, 2)  # (B, H, T, d)
        k = self.k_proj(x).view(heads).transpose(1, 2)  # (B, G, T, d)
        v = self.v_proj(x).view(heads).transpose(1, 2)  # (B, G, T, d)
        # Together: a GPU is done with an operation this small before the CPU has started the next.
        rotated = rotate(torch.cat((q, k), 1), shared.cos, shared.sin).to(x.dtype)
        q, k = rotated.split((q.shape[1], k.shape[1]), 1)
        # Under autocast a projection is bf16, and x fp32.
        v = v.to(x.dtype)
        if shared.cache is not None:
            k, v = shared.cache.append(i, k, v)  # (B, G, S, d)
        # softmax(q k^T / sqrt(d)) v, over the tokens that the mask shows
        y = attend(q, k, v, shared.blocks, shared.causal)  # (B, H, T, d)
        return self.o_proj(y.transpose(1, 2).flatten(2))  # (B, T, D)


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn = Attention(c)
        self.mlp = MLP(c)
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)

    def forward(self, x, i, shared, wanted=None):
        x = x + self.self_attn(self.input_layernorm(x), i, shared)
        if wanted is not None:
            x = x[wanted]
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.model = nn.ModuleDict({
            "embed_tokens": nn.Embedding(config.vocab_size, config.hidden_size),
            "layers": nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers)),
            "norm": RMSNorm(config.hidden_size, config.rms_norm_eps),
        })
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        # Not a buffer: Module.to(bfloat16) would round it, and a meta device would lose it.
        self.frequencies = compute_frequencies(config)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)

    def embed(self, ids):
        return self.model.embed_tokens(ids)  # (..., D)

    def forward(self, x, positions=None, mask=None, cache=None, wanted=None):
        """Embeddings x (B, T, D) to hidden states after the final norm: (B, T, D), or of n (n, D).

        mask (T, S) or (B, 1, T, S) bool, True where a new token may attend, S = tokens in the cache
        after this call; None: a causal chain behind the cache. positions (T,) or (B, T) int; None:
        they continue the cache. wanted: index into (B, T) of the n tokens whose hidden states to
        return, None: all; the last MLP is then run for these only.
        """
        past = 0 if cache is None else cache.length
        new = x.shape[1]
        x = x.to(self.model.norm.weight.dtype)
        if positions is None:
            positions = torch.arange(past, past + new, device=x.device)
        self.frequencies = send(self.frequencies, x.device)
        angles = positions.view(-1, 1, new, 1).float() * self.frequencies  # (1 or B, 1, T, d/2)
        # The fast kernel: no mask is built.
        causal = mask is None and past == 0
        # A single token behind the cache sees everything: it needs no mask either.
        if mask is None and past > 0 and new > 1:
            mask = torch.ones(new, past + new, dtype=torch.bool, device=x.device).tril(past)
        group = self.config.num_attention_heads // self.config.num_key_value_heads
        blocks = split_mask(mask, x.dtype, group)
        shared = Shared(angles.cos(), angles.sin(), blocks, causal, cache)
        *layers, last = self.model.layers
        for i, layer in enumerate(layers):
            x = layer(x, i, shared)
        x = last(x, len(layers), shared, wanted=wanted)
        if cache is not None:
            cache.length += new
        return self.model.norm(x)

    def logits(self, hidden, ids=None) -> torch.Tensor:
        """Scores (..., vocab) in fp32; with ids (n,), only these rows of the head: (..., n)."""
        tied = self.config.tie_word_embeddings
        head = self.model.embed_tokens.weight if tied else self.lm_head.weight
        if ids is None:
            return F.linear(hidden, head).float()
        # In bf16 a score of 20 is known to 0.1: of nano's digits a third would tie with another.
        return multiply_in_fp32(hidden, head[ids])

    @classmethod
    def from_pretrained(cls, path, dtype=None, device="cpu") -> "Llama":
        """Load an official folder; dtype and errors: see support.weights.load_weights."""
        config = Config.from_json(Path(path) / "config.json")
        # Some exports carry what is computed here, or the head a second time.
        ignored = ("rotary_emb.inv_freq",)
        if config.tie_word_embeddings:
            ignored += ("lm_head.weight",)
        return load_backbone(cls, config, path, dtype, device, ignored)


class KVCache:
    """Keys and values of the tokens seen so far, allocated once. For inference: no gradients."""

    def __init__(self, config, batch, length, dtype=torch.float32, device="cpu"):
        layers, heads = config.num_hidden_layers, config.num_key_value_heads
        shape = (layers, batch, heads, length, config.head_dim)
        self.k = torch.empty(shape, dtype=dtype, device=device)
        self.v = torch.empty(shape, dtype=dtype, device=device)
        self.batch, self.length = batch, 0

    def append(self, i, k, v):
        """Write layer i's new k, v (B, G, T, d) behind the old and return all (B, G, S, d).
        `length` moves after all layers have written. ValueError if there is no room.
        """
        end = self.length + k.shape[2]
        room = self.k.shape[3]
        if end > room:
            raise ValueError(f"KV cache is full: it has room for {room} tokens, {end} are needed")
        self.k[i, :, :, self.length:end] = k
        self.v[i, :, :, self.length:end] = v
        return self.k[i, :, :, :end], self.v[i, :, :, :end]

    def truncate(self, n):
        """Keep the first n tokens: this is how branches are dropped and the trunk kept."""
        if not 0 <= n <= self.length:
            raise ValueError(f"cannot truncate a KV cache of {self.length} tokens to {n}")
        self.length = n


@dataclass
class Config(BackboneConfig):
    """The numbers of an architecture, under the names of the official config.json."""

    vocab_size: Rows
    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Count
    num_attention_heads: Width
    num_key_value_heads: Width | None = None  # None: as many as heads (MHA)
    head_dim: Width | None = None  # None: hidden_size / heads
    rms_norm_eps: Epsilon = 1e-5
    rope_theta: Theta = 10000.0
    rope_scaling: dict | None = None  # only rope_type "llama3" is known
    tie_word_embeddings: bool = False

    SUPPORTED = {
        "model_type": ("llama", "mistral"),
        "hidden_act": ("silu", None),
        "sliding_window": (None,),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "quantization_config": (None,),
    }
    HEADS = ("num_attention_heads", "num_key_value_heads", "head_dim")
    UNSEEN = (*HEADS, "rms_norm_eps", "rope_theta", "rope_scaling")

    def check(self):
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.num_attention_heads % self.num_key_value_heads or self.head_dim % 2:
            raise ValueError(
                f"{self.num_attention_heads} heads of width {self.head_dim} cannot share "
                f"{self.num_key_value_heads} key-value heads: need a divisor, and an even width"
            )
        check_scaling(self.rope_scaling)

    @property
    def rope_type(self):
        return find_rope_type(self.rope_scaling)

    @classmethod
    def translate(cls, raw):
        return super().translate(merge_rope(raw))
