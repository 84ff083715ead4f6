"""The options of sample.py: which contradict each other, what a device and a box may be."""

from pathlib import Path

import numpy as np
import torch

from support.coco import clip_box
from support.launch import choose_kernels
from support.pictures import check_picture_name


def choose_device(name=None):
    """The device of this name, or the fastest one. Raises ValueError if it is not available."""
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    name = name or available[0]
    if name not in available:
        raise ValueError(f"--device {name} is not available here; use {' or '.join(available)}")
    if name == "cuda":
        choose_kernels()
    return name


def parse_box(text, size):
    """`x,y,w,h` in pixels, clipped to an image of size (width, height), as MP-100's boxes are.

    Returns (x, y, w, h). Raises ValueError if that is no box or lies outside of the image.
    """
    try:
        x, y, w, h = map(float, text.split(","))
    except ValueError:
        raise ValueError(
            f"--box {text!r}: expected four numbers x,y,w,h in pixels, such as 86,40,54,53"
        ) from None
    box = clip_box(np.array([x, y, w, h]), size)
    # A flat box will do: the crop takes the longer side.
    if not (min(box[2:]) >= 0 and max(box[2:]) >= 1):
        raise ValueError(
            f"--box {text} (x,y,w,h) has no part inside the image, "
            f"which is {size[0]} x {size[1]} pixels"
        )
    return box


def name_picture(args):
    """The options with --out, which by default is named after the photo and what is shown of it."""
    shown = "keypoints"
    if args.density is not None:
        shown = "density"
    if args.explain is not None:
        shown = "explained"
    args.out = args.out or Path("out") / f"{args.image.stem}_{shown}.png"
    return args


def check_options(args):
    """Raises ValueError if options contradict each other, or would overwrite what is read."""
    files = [args.image, args.desc, args.out]
    if args.json is not None:
        files.append(args.json)
    if len({path.resolve() for path in files}) < len(files):
        raise ValueError(
            "--image, --desc, --out and --json name one file twice: choose another --out or --json"
        )
    check_picture_name("--out", args.out)
    if args.density is not None and (args.cumulative or args.decoding != "greedy"):
        raise ValueError(
            "--density covers every answer to its question: leave --decoding and --cumulative out"
        )
    if args.explain is not None and args.density is not None:
        raise ValueError("--density and --explain are two pictures: leave one of them out")
    if args.explain is not None and (args.cumulative or args.decoding != "greedy"):
        raise ValueError(
            "--explain shows the greedy answer to one question: "
            "leave --decoding and --cumulative out"
        )
    if args.truth is not None and args.density is None:
        raise ValueError(
            "--truth is compared with the density of one keypoint: "
            "name it with --density, or leave --truth out"
        )
