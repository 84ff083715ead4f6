"""Attention in blocks of a mask: the numbers of the formula, whatever the blocks."""

import pytest
import torch

from support import attention
from support.attention import attend, split_mask


def draw_heads(T, S, heads=4, groups=2, d=8, seed=0):
    """q (2, heads, T, d), and k and v (2, groups, S, d)."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(2, heads, T, d, generator=generator)
    k, v = torch.randn(2, 2, groups, S, d, generator=generator)
    return q, k, v


def compute_attention(q, k, v, mask):
    """softmax(q k^T / sqrt(d)) v by hand, in float64; neighbouring query heads share a key head."""
    q, k, v = q.double(), k.double(), v.double()
    shared = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v


def draw_mask(shape, seed=0):
    """A random mask of which every row sees at least one column, and no row the last column."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.3
    mask[..., 0] = True
    mask[..., -1] = False
    return mask


@pytest.mark.parametrize("block", [1, 3, 128])
@pytest.mark.parametrize("shape", [(7, 9), (2, 1, 7, 9)])
def test_a_mask_in_blocks_gives_the_formula(block, shape, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK_ROWS", block)
    q, k, v = draw_heads(*shape[-2:])
    mask = draw_mask(shape)
    found = attend(q, k, v, split_mask(mask), causal=False)
    expected = compute_attention(q, k, v, mask)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_without_a_mask_a_chain_is_causal():
    q, k, v = draw_heads(6, 6)
    found = attend(q, k, v, split_mask(None), causal=True)
    expected = compute_attention(q, k, v, torch.ones(6, 6, dtype=torch.bool).tril())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_blocks_hold_every_row_once_and_all_that_it_sees(monkeypatch):
    monkeypatch.setattr(attention, "BLOCK_ROWS", 4)
    mask = draw_mask((10, 12))
    whole = torch.zeros_like(mask)
    for rows, columns, part in split_mask(mask):
        block = torch.zeros(len(part), 12, dtype=torch.bool)
        block[:, columns] = part
        assert not whole[rows].any()
        whole[rows] = block
        # A column that no row of the block sees is left out.
        assert part.any(0).all()
    assert torch.equal(whole, mask)
