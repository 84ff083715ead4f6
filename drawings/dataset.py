"""Writes drawings in the layout of MP-100: COCO annotations of the five splits, hidden keypoints as
0, 0, 0.

MP-100 (Xu et al. 2022; Sec. 4.1 of the paper) is gathered from eleven sources under eleven
licences. What is written here stands in for it.
"""

import json
from functools import partial
from multiprocessing import Pool
from pathlib import Path

from PIL import Image, ImageDraw
from tqdm import tqdm

from drawings.scene import draw_category
from support.descriptions import read_mp100
from support.files import write_whole

SHEET_CELL, SHEET_COLUMNS, SHEET_ROWS = 200, 8, 5  # of a sheet, in pixels


def name_folder(category):
    return f"{category['id']}_{category['name']}"


def write_image(out, seed, task):
    """Draw and save image task = (category, index) below `out`. Returns its COCO image and
    annotation."""
    category, index = task
    image, keypoints, box = draw_category(category, seed, index)
    name = f"{name_folder(category)}/{index}.jpg"
    image.save(out / "images" / name, quality=88)
    number = category["id"] * 1_000_000 + index
    record = {"id": number, "file_name": name, "height": image.height, "width": image.width}
    annotation = {
        "id": number,
        "image_id": number,
        "category_id": category["id"],
        "iscrowd": 0,
        "keypoints": keypoints.ravel().round(2).tolist(),
        "num_keypoints": int((keypoints[:, 2] > 0).sum()),
        "bbox": box.round(2).tolist(),
        "area": round(float(box[2] * box[3]), 2),
    }
    return record, annotation


def describe_category(category):
    """A category as COCO has it. Its keypoints have numbers for names, as in MP-100."""
    return {
        "supercategory": category["supercategory"],
        "id": category["id"],
        "name": category["name"],
        "keypoints": [str(k) for k in range(category["keypoints"])],
        "skeleton": category["skeleton"],
    }


def write_annotations(path, records, categories):
    """Write those of the (image, annotation) records that show one of the categories."""
    ids = {category["id"] for category in categories}
    chosen = [record for record in records if record[1]["category_id"] in ids]
    coco = {
        "images": [image for image, _ in chosen],
        "annotations": [annotation for _, annotation in chosen],
        "categories": [describe_category(category) for category in categories],
    }
    path.write_text(json.dumps(coco, allow_nan=False))


def write_dataset(out, seed=0, per_category=200):
    """Write images/ and annotations/ of all categories and splits into the new folder `out`.
    ValueError if it is not empty."""
    out, facts = Path(out), read_mp100()
    categories = facts["categories"]
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            f"{out} exists and is not an empty folder: remove it or give another --out"
        )
    partial_folder = out.with_name(out.name + ".partial")
    for category in categories:
        folder = partial_folder / "images" / name_folder(category)
        folder.mkdir(parents=True, exist_ok=True)
    tasks = [(category, index) for category in categories for index in range(per_category)]
    with Pool(2) as pool:
        drawn = pool.imap(partial(write_image, partial_folder, seed), tasks, chunksize=25)
        records = list(tqdm(drawn, total=len(tasks), unit="image"))
        # They end by themselves: SIGTERM, which leaving the block sends, may be handled otherwise.
        pool.close()
        pool.join()
    folder = partial_folder / "annotations"
    folder.mkdir(exist_ok=True)
    for split, subsets in facts["splits"].items():
        for subset, ids in subsets.items():
            shown = [category for category in categories if category["id"] in ids]
            write_annotations(folder / f"mp100_split{split}_{subset}.json", records, shown)
    if out.exists():
        out.rmdir()
    partial_folder.rename(out)


def choose_for_sheet(categories):
    """One category of each definition and some more, as many as a sheet has cells."""
    firsts = {}
    for category in categories:
        firsts.setdefault(category["definition"], category)
    others = [category for category in categories if category not in firsts.values()]
    chosen = [*firsts.values(), *others[::7]][: SHEET_COLUMNS * SHEET_ROWS]
    return sorted(chosen, key=lambda category: category["id"])


def write_overview(path, seed=0):
    """Save a contact sheet of 40 categories with a small dot on each visible keypoint."""
    page = Image.new("RGB", (SHEET_COLUMNS * SHEET_CELL, SHEET_ROWS * SHEET_CELL), "white")
    for i, category in enumerate(choose_for_sheet(read_mp100()["categories"])):
        image, keypoints, _ = draw_category(category, seed, 0)
        factor = (SHEET_CELL - 8) / max(image.size)
        size = [round(side * factor) for side in image.size]
        image = image.resize(size, Image.Resampling.LANCZOS)
        pen = ImageDraw.Draw(image)
        for x, y in keypoints[keypoints[:, 2] > 0, :2] * factor:
            pen.ellipse([x - 2, y - 2, x + 2, y + 2], fill="red", outline="white")
        row, column = divmod(i, SHEET_COLUMNS)
        left = column * SHEET_CELL + (SHEET_CELL - image.width) // 2
        top = row * SHEET_CELL + (SHEET_CELL - image.height) // 2
        page.paste(image, (left, top))
    with write_whole(Path(path)) as partial:
        page.save(partial)
