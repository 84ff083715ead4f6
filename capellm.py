"""CapeLLM: keypoints of any object, from one photo and a description of each (Sections 3.1 and 4.4, Equations 1 to 6).

    model = CapeLLM.from_pretrained("nano")
    points = model.locate(Image.open("x.jpg"), read_descriptions("desc.txt"))

    photo -> DINOv2 -> W_proj -> V ----+
    question -> embedding -> T --------+-> [BOS; V; T] -> Llama -> digit logits -> x, y

The image is the trunk of a tree of tokens, each question a branch off it: a token attends to its ancestors, and its
position is its depth. One rule, `llama.grow`, holds for training and inference. Cumulative reasoning (Section 4.3) chains
the questions instead; `density` follows many answers to one question at once.
"""
import json
import os
import random
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from study import instructions
import data
from study import density
from dino import DINOv2
from llama import KVCache, Llama, grow, send
from support.tokenizer import Tokenizer
from lora import add_lora, merge_lora

BRANCHES = 32       # questions in one pass: each reads all weights once more, but on a GPU attention grows with the square
ANSWERS = 128       # that one pass decides on, where questions repeat
CANDIDATES = 5      # digits that contrastive search compares, alpha beside it: Table 9 states alpha only
ALPHA = 0.6


def top(log_p, k, mass=torch.inf):
    """log p (n, base) of the k likeliest digits, or of the fewest of them that hold the mass; -inf elsewhere. Ties: the lower."""
    p, order = log_p.exp().sort(dim=-1, descending=True, stable=True)
    kept = (p.cumsum(-1) - p < mass) & (torch.arange(p.shape[-1], device=p.device) < k)
    return log_p.masked_fill(~kept.scatter(-1, order, kept), -torch.inf)


DECODING = {        # Table 9: from log p of the digits (n, base) to the logits of which one is drawn
    "greedy": lambda log_p: top(log_p, 1),
    "sampling": lambda log_p: log_p,
    "temperature": lambda log_p: log_p / 0.6,
    "top-3": lambda log_p: top(log_p, 3),
    "top-5": lambda log_p: top(log_p, 5),
    "nucleus": lambda log_p: top(log_p, log_p.shape[-1], 0.92),
    "contrastive": None,                            # needs hidden states: CapeLLM.contrast
}


def together(keypoints):
    """Places in the list, in the parts that are answered together: those of equal keypoints side by side."""
    parts, asked = [], set()
    for i in sorted(range(len(keypoints)), key=lambda i: keypoints.index(keypoints[i])):
        asked.add(keypoints[i])
        if not parts or len(asked) > BRANCHES or len(parts[-1]) == ANSWERS:
            parts.append([])
            asked = {keypoints[i]}
        parts[-1].append(i)
    return parts


class Point(NamedTuple):
    """x, y in pixels of the original image; probability: what the model gave this answer, the product over its digits."""
    x: float
    y: float
    probability: float


