"""The other output format of Table 17: a keypoint's answer is one new token, <KEYPOINT>.

The token's output embedding, the hidden state of the language model at this token, goes through a
small decoder trained from scratch: Linear, ReLU, Linear, sigmoid, to x and y. The paper says no
more. What we chose:

- The new token has one row of D numbers, trained. It is the token's input embedding and its row of
  W_logit; the rest of both tables stays frozen. It starts as the embedding of the token that opens
  an answer in digits: from the mean of all rows, nano's cross-entropy started at 22 nats and left
  the coordinates no share of the gradient.
- The decoder's hidden layer is as wide as the language model, D.
- Loss: the mean cross-entropy of <KEYPOINT> and the end of text after it, plus the mean of
  |x - x'| and |y - y'|, relative to the crop, with weight 1. Conversations weigh the same.
- As with digits, the token is fed at inference, not sampled: an answer is always a place. Its
  probability is that of <KEYPOINT> where the answer begins. There is one answer, so there are no
  ways to choose it (Table 9), and no density.

`train.py --output-format token` trains it. The model is an argument everywhere.
"""

import torch
import torch.nn.functional as F
from torch import nn

from decode import Forest, extend_branches
from support.passes import Decoded
from support.tensors import find_float64_device, send


class KeypointCodec:
    """An answer as tokens, as `capellm.Codec` has them: here one token, whatever the place."""

    K = 1

    def __init__(self, tokenizer, digits):
        self.token = tokenizer.vocab_size
        self.ids = [self.token]
        self.open, self.comma, self.close = [], [], []
        self.eos_id = tokenizer.eos_id
        # Which coordinates can be asked does not depend on the format.
        self.has_code = digits.has_code

    def point(self, x, y) -> list[int]:
        return [self.token]

    def encode(self, x, y) -> list[int]:
        return [self.token, self.eos_id]

    def place(self, answer) -> list[float]:
        """What the decoder has found is the place."""
        return answer


class ExtendedEmbedding(nn.Module):
    """A frozen embedding and one more row, fp32, for the id that follows its own."""

    def __init__(self, base: nn.Embedding, start: int):
        """start: the id whose row the new one starts as."""
        super().__init__()
        self.base = base.requires_grad_(False)
        self.new_row = nn.Parameter(base.weight[start].detach().float().clone())

    @property
    def weight(self):
        return self.base.weight

    def forward(self, ids):
        size = len(self.base.weight)
        known = self.base(ids.clamp(max=size - 1))
        is_new = (ids == size)[..., None]
        return torch.where(is_new, self.new_row.to(known.dtype), known)


def add_token(model):
    """Give a model with digits the new token and its decoder."""
    D, embedding = model.llm.config.hidden_size, model.llm.model.embed_tokens
    layers = nn.Linear(D, D), nn.ReLU(), nn.Linear(D, 2), nn.Sigmoid()
    model.point_decoder = nn.Sequential(*layers).to(embedding.weight.device)
    model.llm.model.embed_tokens = ExtendedEmbedding(embedding, model.codec.open[0])
    model.codec, model.Forest = KeypointCodec(model.tokenizer, model.codec), KeypointForest
    model.config.output = "token"


def compute_logits(model, Z):
    """Scores (n, vocab + 1) in fp32 from hidden states Z (n, D); <KEYPOINT> comes last."""
    # Gathered from shards, the row may be bf16.
    new = Z.float() @ model.llm.model.embed_tokens.new_row.float()
    return torch.cat([model.llm.logits(Z), new[:, None]], 1)


def average_losses(model, Z, labels, conversation, points):
    """The total loss and, of it, the mean distance; see `CapeLLM.average_losses`."""
    device, is_keypoint = model.device, labels == model.codec.token
    logits = compute_logits(model, Z)
    cross_entropy = F.cross_entropy(logits, send(labels, device), reduction="none")
    # The hidden state before the end of text is that of <KEYPOINT> itself.
    own = is_keypoint.nonzero()[:, 0] + 1
    places = model.point_decoder(Z[send(own, device)].float())
    truths = send(torch.tensor(points, dtype=torch.float32).view(-1, 2), device)
    distances = (places - truths).abs().mean(1)
    distance = average_conversations(distances, conversation[is_keypoint])
    return average_conversations(cross_entropy, conversation) + distance, distance.detach()


def average_conversations(values, conversation):
    """The mean over conversations, on the CPU, of the mean of each one's values (n,)."""
    counts = conversation.bincount()
    return (values / send(counts[conversation], values.device)).sum() / int((counts > 0).sum())


class KeypointForest(Forest):
    """As decode.Forest, with <KEYPOINT> in the place of the digits."""

    def __init__(self, model, trees, common, room, decoding):
        if decoding != "greedy":
            raise ValueError(
                f"decoding {decoding!r} chooses digits, and this model answers with <KEYPOINT> "
                "(Table 17): use greedy"
            )
        super().__init__(model, trees, common, room, decoding)

    def decode(self, asked, questions) -> dict:
        """Read questions behind the tokens read so far, and <KEYPOINT> behind each."""
        model = self.model
        owners = [image for image, _ in asked]
        ends = self.extend(self.rows[send(owners, model.device)], owners, questions)
        logits = compute_logits(model, ends.hidden).to(find_float64_device(model))
        probabilities = logits.double().softmax(-1)[:, model.codec.token]
        self.advance(asked, ends.rows)
        length = self.cache.length
        ends = self.extend(ends.rows, owners, [[model.codec.token]] * len(questions))
        # In a chain the token is read again, with the next question.
        self.cache.truncate(length)
        places = model.point_decoder(ends.hidden.float()).tolist()
        decoded = map(Decoded, places, probabilities.tolist())
        return dict(zip(asked, decoded, strict=True))

    def extend(self, rows, owners, chains):
        """Read n chains of tokens behind ends that see `rows` (n, S)."""
        tokens = [token for chain in chains for token in chain]
        lengths = [len(chain) for chain in chains]
        return extend_branches(self.model, self.cache, rows, owners, tokens, lengths)

    def end_round(self, answer):
        return [self.model.codec.token, self.model.codec.eos_id]
