"""Find keypoints in one photo from their text descriptions (Section 3.1).

    python sample.py --image examples/astronaut.jpg --box 86,40,54,53 \\
        --desc descriptions/human_face_68.txt
    python sample.py ... --density "nose tip"                   # where this keypoint may be
    python sample.py ... --density "nose tip" --truth 113,63    # beside a Gaussian (Figure 5)
    python sample.py ... --explain "nose tip"                   # how it is found, step by step

It prints a table and writes a picture; with --json the numbers, too.
"""

import json
from pathlib import Path

import data
from capellm import CapeLLM
from study import explain, figure5
from study.digits import DECODING
from support import answers
from support.files import ROOT, write_whole
from support.launch import run
from support.options import Parser, read_seed
from support.photos import open_image
from support.pictures import draw_keypoints
from support.sample_options import check_options, choose_device, name_picture, parse_box


def parse_arguments():
    parser = Parser(description=__doc__.split("\n")[0])
    asked = parser.add_argument_group("what is asked")
    asked.add_argument("--image", type=Path, required=True, metavar="FILE", help="the photo")
    asked.add_argument(
        "--desc", type=Path, required=True, metavar="FILE",
        help="'name: description' lines, as in descriptions/",
    )
    asked.add_argument(
        "--box", metavar="x,y,w,h",
        help="the object, in pixels of the upright photo (default: all of it)",
    )
    asked.add_argument(
        "--density", metavar="NAME",
        help="show instead where this keypoint may be, over all answers at once",
    )
    asked.add_argument(
        "--explain", metavar="NAME",
        help="show instead how this keypoint is found: crop, attention, tree, digits, density",
    )
    asked.add_argument(
        "--truth", metavar="x,y",
        help="where it is, in pixels: shown and compared with the density (Figure 5)",
    )
    asked.add_argument(
        "--category", metavar="NAME",
        help="what the object is, for a model that asks (default: the model's own answer)",
    )
    model = parser.add_argument_group("the model and how it answers")
    model.add_argument(
        "--model", type=Path, default=ROOT / "nano", metavar="FOLDER",
        help="a model folder (default: nano)",
    )
    model.add_argument(
        "--decoding", choices=DECODING, default="greedy",
        help="how an answer's digits are chosen (default: greedy)",
    )
    model.add_argument("--seed", type=read_seed, default=0, help="of drawn digits (default: 0)")
    model.add_argument(
        "--cumulative", nargs="?", const=True, default=False, choices=["confidence"],
        help="each question follows the earlier answers; with 'confidence' the surest first",
    )
    model.add_argument(
        "--device", choices=["cpu", "cuda", "mps"],
        help="default: cuda or mps where available, else cpu",
    )
    written = parser.add_argument_group("what is written")
    written.add_argument(
        "--out", type=Path, metavar="FILE",
        help="the picture (default: out/<name of the photo>_keypoints, _density, _explained.png)",
    )
    written.add_argument("--json", type=Path, metavar="FILE", help="also the numbers, as JSON")
    return name_picture(parser.parse_args())


def main():
    options = parse_arguments()
    check_options(options)
    device = choose_device(options.device)

    keypoints = data.read_descriptions(options.desc)
    names = [keypoint.name for keypoint in keypoints]
    photo = open_image(options.image)
    frame, truth = None, None
    keypoint = figure5.find_asked(keypoints, options)
    if options.box is not None:
        frame = parse_box(options.box, photo.size)
    box = frame or (0, 0, *photo.size)
    if options.truth is not None:
        truth = figure5.parse_truth(options.truth, box)

    # A large model loads for a while.
    print(f"loading {options.model} on {device}", flush=True)
    model = CapeLLM.from_pretrained(options.model, device=device)

    if keypoint is None:
        points = model.locate(
            photo, keypoints, box, options.decoding, options.cumulative, options.seed,
            options.category,
        )
        circles = answers.choose_circles(points, box)
        picture = draw_keypoints(photo, points, names, frame, circles)
        # Factors are measured on greedy answers to single questions.
        is_usual = options.decoding == "greedy" and not options.cumulative
        is_calibrated = model.config.radius_scale is not None and is_usual
        lines = answers.format_answers(names, points, box, is_calibrated)
        numbers = answers.describe_answers(names, points, box, is_calibrated)
    elif options.explain is not None:
        found = explain.explain_keypoint(model, photo, box, keypoint, keypoints, options.category)
        picture, numbers = explain.draw_page(found), explain.describe(found)
        lines = explain.format_explanation(found)
    else:
        finding = figure5.make_finding(
            model, photo, box, keypoint, truth, category=options.category, listed=keypoints
        )
        picture = figure5.draw_density(photo, box, keypoint.name, finding.p, finding.truth)
        lines = figure5.format_finding(finding)
        numbers = finding.numbers

    written = [options.out]
    with write_whole(options.out) as partial:
        picture.save(partial)
    if options.json is not None:
        written.append(options.json)
        numbers = {"image": str(options.image), "model": str(options.model), "box": box, **numbers}
        with write_whole(options.json) as partial:
            partial.write_text(json.dumps(numbers, indent=1, allow_nan=False) + "\n")
    print("\n".join(lines))
    print(f"written: {', '.join(map(str, written))}")


if __name__ == "__main__":
    run("sample.py", main)
