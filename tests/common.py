"""What several test files use: published vocabularies, noise, annotations, readers of text."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

LLAMA3 = Path(find_spec("llama_models").origin).parent / "llama3/tokenizer.model"
MISTRAL = Path(find_spec("mistral_common").origin).parent / "data"
VOCABULARIES = {
    "llama3": LLAMA3,
    "v1": MISTRAL / "tokenizer.model.v1",
    "v3": MISTRAL / "mistral_instruct_tokenizer_240323.model.v3",
}


def one_line(error):
    """The text of what pytest.raises caught, which must be a single line."""
    text = str(error.value)
    assert "\n" not in text
    return text


def noise(width, height, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def coco(instances=3, **changes):
    """A small annotation of category 1 (skirt, 8 keypoints); changes go to the second one."""
    images, annotations = [], []
    for i in range(instances):
        images.append({"id": i, "file_name": f"skirt/{i}.jpg", "width": 60, "height": 50})
        points = [15 + i, 15, 2, 20, 20, 2] + [18, 22, 1] * 6
        ids = {"id": i, "image_id": i, "category_id": 1}
        annotations.append(ids | {"bbox": [10, 10, 30, 20], "keypoints": points})
    annotations[1] |= changes
    categories = [{"id": 1, "name": "skirt"}, {"id": 5, "name": "bed"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def read_cells(table):
    """{row: {column: number}} of a Markdown table."""
    lines = [line for line in table.split("\n") if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    cells = {}
    for label, *numbers in rows:
        cells[label] = dict(zip(head[1:], map(int, numbers), strict=True))
    return cells
