"""Attention under a mask, by PyTorch's fused kernels, without computing what the mask hides."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

ALL = slice(None)
BLOCK_ROWS = 128  # rows of a mask that attend together on a CPU
DENSE = 0.75  # share of columns that are seen, from which on copying them out does not pay
ALIGNMENT = 8  # numbers, of which a GPU's kernel reads a mask at once


class MaskBlock(NamedTuple):
    """Some rows of a mask, and the columns that any of these rows sees."""

    rows: slice
    columns: slice | torch.Tensor
    mask: torch.Tensor | None  # added to scores; None: causal, or everything is seen


def attend(q, k, v, blocks, causal):
    """softmax(q k^T / sqrt(d)) v, block by block. q (B, H, T, d); k, v (B, G, S, d)."""
    parts = []
    for rows, columns, mask in blocks:
        block = q[:, :, rows], k[:, :, columns], v[:, :, columns]
        if mask is None or mask.device.type == "cpu":
            # A group of query heads reads its key head in place: keys are not copied.
            grouped = q.shape[1] != k.shape[1]
            parts.append(F.scaled_dot_product_attention(
                *block, attn_mask=mask, is_causal=causal, enable_gqa=grouped,
            ))
        else:
            parts.append(attend_in_rows(*block, mask))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def attend_in_rows(q, k, v, mask):
    """The same where no fused kernel takes a mask and groups at once: on a GPU.

    Query heads that share a key head are rows of one head. mask: (H / G T, S) or (B, 1, H / G T, S)
    """
    rows = q.reshape(*k.shape[:2], -1, q.shape[3])  # (B, G, H / G T, d)
    return F.scaled_dot_product_attention(rows, k, v, attn_mask=mask).reshape(q.shape)


def split_mask(mask, dtype, group):
    """A mask (T, S) or (B, 1, T, S) as a list of MaskBlock, made once for all layers.

    Every row must see something. dtype: of queries; group: how many of their heads share a key
    head. On a CPU a kernel computes what a mask hides, too, and of a tree that is nearly
    everything. On a GPU, which would have to wait until columns are counted, all is one block.
    """
    if mask is None:
        return [MaskBlock(ALL, ALL, None)]
    if mask.device.type != "cpu":
        of_group = torch.cat([mask] * group, -2)
        return [MaskBlock(ALL, ALL, make_additive(of_group, dtype))]
    blocks = []
    for start in range(0, mask.shape[-2], BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        part = mask[..., rows, :]
        seen = part.flatten(0, -2).any(0)
        is_dense = seen.sum() > DENSE * len(seen)
        columns = ALL if is_dense else seen.nonzero()[:, 0]
        blocks.append(MaskBlock(rows, columns, make_additive(part[..., columns], dtype)))
    return blocks


def make_additive(mask, dtype):
    """0 where the mask is True and -inf elsewhere.

    Rows begin at multiples of ALIGNMENT: PyTorch copies any other mask in every layer.
    """
    *outer, columns = mask.shape
    width = -(-columns // ALIGNMENT) * ALIGNMENT
    padded = torch.zeros(*outer, width, dtype=dtype, device=mask.device)
    return padded[..., :columns].masked_fill_(~mask, -torch.inf)
