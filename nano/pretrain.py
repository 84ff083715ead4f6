"""Make nano's two backbones: a small tokenizer, a small DINOv2 and a small Llama, trained from
random weights. `make nano` runs this first, then train.py.

    torchrun --nproc_per_node 2 -m nano.pretrain --data data/figures --out runs/pretrain

The official backbones come pre-trained; these must be too, or the method has nothing to adapt:
trained on answers alone from random weights, so small a model answers with each keypoint's average
place and never looks. This is grounding, not part of the paper. Three phases, every parameter
trained:

1. eyes: the vision encoder alone. For every keypoint a softmax over patches must find its patch,
   and a linear map its place within the patch.
2. words: all together. The answers of the method, with a pointer half-way through the language
   model: the hidden state before the first digit must match the hidden state of the keypoint's
   patch. Most questions come without their description at first: a name is a third of the tokens,
   and enough to learn to look.
3. rounds: the same, with questions also in chains as in Section 3.3, with images stretched and
   their colours exchanged, because species never seen differ in shape and colour from those seen,
   and with photographs, where there are any.

A second run goes on from the first, at a larger size and with more photographs (--init):

    torchrun --nproc_per_node 2 -m nano.pretrain --init runs/small/model --size 168 \\
        --data data/figures FOLDER... --out runs/larger

What helped only here (the heads of both losses) is left behind. `train.py --init` then trains what
the paper trains.
"""

import argparse
import io
import math
import random
import shutil
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn
from tqdm import tqdm

import data
import train
from capellm import CapeLLM
from dino import DINOv2, DINOv2Config
from llama import Config, Llama
from nano.backbones import DINOV2, HIERA, LLM, export
from study import instructions
from study.hiera import Hiera, HieraConfig
from study.share_image import read_branches
from study.views import change_light, exchange_colours, exchange_sides, hide_outside
from support import checkpoints, launch, parallel
from support.descriptions import describe_categories
from support.files import write_whole
from support.folders import CapeLLMConfig, read_model_config
from support.optimisers import Muon, choose_matrices, sum_over_processes
from support.options import Parser, read_positive, read_seed
from support.tokenizer import Tokenizer

SIZE = 112  # side of an image in pixels, at first
POINTER = 1  # the pointer reads what layer 1 of the four puts out
QUESTIONS = 12  # asked of an image at once, in branches of one, later also of more rounds
CHAINS = (1, 1, 1, 2, 4, 12)  # rounds of a branch, each as often
PHOTOS = 0.2  # share of photographs in a batch of the third phase, where there are any
LOG_EVERY, SAVE_EVERY = 20, 200  # steps


class Spread(NamedTuple):
    """How the crops of an image differ."""

    scale: tuple  # least and greatest, of the box
    angle: float  # at most, in degrees, either way


DRAWN = Spread((0.85, 1.2), 20)
# Far fewer photographs than drawings: each is seen more often.
PHOTOGRAPHED = Spread((0.8, 1.35), 35)


# The tokenizer.


def write_tokenizer(folder, texts):
    """Sentencepiece in Llama 2's form, from some texts; the template's phrases are pieces."""
    phrases = []
    for template in (instructions.BASE_QUESTION, instructions.BARE_QUESTION):
        phrases += template.replace("{description}", "{name}").split("{name}")
    phrases = dict.fromkeys(phrase.strip() for phrase in phrases)
    pieces = ["▁" + phrase.replace(" ", "▁") for phrase in phrases]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=2048,
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        bos_id=1,
        eos_id=2,
        unk_id=0,
        pad_id=-1,
        minloglevel=2,
        num_threads=1,
        user_defined_symbols=[*pieces, "[0.", ",0.", "]", *"0123456789"],
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())


def describe_keypoints(folders):
    """The texts that the tokenizer is made from: "name: description" of all training categories."""
    instances, names = [], {}
    for folder in folders:
        more, more_names = data.read_split(folder, 1, "train")
        instances += more
        names |= more_names
    described = describe_categories(instances, names)
    return [f"{k.name}: {k.description}" for keypoints in described.values() for k in keypoints]


# What is learned.


class Batch(NamedTuple):
    """Images, all their keypoints for the eyes, and some of them asked in words."""

    pixels: torch.Tensor  # (B, 3, S, S)
    image: torch.Tensor  # (n,) of each keypoint, its image
    keypoint: torch.Tensor  # (n,) its number among all keypoints of all definitions
    places: torch.Tensor  # (n, 2) x, y relative to the image
    branches: list  # of each image a list of Conversations
    answers: torch.Tensor  # (m, 2) x, y relative to the image, of each question asked


