"""The same answers as `CapeLLM.locate_slowly`, fast: a tree of tokens (Sections 4.1 and 4.3).

What is asked of the language model is never one long text. It is one image, many questions about
it, and for each answer several digits. These tokens form a tree: a token sees its ancestors and
itself, nothing else, and its position is its depth. An image of two tokens, a and b, and two
questions of one token, c and d:

                            sees   a b c d   position
        a -- b --+-- c         a   1 . . .   0
                 |             b   1 1 . .   1
                 +-- d         c   1 1 1 .   2
                               d   1 1 . 1   2

The image is the trunk; questions are branches off it; the digits of an answer grow its branch.
Cumulative reasoning chains the questions instead. The row of a new token is the row of its parent
and a 1 for itself: `grow_tree`. The template `[0.` `,0.` is known and is fed with the digits.

The model is an argument everywhere: this file imports nothing of capellm.py.
"""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F

from llama import ALL, KVCache
from support.passes import count_room, count_round, find_common, split_into_passes
from support.tensors import find_float64_device, send

# Contrastive search: digits that are compared, and alpha. Table 9 states alpha only.
CANDIDATES = 5
ALPHA = 0.6


def grow_tree(rows: torch.Tensor, lengths):
    """Extend n branches by chains of new tokens.

    rows (n, S) bool: what of the S tokens so far the end of each branch sees; lengths: n numbers of
    new tokens. Returns the mask (M, S + M) and the positions (M,) of the M = sum(lengths) new
    tokens, branch by branch. A branch forks by standing twice among `rows`; the rows of the new
    ends, mask[cumsum(lengths) - 1], are what the next step grows from.
    """
    branch = send(torch.repeat_interleave(torch.as_tensor(lengths)), rows.device)  # (M,)
    chain = (branch[:, None] == branch).tril()
    mask = torch.cat((rows[branch], chain), dim=1)
    return mask, mask.sum(1) - 1


# Table 9: how a digit is chosen. Each maps log p of the digits (n, base) to logits, from which
# `draw_digits` samples a digit.


def sharpen(log_p, temperature):
    return log_p / temperature


def keep_likeliest(log_p, k=torch.inf, mass=torch.inf):
    """Keep the k likeliest digits, or the fewest that hold the mass; of equal ones the lower."""
    p, order = log_p.exp().sort(dim=-1, descending=True, stable=True)
    before = p.cumsum(-1) - p
    rank = torch.arange(p.shape[-1], device=p.device)
    kept = (before < mass) & (rank < k)
    kept = kept.scatter(-1, order, kept)  # from the order of rank back to that of digits
    return log_p.masked_fill(~kept, -torch.inf)


DECODING = {
    "greedy": partial(keep_likeliest, k=1),
    "sampling": partial(sharpen, temperature=1),
    "temperature": partial(sharpen, temperature=0.6),
    "top-3": partial(keep_likeliest, k=3),
    "top-5": partial(keep_likeliest, k=5),
    "nucleus": partial(keep_likeliest, mass=0.92),
    "contrastive": None,  # reads hidden states, too: see `choose_by_contrast`
}


def draw_digits(log_p, decoding, u) -> torch.Tensor:
    """Sample a digit (n,) from each row of log p (n, base), with u (n,) in [0, 1)."""
    # It is the number of digits whose cumulative probability is at most u.
    cdf = DECODING[decoding](log_p).softmax(-1).cumsum(-1)
    return (cdf / cdf[:, -1:] <= u[:, None]).sum(-1)


class Decoded(NamedTuple):
    digits: list  # 2 K, x before y; with <KEYPOINT> (Table 17), x and y themselves
    probability: float  # of these digits: Eq. 6


