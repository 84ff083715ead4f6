"""CapeLLM: keypoints of any object, from one photo and a description of each (Sections 3 and 4).

    model = CapeLLM.from_pretrained("nano")
    points = model.locate(open_image("x.jpg"), read_descriptions("desc.txt"))

    photo -> DINOv2 -> W_proj -> V ----+
    question -> embedding -> T --------+-> [BOS; V; T] -> Llama -> digit logits -> x, y

The method as in the paper: codec, Equations 1 to 6, loss. Then fast answers, by `decode.py`.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence

import data
import decode
from llama import Llama
from lora import add_lora, merge_lora
from study import density, keypoint_token, share_image
from study.category import name_category
from study.encoders import load_encoder
from support import folders
from support.passes import Answers, Asked, Tree, check_length, collect_answers, draw_numbers
from support.radius import scale_radii
from support.tensors import send


class Codec:
    """Coordinates as tokens: `[0.abc,0.def]`, three decimals each (Section 3.1).

    A coordinate y in [0, 0.9995) has the code round(1000 y), 0 to 999, written as K = 3 digits, or
    as one "digit" of base 1000 (K = 1), if the vocabulary has all three-digit numbers. A coordinate
    outside of the crop has no code: `digits` refuses it, training does not ask for it.
    """

    def __init__(self, tokenizer, K=3):
        self.K = K
        self.base = 1000 if K == 1 else 10
        self.ids = tokenizer.digit3_ids if K == 1 else tokenizer.digit_ids
        if K not in (1, 3) or self.ids is None:
            raise ValueError(f"no coordinates of K = {K} tokens with this tokenizer; use K = 3")
        self.open = tokenizer.encode_continuation("[0.")
        self.comma = tokenizer.encode_continuation(",0.")
        self.close = tokenizer.encode_continuation("]")
        self.eos_id = tokenizer.eos_id

    @staticmethod
    def has_code(y):
        return (0 <= y) & (y < 0.9995)

    def digits(self, y: float) -> list[int]:
        """The K digits of a coordinate."""
        if not self.has_code(y):
            raise ValueError(f"{y} has no code: coordinates lie in [0, 0.9995)")
        # Floating point rounds 1000 y up to 999.5 for the last y below 0.9995.
        code = min(int(1000 * y + 0.5), 999)
        return [code // self.base**k % self.base for k in reversed(range(self.K))]

    def value(self, digits) -> float:
        """The coordinate that K digits stand for: the inverse of `digits`, to 0.0005."""
        code = 0
        for digit in digits:
            code = code * self.base + int(digit)
        return code / 1000

    def place(self, digits) -> list[float]:
        """[x, y] of the 2 K digits of an answer."""
        return [self.value(digits[:self.K]), self.value(digits[self.K:])]

    def point(self, x, y) -> list[int]:
        """Token ids of `[0.abc,0.def]`."""
        ids = [self.ids[digit] for digit in self.digits(x) + self.digits(y)]
        return self.open + ids[:self.K] + self.comma + ids[self.K:] + self.close

    def encode(self, x, y) -> list[int]:
        """Token ids of the whole answer, the end-of-text token included."""
        return self.point(x, y) + [self.eos_id]

    def is_digit(self, ids: torch.Tensor) -> torch.Tensor:
        """Which of answers' tokens (n,) are digits: not `0` of `[0.`, a token of its own or not."""
        return torch.isin(ids, torch.tensor(self.ids)) & (ids.roll(-1) != self.open[-1])


