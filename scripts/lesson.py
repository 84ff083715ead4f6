"""Teach nano a category that it has never seen, in a minute: step 8 of docs/walkthrough.md.

    found = teach("nano")

A description file and some drawings of it are all that is new. The loop is train.py's in ten lines,
without its conveniences: adapters and projection alone learn.
"""

import math
import random
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import data
from capellm import CapeLLM
from drawings.scene import draw_category
from lora import LoRALinear
from support.descriptions import DESCRIPTIONS, read_mp100

# Of its drawings the first ones train, others measure.
CATEGORY, TRAINED_ON, MEASURED_ON = "bed", 32, 32
STEPS, PAIRS, ROUNDS, RATE = 30, 12, 4, 3e-3
NEAR = 0.1  # of the crop
# The tokens of an answer, as the paper names its digits; and how many questions of a drawing's
# measure the loss.
TOKENS, QUESTIONS = ("[0.", "a", "b", "c", ",0.", "d", "e", "f", "]", "end"), 3


class Drawn(NamedTuple):
    """A drawing as the model sees it. points: (K, 2), relative to the crop; askable: which."""

    pixels: torch.Tensor
    points: np.ndarray
    askable: list


def draw(model, name, index) -> Drawn:
    """The index-th drawing of a category, or of a definition's first category."""
    categories = read_mp100()["categories"]
    category = next(c for c in categories if name in (c["name"], c["definition"]))
    drawing = draw_category(category, 0, index)
    pixels, affine = model.look(drawing.image, tuple(drawing.box))
    points = data.map_to_crop(drawing.keypoints[:, :2], affine, model.config.image_size)
    seen = model.codec.has_code(points).all(1) & (drawing.keypoints[:, 2] > 0)
    return Drawn(pixels, points, np.flatnonzero(seen).tolist())


def teach(folder):
    """Train, and measure before and after: what results/walk.json holds."""
    torch.manual_seed(0)
    model = CapeLLM.from_pretrained(folder, merge=False)
    keypoints = data.read_descriptions(DESCRIPTIONS / f"{CATEGORY}.txt")
    drawn = [draw(model, CATEGORY, index) for index in range(TRAINED_ON + MEASURED_ON)]
    unseen = drawn[TRAINED_ON:]
    before = measure_loss(model, keypoints, unseen), measure_nearness(model, keypoints, unseen)
    steps = train(model, keypoints, drawn[:TRAINED_ON])
    after = measure_loss(model, keypoints, unseen), measure_nearness(model, keypoints, unseen)
    forget_adapters(model)
    without = measure_nearness(model, keypoints, unseen)
    tokens = []
    for name, first, last in zip(TOKENS, before[0], after[0], strict=True):
        tokens.append({"token": name, "before": round(first, 3), "after": round(last, 3)})
    return {
        "command": "python -m scripts.walk",
        "category": CATEGORY,
        "near before": before[1],
        "near after": after[1],
        "near without adapters": without,
        "tokens": tokens,
        "steps": steps,
    }


def train(model, keypoints, drawn):
    """A row a step: {"step", "loss", "digits"}."""
    rng, rows = random.Random(0), []
    learned = [model.get_parameter(name).requires_grad_(True) for name in model.adapter()]
    optimiser = torch.optim.AdamW(learned, RATE)
    model.train()
    for step in range(1, STEPS + 1):
        chosen = rng.sample(drawn, PAIRS)
        conversations = [write_pair(model, keypoints, one, rng) for one in chosen]
        losses = model.loss(torch.stack([one.pixels for one in chosen]), conversations)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        loss, digits = (round(value.item(), 3) for value in losses)
        rows.append({"step": step, "loss": loss, "digits": digits})
    model.eval()
    return rows


@torch.no_grad()
def forget_adapters(model):
    """Set B to zero: what is left are the frozen backbones and the projection."""
    for module in model.modules():
        if isinstance(module, LoRALinear):
            module.lora_B.zero_()


def write_pair(model, keypoints, one, rng):
    """A conversation about some of a drawing's keypoints."""
    group = rng.sample(one.askable, min(ROUNDS, len(one.askable)))
    rounds = [(keypoints[k], one.points[k]) for k in group]
    return data.write_conversation(model.tokenizer, model.codec, rounds)


@torch.inference_mode()
def measure_loss(model, keypoints, drawn):
    """The mean loss of each token of an answer, over questions about drawings."""
    losses = []
    for one in drawn:
        V = model.image_tokens(one.pixels[None])
        for k in one.askable[:QUESTIONS]:
            round = keypoints[k], one.points[k]
            pair = data.write_conversation(model.tokenizer, model.codec, [round])
            ids, labels = torch.tensor(pair.ids), torch.tensor(pair.labels)
            # A token is predicted by the hidden state before it, the first one by the image's last.
            Y = model(model.sequence(V, ids[None]))[0, V.shape[1] : -1]
            losses.append(F.cross_entropy(Y, labels, reduction="none")[labels != data.IGNORE])
    return torch.stack(losses).mean(0).tolist()


def measure_nearness(model, keypoints, drawn):
    """The share of keypoints, in percent, whose answer is closer to the truth than NEAR."""
    near = []
    for one in drawn:
        answers = model.answer(one.pixels, [keypoints[k] for k in one.askable]).coordinates
        near += (np.hypot(*(np.array(answers) - one.points[one.askable]).T) < NEAR).tolist()
    return round(100 * float(np.mean(near)), 1)


def draw_training(taught):
    """The loss of each token of an answer, before and after; the loss of each step.

    taught: see `teach`. Returns an image.
    """
    # Only who writes the page needs matplotlib, a development requirement.
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise ValueError("drawing needs matplotlib: pip install matplotlib") from None
    figure, (tokens, curve) = pyplot.subplots(1, 2, figsize=(9.16, 3.1), layout="constrained")
    at = np.arange(len(taught["tokens"]))
    for shift, when, colour in ((-0.2, "before", "#c9ccd1"), (0.2, "after", "#d9480f")):
        heights = [row[when] for row in taught["tokens"]]
        tokens.bar(at + shift, heights, 0.4, color=colour, label=when)
    tokens.set_xticks(at, [row["token"] for row in taught["tokens"]])
    tokens.set_title("loss of each token of an answer, drawings not trained on", fontsize=10)
    steps = [row["step"] for row in taught["steps"]]
    curve.plot(steps, [row["digits"] for row in taught["steps"]], color="#d9480f",
               label="digits")
    curve.plot(steps, [row["loss"] for row in taught["steps"]], color="#5f6368",
               label="all tokens of answers")
    curve.set_title("loss of each step of the training", fontsize=10)
    curve.set_xlabel("step", fontsize=9)
    for axes in (tokens, curve):
        axes.set_ylim(0, 3.2)
        axes.set_ylabel("nats", fontsize=9)
        axes.axhline(math.log(10), color="black", linewidth=0.8, linestyle=":",
                     label="ten equal digits")
        axes.legend(fontsize=8, ncols=3, loc="upper center", frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    pyplot.close(figure)
    return picture
