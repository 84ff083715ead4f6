"""How long cumulative answers about several images take, one by one and in the same passes.

    python -m scripts.forest            # writes results/forest.json; then scripts.document

Random weights of the size of `scripts.bench infer`. In each repetition all ways run one after the
other; medians are written, of ratios too. Single rounds read every token once, in large passes:
cumulative answers cannot be faster.
"""

import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from capellm import CapeLLM
from scripts.bench import QUESTION
from scripts.collect import write_results
from scripts.reference import SHAPES, make_keypoints, write_model
from support import launch
from support.options import Parser, read_positive
from support.passes import Asked

SHAPE = SHAPES["small"]


def make_questions(model, images, keypoints):
    """The same questions about images of noise."""
    size = SHAPE["vision"]["image_size"]
    pixels = torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(0))
    asked = make_keypoints(keypoints, QUESTION["infer"], model.tokenizer)
    return [Asked(image, asked, 0, None, None) for image in pixels]


def answer(model, images, at_once, cumulative):
    answers = []
    for start in range(0, len(images), at_once):
        part = images[start : start + at_once]
        answers += model.answer_together(part, cumulative=cumulative)
    return answers


def measure(model, images, repeat):
    """Rows of results/: seconds of each way, and the share of the time one by one."""
    ways = {
        "cumulative, one by one": partial(answer, model, images, 1, True),
        "cumulative, in the same passes": partial(answer, model, images, len(images), True),
        "single, one by one": partial(answer, model, images, 1, False),
    }
    found, seconds = {}, {name: [] for name in ways}
    for _ in range(repeat):
        for name, run in ways.items():
            began = time.perf_counter()
            found[name] = run()
            seconds[name].append(time.perf_counter() - began)
    alone, together, _ = (found[name] for name in ways)
    same = sum(a.coordinates == b.coordinates for a, b in zip(alone, together, strict=True))
    rows, whole = [], seconds["cumulative, one by one"]
    for name, took in seconds.items():
        shares = [part / all_of_it for part, all_of_it in zip(took, whole, strict=True)]
        row = {"work": name, "s": statistics.median(took), "share": statistics.median(shares)}
        rows.append(row)
    return rows, same


def main():
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=read_positive, default=8)
    parser.add_argument("--keypoints", type=read_positive, default=17)
    parser.add_argument("--repeat", type=read_positive, default=3)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), SHAPE)
        model = CapeLLM.from_pretrained(folder, SHAPE["dtype"])
        images = make_questions(model, a.images, a.keypoints)
        rows, same = measure(model, images, a.repeat)
    found = {"command": f"python -m scripts.forest --repeat {a.repeat}", "images": a.images}
    found |= {"keypoints": a.keypoints, "same answers": same}
    for row in rows:
        row |= {"s": round(row["s"], 1), "share": round(row["share"], 2)}
    write_results("forest", found | {"rows": rows})


if __name__ == "__main__":
    launch.run("scripts.forest", main)
