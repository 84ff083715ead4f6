"""Write docs/walkthrough.md: one keypoint of one photo through the code, with pictures.

    python -m scripts.walk              # the page, docs/walk/ and results/walk.json, in two minutes
    python -m scripts.walk --no-train   # keeps results/walk.json, the training of step 8

The words stand in scripts/walk.md; there `$name` is a number that a function `describe_...` here
computes, and a line `@code FILE FUNCTION` quotes code: see `quote_code`.
"""

import functools
import math
import string
import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import data
import decode
from capellm import CapeLLM
from scripts import features, growth, lesson
from scripts.collect import read_results, write_results
from scripts.markdown import quote_code, write_table
from study import density, explain
from support.descriptions import DESCRIPTIONS
from support.files import ROOT
from support.launch import run
from support.options import Parser
from support.passes import Tree, draw_numbers, find_common
from support.photos import open_image
from support.pictures import SMOOTH

TEMPLATE = Path(__file__).with_name("walk.md")
SHADE = 8  # of 256
PAGE, PICTURES = ROOT / "docs/walkthrough.md", ROOT / "docs/walk"
# What the page is about.
PHOTO, BOX, DEFINITION = "examples/astronaut.jpg", (86, 40, 54, 53), "human_face_68"
KEYPOINT = "left eye outer"
# Drawings of the same definition, for step 2; how many questions come before one, in step 9.
FACES, EARLIER = (1, 3), 3
# Whose patches step 2 frames.
FRAMED = ("left eye outer", "right eye outer", "nose tip", "left lip outer", "centre chin")
CHAIN_HEIGHT = 170
CONTROLLED = ("PCK@0.05", "PCK@0.20", "mPCK")
COVERED = "occlude, 40% covered"


class Walk(NamedTuple):
    """What all steps start from. found: of KEYPOINT; places: (K, 2), of all keypoints."""

    folder: str
    model: CapeLLM
    keypoints: list
    found: explain.Explanation
    places: np.ndarray


def start_walk(folder) -> Walk:
    model, photo = CapeLLM.from_pretrained(folder), open_image(ROOT / PHOTO)
    keypoints = data.read_descriptions(DESCRIPTIONS / f"{DEFINITION}.txt")
    (keypoint,) = [k for k in keypoints if k.name == KEYPOINT]
    found = explain.explain_keypoint(model, photo, BOX, keypoint, keypoints)
    places = np.array(model.answer(found.pixels, keypoints).coordinates)
    return Walk(folder, model, keypoints, found, places)


# The page.


def write_page(facts):
    """The text of the page: the template, filled in."""
    lines = []
    for line in TEMPLATE.read_text(encoding="utf-8").splitlines():
        if line.startswith("@code "):
            place, _, part = line.removeprefix("@code ").partition(": ")
            lines.append(quote_code(ROOT, *place.split(), *part.split(" ... ") if part else ()))
        else:
            lines.append(fill_line(string.Template(line).substitute(facts)))
    return "\n".join(lines) + "\n"


def fill_line(line):
    """A paragraph is one line of the template; on the page it is filled."""
    if line.startswith(("|", "    ", "#", "!")):
        return line
    return textwrap.fill(line, 100, break_long_words=False, break_on_hyphens=False)


def collect_facts(walk):
    """{name: text} of all numbers on the page."""
    (keypoint,) = [k for k in walk.keypoints if k.name == KEYPOINT]
    asked = textwrap.fill(f"{KEYPOINT}: {keypoint.description}", 96)
    facts = {"keypoint": KEYPOINT, "description": textwrap.indent(asked, "    ")}
    facts |= {"photo": PHOTO, "definition": DEFINITION, "box": ",".join(map(str, BOX))}
    for describe in (describe_crop, describe_features, describe_question, describe_attention,
                     describe_tree, describe_digits, describe_adapters, describe_training,
                     describe_chains):
        facts |= describe(walk)
    return {name: str(value) for name, value in facts.items()}