class Grounding(nn.Module):
    """The heads of the two extra losses. keypoints: how many (definition, index) pairs exist."""

    def __init__(self, model, keypoints):
        super().__init__()
        self.model, self.N = model, model.vision.count_patches(model.config.image_size)
        self.side = math.isqrt(self.N)
        C, D = model.vision.config.hidden_size, model.llm.config.hidden_size
        self.patch, self.offset = nn.Embedding(keypoints, C), nn.Embedding(keypoints, 2 * C)
        nn.init.normal_(self.patch.weight, std=C ** -0.5)
        nn.init.normal_(self.offset.weight, std=C ** -0.5)
        self.query, self.key = nn.Linear(D, 64), nn.Linear(D, 64)

    def forward(self, batch, words):
        """The loss of a Batch and its parts by name. words: whether anything is asked in words."""
        features = self.model.vision(batch.pixels)
        eyes, hit = self.compute_eyes(features, batch)
        if not words:
            return eyes, {"eyes": eyes, "patch": hit}
        loss, pointer, hit = self.compute_words(features, batch)
        total = loss + 0.3 * pointer + eyes
        return total, {"loss": loss, "pointer": pointer, "eyes": eyes, "patch": hit}

    def compute_eyes(self, features, batch):
        """Patch and offset losses of all keypoints, and the share of patches found.

        features: (B, N, C) of the vision encoder.
        """
        cell, target = find_patch(batch.places, self.side)
        patch = self.patch(batch.keypoint)  # (n, C)
        scores = torch.einsum("nc,nkc->nk", patch, features[batch.image])  # (n, N)
        direction = self.offset(batch.keypoint).unflatten(1, (2, -1))  # (n, 2, C)
        offset = torch.einsum("ndc,nc->nd", direction, features[batch.image, target])
        error = (offset - (batch.places * self.side - cell)).abs().mean()
        loss = F.cross_entropy(scores, target) + 2 * error
        return loss, measure_hits(scores, target)

    def compute_words(self, features, batch):
        """The loss of the answers, the pointer's, and the share of patches that it found."""
        tapped = []
        layer = self.model.llm.model.layers[POINTER]
        hook = layer.register_forward_hook(lambda module, inputs, output: tapped.append(output))
        V = self.model.projection(features)
        branches = [[c.ids for c in conversations] for conversations in batch.branches]
        Z, image, position = read_branches(self.model, V, branches)
        hook.remove()
        labels = []
        for conversations in batch.branches:
            for conversation in conversations:
                labels += conversation.labels
        labels = torch.tensor(labels)
        is_answer = labels != data.IGNORE
        logits = self.model.llm.logits(Z[image[is_answer], position[is_answer] - 1])
        loss = F.cross_entropy(logits, labels[is_answer])

        # The token before the first digit is the answer's opening, its first labelled token.
        is_first = is_answer.clone()
        is_first[1:] &= ~is_answer[:-1]
        query = self.query(tapped[0][image[is_first], position[is_first]])  # (m, 64)
        key = self.key(tapped[0][:, 1:1 + self.N])  # (B, N, 64)
        scores = torch.einsum("nc,nkc->nk", query, key[image[is_first]]) / 8
        _, target = find_patch(batch.answers, self.side)
        return loss, F.cross_entropy(scores, target), measure_hits(scores, target)


def find_patch(places, side):
    """Of places (n, 2) relative to the image the patch: column and row (n, 2), number (n,)."""
    cell = (places * side).floor().clamp(0, side - 1)
    return cell, (cell[:, 1] * side + cell[:, 0]).long()


def measure_hits(scores, target):
    return (scores.argmax(1) == target).float().mean()


# What it is learned from.


def stretch(pixels, points, rng):
    """Pixels (3, S, S) and relative points (K, 3), wider or narrower, with colours exchanged."""
    u = rng.uniform(-0.2, 0.2)
    affine = torch.tensor([[[math.exp(-u), 0, 0], [0, math.exp(u), 0]]])
    grid = F.affine_grid(affine, [1, *pixels.shape], align_corners=False)
    pixels = F.grid_sample(pixels[None], grid, padding_mode="border", align_corners=False)[0]
    points[:, :2] = 0.5 + (points[:, :2] - 0.5) * [math.exp(u), math.exp(-u)]
    hide_outside(points)
    return exchange_colours(pixels, rng), points