def answer_questions(model, trunk, questions, draws, decoding, cumulative, limit):
    """Answers to all questions about one image, a list of Decoded.

    trunk (1, T, D): what all questions follow, embedded; questions: token ids of each, up to the
    first digit; draws (n, 2 K): numbers in [0, 1) that digits are drawn with; cumulative: False,
    True or "confidence"; limit: tokens that a chain may have.
    """
    check_way(decoding, cumulative)
    T = trunk.shape[1]
    room = count_room(model.codec, questions, limit - T if cumulative else 0, CANDIDATES)
    # What all questions begin with is read once, behind the image.
    common = [] if cumulative is True else find_common(questions)
    common_ids = torch.tensor([common], dtype=torch.long)
    trunk = torch.cat([trunk, model.llm.embed(send(common_ids, model.device))], 1)
    tree = model.Tree(model, trunk, T + room, decoding)
    if cumulative is True:
        return answer_in_chain(tree, questions, draws, range(len(questions)), limit)
    answers = answer_side_by_side(tree, questions, draws, len(common))
    if cumulative == "confidence":
        surest_first = sorted(range(len(answers)), key=lambda i: -answers[i].probability)
        tree.truncate(T)
        answers = answer_in_chain(tree, questions, draws, surest_first, limit)
    return answers


def check_way(decoding, cumulative):
    if decoding not in DECODING:
        raise ValueError(f"decoding {decoding!r} is not known: choose one of {', '.join(DECODING)}")
    if cumulative not in (False, True, "confidence"):
        raise ValueError(f"cumulative is {cumulative!r}, expected False, True or 'confidence'")


def answer_side_by_side(tree, questions, draws, common):
    """Each question is a branch off the trunk, which holds its first `common` tokens."""
    start = tree.cache.length
    answers = [None] * len(questions)
    for part in split_into_passes(questions):
        branches = [questions[i][common:] for i in part]
        for i, found in zip(part, tree.decode(branches, draws[part]), strict=True):
            answers[i] = found
        tree.truncate(start)
    return answers


def answer_in_chain(tree, questions, draws, order, limit):
    """Cumulative reasoning (Section 4.3): a question follows all earlier ones and their answers.

    If the next round would lead beyond the limit, a new chain starts behind the trunk.
    """
    codec, start = tree.model.codec, tree.cache.length
    answers = [None] * len(questions)
    ending = []
    for i in order:
        tokens = tree.cache.length + len(ending) + count_round(codec, questions[i])
        if tokens > limit:
            tree.truncate(start)
            ending = []
        (answers[i],) = tree.decode([ending + questions[i]], draws[i:i + 1])
        ending = tree.end_round(answers[i])
    return answers


