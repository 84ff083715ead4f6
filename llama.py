"""The language model: decoder-only transformers of the Llama family, from official checkpoints.

Llama 3.1 / 3.2, Mistral-7B-v0.3 and Vicuna-7B-v1.5 are one architecture with different numbers in config.json. CapeLLM
(paper Sec. 3.1) uses Llama-3.1-8B; the others are its ablation. Module names are the names in the checkpoint. What is
particular here: tokens may form a tree instead of a chain (`grow`), and the model takes embeddings, not ids,
because the image enters as embeddings. It knows nothing about images or keypoints.

    model = Llama.from_pretrained("Llama-3.2-1B")
    tokenizer = Tokenizer.from_pretrained("Llama-3.2-1B")
    x = model.embed(torch.tensor([[tokenizer.bos_id, *tokenizer.encode("The nose is at")]]))
    print(tokenizer.decode(model.logits(model(x))[0, -1:].argmax(-1).tolist()))
"""

import json
import math
from dataclasses import MISSING, dataclass, fields
from functools import partial
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from support.weights import load_weights, skip_initialisation

LLAMA3_SCALING = {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
BLOCK = 128  # rows of a mask that attend together


@dataclass
class Config:
    """The numbers of an architecture, under the names of the official config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None  # None: as many as heads (MHA)
    head_dim: int | None = None  # None: hidden_size / heads
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: dict | None = None  # only rope_type "llama3" is known
    tie_word_embeddings: bool = False

    def __post_init__(self):
        self.num_key_value_heads = self.num_key_value_heads or self.num_attention_heads
        for f in fields(self):
            if f.type is int and not (type(value := getattr(self, f.name)) is int and value > 0):
                raise ValueError(f"{f.name} is {value!r}, expected a positive whole number")
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        if self.num_attention_heads % self.num_key_value_heads or self.head_dim % 2:
            raise ValueError(f"{self.num_attention_heads} heads of width {self.head_dim} cannot share "
                             f"{self.num_key_value_heads} key-value heads: need a divisor, and an even width")
        kind = rope_type(self.rope_scaling)
        if kind not in ("default", "llama3"):
            raise ValueError(f"rope type {kind!r} is not supported, only 'default' and 'llama3'")
        if kind == "llama3" and not LLAMA3_SCALING <= set(self.rope_scaling):
            raise ValueError(f"rope scaling lacks {', '.join(sorted(LLAMA3_SCALING - set(self.rope_scaling)))}")

    @classmethod
    def from_json(cls, path):
        """Read an official config.json. What this file does not implement is refused, not ignored."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} not found: a model folder needs its official config.json")
        try:
            raw = dict(json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a JSON object ({error}): download it again") from None
        only = {"model_type": ("llama", "mistral"), "hidden_act": ("silu", None), "sliding_window": (None,),
                "attention_bias": (False, None), "mlp_bias": (False, None), "quantization_config": (None,)}
        for key, known in only.items():
            if raw.get(key) not in known:
                names = " or ".join(map(repr, known)).replace("None", "null")
                raise ValueError(f"{path}: {key} {raw.get(key)!r} is not supported, only {names}")
        if rope := raw.get("rope_parameters"):  # newer files keep theta and scaling in one table
            raw.update(rope_theta=rope.get("rope_theta"), rope_scaling=rope)
        if lacking := [f.name for f in fields(cls) if f.default is MISSING and f.name not in raw]:
            raise ValueError(f"{path} lacks {', '.join(lacking)}: use the official config.json")
        try:
            return cls(**{f.name: raw[f.name] for f in fields(cls) if raw.get(f.name) is not None})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def rope_type(scaling):
    scaling = scaling or {}
    return scaling.get("rope_type") or scaling.get("type") or "default"


def inverse_frequencies(config):
    """Angle per position of each rotated pair, (head_dim/2,) fp32 on the CPU even inside a `torch.device` context.

    Llama 3.1 divides the slow ones by `factor`, leaves the fast ones, and blends between (llama-models, apply_scaling).
    """
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu") / config.head_dim
    freqs = 1.0 / config.rope_theta**exponent
    if rope_type(config.rope_scaling) == "llama3":
        s = config.rope_scaling
        low, high = s["low_freq_factor"], s["high_freq_factor"]
        turns = s["original_max_position_embeddings"] * freqs / (2 * math.pi)
        keep = ((turns - low) / (high - low)).clamp(0, 1)
        freqs = (1 - keep) * freqs / s["factor"] + keep * freqs
    return freqs


def rotate(x, cos, sin):
    """Rotary position embedding, halves paired as in the Hugging Face checkpoints. x (B, H, T, d)."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.head_dim = c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, c.num_attention_heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.num_attention_heads * c.head_dim, c.hidden_size, bias=False)

    def forward(self, x, layer, cos, sin, blocks, causal, cache):
        heads = (*x.shape[:2], -1, self.head_dim)
        q, k, v = (p(x).view(heads).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))  # (B, H, T, d)
        q, k, v = rotate(q, cos, sin).to(x.dtype), rotate(k, cos, sin).to(x.dtype), v.to(x.dtype)
        if cache is not None:
            k, v = cache.append(layer, k, v)  # (B, H_kv, S, d)
        # enable_gqa: a group of query heads reads its key head in place, no copies of the keys
        attend = partial(F.scaled_dot_product_attention, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])
        y = [attend(q[:, :, rows], k[:, :, seen], v[:, :, seen], attn_mask=mask) for rows, seen, mask in blocks]
        return self.o_proj(torch.cat(y, 2).transpose(1, 2).flatten(2))  # (B, T, D)


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

    def forward(self, x, *attention, read=slice(None)):
        x = (x + self.self_attn(self.input_layernorm(x), *attention))[:, read]
        return x + self.mlp(self.post_attention_layernorm(x))


class KVCache:
    """Keys and values of the tokens seen so far, allocated once for `length` tokens. For inference only (no gradients)."""

    def __init__(self, config, batch, length, dtype=torch.float32, device="cpu"):
        shape = (config.num_hidden_layers, batch, config.num_key_value_heads, length, config.head_dim)
        self.k = torch.empty(shape, dtype=dtype, device=device)
        self.v = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0

    def append(self, layer, k, v):
        """Write new k, v (B, H_kv, T, d) behind the old and return all (B, H_kv, S, d). `length` moves after all layers."""
        end = self.length + k.shape[2]
        if end > self.k.shape[3]:
            raise ValueError(f"KV cache is full: it has room for {self.k.shape[3]} tokens, {end} are needed")
        self.k[layer, :, :, self.length:end] = k
        self.v[layer, :, :, self.length:end] = v
        return self.k[layer, :, :, :end], self.v[layer, :, :, :end]

    def truncate(self, n):
        """Keep the first n tokens: this is how branches are dropped and the trunk kept."""
        if not 0 <= n <= self.length:
            raise ValueError(f"cannot truncate a KV cache of {self.length} tokens to {n}")
        self.length = n


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
        self.frequencies = inverse_frequencies(config)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)

    def embed(self, ids):
        return self.model.embed_tokens(ids)  # (..., D)

    def forward(self, x, positions=None, mask=None, cache=None, read=slice(None), tap=None):
        """Embeddings x (B, T, D) to hidden states (B, T, D) after the final norm.

        mask (T, S) or (B, 1, T, S) bool, True where a new token may attend, S = tokens in the cache after this call;
        None: a causal chain behind the cache. positions (T,) or (B, T) int; None: they continue the cache.
        read: slice or indices (R,) of the tokens whose hidden states are wanted; the last MLP is then run for these only.
        tap: index of a layer; returns (hidden, what that layer put out (B, T, D)), for losses half-way.
        """
        past, new = 0 if cache is None else cache.length, x.shape[1]
        x = x.to(self.model.norm.weight.dtype)
        if positions is None:
            positions = torch.arange(past, past + new, device=x.device)
        self.frequencies = self.frequencies.to(x.device)
        angles = positions.view(-1, 1, new, 1).float() * self.frequencies  # (1 or B, 1, T, d/2)
        cos, sin = angles.cos(), angles.sin()
        causal = mask is None and past == 0  # the fast kernel: no mask is built, and a single token needs none
        if mask is None and past > 0 and new > 1:
            mask = torch.ones(new, past + new, dtype=torch.bool, device=x.device).tril(past)
        blocks, last = blocks_of(mask), len(self.model.layers) - 1
        for i, layer in enumerate(self.model.layers):
            x = layer(x, i, cos, sin, blocks, causal, cache, read=read if i == last else slice(None))
            if i == tap:
                tapped = x
        if cache is not None:
            cache.length += new
        hidden = self.model.norm(x)
        return hidden if tap is None else (hidden, tapped)

    def logits(self, hidden, ids=None):
        """Scores (..., vocab) in fp32; with ids (n,), only these rows of the head are computed: (..., n)."""
        head = self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight
        return F.linear(hidden, head if ids is None else head[ids]).float()

    @classmethod
    def from_pretrained(cls, path, dtype=None, device="cpu"):
        """Load a folder with an official config.json and safetensors. dtype None: fp32 on the CPU, bf16 elsewhere."""
        config = Config.from_json(Path(path) / "config.json")
        with torch.device("meta"), skip_initialisation():
            model = cls(config)
        # some exports carry what is computed here, or the head a second time
        ignored = ("rotary_emb.inv_freq", "lm_head.weight")[:1 + config.tie_word_embeddings]
        return load_weights(model, path, dtype, device, rename=lambda name: None if name.endswith(ignored) else name)


def grow(rows, lengths):
    """The tree of tokens, one step on: extend n branches by chains of new tokens.

    rows (n, S) bool: which of the S cached tokens the last token of each branch sees (its ancestors and itself); lengths:
    n numbers of new tokens. Returns the mask (N, S + N) and positions (N,) of the N = sum(lengths) new tokens, branch by
    branch: the row of a token is its parent's row plus itself, and its position is its depth. A branch forks by standing
    twice among `rows`; the rows of the ends, `mask[cumsum(lengths) - 1]`, are what the next step grows from.
    """
    branch = send(torch.repeat_interleave(torch.as_tensor(lengths)), rows.device)  # (N,)
    chain = (branch[:, None] == branch).tril()
    mask = torch.cat((rows[branch], chain), dim=1)
    return mask, mask.sum(1) - 1


def blocks_of(mask):
    """A mask in blocks of rows, each with the columns that any of its rows sees: [(rows, columns, their mask)], for all layers.

    A kernel computes what a mask hides, too, and of a tree that is nearly everything. On a GPU, which would have to wait
    until the columns are counted, all is one block.
    """
    everything = slice(None)
    if mask is None or mask.device.type != "cpu":
        return [(everything, everything, mask)]
    blocks = []
    for i in range(0, mask.shape[-2], BLOCK):
        rows = slice(i, i + BLOCK)
        seen = mask[..., rows, :].flatten(0, -2).any(0)
        columns = everything if seen.all() else seen.nonzero()[:, 0]
        blocks.append((rows, columns, mask[..., rows, :][..., columns]))
    return blocks


def send(values, device):
    """Numbers as a tensor on the device. CUDA takes a copy of them at once: nobody waits for the work it has queued."""
    return torch.as_tensor(values).to(device, non_blocking=torch.device(device).type == "cuda")