class Sampler:
    """Draws random batches of training images."""

    def __init__(self, folders, tokenizer, codec, size=SIZE, photos=PHOTOS, always=False):
        """photos: share of photographs, of the third phase or always."""
        self.sets, self.described, self.codec = [], {}, codec
        self.size, self.photos, self.always = size, photos, always
        for folder in folders:
            instances, names = data.read_split(folder, 1, "train")
            self.described |= describe_categories(instances, names)
            self.sets.append(instances)
        # Keypoints are numbered over all definitions; categories of one definition share them.
        start, self.keypoints = {}, 0
        for definition in dict.fromkeys(tuple(d) for d in self.described.values()):
            start[definition] = self.keypoints
            self.keypoints += len(definition)
        self.start = {c: start[tuple(d)] for c, d in self.described.items()}
        self.questions = {}
        for keypoint in (k for definition in start for k in definition):
            bare = keypoint._replace(description="")
            self.questions[keypoint] = [
                data.write_question(tokenizer, bare),
                data.write_question(tokenizer, keypoint),
            ]
        self.mirror = {}
        for category, keypoints in self.described.items():
            index = {k.name: j for j, k in enumerate(keypoints)}
            self.mirror[category] = [
                index.get(exchange_sides(k.name), j) for j, k in enumerate(keypoints)
            ]

    def draw_batch(self, size, rng, described=1.0, rounds=False):
        """size: images; described: share of questions with a description; rounds: phase three?"""
        images, image, keypoint, places, branches, answers = [], [], [], [], [], []
        while len(images) < size:
            instance, pixels, points = self.draw_image(rng, rounds)
            visible = [j for j in range(len(points)) if points[j, 2] > 0]
            if not visible:
                continue
            image += [len(images)] * len(visible)
            images.append(change_light(pixels, rng))
            keypoint += [self.start[instance.category] + j for j in visible]
            places.append(points[visible, :2])
            asked = rng.sample(visible, min(QUESTIONS, len(visible)))
            chain = rng.choice(CHAINS) if rounds else 1
            keypoints = self.described[instance.category]
            asked_points = [(keypoints[j], points[j, :2]) for j in asked]
            branches.append(self.draw_conversations(asked_points, chain, rng, described))
            answers.append(points[asked, :2])
        places = torch.from_numpy(np.concatenate(places)).float()
        answers = torch.from_numpy(np.concatenate(answers)).float()
        image, keypoint = torch.tensor(image), torch.tensor(keypoint)
        return Batch(torch.stack(images), image, keypoint, places, branches, answers)

    def draw_image(self, rng, rounds):
        """(instance, pixels, points (K, 3)) of an image, augmented."""
        instances, spread = self.sets[0], DRAWN
        has_photos = len(self.sets) > 1 and (rounds or self.always)
        if has_photos and rng.random() < self.photos:
            instances, spread = rng.choice(self.sets[1:]), PHOTOGRAPHED
        instance = rng.choice(instances)
        scale, angle = rng.uniform(*spread.scale), 0.0
        if rng.random() < 0.5:
            angle = math.radians(rng.uniform(-spread.angle, spread.angle))
        pixels, points = data.load_crop(instance, self.size, scale, angle)
        hide_outside(points)
        # Mirrored: left and right exchange their names.
        if rng.random() < 0.5:
            pixels, points = pixels.flip(2), points[self.mirror[instance.category]]
            points[:, 0] = 1 - points[:, 0]
            hide_outside(points)
        if rounds:
            pixels, points = stretch(pixels, points, rng)
        return instance, pixels, points

    def draw_conversations(self, asked, chain, rng, described):
        """Conversations (ids, labels) of `chain` rounds each about (keypoint, (x, y))."""
        conversations = []
        for n, (keypoint, point) in enumerate(asked):
            if n % chain == 0:
                conversations.append(data.Conversation([], []))
            ids, labels, _ = conversations[-1]
            bare, full = self.questions[keypoint]
            question = full if rng.random() < described else bare
            answer = self.codec.encode(*point)
            ids += question + answer
            labels += [data.IGNORE] * len(question) + answer
        return conversations


# How it is learned.


