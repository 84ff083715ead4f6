"""Attention in blocks of a mask: the numbers of the formula, whatever the blocks."""

import pytest
import torch

from support import attention
from support.attention import attend, attend_in_rows, make_additive, split_mask


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
    found = attend(q, k, v, split_mask(mask, q.dtype, 2), causal=False)
    expected = compute_attention(q, k, v, mask)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_without_a_mask_a_chain_is_causal():
    q, k, v = draw_heads(6, 6)
    found = attend(q, k, v, split_mask(None, q.dtype, 2), causal=True)
    expected = compute_attention(q, k, v, torch.ones(6, 6, dtype=torch.bool).tril())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dense", [0.3, 0.75, 1])
def test_blocks_hold_every_row_once_and_all_that_it_sees(monkeypatch, dense):
    monkeypatch.setattr(attention, "BLOCK_ROWS", 4)
    monkeypatch.setattr(attention, "DENSE", dense)
    mask = draw_mask((10, 12))
    whole = torch.zeros_like(mask)
    for rows, columns, part in split_mask(mask, torch.float32, 1):
        block = torch.zeros(len(part), 12, dtype=torch.bool)
        block[:, columns] = part == 0
        assert not whole[rows].any()
        whole[rows] = block
        # Columns that no row of the block sees are left out, if there are enough of them.
        seen = mask[rows].any(0)
        assert part.shape[1] == (12 if seen.sum() > dense * 12 else seen.sum())
    assert torch.equal(whole, mask)


@pytest.mark.parametrize("columns", [1, 7, 8, 17])
def test_an_additive_mask_adds_nothing_or_hides(columns):
    """Its rows start where a GPU's kernel can read them: PyTorch copies no such mask."""
    mask = torch.rand(2, 1, 3, columns) < 0.5
    added = make_additive(mask, torch.bfloat16)
    assert added.dtype == torch.bfloat16 and added.shape == mask.shape
    assert torch.equal(added == 0, mask)
    assert torch.equal(added == -torch.inf, ~mask)
    assert all(step % 8 == 0 for step in added.stride()[:-1])
    assert added.stride(-1) == 1 and added.data_ptr() % 16 == 0


@pytest.mark.parametrize("heads, groups", [(4, 2), (6, 2), (3, 3), (4, 1)])
@pytest.mark.parametrize("shape", [(7, 9), (2, 1, 7, 9)])
def test_heads_of_a_group_as_rows_change_nothing(shape, heads, groups):
    """What a GPU computes: the same outputs and gradients as with groups."""
    q, k, v = draw_heads(*shape[-2:], heads, groups)
    mask = draw_mask(shape)
    rows = make_additive(torch.cat([mask] * (heads // groups), -2), q.dtype)
    inputs = [tensor.requires_grad_() for tensor in (q, k, v)]
    expected = compute_attention(q, k, v, mask).float()
    found = attend_in_rows(q, k, v, rows)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    upstream = torch.randn(found.shape)
    ours = torch.autograd.grad(found, inputs, upstream)
    theirs = torch.autograd.grad(expected, inputs, upstream)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
