"""An image computed once for all of its conversations in training (`train.py --share-image`).

The paper gives each conversation an image of its own. Here they are branches off one: the same
loss and gradients, in fewer tokens: trees as in `decode.py`. The model is an argument.
"""

from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from data import IGNORE
from support.tensors import send

PADDING = -1


class ReadTokens(NamedTuple):
    """Hidden states (B, T, D), and of every branch's token, in order, its image and place (n,).

    The latter are on the CPU.
    """

    hidden: torch.Tensor
    image: torch.Tensor
    place: torch.Tensor


def read_branches(model, V, branches) -> ReadTokens:
    """Read whole trees at once. V (B, N, D): image tokens; branches: token ids, for each image."""
    trunk = 1 + V.shape[1]
    ids, numbers, image, place = [], [], [], []
    for i, tree in enumerate(branches):
        tokens = [token for branch in tree for token in branch]
        ids.append(torch.tensor(tokens))
        numbers.append(torch.repeat_interleave(torch.tensor([len(branch) for branch in tree])))
        image += [i] * len(tokens)
        place += range(trunk, trunk + len(tokens))
    x = model.sequence(V, pad_sequence(ids, batch_first=True))
    mask = positions = None
    # If every tree is a chain, the causal kernel needs no mask.
    if any(len(tree) > 1 for tree in branches):
        number = pad_sequence(numbers, batch_first=True, padding_value=PADDING)
        mask = make_masks(trunk, send(number, model.device))
        positions = mask[:, 0].sum(-1) - 1
    hidden = model.llm(x, positions, mask)
    return ReadTokens(hidden, torch.tensor(image), torch.tensor(place))


def make_masks(trunk, number):
    """Which tokens a token sees, (B, 1, T, T): number (B, M) is that of its branch, or PADDING.

    The trunk is a chain. A branch sees the trunk and itself. Padding sees what is before it, and
    is seen by no token, since it stands at the end.
    """
    B, M = number.shape
    T = trunk + M
    is_own = number[:, :, None] == number[:, None, :]
    is_padding = number[:, :, None] == PADDING
    mask = torch.ones(B, 1, T, T, dtype=torch.bool, device=number.device)
    mask[:, 0, trunk:, trunk:] = is_own | is_padding
    return mask.tril()


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
    # A token is predicted by the hidden state of the token before it.
    image, before = read.image[answers], read.place[answers] - 1
    Z = read.hidden[send(image, model.device), send(before, model.device)]
    return model.average_losses(Z, labels[answers], conversation[answers], points)
