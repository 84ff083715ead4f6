"""An image computed once for all of its conversations in training (`train.py --share-image`).

The paper gives each conversation an image of its own. Here they are branches off one: the same
loss and gradients, in fewer tokens. It uses the tree of `decode.py`; the model is an argument.
"""

from typing import NamedTuple

import torch

from data import IGNORE
from decode import grow_tree


class ReadTokens(NamedTuple):
    """Hidden states (B, T, D), and of every branch's token, in order, its image and place (n,)."""

    hidden: torch.Tensor
    image: torch.Tensor
    place: torch.Tensor


def read_branches(model, V, branches) -> ReadTokens:
    """Read whole trees at once. V (B, N, D): image tokens; branches: token ids, for each image."""
    trunk = 1 + V.shape[1]
    lengths = [[len(ids) for ids in tree] for tree in branches]
    longest = max(sum(of_tree) for of_tree in lengths)
    T = trunk + longest
    ids = torch.zeros(len(V), longest, dtype=torch.long)
    positions = torch.arange(T).repeat(len(V), 1)
    # No token sees the padding, which stands at the end.
    mask = torch.ones(len(V), 1, T, T, dtype=torch.bool).tril()
    image, place = [], []
    for i, tree in enumerate(branches):
        tokens = [token for branch in tree for token in branch]
        end = trunk + len(tokens)
        ids[i, :len(tokens)] = torch.tensor(tokens)
        rows = torch.ones(len(tree), trunk, dtype=torch.bool)
        branch = torch.repeat_interleave(torch.tensor(lengths[i]))
        mask[i, 0, trunk:end, :end], positions[i, trunk:end] = grow_tree(rows, branch)
        image += [i] * len(tokens)
        place += range(trunk, end)
    # If every tree is a chain, the causal kernel needs no mask.
    chains = all(len(tree) == 1 for tree in branches)
    mask = None if chains else mask.to(model.device)
    x = model.sequence(V, ids.to(model.device))
    hidden = model.llm(x, positions.to(model.device), mask)
    image, place = (torch.tensor(v, device=model.device) for v in (image, place))
    return ReadTokens(hidden, image, place)


def compute_loss(model, pixels, branches):
    """`CapeLLM.loss` of images (B, 3, S, S) and, for each, a list of conversations."""
    ids = [[conversation.ids for conversation in tree] for tree in branches]
    read = read_branches(model, model.image_tokens(pixels), ids)
    labels, conversation, points = [], [], []
    for tree in branches:
        for branch in tree:
            number = conversation[-1] + 1 if conversation else 0
            conversation += [number] * len(branch.labels)
            labels += branch.labels
            points += branch.points
    labels, conversation = torch.tensor(labels), torch.tensor(conversation)
    answers = (labels != IGNORE).nonzero()[:, 0]
    tokens = answers.to(model.device)
    # A token is predicted by the hidden state of the token before it.
    Z = read.hidden[read.image[tokens], read.place[tokens] - 1]
    return model.average_losses(Z, labels[answers], conversation[answers], points)
