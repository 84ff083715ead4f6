"""The options of eval.py, in groups, and what does not fit together."""

from pathlib import Path

from study.instructions import INSTRUCTIONS
from support.coco import PARTS
from support.descriptions import DESCRIPTIONS
from support.options import Parser, read_positive, read_seed

LARGEST_CROP = 4096  # pixels a side


def read_options(description, decodings):
    """Parse the command line. decodings: names of study.digits.DECODING."""
    p = Parser(description=description)
    add = p.add_argument_group("what is measured").add_argument
    add("--model", metavar="FOLDER", help="model folder: nano, or a checkpoint of train.py")
    add("--data", metavar="FOLDER", help="annotations/ and images/ in MP-100's layout")
    add("--split", type=int, default=1, choices=range(1, 6),
        help="MP-100 split: the one the model was trained on (default: %(default)s)")
    add("--part", default="test", choices=PARTS, help="default: %(default)s")
    add("--limit", type=int, metavar="N", help="a quick look: N images spread over the part")
    add("--pairs", action="store_true",
        help="count images as support-query pairs do (Table 2), not each once")

    add = p.add_argument_group("how it is asked").add_argument
    add("--descriptions", default=str(DESCRIPTIONS), metavar="FOLDER",
        help="<definition or category>.txt files (default: %(default)s)")
    add("--names", metavar="FOLDER",
        help="take keypoints' names from these files, descriptions from --descriptions (Table 6)")
    add("--instruction", choices=[n for n, i in INSTRUCTIONS.items() if not i.pretraining],
        help="how a question reads (Tables 7, 10, 11, 13); default: as in the model's training")
    add("--true-category", action="store_true",
        help="tell a model trained with `steps` what the object is; default: it answers itself")
    add("--decoding", default="greedy", choices=list(decodings),
        help="how digits are chosen (Table 9; default: %(default)s)")
    add("--cumulative", nargs="?", const="fixed", choices=["fixed", "confidence"],
        help="a question follows all earlier ones and their answers (Table 3), in the order of the "
        "list or the surest first")
    add("--image-size", type=int, metavar="S",
        help="side of the crop in pixels (Table 8); default: the model's own")
    add("--images-per-pass", type=read_positive, metavar="N",
        help="images that a pass of the language model serves; default: 8 if --cumulative, else 1")
    add("--seed", type=read_seed, default=0,
        help="of decodings that draw, and of --occlude (default: %(default)s)")

    add = p.add_argument_group("what is measured besides the answers").add_argument
    add("--controls", action="store_true",
        help="also score the mean place, another image, another keypoint's text")
    add("--occlude", type=float, nargs="+", default=[], metavar="SHARE",
        help="also cover these shares of the object's box with grey rectangles (Figure 4)")
    add("--density", action="store_true",
        help="also compute each keypoint's density (Section 4.4): the points that follow "
        "from it, and how well it foretells the truth; slow")

    add = p.add_argument_group("where results go").add_argument
    add("--out", type=Path, metavar="FOLDER", help="for results.json, results.md, instances.jsonl")
    add("--sheet", action="store_true",
        help="also draw the best, median and worst images, OUT/sheet.png (Figure 3)")
    add("--resume", action="store_true",
        help="continue the evaluation in --out: what it answered is not asked again")

    add = p.add_argument_group("tables of earlier results, nothing is measured").add_argument
    add("--average", nargs="+", type=Path, metavar="FOLDER",
        help="the mean of these folders' results, over splits")
    add("--compare", nargs="+", type=Path, metavar="FOLDER",
        help="these folders' results on the same images, compared with the first's")
    return p.parse_args()


def check_options(a):
    """ValueError if options do not fit together."""
    if a.average and a.compare:
        raise ValueError("--average and --compare are two tables: ask for one, then the other")
    if a.average or a.compare:
        return
    if not (a.model and a.data):
        raise ValueError(
            "--model and --data are needed, or --average or --compare and folders of results"
        )
    if (a.sheet or a.resume) and not a.out:
        raise ValueError("--sheet and --resume need --out, the folder of the results")
    if a.image_size is not None and a.image_size > LARGEST_CROP:
        raise ValueError(f"--image-size {a.image_size}: at most {LARGEST_CROP} pixels")
    if not all(0 < share < 1 for share in a.occlude):
        shares = " ".join(map(str, a.occlude))
        raise ValueError(
            f"--occlude {shares}: shares of the box lie between 0 and 1, both excluded"
        )
    if a.density and (a.cumulative or a.decoding != "greedy"):
        raise ValueError(
            "--density covers every answer to its question: leave --decoding and --cumulative out"
        )
