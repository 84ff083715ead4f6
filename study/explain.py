"""One keypoint step by step: the crop, where attention lies, the tree of tokens, the digits.

    found = explain_keypoint(model, image, box, keypoint, keypoints)
    draw_page(found).save("explained.png")

`python sample.py ... --explain NAME` is its command; docs/walkthrough.md shows the same pictures.
The model's fast path keeps no attention: here it is computed a second time, by hooks.
"""

import math
import re
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageColor, ImageDraw, ImageFont

import data
import decode
from llama import rotate
from study import density, figure5
from support.descriptions import OPPOSITE
from support.passes import Tree, draw_numbers, find_common
from support.pictures import SMOOTH, make_picture

# In pixels: a row of the page, the space between panels, the side of the larger panels.
WIDTH, GAP = 916, 12
PANEL = (WIDTH - 3 * GAP) // 2
HEAD, LINE = 26, 20
# Of how many layers attention is shown, the last ones; and how many keypoints a tree has.
LAYERS, QUESTIONS = 4, 3
# The colours of the trunk and of each branch.
TRUNK, BRANCHES = "#868e96", ("#d9480f", "#2b8a3e", "#1864ab")
CHOSEN, REST, PALE, MARK = "#d9480f", "#c9ccd1", "#5f6368", "#ffd43b"


class Heat(NamedTuple):
    """What an answer's first digit looks at, asked for one keypoint.

    weights: (layers, h, w), the attention to each patch, the mean over heads; share: (layers,), how
    much of all attention these are: the rest lies on words.
    """

    name: str
    weights: torch.Tensor
    share: torch.Tensor


class TokenTree(NamedTuple):
    """All tokens of an image, some questions and their answers, in the cache's order.

    matrix: (S, S) bool, which tokens (columns) a token (row) sees; positions: (S,); branch: (S,),
    whose question a token belongs to, -1 in the trunk; tokens: their texts behind the trunk; trunk:
    its length; digits: how many tokens of answers there are, at the end.
    """

    matrix: torch.Tensor
    positions: torch.Tensor
    branch: torch.Tensor
    tokens: list
    names: list
    trunk: int
    digits: int


class Explanation(NamedTuple):
    """What the pictures show. p: (2 K, base), of each digit given those before it."""

    photo: Image.Image
    box: tuple
    pixels: torch.Tensor
    keypoint: str
    heats: list  # of the keypoint and, if the list has it, the same on the other side
    tree: TokenTree
    digits: list  # 2 K
    p: torch.Tensor
    place: list  # [x, y], relative to the crop
    density: torch.Tensor  # (1000, 1000), see density.py


@torch.inference_mode()
def explain_keypoint(model, image, box, keypoint, listed, category=None) -> Explanation:
    """Ask for one keypoint, and keep what is computed on the way.

    image: PIL image; box: x, y, w, h in its pixels; listed: all keypoints of the category. Raises
    ValueError for a model without digits.
    """
    if model.config.output == "token":
        raise ValueError("a model that answers with <KEYPOINT> has no digits to explain (Table 17)")
    pixels, _ = model.look(image, box)
    (V,) = model.image_tokens(pixels[None])
    mirror = find_mirror(keypoint, listed)
    pair = [keypoint] if mirror is None else [keypoint, mirror]
    asked = pair + [other for other in listed if other not in pair]
    asked = asked[:QUESTIONS]
    trunk, questions = model.prepare_questions(V, asked, category, listed)
    asked_tree = Tree(trunk, questions, draw_numbers(asked, 0, 2 * model.codec.K))
    (found,) = decode.answer_questions(model, [asked_tree], "greedy", False, data.MAX_TOKENS)
    heats = []
    for one, question in zip(pair, questions, strict=False):
        weights = read_attention(model, join_tokens(model, trunk, question))
        heats.append(make_heat(one.name, weights, len(V)))
    answers = [one.digits for one in found]
    tree = build_tree(model, len(trunk), questions, answers, [one.name for one in asked])
    p = density.compute_density(model, pixels, keypoint, category=category, listed=listed).p
    digits = found[0].digits
    return Explanation(image, box, pixels.cpu(), keypoint.name, heats, tree, digits, found[0].p,
                       model.codec.place(digits), p)


