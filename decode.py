"""The same answers as `CapeLLM.locate_slowly`, fast: a tree of tokens (Sections 3.1 and 4.3).

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
and a 1 for itself: `grow_tree`. The template is known and never chosen: `[0.` is fed with the
question, `,0.` with the last digit of x. Several images are a forest, whose trees grow together.

The model is an argument everywhere: this file imports nothing of capellm.py.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from llama import KVCache
from study.digits import check_way, draw_digits
from support import passes
from support.tensors import find_float64_device, send

# Contrastive search: digits that are compared, and alpha. Table 9 states alpha only.
CANDIDATES = 5
ALPHA = 0.6


def grow_tree(rows: torch.Tensor, branch: torch.Tensor):
    """Extend n branches by chains of new tokens.

    rows (n, S) bool: what of the S tokens so far the end of each branch sees; branch (..., M):
    which of them each new token extends. Returns the mask (..., M, S + M) and the positions
    (..., M) of the new tokens. A branch forks by standing twice among `rows`; the rows of the new
    ends, the mask's at the last token of each branch, are what the next step grows from.
    """
    chain = (branch[..., :, None] == branch[..., None, :]).tril()
    mask = torch.cat((rows[branch], chain), dim=-1)
    return mask, mask.sum(-1) - 1


def answer_questions(model, trees: list[passes.Tree], decoding, cumulative, limit):
    """Answers to all questions about several images: for each image a list of Decoded.

    trees: of each image the trunk and the questions; cumulative: False, True or "confidence";
    limit: tokens that a chain may have. No image sees another: a pass of the model, which reads all
    weights, serves all of them.
    """
    check_way(decoding, cumulative)
    room = passes.count_room(model.codec, trees, limit if cumulative else 0, CANDIDATES)
    common = [[] for _ in trees]
    if cumulative is not True:
        common = [passes.find_common(tree.questions) for tree in trees]
    forest = model.Forest(model, trees, common, room, decoding)
    orders = [range(len(tree.questions)) for tree in trees]
    answers = {}
    if cumulative is not True:
        answers = answer_side_by_side(forest, common)
    if cumulative == "confidence":
        for i, order in enumerate(orders):
            orders[i] = sorted(order, key=lambda n, i=i: -answers[i, n].probability)
    if cumulative:
        answers = answer_in_chains(forest, orders, limit)
    return [[answers[i, n] for n in range(len(order))] for i, order in enumerate(orders)]


def answer_side_by_side(forest, common):
    """{(image, question): Decoded}. Each question is a branch off its image's trunk.

    common: what all questions about an image begin with, which the trunk already holds.
    """
    answers, trunk_lengths = {}, forest.lengths
    for asked in passes.plan_side_by_side(forest.trees):
        questions = [forest.trees[i].questions[n][len(common[i]):] for i, n in asked]
        answers |= forest.decode(asked, questions)
        forest.truncate(trunk_lengths)
    return answers


def answer_in_chains(forest, orders, limit):
    """Cumulative reasoning (Section 4.3): a question follows all earlier ones and their answers.

    orders: of each image's questions. If the next round would lead beyond the limit, a new chain
    starts behind the trunk.
    """
    answers, trees = {}, forest.trees
    for chain in passes.plan_chains(forest.model.codec, trees, orders, limit):
        forest.truncate([len(tree.trunk) for tree in trees])
        endings = [[] for _ in trees]
        for asked in chain:
            questions = [endings[i] + trees[i].questions[n] for i, n in asked]
            found = forest.decode(asked, questions)
            for (i, _), answer in found.items():
                endings[i] = forest.end_round(answer)
            answers |= found
    return answers


class Forest:
    """The tokens that the model has read, a tree for each image, and how digits are chosen.

    The trees stand in rows of equal length, and what fills a shorter one up is seen by no token.
    """

    def __init__(self, model, trees, common, room, decoding):
        self.model, self.trees, self.decoding = model, trees, decoding
        self.contrastive = decoding == "contrastive"
        trunks = []
        for tree, ids in zip(trees, common, strict=True):
            ids = send(torch.tensor(ids, dtype=torch.long), model.device)
            trunks.append(torch.cat([tree.trunk, model.llm.embed(ids)]))
        x = pad_sequence(trunks, batch_first=True)  # (B, T, D)
        length = x.shape[1] + room
        self.cache = KVCache(model.llm.config, len(x), length, x.dtype, model.device)
        # Here images are read, once for all questions. Contrastive search needs all (B, S, D).
        self.hidden = model.llm(x, cache=self.cache)
        self.truncate([len(trunk) for trunk in trunks])

    def end_round(self, answer):
        """What ends a round: its last digit is decided, but not yet read."""
        codec = self.model.codec
        return [codec.ids[answer.digits[-1]], *codec.close, codec.eos_id]

    def truncate(self, lengths):
        """Forget all but the first tokens of each image, so many."""
        S, device = max(lengths), self.model.device
        self.cache.truncate(S)
        self.hidden, self.lengths = self.hidden[:, :S], lengths
        # What the next questions about each image grow from, (B, S).
        self.rows = torch.arange(S, device=device) < send(lengths, device)[:, None]

    def decode(self, asked, questions) -> dict:
        """Decode the answers to questions behind `self.rows`, digit by digit: {asked: Decoded}.

        asked: (image, number of the question), images in order; questions: token ids. Equal
        answers to equal questions share a branch. Digits stay on the device until the end.
        """
        model, K = self.model, self.model.codec.K
        device = find_float64_device(model)
        draws = send(torch.stack([self.trees[i].draws[n] for i, n in asked]), device)
        asking = [(i, tuple(ids)) for (i, _), ids in zip(asked, questions, strict=True)]
        branch_of = {question: at for at, question in enumerate(dict.fromkeys(asking))}
        owners = [i for i, _ in branch_of]
        ends = self.read(self.rows[send(owners, model.device)], owners,
            [token for _, ids in branch_of for token in ids], [len(ids) for _, ids in branch_of])
        # The branch that each answer is on.
        branch = send([branch_of[question] for question in asking], device)
        repeated = len(branch_of) < len(asking)
        digits, of_digits = [], []
        for step in range(2 * K):
            if step:
                branch, ends = self.read_digits(branch, digits[-1], ends, step == K, repeated)
            log_p = compute_log_p(model, ends.hidden)
            if self.contrastive:
                digits.append(self.choose_by_contrast(ends, log_p)[branch])
            else:
                digits.append(draw_digits(log_p[branch], self.decoding, draws[:, step]))
            of_digits.append(log_p[branch])
        self.advance(asked, ends.rows[branch])
        return dict(zip(asked, passes.read_back(digits, of_digits), strict=True))

    def read(self, rows, owners, tokens, lengths):
        ends = extend_branches(
            self.model, self.cache, rows, owners, tokens, lengths, self.contrastive
        )
        if self.contrastive:
            self.hidden = torch.cat([self.hidden, ends.all_hidden], 1)
        return ends

    def read_digits(self, branch, digits, ends, is_first_of_y, repeated):
        """Read each answer's digit (n,) behind its branch (n,). Returns new branches and ends."""
        codec, parent, owners = self.model.codec, branch, ends.owners
        if repeated:
            # Answers that agree go on as one branch. Counting the branches waits for a GPU.
            forks = [tuple(fork) for fork in torch.stack([branch, digits], 1).tolist()]
            distinct = sorted(set(forks))
            branch = send([distinct.index(fork) for fork in forks], digits.device)
            parent, digits = send(distinct, digits.device).unbind(1)
            owners = [owners[at] for at, _ in distinct]
        tokens = send(codec.ids, digits.device)[digits, None]
        if is_first_of_y:
            comma = send(codec.comma, digits.device).expand(len(tokens), -1)
            tokens = torch.cat([tokens, comma], 1)
        lengths = [tokens.shape[1]] * len(tokens)
        return branch, self.read(ends.rows[parent], owners, tokens.flatten(), lengths)

    def advance(self, asked, rows):
        """Let the next questions about the asked images grow from ends that see `rows`."""
        self.rows = F.pad(self.rows, (0, rows.shape[1] - self.rows.shape[1]))
        self.rows[send([i for i, _ in asked], rows.device)] = rows

    def choose_by_contrast(self, ends, log_p):
        """Contrastive search (Su et al. 2022, Eq. 5): a digit (n,) for each branch.

        It takes, of the likeliest digits v, the one with the largest (1 - alpha) p(v) - alpha max_j
        cos(h_v, h_j). h_v: the hidden state of v, were it next; h_j: those of its ancestors.
        """
        model, length, rows = self.model, self.cache.length, ends.rows
        log_p, digits = log_p.topk(CANDIDATES)
        tokens = send(model.codec.ids, digits.device)[digits.flatten()]
        candidates = rows.repeat_interleave(CANDIDATES, 0)
        owners = [i for i in ends.owners for _ in range(CANDIDATES)]
        h = extend_branches(model, self.cache, candidates, owners, tokens, [1] * len(owners)).hidden
        self.cache.truncate(length)
        of_image = h.split([owners.count(i) for i in range(len(self.hidden))])
        cosine = torch.cat([
            F.normalize(v.float(), dim=-1) @ F.normalize(j.float(), dim=-1).T
            for v, j in zip(of_image, self.hidden, strict=True)
        ])
        cosine = cosine.view(len(rows), CANDIDATES, -1).masked_fill(~rows[:, None], -1)
        closest = cosine.amax(-1).to(digits.device)
        score = (1 - ALPHA) * log_p.exp() - ALPHA * closest
        return digits.gather(1, score.argmax(1, keepdim=True))[:, 0]