def make_optimisers(module):
    """Muon for the matrices inside the layers, AdamW for the rest."""
    parameters = dict(module.named_parameters())
    matrices = choose_matrices(parameters)
    rest = [p for name, p in parameters.items() if name not in matrices]
    adamw = torch.optim.AdamW(rest, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    return [Muon(matrices.values()), adamw]


class Phase(NamedTuple):
    """What a step is like."""

    words: bool  # is anything asked in words?
    rounds: bool  # is it of the third phase?
    factor: float  # on the learning rates
    described: float  # share of questions with a description


def find_phase(step, eyes, words, names, rounds):
    """The Phase of a step, from the steps of the phases and, of the second, those by name."""
    described = 0.25 if step < eyes + names else 0.5
    if step < eyes:
        return Phase(False, False, min(1.0, (step + 1) / 20), described)
    if step < eyes + words:
        return Phase(True, False, train.scale_lr(step - eyes, words), described)
    factor = train.scale_lr(step - eyes - words, rounds) / 2
    return Phase(True, True, factor, described)


def learn(module, optimisers, batch, phase, world):
    """One step. Returns the parts of the loss by name."""
    loss, parts = module(batch, phase.words)
    loss.backward()
    if world > 1:
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        for gradient, total in zip(gradients, sum_over_processes(gradients), strict=True):
            gradient.copy_(total / world)
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return parts


# What is written.


def save_progress(path, step, module, optimisers):
    """Everything that going on needs, whole or not at all."""
    tensors = {f"module/{name}": t for name, t in module.state_dict().items()}
    for n, optimiser in enumerate(optimisers):
        for i, p in enumerate(optimiser.param_groups[0]["params"]):
            for name, t in optimiser.state[p].items():
                tensors[f"optimiser {n}/{i}/{name}"] = t
    with write_whole(path) as partial:
        checkpoints.save_tensors(tensors, partial, {"step": str(step)})


def load_progress(path, module, optimisers):
    """Go on from save_progress. Returns the step reached."""
    weights = {}
    with safe_open(path, framework="pt") as saved:
        for key in saved.keys():
            kind, *place = key.split("/")
            tensor = saved.get_tensor(key)
            if kind == "module":
                weights[place[0]] = tensor
            else:
                optimiser = optimisers[int(kind.removeprefix("optimiser "))]
                i, name = place
                parameter = optimiser.param_groups[0]["params"][int(i)]
                optimiser.state[parameter][name] = tensor
        step = int(saved.metadata()["step"])
    module.load_state_dict(weights)
    return step


def read_options():
    parser = Parser(
        description="Make nano's two backbones.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", nargs="+", default=["data/figures"], metavar="FOLDER",
        help="drawings, then folders of photographs")
    add("--out", type=Path, default=Path("runs/pretrain"), metavar="FOLDER",
        help="where the model and what going on needs are written; what is there is continued")
    add("--vision", default="dinov2", choices=["dinov2", "hiera"],
        help="the vision encoder (Table 14)")
    add("--llm", type=Path, metavar="FOLDER",
        help="start from this language model and its tokenizer, not from random weights")
    add("--init", type=Path, metavar="FOLDER",
        help="go on from this earlier run's model, with photographs from the first step")
    add("--size", type=read_positive, default=SIZE, metavar="PIXELS", help="side of an image")
    add("--photos", type=float, default=PHOTOS, metavar="SHARE",
        help="of photographs in a batch, where there are any")
    add("--eyes", type=int, default=700, metavar="STEPS", help="steps of the first phase")
    add("--words", type=int, default=2300, metavar="STEPS", help="steps of the second phase")
    add("--names", type=int, default=1700, metavar="STEPS",
        help="of these, steps that mostly ask by name")
    add("--rounds", type=int, default=3000, metavar="STEPS", help="steps of the third phase")
    add("--batch", type=read_positive, default=16,
        help="images a step, over all processes; twice as many for the eyes")
    add("--seed", type=read_seed, default=42, help="of weights and images")
    return parser.parse_args()


def make_model(tokenizer, vision, llm, size):
    """A model with random weights. llm: the folder of a language model to start from, or None."""
    if vision == "hiera":
        encoder = Hiera(HieraConfig(image_size=[size, size], **HIERA))
    else:
        encoder = DINOv2(DINOv2Config(image_size=size, **DINOV2))
    if llm:
        words = Llama.from_pretrained(llm, torch.float32)
    else:
        words = Llama(Config(vocab_size=tokenizer.vocab_size, **LLM))
    return CapeLLM(encoder, words, tokenizer, CapeLLMConfig("", "", size))


def enlarge_model(folder, size):
    """A model of an earlier run for images of another size: its table of positions resampled."""
    model = CapeLLM.from_pretrained(folder, torch.float32)
    config = vars(model.vision.config)
    if any(config.get(name) != value for name, value in DINOV2.items()):
        raise ValueError(f"--init {folder}: its vision encoder is none that this script makes")
    vision = DINOv2(DINOv2Config(image_size=size, **DINOV2))
    weights, side = model.vision.state_dict(), size // vision.unit
    weights["embeddings.position_embeddings"] = model.vision.embeddings.positions(side, side)
    vision.load_state_dict(weights)
    larger = CapeLLM(vision, model.llm, model.tokenizer, CapeLLMConfig("", "", size))
    larger.projection.load_state_dict(model.projection.state_dict())
    return larger.requires_grad_(True).train()


def check_options(options):
    """ValueError if options contradict each other, or no patches fill the image."""
    if options.init and (options.llm or options.vision != "dinov2"):
        raise ValueError("--init names both backbones: leave --llm and --vision out")
    if options.size % DINOV2["patch_size"]:
        raise ValueError(f"--size {options.size}: expected a multiple of {DINOV2['patch_size']}")
    if not 0 <= options.photos <= 1:
        raise ValueError(f"--photos {options.photos}: expected a share from 0 to 1")


def run_phases(module, sampler, options, rank, world):
    """From where an earlier run was interrupted, or from the start, to the end of phase three."""
    optimisers = make_optimisers(module)
    rates = [optimiser.param_groups[0]["lr"] for optimiser in optimisers]
    step, steps = 0, options.eyes + options.words + options.rounds
    newest = options.out / "newest.safetensors"
    if newest.exists():
        step = load_progress(newest, module, optimisers)
    bar = tqdm(total=steps, initial=step, disable=rank > 0, unit="step", mininterval=5)
    means, began = defaultdict(float), time.time()
    while step < steps:
        phase = find_phase(step, options.eyes, options.words, options.names, options.rounds)
        for optimiser, rate in zip(optimisers, rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate * phase.factor
        size = options.batch if phase.words else 2 * options.batch
        rng = random.Random(f"{options.seed} {step} {rank}")
        batch = sampler.draw_batch(size // world, rng, phase.described, phase.rounds)
        parts = learn(module, optimisers, batch, phase, world)
        step += 1
        for name, value in parts.items():
            means[name] += value.item() / LOG_EVERY
        bar.update()
        if step % LOG_EVERY == 0:
            if rank == 0:
                seconds = (time.time() - began) / LOG_EVERY
                record = {"step": step, "lr": phase.factor, "s": seconds, **means}
                record = {name: round(value, 4) for name, value in record.items()}
                checkpoints.append_to_log(options.out, record)
                bar.set_postfix({name: f"{value:.3f}" for name, value in means.items()})
            means, began = defaultdict(float), time.time()
        if rank == 0 and (step % SAVE_EVERY == 0 or step == steps):
            save_progress(newest, step, module, optimisers)


def main():
    options = read_options()
    check_options(options)
    rank, world, _ = launch.setup()
    if world > 1:
        torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer_file = options.out / "tokenizer.model"
    if rank == 0 and not tokenizer_file.exists():
        source = options.llm
        if options.init:
            source = Path(read_model_config(options.init).llm)
        if source:
            shutil.copy(source / "tokenizer.model", tokenizer_file)
        else:
            write_tokenizer(options.out, describe_keypoints(options.data))
    parallel.wait_for_all(world)
    tokenizer = Tokenizer.from_pretrained(options.out)
    if options.init:
        model = enlarge_model(options.init, options.size)
    else:
        model = make_model(tokenizer, options.vision, options.llm, options.size)
    sampler = Sampler(
        options.data, model.tokenizer, model.codec, options.size, options.photos,
        always=options.init is not None,
    )
    module = Grounding(model, sampler.keypoints)
    run_phases(module, sampler, options, rank, world)
    if rank == 0:
        export(model, tokenizer_file, options.out / "model")
        print(f"done: {options.out / 'model'}")
    parallel.wait_for_all(world)


if __name__ == "__main__":
    launch.run("nano.pretrain", main)
