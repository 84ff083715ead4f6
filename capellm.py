"""CapeLLM: keypoints of any object, from one photo and a description of each (Sections 3.1 and 4.4, Equations 1 to 6).

    model = CapeLLM.from_pretrained("nano")
    points = model.locate(Image.open("x.jpg"), read_descriptions("desc.txt"))

    photo -> DINOv2 -> W_proj -> V ----+
    question -> embedding -> T --------+-> [BOS; V; T] -> Llama -> digit logits -> x, y

The image is the trunk of a tree of tokens, each question a branch off it: a token attends to its ancestors, and its
position is its depth. One rule, `llama.grow`, holds for training and inference.
"""
import json
import os
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

import data
from dino import DINOv2
from llama import KVCache, Llama, Tokenizer, grow
from lora import add_lora, merge_lora

BRANCHES = 16       # questions in one pass: more would make the masked product quadratic, fewer waste the pass


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
        self.image_size, self.codec = image_size, data.Codec(tokenizer, K)
        self.projection = nn.Linear(vision.config.hidden_size, llm.config.hidden_size, bias=False)
        nn.init.normal_(self.projection.weight, std=vision.config.hidden_size ** -0.5)
        self.projection.weight.data = self.projection.weight.data.to(next(vision.parameters()).device)

    @property
    def device(self):
        return self.projection.weight.device

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
        """Cross-entropy over the answer tokens, each image's mean weighing the same, and the same over digits alone (no gradient).

        branches: for each image a list of (ids, labels), see data.conversation.
        """
        Z, (image, position) = self.hidden(pixels, [[ids for ids, _ in b] for b in branches])
        labels = torch.tensor([t for b in branches for _, labels in b for t in labels])
        answers = (labels != data.IGNORE).nonzero()[:, 0]
        tokens = [sum(t != data.IGNORE for _, labels in b for t in labels) for b in branches]
        weight = torch.tensor([1 / (n * len(tokens)) for n in tokens for _ in range(n)], device=self.device)
        digits = torch.isin(labels[answers], torch.tensor(self.codec.ids)).to(self.device)
        labels, answers = labels[answers].to(self.device), answers.to(self.device)
        Y = self.llm.logits(Z[image[answers], position[answers] - 1])                               # Eq. 5, at answers only
        loss = F.cross_entropy(Y, labels, reduction="none")
        return weight @ loss, (loss.detach() * digits).sum() / digits.sum()

    @torch.inference_mode()
    def locate(self, image, keypoints, box=None):
        """Where are these keypoints? Greedy, single round (Section 4.1).

        image: PIL image; keypoints: list of data.Keypoint; box: x, y, w, h in pixels of the object (default: the whole image).
        Returns a list of Point in the image's own pixels. The image is computed once; only digits are decoded, so every
        answer is a coordinate inside the (square) crop.
        """
        affine = data.crop_affine(box or (0, 0, *image.size), self.image_size)
        pixels = data.crop(image.convert("RGB"), affine, self.image_size).to(self.device)
        coordinates, probability = self.answer(pixels, keypoints)
        points = data.to_image(coordinates, affine, self.image_size)
        return [Point(float(x), float(y), float(p)) for (x, y), p in zip(points, probability)]

    @torch.inference_mode()
    def answer(self, pixels, keypoints):
        """pixels (3, S, S), list of Keypoint -> relative coordinates (K, 2) and their probabilities (K,)."""
        trunk = self.trunk(pixels[None])
        questions = [data.question(self.tokenizer, k) for k in keypoints]
        answer = len(self.codec.encode(0, 0))
        longest = sum(sorted(len(q) + answer for q in questions)[-BRANCHES:])
        cache = KVCache(self.llm.config, 1, trunk.shape[1] + longest, trunk.dtype, self.device)
        self.llm(trunk, cache=cache)
        coordinates, probability = [], []
        for i in range(0, len(questions), BRANCHES):
            values, p = self.decode(cache, questions[i:i + BRANCHES])
            coordinates += values
            probability += p
            cache.truncate(trunk.shape[1])
        return coordinates, probability

    def decode(self, cache, questions):
        """Greedy answers to n questions, each a branch off the cached trunk: [[x, y], ...] and their probabilities (n,).

        The template is known, so it is fed with the tokens before it; each of the 2 K steps decides one digit a branch.
        """
        codec, digit_ids = self.codec, torch.tensor(self.codec.ids, device=self.device)
        rows = torch.ones(len(questions), cache.length, dtype=torch.bool, device=self.device)
        feed, digits, log_p = [q + codec.open for q in questions], [], torch.zeros(len(questions), device=self.device)
        for step in range(2 * codec.K):
            if step:
                template = codec.comma if step == codec.K else []
                feed = [[codec.ids[d]] + template for d in digits[-1].tolist()]
            ends = torch.tensor([len(f) for f in feed], device=self.device).cumsum(0) - 1
            mask, positions = grow(rows, [len(f) for f in feed])
            x = self.llm.embed(torch.tensor([t for f in feed for t in f], device=self.device))[None]
            Z = self.llm(x, positions, mask, cache, read=ends)                                      # (1, n, D)
            p = self.llm.logits(Z[0], digit_ids).log_softmax(-1).max(-1)                            # Eq. 6, one factor
            digits.append(p.indices)
            log_p += p.values
            rows = mask[ends]
        digits = torch.stack(digits, 1).tolist()
        return [[codec.value(d[:codec.K]), codec.value(d[codec.K:])] for d in digits], log_p.exp().tolist()

    # ------------------------------------------------------------------ folders

    @classmethod
    def assemble(cls, vision, llm, image_size=224, K=3, lora=None, dtype=None, device="cpu"):
        """A model from two official backbone folders, all of it frozen. lora: {"rank", "alpha", "dropout", "parts"} injects
        adapters into the query and value projections of its parts, of "vision" and "llm" (Section 4.1)."""
        model = cls(DINOv2.from_pretrained(vision, dtype, device), Llama.from_pretrained(llm, dtype, device),
                    Tokenizer.from_pretrained(llm), image_size, K)
        for part in lora["parts"] if lora else ():
            backbone, names = {"vision": (model.vision, ("query", "value")), "llm": (model.llm, ("q_proj", "v_proj"))}[part]
            add_lora(backbone, names, *(lora[k] for k in ("rank", "alpha", "dropout")))
        model.config = {"vision": os.path.abspath(vision), "llm": os.path.abspath(llm), "image_size": image_size, "K": K,
                        "lora": lora, "everything": False}
        return model.requires_grad_(False)

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
            everything = config["everything"]
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(f"{folder} is no model folder: config.json is missing") from None
        except (ValueError, KeyError, TypeError) as e:
            raise ValueError(f"{folder}/config.json cannot be read ({type(e).__name__}: {e})") from None
        model = cls.assemble(vision, llm, dtype=dtype, device=device, **arguments)
        model.config["everything"] = everything
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
