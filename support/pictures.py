"""Pictures."""

import math

import numpy as np
from PIL import Image, ImageDraw


def draw_contact_sheet(instances, load_crop, side=160):
    """One image of each category, its crop with the keypoints that are labelled."""
    first = {i.category: i for i in reversed(instances)}
    columns = math.ceil(len(first) ** 0.5)
    sheet = Image.new("RGB", (columns * side, math.ceil(len(first) / columns) * (side + 14)), "white")
    pen = ImageDraw.Draw(sheet)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for n, (_, i) in enumerate(sorted(first.items())):
        pixels, points = load_crop(i, side)
        x, y = n % columns * side, n // columns * (side + 14)
        picture = pixels.permute(1, 2, 0).numpy() * std + mean
        picture = (picture.clip(0, 1) * 255).astype(np.uint8)
        sheet.paste(Image.fromarray(picture), (x, y + 14))
        pen.text((x + 2, y + 1), f"{i.category} {i.name}"[:side // 6], "black")
        for px, py in points[points[:, 2] > 0, :2] * side:
            pen.ellipse((x + px - 2, y + 12 + py, x + px + 2, y + 16 + py), "red", "white")
    return sheet
