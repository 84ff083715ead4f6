"""What tests share: random models, keypoints, images, conversations, annotations, vocabularies."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import data

LLAMA3 = Path(find_spec("llama_models").origin).parent / "llama3/tokenizer.model"
MISTRAL = Path(find_spec("mistral_common").origin).parent / "data"
VOCABULARIES = {
    "llama3": LLAMA3,
    "v1": MISTRAL / "tokenizer.model.v1",
    "v3": MISTRAL / "mistral_instruct_tokenizer_240323.model.v3",
}
WORDS = (
    "left right upper lower front rear inner outer tip base eye ear knee wheel corner of the near "
    "above middle"
).split()


def randomise(model, seed=0):
    """Weights so large that logits, and so greedy choices, differ clearly; no adapter is zero."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 2:
                p.normal_(std=p.shape[1] ** -0.5 * (1.5 if "lora_" not in name else 0.7))
        model.llm.model.embed_tokens.weight.normal_()
    return model


def keypoints(n, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        name = f"{' '.join(rng.choice(WORDS, 3))} {i}"
        description = " ".join(rng.choice(WORDS, rng.integers(0, 12)))
        found.append(data.Keypoint(name, description))
    return found


def photos(n, seed=0):
    return torch.randn(n, 3, 28, 28, generator=torch.Generator().manual_seed(seed))


def conversations(model, sizes, seed=0):
    """A Conversation of each size in rounds."""
    rng = np.random.default_rng(seed)
    names = iter(keypoints(sum(sizes), seed))
    found = []
    for n in sizes:
        rounds = [(next(names), rng.uniform(0, 0.999, 2)) for _ in range(n)]
        found.append(data.write_conversation(model.tokenizer, model.codec, rounds))
    return found


def assert_shared_equals_alone(model, sizes, atol):
    """Branches off one image, or each beside an image of its own: the same loss and gradients.

    sizes: rounds of each conversation, image by image; atol: relative to the largest gradient.
    """
    pixels = photos(len(sizes), seed=5)
    branches = [conversations(model, rounds, seed) for seed, rounds in enumerate(sizes)]
    tuned = [p for p in model.parameters() if p.requires_grad]
    image = [i for i, tree in enumerate(branches) for _ in tree]
    alone = model.loss(pixels[image], [c for tree in branches for c in tree])
    shared = model.loss_of_branches(pixels, branches)
    torch.testing.assert_close(torch.stack(shared), torch.stack(alone), atol=1e-5, rtol=1e-5)
    ours = torch.autograd.grad(shared.total, tuned)
    theirs = torch.autograd.grad(alone.total, tuned)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=atol * float(b.abs().max()), rtol=1e-4)


def embed_sequence(model, pixels, ids):
    """[BOS; V; T] of one image, embedded (1, 1 + N + T, D): Equations 1 to 3 by hand."""
    V_tilde = model.vision(pixels[None])[0]
    V = V_tilde @ model.projection.weight.T
    E = model.llm.model.embed_tokens.weight
    return torch.cat([E[[model.tokenizer.bos_id]], V, E[ids]])[None]


def photo(width=90, height=70, seed=0):
    """A photo of noise."""
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


def one_line(error):
    """The text of what pytest.raises caught, which must be a single line."""
    text = str(error.value)
    assert "\n" not in text
    return text
