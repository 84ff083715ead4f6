"""Attention under a mask, by PyTorch's fused kernels, without computing what the mask hides."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

ALL = slice(None)
BLOCK_ROWS = 128  # rows of a mask that attend together on a CPU


class MaskBlock(NamedTuple):
    """Some rows of a mask, and the columns that any of these rows sees."""

    rows: slice
    columns: slice | torch.Tensor
    mask: torch.Tensor | None  # None: causal, or everything is seen


def attend(q, k, v, blocks, causal):
    """softmax(q k^T / sqrt(d)) v, block by block. q (B, H, T, d); k, v (B, G, S, d)."""
    # A group of query heads reads its key head in place: keys are not copied.
    grouped = q.shape[1] != k.shape[1]
    parts = []
    for rows, columns, mask in blocks:
        parts.append(F.scaled_dot_product_attention(
            q[:, :, rows], k[:, :, columns], v[:, :, columns],
            attn_mask=mask, is_causal=causal, enable_gqa=grouped,
        ))
    return torch.cat(parts, 2)


def split_mask(mask):
    """A mask as a list of MaskBlock, made once for all layers.

    On a CPU a kernel computes what a mask hides, too, and of a tree that is nearly everything. On
    a GPU, which would have to wait until the columns are counted, all is one block.
    """
    if mask is None or mask.device.type != "cpu":
        return [MaskBlock(ALL, ALL, mask)]
    blocks = []
    for start in range(0, mask.shape[-2], BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        part = mask[..., rows, :]
        seen = part.flatten(0, -2).any(0)
        columns = ALL if seen.all() else seen.nonzero()[:, 0]
        blocks.append(MaskBlock(rows, columns, part[..., columns]))
    return blocks