class CapeLLM(nn.Module):
    """vision: f_phi (DINOv2); projection: W_proj (C, D), no bias; llm: g_theta (Llama) and W_logit; codec: Eq. 6."""

    def __init__(self, vision, llm, tokenizer, image_size=224, K=3):
        super().__init__()
        self.vision, self.llm, self.tokenizer = vision, llm, tokenizer
        self.image_size, self.codec, self.instruction = image_size, data.Codec(tokenizer, K), "base"
        self.projection = nn.Linear(vision.config.hidden_size, llm.config.hidden_size, bias=False)
        nn.init.normal_(self.projection.weight, std=vision.config.hidden_size ** -0.5)
        self.projection.weight.data = self.projection.weight.data.to(next(vision.parameters()).device)

    @property
    def device(self):
        return self.projection.weight.device

    @property
    def exact(self):
        """The device that decides on digits, in float64: Apple's (MPS) has none."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    def trunk(self, pixels, features=None):
        """[BOS; V] of pixels (B, 3, S, S), or of their features (B, N, C): Eq. 1 and 2, embedded (B, 1 + N, D)."""
        if features is None:
            features = self.vision(pixels)                                                          # Eq. 1, (B, N, C)
        V = self.projection(features.to(self.projection.weight.dtype))                              # Eq. 2, (B, N, D)
        bos = self.llm.embed(torch.full((len(V), 1), self.tokenizer.bos_id, device=self.device))
        return torch.cat([bos, V.to(bos.dtype)], 1)

    def hidden(self, pixels, branches, tap=None, features=None):
        """Z of Eq. 4 for images and their conversations.

        pixels (B, 3, S, S), or their features (B, N, C); branches: for each image a list of token id lists, each a branch
        off its image. Returns Z (B, T, D) and the places of the branches' tokens in it, in order, as two (n,) tensors
        (image, position); with `tap` Z is a pair, the second the hidden states after that layer.
        """
        trunk = self.trunk(pixels, features)
        (B, N, _), lengths = trunk.shape, [[len(ids) for ids in b] for b in branches]
        T = max(map(sum, lengths))
        ids = torch.zeros(B, T, dtype=torch.long)
        positions = torch.arange(N + T).repeat(B, 1)
        mask = torch.ones(B, 1, N + T, N + T, dtype=torch.bool).tril()          # padding, at the end, is read by nobody
        for i, branch in enumerate(branches):
            n = sum(lengths[i])
            ids[i, :n] = torch.tensor([t for b in branch for t in b])
            mask[i, 0, N:N + n, :N + n], positions[i, N:N + n] = grow(torch.ones(len(branch), N, dtype=torch.bool), lengths[i])
        chain = max(map(len, branches)) == 1                                    # the causal kernel does
        x = torch.cat([trunk, self.llm.embed(ids.to(self.device))], 1)                              # Eq. 3, (B, N + T, D)
        Z = self.llm(x, positions.to(self.device), None if chain else mask.to(self.device), tap=tap)    # Eq. 4
        image = torch.tensor([i for i, l in enumerate(lengths) for _ in range(sum(l))], device=self.device)
        position = torch.tensor([N + j for l in lengths for j in range(sum(l))], device=self.device)
        return Z, (image, position)

    def loss(self, pixels, branches):
        """Cross-entropy: the mean over conversations of each one's mean over its answer tokens. Also, with the same weights and
        without gradient, the mean over digits alone, 0 where none is asked for.

        branches: for each image a list of (ids, labels), see data.conversation.
        """
        Z, (image, position) = self.hidden(pixels, [[ids for ids, _ in b] for b in branches])
        labels = torch.tensor([t for b in branches for _, labels in b for t in labels])
        answers = (labels != data.IGNORE).nonzero()[:, 0]
        tokens = [sum(t != data.IGNORE for t in labels) for b in branches for _, labels in b]
        weight = torch.tensor([1 / (n * len(tokens)) for n in tokens for _ in range(n)], device=self.device)
        digits = torch.isin(labels[answers], torch.tensor(self.codec.ids)).to(self.device)
        labels, answers = labels[answers].to(self.device), answers.to(self.device)
        Y = self.llm.logits(Z[image[answers], position[answers] - 1])                               # Eq. 5, at answers only
        loss = F.cross_entropy(Y, labels, reduction="none")
        only = weight * digits
        return weight @ loss, only @ loss.detach() / only.sum().clamp(min=1e-9)

    def look(self, image, box=None):
        """A PIL image's pixels (3, S, S) around a box, and the affine matrix of data.crop_affine."""
        affine = data.crop_affine(box or (0, 0, *image.size), self.image_size)
        return data.crop(image.convert("RGB"), affine, self.image_size).to(self.device), affine

    def context(self, pixels, keypoints, category="object", listed=None):
        """What is asked about an image (3, S, S): what all questions follow, its trunk and the instruction's opening (1, T, D), and
        each question's tokens up to the first digit. ValueError where one is too long."""
        listed, trunk = listed or keypoints, self.trunk(pixels[None])
        ids, _ = data.opening(self.tokenizer, self.codec, self.instruction, category, listed, listed)
        if ids:
            trunk = torch.cat([trunk, self.llm.embed(torch.tensor([ids], device=self.device))], 1)
        questions = [data.question(self.tokenizer, k, self.instruction) + self.codec.open for k in keypoints]
        for k, question in zip(keypoints, questions):
            if (n := trunk.shape[1] + len(question)) > data.MAX_TOKENS:
                raise ValueError(f"{k.name[:60]!r}: the image and its question take {n} tokens, more than {data.MAX_TOKENS}: shorten its "
                                 "name or description")
        return trunk, questions

    @torch.inference_mode()
    def locate(self, image, keypoints, box=None, decoding="greedy", cumulative=False, seed=0, category="object"):
        """Where are these keypoints? By default greedy, single round (Section 4.1).

        image: PIL image; keypoints: list of data.Keypoint; box: x, y, w, h in pixels of the object (default: the whole image);
        the others: see `answer`. Returns a list of Point in the image's own pixels. The image is computed once; only digits
        are decoded, so every answer is a coordinate inside the (square) crop.
        """
        pixels, affine = self.look(image, box)
        coordinates, probability = self.answer(pixels, keypoints, decoding, cumulative, seed, category)
        points = data.to_image(coordinates, affine, self.image_size)
        return [Point(float(x), float(y), float(p)) for (x, y), p in zip(points, probability)]

    def density(self, image, keypoint, box=None, **question):
        """How likely is each place? A density.Density over the crop of `locate`; data.to_image leads back to the image.

        question: category and listed, as for `answer`."""
        return density.density(self, self.look(image, box)[0], keypoint, **question)

    @torch.inference_mode()
    def answer(self, pixels, keypoints, decoding="greedy", cumulative=False, seed=0, category="object", listed=None):
        """pixels (3, S, S), list of Keypoint -> relative coordinates (K, 2) and their probabilities (K,).

        S: any multiple of the patch, whatever the model was trained with (Table 8). decoding: a name of DECODING; what it
        draws depends on the seed, the keypoint's words and how often the list held them before, not on its neighbours. So
        [keypoint] * 100 gives samples; single-round, they share the question and what digits they have in common.
        cumulative (Section 4.3): a question follows all earlier ones and their own answers, in the order given, or, with
        "confidence", by falling probability of single-round answers, found first. Where the next round would lead beyond
        data.MAX_TOKENS, a new chain starts behind the image: all earlier rounds are forgotten. category and listed, all of its
        keypoints (default: those asked), are for instructions that name them.
        """
        if decoding not in DECODING:
            raise ValueError(f"decoding {decoding!r} is not known: choose one of {', '.join(DECODING)}")
        if cumulative not in (False, True, "confidence"):
            raise ValueError(f"cumulative is {cumulative!r}, expected False, True or 'confidence'")
        codec, (trunk, questions) = self.codec, self.context(pixels, keypoints, category, listed)
        N = trunk.shape[1]
        shared = [] if cumulative is True else [*os.path.commonprefix(questions)][:min(map(len, questions), default=1) - 1]
        if shared:                                                  # what all questions begin with is asked once
            trunk = torch.cat([trunk, self.llm.embed(torch.tensor([shared], device=self.device))], 1)
        generators = {k: random.Random(f"{seed} {k.name}: {k.description}") for k in keypoints}
        draws = torch.tensor([[generators[k].random() for _ in range(2 * codec.K)] for k in keypoints], dtype=torch.float64)
        answer, longest = len(codec.encode(0, 0)), sorted(map(len, set(map(tuple, questions))))[-BRANCHES:]
        lengths = [len(q) - len(codec.open) + answer for q in questions]
        room = max(sum(longest), bool(cumulative) * min(sum(lengths), data.MAX_TOKENS - N))
        room += min(len(keypoints), ANSWERS) * (answer + CANDIDATES)
        cache = KVCache(self.llm.config, 1, N + room, trunk.dtype, self.device)
        context, answers = [self.llm(trunk, cache=cache)[0]], [None] * len(keypoints)
        if cumulative is not True:
            for part in together(keypoints):
                found = self.decode(cache, context, [questions[i][len(shared):] for i in part], draws[part], decoding)
                for i, answered in zip(part, found):
                    answers[i] = answered
                cache.truncate(N + len(shared))
                del context[1:]
        if cumulative:
            if shared:
                cache.truncate(N)
                context[0] = context[0][:N]
            order, behind = range(len(keypoints)), []               # behind: what ends the round before
            for i in order if cumulative is True else sorted(order, key=lambda i: -answers[i][1]):
                if cache.length + len(behind) + lengths[i] > data.MAX_TOKENS:
                    cache.truncate(N)
                    del context[1:]
                    behind = []
                answers[i], = self.decode(cache, context, [behind + questions[i]], draws[i:i + 1], decoding)
                behind = [codec.ids[answers[i][0][-1]]] + codec.close + [codec.eos_id]
        return [[codec.value(d[:codec.K]), codec.value(d[codec.K:])] for d, _ in answers], [p for _, p in answers]

    def decode(self, cache, context, questions, draws, decoding):
        """Answers to n questions off the cached tokens: for each its 2 K digits and their probability.

        questions: their tokens up to the first digit; draws (n, 2 K): uniform in [0, 1); context: hidden states of the
        cached tokens, a list of (T, D), grown with the cache where the decoding reads it. The template is known, so it is
        fed with the tokens before it; each of the 2 K steps decides one digit an answer. Answers to the same question share
        a branch as long as their digits are the same. Digits stay on the device until the end: nobody waits for them.
        """
        codec, contrastive, digits, log_p = self.codec, decoding == "contrastive", [], 0
        distinct = list(dict.fromkeys(map(tuple, questions)))
        branch = [distinct.index(tuple(q)) for q in questions]                                      # that an answer is on
        branch, draws, ids, comma = (send(v, self.exact) for v in (branch, draws, codec.ids, codec.comma))
        rows = torch.ones(len(distinct), cache.length, dtype=torch.bool, device=self.device)
        tokens, lengths = [t for q in distinct for t in q], [len(q) for q in distinct]
        for step in range(2 * codec.K):
            if step:
                forks = branch * codec.base + digits[-1]                                            # branch and digit, in one
                if len(distinct) < len(questions):      # the exception: how many forks differ, a GPU has to tell
                    forks, branch = forks.unique(return_inverse=True)
                template = comma if step == codec.K else comma[:0]
                tokens = torch.cat([ids[forks % codec.base, None], template.expand(len(forks), -1)], 1)
                rows, lengths, tokens = rows[forks // codec.base], [tokens.shape[1]] * len(forks), tokens.flatten()
            Z, rows, factor = self.extend(cache, rows, tokens, lengths, every=contrastive)
            if contrastive:
                context.append(Z)
                digits.append(self.contrast(cache, torch.cat(context), rows, factor)[branch])
            else:
                cdf = DECODING[decoding](factor).softmax(-1).cumsum(-1)[branch]
                digits.append((cdf / cdf[:, -1:] <= draws[:, step, None]).sum(-1))
            log_p = log_p + factor[branch, digits[-1]]
        return list(zip(torch.stack(digits, 1).tolist(), log_p.exp().tolist()))

    def extend(self, cache, rows, tokens, lengths, every=False):
        """Grow n branches, rows (n, S), by tokens (N,), chains of these lengths (llama.grow). Returns hidden states of the ends
        (n, D), or of every token, the ends' rows, and log p (n, base) of the digit that follows: a factor of Eq. 6, float64."""
        ends = send(torch.tensor(lengths).cumsum(0) - 1, self.device)
        mask, positions = grow(rows, lengths)
        x = self.llm.embed(send(tokens, self.device))[None]
        Z = self.llm(x, positions, mask, cache, read=slice(None) if every else ends)[0]
        logits = self.llm.logits(Z[ends] if every else Z, send(self.codec.ids, self.device))
        return Z, mask[ends], logits.to(self.exact).double().log_softmax(-1)

    def contrast(self, cache, context, rows, log_p):
        """Contrastive search (Su et al. 2022, Eq. 5): of the likeliest digits v that with the largest (1 - alpha) p(v) - alpha
        max_j cos(h_v, h_j). h_v: its hidden state, were it next; h_j: those of all tokens before, of context (S, D)."""
        n, length, (log_p, digits) = len(rows), cache.length, log_p.topk(CANDIDATES)
        tokens = send(self.codec.ids, self.exact)[digits.flatten()]
        h = self.extend(cache, rows.repeat_interleave(CANDIDATES, 0), tokens, [1] * len(tokens))[0]
        cache.truncate(length)
        cosine = F.normalize(h.float(), dim=-1) @ F.normalize(context.float(), dim=-1).T
        cosine = cosine.view(n, CANDIDATES, -1).masked_fill(~rows[:, None], -1).amax(-1).to(self.exact)
        return digits.gather(1, ((1 - ALPHA) * log_p.exp() - ALPHA * cosine).argmax(1, keepdim=True))[:, 0]

    # ------------------------------------------------------------------ folders

    @classmethod
    def assemble(cls, vision, llm, image_size=224, K=3, lora=None, dtype=None, device="cpu"):
        """A model from two official backbone folders, all of it frozen. lora: {"rank", "alpha", "dropout", "parts"} injects
        adapters into the query and value projections of its parts, of "vision" and "llm" (Section 4.1)."""
        model = cls(DINOv2.from_pretrained(vision, dtype, device), Llama.from_pretrained(llm, dtype, device),
                    Tokenizer.from_pretrained(llm), image_size, K)
        model.config = {"vision": os.path.abspath(vision), "llm": os.path.abspath(llm), "image_size": image_size, "K": K,
                        "lora": None, "everything": False, "instruction": "base"}
        if lora:
            model.adapt(lora)
        return model.requires_grad_(False)

    def adapt(self, lora):
        """Inject adapters {"rank", "alpha", "dropout", "parts"} into those of the parts that have none yet."""
        places = {"vision": (self.vision, ("query", "value")), "llm": (self.llm, ("q_proj", "v_proj"))}
        present = self.config["lora"] or lora | {"parts": []}
        missing = [part for part in lora["parts"] if part not in present["parts"]]
        for part in missing:
            add_lora(*places[part], *(present[k] for k in ("rank", "alpha", "dropout")))
        self.config["lora"] = present | {"parts": present["parts"] + missing}

    @classmethod
    def from_pretrained(cls, folder, dtype=None, device="cpu", merge=True):
        """A model folder: config.json, adapter.safetensors, and backbones beside it or where the config says.

        merge folds the adapters into the backbones, for inference.
        """
        folder = Path(folder)
        try:
            config = json.loads((folder / "config.json").read_bytes())
            vision, llm = (p if (p := folder / config[b]).exists() else Path(config[b]) for b in ("vision", "llm"))
            arguments = {k: config[k] for k in ("image_size", "K", "lora")}
            everything, instruction = config["everything"], config["instruction"]
            if instruction not in instructions.INSTRUCTIONS:
                raise ValueError(f"instruction {instruction!r} is not one of {', '.join(instructions.INSTRUCTIONS)}")
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(f"{folder} is no model folder: config.json is missing") from None
        except (ValueError, KeyError, TypeError) as e:
            raise ValueError(f"{folder}/config.json cannot be read ({type(e).__name__}: {e})") from None
        model = cls.assemble(vision, llm, dtype=dtype, device=device, **arguments)
        model.config |= {"everything": everything, "instruction": instruction}
        model.instruction = instruction
        model.load_adapter(folder)
        if merge and config["lora"]:
            merge_lora(model)
        return model.eval()

    def adapter(self):
        """What a model folder holds beside its backbones, by name: LoRA and projection; everything, where all was trained."""
        return {n: p.detach() for n, p in self.named_parameters()
                if self.config["everything"] or n.startswith("projection.") or n.endswith((".lora_A", ".lora_B"))}

    def load_adapter(self, folder):
        """Load adapter.safetensors of a model folder; every tensor checked by name and shape."""
        path = Path(folder) / "adapter.safetensors"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: a model folder holds config.json and adapter.safetensors")
        try:
            tensors = load_file(path, device=str(self.device))
        except SafetensorError as e:
            raise ValueError(f"{path} is damaged or cut short ({e}): copy or save it again") from None
        own = self.adapter()
        if wrong := sorted(own.keys() ^ tensors.keys()):
            raise ValueError(f"{path}: {wrong[0]} is {'missing' if wrong[0] in own else 'not expected'} ({len(wrong)} such tensors)")
        for name, tensor in own.items():
            if tensor.shape != tensors[name].shape:
                raise ValueError(f"shape of {name} is {tuple(tensors[name].shape)} in {path}, expected {tuple(tensor.shape)}")
            tensor.copy_(tensors[name])
