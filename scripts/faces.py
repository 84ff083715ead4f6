"""Training on real photographs, in Table 15's ways: a nano that saw drawings alone learns faces.

    python -m scripts.faces FOLDER      # `make faces PHOTOS=FOLDER`: photographs with 68 keypoints

nano is pre-trained on drawings alone, then trained with each of Table 15's settings, three epochs
of the photographs, and asked after each. What is done is left alone, what was interrupted
continues.
"""

from pathlib import Path
from typing import NamedTuple

from capellm import CapeLLM
from scripts import recipe
from scripts.examples import EXAMPLES, draw_example
from support import launch
from support.files import write_whole
from support.options import Parser

OUT, RUNS = Path("out/faces"), Path("runs/faces")
DRAWINGS = Path("runs/drawings")
FACE = EXAMPLES[0]
START = "start"
# An epoch asks each of 3,146 photographs once, 32 a step: change it with the photographs.
EPOCH, EPOCHS, BATCH = 98, 3, 32


class Setting(NamedTuple):
    tune: str
    label: str


SETTINGS = (
    Setting("lora", "LoRA and projection"),
    Setting("frozen", "LoRA in the language model alone, and projection"),
    Setting("everything", "everything"),
)


def evaluated(setting, epoch):
    """The folder of an evaluation."""
    return OUT / setting.tune / f"step-{epoch * EPOCH:07d}"


def pretrain():
    """Make the nano that has seen drawings alone. Returns its folder."""
    model = DRAWINGS / "model"
    if not model.is_dir():
        data = ["--data", recipe.FIGURES, "--rounds", 500]
        recipe.torchrun("-m", "nano.pretrain", *data, "--out", DRAWINGS)
    return model


def draw(name, model):
    """A picture of the keypoints that a model finds in a photograph that may be shown."""
    found = draw_example(CapeLLM.from_pretrained(model), FACE)
    with write_whole(OUT / f"{name}.jpg") as partial:
        found.save(partial, quality=90)


def main():
    p = Parser(description=__doc__.split("\n")[0])
    p.add_argument("photographs", metavar="FOLDER", help="annotations/ and images/, 68 keypoints")
    a = p.parse_args()
    asked = ["--data", a.photographs, "--sheet"]
    start = pretrain()
    recipe.evaluate(OUT / START, start, *asked)
    draw(START, start)
    folders = [OUT / START]
    for setting in SETTINGS:
        settings = ["--tune", setting.tune, "--rounds", "locllm", "--k", 4, "--batch", BATCH]
        settings += ["--micro-batch", 8, "--save-every", EPOCH]
        run = RUNS / setting.tune
        recipe.train(run, EPOCHS * EPOCH, "--init", start, "--data", a.photographs, *settings)
        for epoch in range(1, EPOCHS + 1):
            folder = evaluated(setting, epoch)
            recipe.evaluate(folder, recipe.checkpoint(run, epoch * EPOCH), *asked)
            folders.append(folder)
        draw(setting.tune, recipe.checkpoint(run, EPOCHS * EPOCH))
    recipe.compare(folders, OUT)
    runs = [RUNS / setting.tune for setting in SETTINGS]
    recipe.draw_curves(runs, OUT / "curves.png")


if __name__ == "__main__":
    launch.run("scripts.faces", main)
