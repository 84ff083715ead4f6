"""Draw MP-100 anew.

    python -m drawings --out data/figures      # 20,000 images in a few minutes
    python -m drawings --sheet sheet.png       # one image each of 40 categories, keypoints dotted
"""

from pathlib import Path

from drawings.dataset import write_dataset, write_overview
from support.launch import run
from support.options import Parser, read_positive, read_seed
from support.pictures import check_picture_name

MOST_IMAGES = 100_000  # of a category


def main():
    parser = Parser(prog="python -m drawings", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="folder to write; must be new or empty")
    parser.add_argument("--seed", type=read_seed, default=0)
    parser.add_argument(
        "--per-category", type=read_positive, default=200, help="images of each category"
    )
    parser.add_argument("--sheet", type=Path, help="draw a contact sheet into this file")
    args = parser.parse_args()
    if not (args.out or args.sheet):
        parser.error("nothing to do: give --out FOLDER or --sheet FILE.png")
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: drawings need a number from 0 on")
    if args.per_category > MOST_IMAGES:
        parser.error(f"--per-category {args.per_category}: at most {MOST_IMAGES:,}")
    if args.sheet:
        check_picture_name("--sheet", args.sheet)
        write_overview(args.sheet, args.seed)
    if args.out:
        write_dataset(args.out, args.seed, args.per_category)


if __name__ == "__main__":
    run("drawings", main)
