"""study/share_image.py: branches off one image against each conversation alone."""

import pytest
import torch

from helpers import assert_shared_equals_alone, conversations, embed_sequence, photos
from study.share_image import read_branches


@torch.inference_mode()
@pytest.mark.parametrize(
    "rounds", [[[3]], [[1], [3], [2]], [[1, 2, 3], [1]], [[2, 1], [1, 1, 1, 1], [4]]]
)
def test_branches_and_batches_equal_each_alone(model, rounds):
    """A branch sees its image and itself; padding and neighbours change nothing."""
    pixels = photos(len(rounds))
    branches = []
    for seed, sizes in enumerate(rounds):
        branches.append([c.ids for c in conversations(model, sizes, seed)])
    read = read_branches(model, model.image_tokens(pixels), branches)
    expected, images = [], []
    for i, tree in enumerate(branches):
        for ids in tree:
            alone = model.llm(embed_sequence(model, pixels[i], ids))
            expected.append(alone[0, -len(ids) :])
            images += [i] * len(ids)
    found = read.hidden[read.image, read.place]
    torch.testing.assert_close(found, torch.cat(expected), atol=2e-5, rtol=0)
    assert read.image.tolist() == images


@pytest.mark.parametrize("sizes", [[[4, 1, 2], [3, 4]], [[2], [1]]])
def test_a_shared_image_changes_no_gradient(model, sizes):
    """As branches off one image, or each beside an image of its own: the same loss."""
    assert_shared_equals_alone(model, sizes, 1e-5)