def find_best(values):
    return max(range(len(values)), key=values.__getitem__)


# Steps 1 to 3: the crop, its features, the question.


def describe_crop(walk):
    model = walk.model
    vision, llm = model.vision.config, model.llm.config
    pixels, unit = model.config.image_size, model.vision.unit
    ((x, y),) = explain.figure5.find_in_image([walk.found.place], BOX)
    return {
        "pixels": pixels,
        "other_size": pixels + 4 * unit, "other_grid": pixels // unit + 4,
        "grid": pixels // unit, "N": (pixels // unit) ** 2, "C": vision.hidden_size,
        "D": llm.hidden_size, "K": model.codec.K, "vocab": f"{llm.vocab_size:,}",
        "step": f"{max(BOX[2:]) / 1000:.3f}", "x": f"{x:.1f}", "y": f"{y:.1f}",
        "rel_x": f"{walk.found.place[0]:.3f}", "rel_y": f"{walk.found.place[1]:.3f}",
    }


def describe_features(walk):
    """How far from the truth is the patch that is most like a keypoint's in the photo?"""
    found = features.find_features(walk.model, walk.found.pixels, DEFINITION, FACES)
    grid, matched, unmoved = found.features.shape[1], [], []
    for n, drawn in enumerate(found.drawn, 1):
        for k in drawn.askable:
            row, column = features.match(found, walk.places[k], n)
            place = (np.array([column, row]) + 0.5) / grid
            matched.append(np.hypot(*(place - drawn.points[k])))
            unmoved.append(np.hypot(*(walk.places[k] - drawn.points[k])))
    return {"share": f"{found.share:.0%}", "matched": f"{np.median(matched):.0%}",
            "unmoved": f"{np.median(unmoved):.0%}"}


def describe_question(walk):
    """The conversation's tokens one by one; those that carry loss are marked."""
    tokenizer = walk.model.tokenizer
    (keypoint,) = [k for k in walk.keypoints if k.name == KEYPOINT]
    pair = data.write_conversation(tokenizer, walk.model.codec, [(keypoint, walk.found.place)])
    texts = []
    for token, label in zip(pair.ids, pair.labels, strict=True):
        text = "end of text" if token == tokenizer.eos_id else tokenizer.decode([token])
        texts.append(text if label == data.IGNORE else f"\u00ab{text}\u00bb")
    tokens = textwrap.fill(" | ".join(texts), 96, initial_indent="    ", subsequent_indent="    ")
    answer = sum(label != data.IGNORE for label in pair.labels)
    return {"tokens": tokens, "T": len(pair.ids) - answer, "A": answer}


# Steps 4 to 6: attention, the tree, the digits.


def describe_attention(walk):
    one, other = walk.found.heats
    layer = find_best(explain.measure_shifts(walk.found.heats))
    x, other_x = (explain.find_centre(heat.weights[layer])[0] for heat in (one, other))
    return {"mirror": other.name, "layer": layer + 1, "heat_x": f"{x:.2f}",
            "mirror_x": f"{other_x:.2f}"}


def describe_tree(walk):
    """Tokens that a tree of all keypoints has, and that as many single sequences have."""
    model = walk.model
    (V,) = model.image_tokens(walk.found.pixels[None])
    trunk, questions = model.prepare_questions(V, walk.keypoints)
    answer = 2 * model.codec.K - 1 + len(model.codec.comma)
    common = len(find_common(questions))
    grown = len(trunk) + common + sum(len(q) - common + answer for q in questions)
    single = sum(len(trunk) + len(q) + answer for q in questions)
    return {"asked": len(questions), "grown": f"{grown:,}", "single": f"{single:,}",
            "times": f"{single / grown:.1f}"}


