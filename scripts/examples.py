"""Find keypoints in the pictures of examples/, which nano has never seen: `make sample`.

    python -m scripts.examples          # writes out/examples.png

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

HEIGHT, GAP = 480, 12  # of the page, in pixels


class Example(NamedTuple):
    image: str
    box: tuple  # x, y, w, h
    described: str

    def write_command(self):
        box = ",".join(map(str, self.box))
        words = ["python", "sample.py", "--image", f"examples/{self.image}", "--box", box]
        return shlex.join([*words, "--desc", f"descriptions/{self.described}.txt"])


EXAMPLES = (
    Example("camera.jpg", (0, 38, 208, 282), "human_body"),
    Example("hand.jpg", (4, 44, 236, 276), "human_hand"),
    Example("astronaut.jpg", (86, 40, 54, 53), "human_face_68"),
    Example("fox.jpg", (44, 13, 156, 164), "animal_body"),
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
    """One beside the other, all of one height."""
    pictures = [p.resize((round(p.width * HEIGHT / p.height), HEIGHT)) for p in pictures]
    width = sum(p.width for p in pictures) + GAP * (len(pictures) - 1)
    page, x = Image.new("RGB", (width, HEIGHT), "white"), 0
    for picture in pictures:
        page.paste(picture, (x, 0))
        x += picture.width + GAP
    return page


def main():
    Parser(description=__doc__.split("\n")[0]).parse_args()
    model = CapeLLM.from_pretrained(ROOT / "nano")
    pictures = []
    for example in EXAMPLES:
        pictures.append(draw_example(model, example))
        print(example.write_command())
    out = Path("out/examples.png")
    with write_whole(out) as partial:
        join_pictures(pictures).save(partial)
    print(f"written: {out}")


if __name__ == "__main__":
    launch.run("scripts.examples", main)