def find_mirror(keypoint, listed):
    """The keypoint of the same name on the other side, None if the list has none."""
    name = re.sub(r"\b(left|right)\b", lambda side: OPPOSITE[side[0]], keypoint.name)
    return next((k for k in listed if k.name == name != keypoint.name), None)


# Attention.


def join_tokens(model, trunk, question):
    """[BOS; V; T] up to an answer's first digit, (1, T, D)."""
    ids = torch.tensor(question, device=trunk.device)
    return torch.cat([trunk, model.llm.embed(ids)])[None]


def read_attention(model, x):
    """The attention of the last token of x (1, S, D) in every layer and head, (layers, H, S)."""
    found = []

    def note(attention, arguments):
        x, _, shared = arguments
        found.append(weigh_last(attention, x, shared)[0])

    handles = [layer.self_attn.register_forward_pre_hook(note) for layer in model.llm.model.layers]
    try:
        model.llm(x)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(found).cpu()


def weigh_last(attention, x, shared):
    """softmax(q k^T / sqrt(d)) of the last token, which sees all of x (B, S, D): (B, H, S)."""
    heads = (*x.shape[:2], -1, attention.head_dim)
    q = attention.q_proj(x).view(heads).transpose(1, 2)  # (B, H, S, d)
    k = attention.k_proj(x).view(heads).transpose(1, 2)  # (B, G, S, d)
    q = rotate(q, shared.cos, shared.sin)[:, :, -1:]
    k = rotate(k, shared.cos, shared.sin).repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = q @ k.transpose(2, 3) / attention.head_dim**0.5
    return scores.softmax(-1)[:, :, 0]


def make_heat(name, weights, patches) -> Heat:
    """weights: (layers, H, S) of [BOS; V; T]; patches: how many tokens V has."""
    of_image = weights.mean(1)[:, 1 : 1 + patches]
    side = math.isqrt(patches)
    return Heat(name, of_image.unflatten(1, (side, -1)), of_image.sum(1))


def find_centre(weights):
    """The mean place (x, y) of a heat (h, w), relative to the crop."""
    h, w = weights.shape
    x = (weights.sum(0) @ (torch.arange(w) + 0.5)) / w
    y = (weights.sum(1) @ (torch.arange(h) + 0.5)) / h
    return float(x / weights.sum()), float(y / weights.sum())


def measure_shifts(heats):
    """How far the heat's centre moves between two names, in each layer, relative to the crop."""
    one, other = heats
    centres = zip(map(find_centre, one.weights), map(find_centre, other.weights), strict=True)
    return [math.dist(a, b) for a, b in centres]


# The tree.


def build_tree(model, trunk, questions, answers, names) -> TokenTree:
    """The tree that decode.py grows, written down as a whole.

    trunk: its length; questions: token ids; answers: the digits of each.
    """
    codec, n = model.codec, len(questions)
    common = find_common(questions)
    trunk += len(common)
    steps = [[question[len(common) :] for question in questions]]
    # The last digit is decided, but not read.
    for step in range(2 * codec.K - 1):
        more = codec.comma if step == codec.K - 1 else []
        steps.append([[codec.ids[answer[step]], *more] for answer in answers])
    matrix = torch.ones(trunk, trunk, dtype=torch.bool).tril()
    rows = torch.ones(n, trunk, dtype=torch.bool)
    positions, branch, tokens = [torch.arange(trunk)], [torch.full((trunk,), -1)], []
    for chains in steps:
        lengths = torch.tensor([len(chain) for chain in chains])
        of_chain = torch.arange(n).repeat_interleave(lengths)
        mask, position = decode.grow_tree(rows, of_chain)
        rows = mask[lengths.cumsum(0) - 1]
        matrix = torch.cat([F.pad(matrix, (0, len(of_chain))), mask])
        positions.append(position)
        branch.append(of_chain)
        tokens += [model.tokenizer.decode([token]) for chain in chains for token in chain]
    digits = sum(len(chain) for chains in steps[1:] for chain in chains)
    return TokenTree(matrix, torch.cat(positions), torch.cat(branch), tokens, names, trunk, digits)


