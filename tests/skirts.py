"""A tiny data folder for tests of training."""

import json

import numpy as np
from PIL import Image


def write_skirts(folder):
    """13 photos of skirts with 8 keypoints each, some hidden: 24 pairs of 4 rounds."""
    (folder / "annotations").mkdir()
    (folder / "images").mkdir()
    rng, images, annotations = np.random.default_rng(0), [], []
    for i in range(13):
        pixels = rng.integers(0, 256, (50, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        points = np.c_[rng.uniform(12, 42, 8), rng.uniform(12, 38, 8), [2] * 8]
        if i > 10:
            points[:4] = 0
        images.append({"id": i, "file_name": f"{i}.png", "width": 60, "height": 50})
        annotation = {"id": i, "image_id": i, "category_id": 1, "bbox": [8, 8, 40, 34]}
        annotations.append(annotation | {"keypoints": points.ravel().tolist()})
    categories = [{"id": 1, "name": "skirt"}]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    for part in ("train", "val"):
        (folder / "annotations" / f"mp100_split1_{part}.json").write_text(json.dumps(coco))
    # Short names without descriptions, to keep the tests quick.
    (folder / "skirt.txt").write_text("".join(f"{name}:\n" for name in "abcdefgh"))