def describe_digits(walk):
    found, p = walk.found, walk.found.density
    chosen = [float(row[d]) for row, d in zip(found.p, found.digits, strict=True)]
    x, y = (torch.arange(density.GRID) / density.GRID - value for value in found.place)
    near = float(p[torch.hypot(x[:, None], y) < 0.05].sum())
    return {"first": f"{chosen[0]:.0%}", "last": f"{chosen[len(chosen) // 2 - 1]:.0%}",
            "product": f"{math.prod(chosen):.2g}", "near": f"{near:.0%}"}


# Steps 7 to 9: the adapters, a training, questions in a chain.


@torch.inference_mode()
def describe_adapters(walk):
    """How many weights are trained, and how far all answers move without the adapters."""
    model, rows = CapeLLM.from_pretrained(walk.folder, merge=False), []
    v, m = growth.LARGE, growth.LLAMA8B
    names = {"vision": "vision encoder", "llm": "language model"}
    paper = {"vision": (growth.vision_parameters(v), growth.vision_adapters(v)),
             "llm": (growth.llm_parameters(m), growth.llm_adapters(m))}
    for name, (frozen, trained) in paper.items():
        counts = {True: 0, False: 0}
        for parameter, tensor in getattr(model, name).named_parameters():
            counts["lora_" in parameter] += tensor.numel()
        rows.append([names[name], counts[False], counts[True], frozen, trained])
    rows.insert(1, ["projection", 0, model.projection.weight.numel(), 0, v.C * m.D])
    rows.append(["all", *np.array([row[1:] for row in rows]).sum(0).tolist()])
    shown = [[name, *(f"{count:,}" for count in counts)] for name, *counts in rows]
    heads = ["weights", "nano: frozen", "trained", "the paper's model: frozen", "trained"]
    lesson.forget_adapters(model)
    places = np.array(model.answer(walk.found.pixels, walk.keypoints).coordinates)
    moved = np.hypot(*(places - walk.places).T)
    size = (Path(walk.folder) / "adapter.safetensors").stat().st_size
    millions = sum(rows[-1][1:3]) / 1e6
    return {"weights": write_table(heads, shown).strip(), "millions": f"{millions:.1f}",
            "adapter_size": f"{size / 1e6:.2f}",
            "trained_share": f"{rows[-1][4] / sum(rows[-1][3:]):.1%}",
            "moved_most": f"{moved.max():.1%}"}


def describe_training(walk):
    """What results/ holds of the lesson and of nano's controls."""
    taught, rows = read_results("walk"), []
    tokens = {row["token"]: row for row in taught["tokens"]}
    measured = read_results("nano")["rows"]
    categories, tables = measured[0]["categories"], read_results("tables")
    (covered,) = [row for row in tables["rows"] if row["name"] == COVERED]
    for row in measured:
        if row["of"] == "all" and "images" in row:
            rows.append([row["answers"], *(f"{row[name]:.1f}" for name in CONTROLLED)])
    return {
        "category": taught["category"], "drawn": lesson.TRAINED_ON, "unseen": lesson.MEASURED_ON,
        "steps": lesson.STEPS, "pairs": lesson.PAIRS, "rounds": lesson.ROUNDS,
        "chance": f"{math.log(10):.2f}", "categories": categories,
        "covered": f"{-covered['difference']:.0f}", "covered_images": tables["images"],
        "a_before": f"{tokens['a']['before']:.2f}", "a_after": f"{tokens['a']['after']:.2f}",
        "c_after": f"{tokens['c']['after']:.2f}",
        "near_before": f"{taught['near before']:.0f}%",
        "near_after": f"{taught['near after']:.0f}%",
        "near_forgotten": f"{taught['near without adapters']:.0f}%",
        "controls": write_table(["answers", *CONTROLLED], rows).strip(),
    }