# Pictures: each step is a row, drawn SMOOTH times as large as it will be shown.


def start_row(height):
    page = Image.new("RGB", (SMOOTH * WIDTH, SMOOTH * height), "white")
    return page, ImageDraw.Draw(page, "RGBA")


def write(pen, x, y, text, size=13, anchor="lm", colour="black"):
    font = ImageFont.load_default(SMOOTH * size)
    pen.text((SMOOTH * x, SMOOTH * y), text, colour, font, anchor)


def paste(page, picture, x, y, side, method=Image.Resampling.BICUBIC):
    """Put a square picture at a place of the row."""
    picture = picture.resize((SMOOTH * side, SMOOTH * side), method)
    page.paste(picture, (SMOOTH * x, SMOOTH * y))


def outline(pen, corners, colour, width=2):
    x0, y0, x1, y1 = (SMOOTH * value for value in corners)
    pen.rectangle([x0, y0, max(x0, x1), max(y0, y1)], None, colour, SMOOTH * width)


def draw_crop(found):
    """Step 1: the photo with its box and the square around it; the crop with its patches."""
    page, pen = start_row(HEAD + PANEL + LINE)
    write(pen, GAP, HEAD / 2, "the photo; white: the box, yellow: made square")
    photo = found.photo.convert("RGB")
    scale = PANEL / max(photo.size)
    size = [max(1, round(SMOOTH * scale * side)) for side in photo.size]
    page.paste(photo.resize(size, Image.Resampling.BICUBIC), (SMOOTH * GAP, SMOOTH * HEAD))
    place = np.array([GAP, HEAD])
    corners = np.array(figure5.find_in_image([(0, 0), (1, 1)], found.box)) * scale + place
    low, high = np.array([GAP, HEAD]), np.array([GAP + PANEL, HEAD + PANEL])
    outline(pen, corners.clip(low, high).ravel(), MARK)
    x, y, w, h = found.box
    box = np.array([[x, y], [x + w, y + h]]) * scale + place
    outline(pen, box.ravel(), "white", 1)
    left = 2 * GAP + PANEL
    side = len(found.heats[0].weights[0])
    pixels = found.pixels.shape[-1]
    write(pen, left, HEAD / 2, f"the crop: {pixels} x {pixels} pixels, {side} x {side} patches")
    paste(page, make_picture(found.pixels), left, HEAD, PANEL)
    draw_grid(pen, left, HEAD, PANEL, side)
    centre = np.array([left, HEAD]) + PANEL * np.array(found.place)
    figure5.draw_cross(pen, SMOOTH * centre)
    x, y = found.place
    text = f"cross: the answer, {x:.3f} of the width and {y:.3f} of the height"
    write(pen, left, HEAD + PANEL + LINE / 2, text, 12)
    return page.reduce(SMOOTH)


def draw_grid(pen, left, top, side, n):
    for i in range(1, n):
        at = side * i / n
        down = (left + at, top, left + at, top + side)
        across = (left, top + at, left + side, top + at)
        for line in (down, across):
            pen.line([SMOOTH * value for value in line], (255, 255, 255, 110), 1)


def draw_heats(found):
    """Step 4: the attention of the last layers, for each name a line of crops."""
    layers = len(found.heats[0].weights)
    shown = range(max(0, layers - LAYERS), layers)
    side = (WIDTH - (LAYERS + 1) * GAP) // LAYERS
    page, pen = start_row(len(found.heats) * (HEAD + side + LINE))
    photo = figure5.crop_grey(found.photo, found.box, SMOOTH * side)
    for n, heat in enumerate(found.heats):
        top = n * (HEAD + side + LINE) + HEAD
        write(pen, GAP, top - HEAD / 2, f"asked for {heat.name}", 14)
        for column, layer in enumerate(shown):
            left = GAP + column * (side + GAP)
            weights = Image.fromarray(heat.weights[layer].float().numpy())
            weights = weights.resize((SMOOTH * side, SMOOTH * side), Image.Resampling.NEAREST)
            painted = figure5.colour_heat(photo, np.asarray(weights))
            page.paste(painted, (SMOOTH * left, SMOOTH * top))
            text = f"layer {layer + 1} of {layers}: {heat.share[layer]:.0%} on the image"
            write(pen, left, top + side + LINE / 2, text, 12)
    return page.reduce(SMOOTH)