class Ends(NamedTuple):
    """Where n branches end."""

    owners: list  # the image of each, ascending
    rows: torch.Tensor  # (n, S): what the ends see
    hidden: torch.Tensor  # (n, D)
    all_hidden: torch.Tensor | None  # (B, M, D): of all new tokens, if asked for


def extend_branches(model, cache, rows, owners, tokens, lengths, all_hidden=False) -> Ends:
    """Read new tokens at the ends of n branches.

    rows (n, S): what the ends see; owners: the image of each, ascending; tokens: the n chains, one
    after the other, of these lengths.
    """
    counts, places = passes.place_ends(owners, lengths, cache.batch)
    branch = torch.repeat_interleave(torch.as_tensor(lengths)).split(counts)
    branch = pad_sequence(branch, batch_first=True, padding_value=-1)  # (B, M)
    ids = pad_sequence(send(tokens, model.device).split(counts), batch_first=True)
    mask, positions = grow_tree(rows, send(branch, model.device))
    at = send(owners, model.device), send(places, model.device)
    wanted = None if all_hidden else at
    Z = model.llm(model.llm.embed(ids), positions, mask[:, None], cache, wanted=wanted)
    if all_hidden:
        return Ends(owners, mask[at], Z[at], Z)
    return Ends(owners, mask[at], Z, None)


def compute_log_p(model, hidden):
    """log p (n, base) of the digit that follows hidden states (n, D), in float64: see Eq. 6."""
    logits = model.llm.logits(hidden, send(model.codec.ids, model.device))
    return logits.to(find_float64_device(model)).double().log_softmax(-1)