@functools.cache
@torch.inference_mode()
def answer_in_chains(model, pixels, keypoints):
    """For each keypoint but the first: its Decoded if asked alone, and after EARLIER others."""
    (V,), trees = model.image_tokens(pixels[None]), []
    for last in range(EARLIER, len(keypoints)):
        asked = keypoints[last - EARLIER : last + 1]
        prepared = model.prepare_questions(V, asked)
        trees.append(Tree(*prepared, draw_numbers(asked, 0, 2 * model.codec.K)))
    ways = []
    for cumulative in (False, True):
        found = decode.answer_questions(model, trees, "greedy", cumulative, data.MAX_TOKENS)
        ways.append([chain[-1] for chain in found])
    return dict(zip([k.name for k in keypoints[EARLIER:]], zip(*ways, strict=True), strict=True))


def describe_chains(walk):
    found = answer_in_chains(walk.model, walk.found.pixels, tuple(walk.keypoints))
    codec, differ, moved = walk.model.codec, [], []
    for alone, after in found.values():
        differ.append(np.not_equal(alone.digits, after.digits).reshape(2, -1).any(0))
        moved.append(math.dist(codec.place(alone.digits), codec.place(after.digits)))
    alone, after = ("[{:.3f}, {:.3f}]".format(*codec.place(d.digits)) for d in found[KEYPOINT])
    words = f"The answer {alone} becomes {after}."
    if alone == after:
        words = f"The answer stays {alone}; how sure it is changes."
    return {
        "chains": len(found), "earlier": EARLIER,
        "differ": int(np.any(differ, 1).sum()), "differ_first": int(np.sum(differ, 0)[0]),
        "chain_moved": f"{np.median(moved):.1%}",
        "chain_words": words,
    }


def draw_chains(walk):
    """The digits of the keypoint, asked alone above, after others below."""
    ways = answer_in_chains(walk.model, walk.found.pixels, tuple(walk.keypoints))[KEYPOINT]
    page, pen = explain.start_row(2 * CHAIN_HEIGHT)
    width = (explain.WIDTH - explain.GAP) / len(ways[0].digits)
    for n, (title, found) in enumerate(zip(("asked alone", "after others"), ways, strict=True)):
        top = n * CHAIN_HEIGHT
        explain.write(pen, explain.GAP, top + 14, title, 14)
        for step in range(len(found.digits)):
            place = (explain.GAP + step * width, top + 24)
            size = (width - 20, CHAIN_HEIGHT - 24)
            explain.draw_decision(pen, found.p, found.digits, step, place, size)
    return page.reduce(SMOOTH)


# Pictures.


def draw_pictures(walk):
    """{name of a file: picture}"""
    patches = features.find_features(walk.model, walk.found.pixels, DEFINITION, FACES)
    names = [k.name for k in walk.keypoints]
    shown = {name: walk.places[names.index(name)] for name in FRAMED}
    return {
        "1-crop.png": explain.draw_crop(walk.found),
        "2-features.png": features.draw_features(patches, shown),
        "4-attention.png": explain.draw_heats(walk.found),
        "5-tree.png": explain.draw_tree(walk.found),
        "6-digits.png": explain.draw_digit_chart(walk.found),
        "8-training.png": lesson.draw_training(read_results("walk")),
        "9-chain.png": draw_chains(walk),
    }


def write_picture(path, picture):
    """Fewer shades of each colour, which nobody sees, make a PNG less than half as large."""
    shades = [min(255, round(value / SHADE) * SHADE) for value in range(256)]
    picture.point(3 * shades).save(path, optimize=True)


def main():
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=ROOT / "nano", help="a model folder (default: nano)")
    parser.add_argument("--no-train", action="store_true", help="keep results/walk.json")
    options = parser.parse_args()
    if not options.no_train:
        write_results("walk", lesson.teach(options.model))
    walk = start_walk(options.model)
    PAGE.write_text(write_page(collect_facts(walk)), encoding="utf-8")
    PICTURES.mkdir(exist_ok=True)
    for name, picture in draw_pictures(walk).items():
        write_picture(PICTURES / name, picture)
        print(f"docs/walk/{name}: {(PICTURES / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    run("scripts.walk", main)