def draw_tree(found):
    """Step 5: the matrix of all tokens, and its last rows, the answers, large."""
    tree = found.tree
    page, pen = start_row(HEAD + PANEL + LINE * (1 + len(tree.names)))
    S = len(tree.matrix)
    write(pen, GAP, HEAD / 2, f"all {S} tokens: a row's coloured columns are what it sees")
    paste(page, colour_matrix(tree), GAP, HEAD, PANEL, Image.Resampling.NEAREST)
    outline(pen, (GAP, HEAD, GAP + PANEL, HEAD + PANEL), TRUNK, 1)
    left = 2 * GAP + PANEL
    write(pen, left, HEAD / 2, "its lower right corner: the digits of the answers")
    bottom = draw_corner(pen, tree, left)
    write(pen, left, bottom + LINE, "A digit sees the digits before it on its own branch.", 12)
    write(pen, left, bottom + 2 * LINE, "It stands at its depth: branches grow side by side.", 12)
    middle = PANEL * tree.trunk / S
    write(pen, GAP + middle / 3, HEAD + 2 * middle / 3, "trunk", 13, "mm", "white")
    below = HEAD + PANEL + LINE / 2
    text = f"trunk: start, image, and the words that all questions share: {tree.trunk} tokens"
    draw_key(pen, GAP, below, TRUNK, text)
    for n, name in enumerate(tree.names):
        text = f"branch: {name}, {int((tree.branch == n).sum())} tokens"
        draw_key(pen, GAP, below + (n + 1) * LINE, BRANCHES[n], text)
    return page.reduce(SMOOTH)


def draw_key(pen, x, y, colour, text):
    pen.rectangle([SMOOTH * v for v in (x, y - 5, x + 10, y + 5)], colour)
    write(pen, x + 16, y, text, 12)


def colour_matrix(tree):
    """The matrix as an image, a pixel each: what is seen has the colour of the row's branch."""
    rgb = [ImageColor.getrgb(colour) for colour in (TRUNK, *BRANCHES)]
    seen = torch.tensor(rgb, dtype=torch.uint8)[tree.branch + 1][:, None]
    white = torch.full((1, 1, 3), 250, dtype=torch.uint8)
    return Image.fromarray(torch.where(tree.matrix[..., None], seen, white).numpy())


def draw_corner(pen, tree, left):
    """The last rows and columns, with each token's text and its position. Returns its end."""
    n, labels = tree.digits, 92
    cell = min(PANEL - labels, PANEL - 2.5 * LINE) / n
    corner = tree.matrix[-n:, -n:].tolist()
    size = min(12, 0.8 * cell)
    for row in range(n):
        y = HEAD + row * cell
        colour = BRANCHES[tree.branch[row - n]]
        for column in range(n):
            x = left + labels + column * cell
            fill = colour if corner[row][column] else "#f1f3f5"
            ends = (x + 0.5, y + 0.5, x + cell - 1, y + cell - 1)
            pen.rectangle([SMOOTH * v for v in ends], fill)
        text = tree.tokens[row - n].strip()
        write(pen, left + 34, y + cell / 2, text, size, "rm", colour)
        position = f"at {int(tree.positions[row - n])}"
        write(pen, left + labels - 6, y + cell / 2, position, 0.85 * size, "rm", PALE)
    return HEAD + n * cell