class Tree:
    """The tokens of one image that the model has read, and how digits are chosen."""

    def __init__(self, model, trunk, length, decoding):
        self.model, self.decoding = model, decoding
        self.cache = KVCache(model.llm.config, 1, length, trunk.dtype, model.device)
        self.contrastive = decoding == "contrastive"
        # Here the image is read, once for all questions. Contrastive search needs all (S, D).
        self.hidden = model.llm(trunk, cache=self.cache)[0]

    def end_round(self, answer):
        """What ends a round: its last digit is decided, but not yet read."""
        codec = self.model.codec
        return [codec.ids[answer.digits[-1]], *codec.close, codec.eos_id]

    def truncate(self, n):
        """Forget all but the first n tokens."""
        self.cache.truncate(n)
        self.hidden = self.hidden[:n]

    def decode(self, questions, draws) -> list[Decoded]:
        """Decode the answers to n questions off the tokens read so far, digit by digit.

        Equal answers to equal questions share a branch. Digits stay on the device until the end.
        """
        model, K = self.model, self.model.codec.K
        device = find_float64_device(model)
        draws = send(draws, device)
        distinct = list(dict.fromkeys(map(tuple, questions)))
        rows = torch.ones(len(distinct), self.cache.length, dtype=torch.bool, device=model.device)
        tokens = [token for question in distinct for token in question]
        ends = self.read(rows, tokens, [len(question) for question in distinct])
        # The branch that each answer is on.
        branch = send([distinct.index(tuple(question)) for question in questions], device)
        repeated = len(distinct) < len(questions)
        digits, log_probability = [], 0
        for step in range(2 * K):
            if step:
                branch, ends = self.read_digits(branch, digits[-1], ends, step == K, repeated)
            if self.contrastive:
                digits.append(self.choose_by_contrast(ends)[branch])
            else:
                digits.append(draw_digits(ends.log_p[branch], self.decoding, draws[:, step]))
            log_probability = log_probability + ends.log_p[branch, digits[-1]]
        # One read-back, which waits for all passes.
        found = torch.stack([*digits, log_probability.exp()], 1).tolist()
        return [Decoded([int(digit) for digit in row[:-1]], row[-1]) for row in found]

    def read(self, rows, tokens, lengths):
        ends = extend_branches(self.model, self.cache, rows, tokens, lengths, self.contrastive)
        if self.contrastive:
            self.hidden = torch.cat([self.hidden, ends.hidden])
        return ends

    def read_digits(self, branch, digits, ends, is_first_of_y, repeated):
        """Read each answer's digit (n,) behind its branch (n,). Returns new branches and ends."""
        codec, parent = self.model.codec, branch
        if repeated:
            # Answers that agree go on as one branch. Counting the branches waits for a GPU.
            forks = torch.stack([branch, digits], 1)
            forks, branch = forks.unique(dim=0, return_inverse=True)
            parent, digits = forks.unbind(1)
        tokens = send(codec.ids, digits.device)[digits, None]
        if is_first_of_y:
            comma = send(codec.comma, digits.device).expand(len(tokens), -1)
            tokens = torch.cat([tokens, comma], 1)
        lengths = [tokens.shape[1]] * len(tokens)
        return branch, self.read(ends.rows[parent], tokens.flatten(), lengths)

    def choose_by_contrast(self, ends):
        """Contrastive search (Su et al. 2022, Eq. 5): a digit (n,) for each branch.

        It takes, of the likeliest digits v, the one with the largest (1 - alpha) p(v) - alpha max_j
        cos(h_v, h_j). h_v: the hidden state of v, were it next; h_j: those of its ancestors.
        """
        model, length, rows = self.model, self.cache.length, ends.rows
        log_p, digits = ends.log_p.topk(CANDIDATES)
        tokens = send(model.codec.ids, digits.device)[digits.flatten()]
        candidates = rows.repeat_interleave(CANDIDATES, 0)
        h = extend_branches(model, self.cache, candidates, tokens, [1] * len(tokens)).hidden
        self.cache.truncate(length)
        cosine = F.normalize(h.float(), dim=-1) @ F.normalize(self.hidden.float(), dim=-1).T
        cosine = cosine.view(len(rows), CANDIDATES, -1).masked_fill(~rows[:, None], -1)
        closest = cosine.amax(-1).to(digits.device)
        score = (1 - ALPHA) * log_p.exp() - ALPHA * closest
        return digits.gather(1, score.argmax(1, keepdim=True))[:, 0]


class Ends(NamedTuple):
    hidden: torch.Tensor  # (n, D), of the ends of n branches, or (M, D), of all new tokens
    rows: torch.Tensor  # (n, S): what they see
    log_p: torch.Tensor  # (n, base), of the digit that follows


def extend_branches(model, cache, rows, tokens, lengths, all_hidden=False) -> Ends:
    """Read M new tokens at the ends of n branches.

    rows (n, S): what the ends see; tokens (M,): chains of these n lengths. log_p is of the digit
    that follows: a factor of Eq. 6, in float64.
    """
    ends = send(torch.tensor(lengths).cumsum(0) - 1, model.device)
    mask, positions = grow_tree(rows, lengths)
    x = model.llm.embed(send(tokens, model.device))[None]
    Z = model.llm(x, positions, mask, cache, read=ALL if all_hidden else ends)[0]
    logits = model.llm.logits(Z[ends] if all_hidden else Z, send(model.codec.ids, model.device))
    return Ends(Z, mask[ends], logits.to(find_float64_device(model)).double().log_softmax(-1))