class CapeLLM(nn.Module):
    """vision: f_phi (DINOv2); projection: W_proj (C, D); llm: g_theta and W_logit (Llama)."""

    def __init__(self, vision, llm, tokenizer, config):
        super().__init__()
        self.vision, self.llm, self.tokenizer, self.config = vision, llm, tokenizer, config
        self.codec, self.Forest = Codec(tokenizer, config.K), decode.Forest
        C, D = vision.config.hidden_size, llm.config.hidden_size
        self.projection = nn.Linear(C, D, bias=False)
        nn.init.normal_(self.projection.weight, std=C**-0.5)
        self.projection.to(next(vision.parameters()).device)
        if config.output == "token":
            keypoint_token.add_token(self)

    def image_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) as tokens of the language model, one a patch: V (B, N, D)."""
        # Eq. 1: V~ = f_phi(image), (B, N, C)
        V_tilde = self.vision(pixels)
        # Eq. 2: V = V~ W_proj
        return self.projection(V_tilde.to(self.projection.weight.dtype))

    def sequence(self, V: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """What the language model reads: V (B, N, D) and token ids (B, N_t), embedded."""
        bos = torch.full((len(V), 1), self.tokenizer.bos_id, device=self.device)
        start, T = self.llm.embed(bos), self.llm.embed(send(ids, self.device))
        # Eq. 3: [V; T] behind BOS, (B, 1 + N + N_t, D)
        return torch.cat([start, V.to(start.dtype), T], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A causal sequence x (B, T, D) to the logits of the tokens that follow (B, T, vocab)."""
        # Eq. 4: Z = g_theta(x), (B, T, D)
        Z = self.llm(x)
        # Eq. 5: Y = Z W_logit
        return self.llm.logits(Z)

    @torch.no_grad()
    def locate_slowly(self, pixels, ids, choose=lambda ids, p: int(p.argmax())):
        """A keypoint's place, digit by digit: the definition that fast paths are tested against.

        pixels (3, H, W); ids: what stands before the answer, the question at its end; choose: the
        tokens so far and p of the digits (base,) -> a digit. Returns [x, y] and its probability.
        """
        V = self.image_tokens(pixels[None])
        ids, probability, place = list(ids), 1.0, []
        for template in (self.codec.open, self.codec.comma):
            ids += template
            digits = []
            for _ in range(self.codec.K):
                Y = self(self.sequence(V, torch.tensor([ids])))
                p = Y[0, -1, self.codec.ids].softmax(-1)
                digits.append(choose(ids, p))
                # Eq. 6, of x and y: the product over the digits, each given all before it.
                probability *= float(p[digits[-1]])
                ids.append(self.codec.ids[digits[-1]])
            place.append(self.codec.value(digits))
        return place, probability

    def loss(self, pixels, conversations) -> "Losses":
        """Cross-entropy of answer tokens: the mean over conversations of each one's mean.

        pixels (B, 3, H, W), and a data.Conversation about each image: its labels say which tokens
        carry loss, those of answers, brackets and end of text included.
        """
        # Padding stands at the end, so no other token sees it.
        ids = pad_sequence([torch.tensor(c.ids) for c in conversations], batch_first=True)
        labels = [torch.tensor(c.labels) for c in conversations]
        labels = pad_sequence(labels, batch_first=True, padding_value=data.IGNORE)
        V = self.image_tokens(pixels)
        # Eq. 4
        Z = self.llm(self.sequence(V, ids))
        conversation, position = (labels != data.IGNORE).nonzero(as_tuple=True)
        # A token is predicted by the hidden state of the token before it.
        Z = Z[send(conversation, self.device), send(V.shape[1] + position, self.device)]
        points = [point for c in conversations for point in c.points]
        return self.average_losses(Z, labels[conversation, position], conversation, points)

    def average_losses(self, Z, labels, conversation, points) -> "Losses":
        """Losses of answer tokens; every conversation weighs the same.

        Z (n, D): hidden states before them; labels (n,): ids; conversation (n,): 0, 1, 2, ...;
        points: the coordinates that they answer, in order.
        """
        if self.config.output == "token":
            return Losses(*keypoint_token.average_losses(self, Z, labels, conversation, points))
        tokens = conversation.bincount()
        weight = send((1 / (tokens.double() * len(tokens)))[conversation].float(), self.device)
        is_digit = send(self.codec.is_digit(labels), self.device)
        # Eq. 5, at answers only
        loss = F.cross_entropy(self.llm.logits(Z), send(labels, self.device), reduction="none")
        of_digits = weight * is_digit
        digits = of_digits @ loss.detach() / of_digits.sum().clamp(min=1e-9)
        return Losses(weight @ loss, digits)

    def loss_of_branches(self, pixels, branches) -> "Losses":
        """`loss` if images have lists of conversations, branches off them: study/share_image.py."""
        return share_image.compute_loss(self, pixels, branches)

    @torch.inference_mode()
    def locate(self, image, keypoints, box=None, decoding="greedy", cumulative=False, seed=0,
               category=None) -> list["Point"]:
        """Where are these keypoints, in the image's own pixels? See `answer` for the ways to ask.

        image: PIL image; keypoints: list of Keypoint (name, description); box: x, y, w, h of the
        object in pixels (default: the whole image), whose square crop holds every answer.
        """
        pixels, affine = self.look(image, box)
        found = self.answer(pixels, keypoints, decoding, cumulative, seed, category)
        places = data.map_to_image(found.coordinates, affine, self.config.image_size).reshape(-1, 2)
        radii = scale_radii(found.radii, affine, self.config.image_size)
        return list(map(Point, *places.T.tolist(), found.probabilities, radii))

    def density(self, image, keypoint, box=None, **question) -> density.Density:
        """How likely is each place of the crop? question: cut, category, listed: study.density."""
        return density.compute_density(self, self.look(image, box)[0], keypoint, **question)

    def look(self, image, box=None):
        """Pixels (3, H, W) of a PIL image around a box, and the matrix of data.make_affine."""
        size = self.config.image_size
        affine = data.make_affine(box or (0, 0, *image.size), size)
        return send(data.cut_crop(image, affine, size), self.device), affine

    @torch.inference_mode()
    def answer(self, pixels, keypoints, decoding="greedy", cumulative=False, seed=0,
               category=None, listed=None) -> Answers:
        """Answers about pixels (3, H, W) of any size that patches fill (Table 8).

        decoding: a name of digits.DECODING (Table 9). It draws by the seed and the keypoint, anew
        each time it is listed: [keypoint] * 100 gives samples. cumulative (Section 4.3): a question
        follows earlier ones and their answers, as listed, or, with "confidence", the surest first.
        category (None: the model names it) and listed, its keypoints, are for openings.
        """
        asked = Asked(pixels, keypoints, seed, category, listed)
        return self.answer_together([asked], decoding, cumulative)[0]

    @torch.inference_mode()
    def answer_together(self, images, decoding="greedy", cumulative=False) -> list[Answers]:
        """`answer` about several images of one size in the same passes; images: list of Asked."""
        trees = []
        each_V = self.image_tokens(torch.stack([image.pixels for image in images]))
        for V, asked in zip(each_V, images, strict=True):
            prepared = self.prepare_questions(V, asked.keypoints, asked.category, asked.listed)
            draws = draw_numbers(asked.keypoints, asked.seed, 2 * self.codec.K)
            trees.append(Tree(*prepared, draws))
        found = decode.answer_questions(self, trees, decoding, cumulative, data.MAX_TOKENS)
        return [collect_answers(each, self.codec, self.config) for each in found]

    def prepare_questions(self, V, keypoints, category=None, listed=None):
        """The trunk (T, D) of an image V (N, D), and questions' ids, up to their first digit."""
        tokenizer, instruction = self.tokenizer, self.config.instruction
        listed = listed or keypoints
        category = category or name_category(self, V[None], listed)
        # The opening names all keypoints as visible: one trunk serves whichever questions follow.
        opening = data.write_opening(tokenizer, self.codec, instruction, category, listed, listed)
        trunk = self.sequence(V[None], torch.tensor([opening.ids], dtype=torch.long))[0]
        questions = []
        for keypoint in keypoints:
            question = data.write_question(tokenizer, keypoint, instruction) + self.codec.open
            check_length(keypoint, len(trunk) + len(question), data.MAX_TOKENS)
            questions.append(question)
        return trunk, questions

    @property
    def device(self):
        return self.projection.weight.device

    @classmethod
    def assemble(cls, config: folders.CapeLLMConfig, dtype=None, device="cpu"):
        """A model from two official backbone folders, all of it frozen, adapters new."""
        tokenizer = folders.load_tokenizer(config)
        vision = load_encoder(config.vision, dtype, device, config.image_size)
        llm = Llama.from_pretrained(config.llm, dtype, device)
        config = folders.note_origins(config, tokenizer, vision, llm)
        model = cls(vision, llm, tokenizer, replace(config, lora=None))
        if config.lora:
            model.adapt(config.lora)
        return model.requires_grad_(False)

    def adapt(self, lora: dict):
        """Inject adapters {"rank", "alpha", "dropout", "parts"} into parts that have none yet."""
        names = {"vision": ("query", "value"), "llm": ("q_proj", "v_proj")}
        present = self.config.lora or (lora | {"parts": []})
        missing = [part for part in lora["parts"] if part not in present["parts"]]
        settings = present["rank"], present["alpha"], present["dropout"]
        for part in missing:
            add_lora(getattr(self, part), names[part], *settings)
        self.config.lora = present | {"parts": present["parts"] + missing}

    @classmethod
    def from_pretrained(cls, folder, dtype=None, device="cpu", merge=True) -> "CapeLLM":
        """A model folder; merge folds adapters into fp32 backbones, for inference."""
        model = cls.assemble(folders.read_model_config(folder), dtype, device)
        folders.fill_tensors(model.adapter(), folder)
        if merge:
            merge_lora(model)
        return model.eval()

    def adapter(self) -> dict[str, torch.Tensor]:
        """What is saved: W_proj, LoRA's A and B, or whole parts; train.py chooses among them."""
        named = self.named_parameters()
        return {n: p.detach() for n, p in named if folders.is_saved(n, self.config)}


class Point(NamedTuple):
    x: float  # in pixels of the image
    y: float
    probability: float  # the product over the answer's digits, Eq. 6
    radius: float | None  # in pixels; if config.radius_scale is set, 9 of 10 truths lie within


class Losses(NamedTuple):
    total: torch.Tensor  # goes backward
    digits: torch.Tensor  # the mean over digits alone (Table 17: the distance), reported