def draw_digit_chart(found):
    """Step 6: each digit's probabilities, and the density of all answers with the greedy one."""
    page, pen = start_row(HEAD + PANEL + LINE)
    write(pen, GAP, HEAD / 2, "each digit, given those before it")
    K = len(found.digits) // 2
    width, height = PANEL / K, PANEL / 2
    for step in range(2 * K):
        place = (GAP + step % K * width, HEAD + step // K * height)
        draw_decision(pen, found.p, found.digits, step, place, (width - 14, height))
    product = math.prod(float(row[d]) for row, d in zip(found.p, found.digits, strict=True))
    x, y = found.place
    below = HEAD + PANEL + LINE / 2
    write(pen, GAP, below, f"[{x:.3f}, {y:.3f}]; the product of these probabilities is "
          f"{product:.2g}", 12)
    left = 2 * GAP + PANEL
    write(pen, left, HEAD / 2, "the density of all answers; cross: the greedy one")
    photo = figure5.crop_grey(found.photo, found.box, SMOOTH * PANEL)
    painted = figure5.paint_heat(photo, found.density)
    page.paste(painted, (SMOOTH * left, SMOOTH * HEAD))
    centre = np.array([left, HEAD]) + PANEL * np.array(found.place)
    figure5.draw_cross(pen, SMOOTH * centre)
    share = float(density.find_region(found.density, 0.9).double().mean())
    write(pen, left, below, f"90% of the mass lies in {share:.2%} of the crop's area", 12)
    return page.reduce(SMOOTH)


def draw_decision(pen, p, digits, step, place, size):
    """The probabilities of one digit as bars, below the digits before it; the chosen one coloured.

    p: (2 K, base); place: x, y of the upper left corner; size: width and height.
    """
    K, chosen = len(digits) // 2, digits[step]
    axis, before = ("x", digits[:step]) if step < K else ("y", digits[K:step])
    (x, y), (width, height) = place, size
    write(pen, x, y + 10, f"{axis} = 0.{''.join(map(str, before))}_")
    write(pen, x + width, y + 10, f"{chosen}: {p[step][chosen]:.0%}", 13, "rm", CHOSEN)
    top, bottom, bar = y + 22, y + height - 24, width / len(p[step])
    for i, value in enumerate(p[step].tolist()):
        left = x + i * bar
        peak = min(bottom - value * (bottom - top), bottom - 1)
        ends = (left, peak, left + max(0.8 * bar, 1), bottom)
        pen.rectangle([SMOOTH * v for v in ends], CHOSEN if i == chosen else REST)
        if len(p[step]) <= 10:
            write(pen, left + 0.4 * bar, bottom + 8, str(i), 10, "mm", PALE)


STEPS = {
    "1  What the model sees": draw_crop,
    "4  Where the answer's first digit looks": draw_heats,
    "5  The tree of tokens": draw_tree,
    "6  Digits and density": draw_digit_chart,
}


def draw_page(found):
    """All steps in one picture; their numbers are those of docs/walkthrough.md."""
    rows = []
    for title, draw in STEPS.items():
        head, pen = start_row(34)
        write(pen, GAP, 20, title, 18)
        rows += [head.reduce(SMOOTH), draw(found)]
    page = Image.new("RGB", (WIDTH, sum(row.height for row in rows) + GAP), "white")
    top = 0
    for row in rows:
        page.paste(row, (0, top))
        top += row.height
    return page


# Words and numbers.


def describe(found):
    """What the JSON holds: {name: value}."""
    (place,) = figure5.find_in_image([found.place], found.box)
    attention = {}
    for heat in found.heats:
        attention[heat.name] = [round(share, 4) for share in heat.share.tolist()]
    return {
        "keypoint": found.keypoint,
        "greedy": place,
        "digits": found.digits,
        "p of each digit": found.p.tolist(),
        "attention on the image, by layer": attention,
    }


def format_explanation(found):
    """Lines to print."""
    ((x, y),) = figure5.find_in_image([found.place], found.box)
    lines = [f"{found.keypoint}: x {x:.1f}, y {y:.1f}"]
    if len(found.heats) > 1:
        shifts = measure_shifts(found.heats)
        layer = max(range(len(shifts)), key=shifts.__getitem__)
        lines.append(
            f"asked for {found.heats[1].name}, the attention of layer {layer + 1} moves by "
            f"{shifts[layer]:.0%} of the crop"
        )
    return lines
