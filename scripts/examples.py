"""Find keypoints in the pictures of examples/, which nano has never seen: `make sample`.

    python -m scripts.examples          # writes out/examples.jpg

Each is found as `python sample.py` finds it, whose command is printed.
"""

import shlex
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from capellm import CapeLLM
from data import read_descriptions
from support import answers, launch
from support.files import ROOT, write_whole
from support.options import Parser
from support.photos import open_image
from support.pictures import draw_keypoints

WIDTH, GAP = 1200, 12  # of the page and between pictures, in pixels
IN_ROW = 2


class Example(NamedTuple):
    image: str
    box: tuple  # x, y, w, h
    described: str

    def write_command(self):
        box = ",".join(map(str, self.box))
        words = ["python", "sample.py", "--image", f"examples/{self.image}", "--box", box]
        return shlex.join([*words, "--desc", f"descriptions/{self.described}.txt"])


EXAMPLES = (
    Example("astronaut.jpg", (86, 40, 54, 53), "human_face_68"),
    Example("hand.jpg", (4, 44, 236, 276), "human_hand"),
    Example("fox.jpg", (44, 13, 156, 164), "animal_body"),
    # Cut off at the thighs, unlike the people that nano was trained on: its circles are large.
    Example("camera.jpg", (0, 38, 208, 282), "human_body"),
)


def draw_example(model, example):
    """A picture of the answers."""
    photo = open_image(ROOT / "examples" / example.image)
    keypoints = read_descriptions(ROOT / "descriptions" / f"{example.described}.txt")
    points = model.locate(photo, keypoints, example.box)
    names = [keypoint.name for keypoint in keypoints]
    circles = answers.choose_circles(points, example.box)
    return draw_keypoints(photo, points, names, example.box, circles)


def join_pictures(pictures):
    """Rows of pictures; those of a row are of one height, and fill the page's width."""
    rows = [pictures[i : i + IN_ROW] for i in range(0, len(pictures), IN_ROW)]
    heights = []
    for row in rows:
        room = WIDTH - GAP * (len(row) - 1)
        heights.append(round(room / sum(p.width / p.height for p in row)))
    page = Image.new("RGB", (WIDTH, sum(heights) + GAP * (len(rows) - 1)), "white")
    y = 0
    for row, height in zip(rows, heights, strict=True):
        x = 0
        for picture in row:
            width = round(picture.width * height / picture.height)
            page.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (x, y))
            x += width + GAP
        y += height + GAP
    return page


def main():
    Parser(description=__doc__.split("\n")[0]).parse_args()
    model = CapeLLM.from_pretrained(ROOT / "nano")
    pictures = []
    for example in EXAMPLES:
        pictures.append(draw_example(model, example))
        print(example.write_command())
    out = Path("out/examples.jpg")
    with write_whole(out) as partial:
        join_pictures(pictures).save(partial, quality=90)
    print(f"written: {out}")


if __name__ == "__main__":
    launch.run("scripts.examples", main)
