"""The options of train.py: what they mean, which exclude each other, which decide the result.

The defaults are the paper's settings (Section 4.1) on its model and data.
"""

import argparse
import math
import subprocess
import sys
from pathlib import Path

from study.instructions import INSTRUCTIONS
from support import checkpoints, fingerprints, parallel
from support.descriptions import DESCRIPTIONS
from support.files import ROOT

VISION_FOLDER = "weights/dinov2-large"
LLM_FOLDER = "weights/Llama-3.1-8B"
DATA_FOLDERS = ["data/mp100"]


def read_positive(text, kind=int):
    value = kind(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no positive number")
    return value


def read_positive_float(text):
    return read_positive(text, float)


def read_options(description, strategies):
    """The command line of train.py. strategies: the names that --rounds may have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add_data_options(parser.add_argument_group("data").add_argument, strategies)
    add_model_options(parser.add_argument_group("model").add_argument)
    add_training_options(parser.add_argument_group("what is trained, and how long").add_argument)
    add_machine_options(parser.add_argument_group("where it runs").add_argument)
    return parser.parse_args()


def add_data_options(add, strategies):
    add("--data", nargs="+", default=DATA_FOLDERS, metavar="FOLDER",
        help="folders with annotations/ and images/, MP-100's or your own")
    add("--split", type=int, default=1, help="MP-100 split, 1 to 5")
    add("--descriptions", default=str(DESCRIPTIONS), metavar="FOLDER",
        help="folder of <definition or category>.txt")
    add("--skip-missing", action="store_true",
        help="train without the images that are missing or unreadable")
    add("--rounds", default="fixed", choices=strategies,
        help="how an image's keypoints are grouped (Section 3.3)")
    add("--k", type=read_positive, default=4, help="rounds of a conversation (fixed, locllm)")
    add("--instruction", default="base", choices=INSTRUCTIONS,
        help="how a conversation reads (Section 3.2, Supplement B.1); the two -qa train the "
             "projection alone (Supplement C)")


def add_model_options(add):
    add("--vision", default=VISION_FOLDER, metavar="FOLDER", help="official DINOv2 folder")
    add("--llm", default=LLM_FOLDER, metavar="FOLDER",
        help="official Llama, Mistral or Vicuna folder")
    add("--init", metavar="FOLDER",
        help="start from this model folder instead of the two backbones")


def add_training_options(add):
    add("--tune", default="lora", choices=["lora", "frozen", "full"],
        help="train adapters in both backbones, none in the vision encoder, or everything "
             "(Table 15)")
    add("--lr", type=read_positive_float, default=5e-4, help="highest learning rate")
    add("--epochs", type=read_positive_float, default=12, help="times each image is seen")
    add("--steps", type=read_positive, help="optimiser steps, instead of --epochs")
    # 4 GPUs x 1 pair x 32 accumulation steps.
    add("--batch", type=read_positive, default=128,
        help="pairs of an image and a conversation an optimiser step, over all processes")
    add("--share-image", action="store_true",
        help="compute an image once for its pairs in a pass, which have one augmentation")
    add("--seed", type=int, default=42, help="of the order, augmentation and dropout")


def add_machine_options(add):
    add("--out", type=Path, default=Path("runs/capellm"), metavar="FOLDER",
        help="where checkpoints, log.jsonl and curves.png go")
    add("--resume", action="store_true", help="continue the newest checkpoint of --out")
    add("--save-every", type=read_positive, default=200, metavar="STEPS",
        help="optimiser steps between checkpoints")
    add("--val-every", type=read_positive, metavar="STEPS",
        help="optimiser steps between measurements on the validation categories")
    add("--micro-batch", type=read_positive, default=1,
        help="pairs a process and pass; the rest of --batch is accumulated")
    add("--workers", type=int, default=2, help="processes that load images, for each GPU")
    add("--checkpoint-activations", action="store_true",
        help="less memory: compute every layer again going backward")
    add("--fsdp", action="store_true",
        help="shard weights and optimiser over the GPUs, if one cannot hold them")


def check_options(options, world):
    """ValueError about options that exclude each other. world: how many processes run."""
    is_pretraining = INSTRUCTIONS[options.instruction].pretraining
    if options.init and (options.vision, options.llm) != (VISION_FOLDER, LLM_FOLDER):
        raise ValueError(f"--init {options.init} names its own backbones: "
                         "leave out --vision and --llm")
    if options.fsdp and world == 1:
        raise ValueError("--fsdp shards over processes: "
                         "start them with torchrun --nproc_per_node N train.py ...")
    if options.share_image and options.micro_batch == 1:
        raise ValueError("--share-image shares within a pass, "
                         "which --micro-batch 1 leaves to one pair: raise it")
    if options.workers < 0:
        raise ValueError(f"--workers {options.workers}: 0 loads images in the training process "
                         "itself")
    if is_pretraining and options.tune == "full":
        raise ValueError(f"--instruction {options.instruction} trains the projection alone: "
                         "leave out --tune full")
    if is_pretraining and options.val_every:
        raise ValueError(f"--val-every measures coordinates, --instruction {options.instruction} "
                         "asks for names: leave one out")
    if checkpoints.list_checkpoints(options.out) and not options.resume:
        raise ValueError(f"{options.out} holds checkpoints of an earlier run: add --resume, "
                         "or choose another --out")


def fall_back_on_nano(options, rank, world):
    """If nothing is named and nothing is at hand, ask for the embedded nano model on drawings.

    The drawings are made first, by one process.
    """
    is_named = options.init or options.data != DATA_FOLDERS
    if is_named or any(Path(p).exists() for p in (options.vision, options.llm, *options.data)):
        return
    drawings = Path("data/figures")
    if rank == 0:
        print(f"nothing in {options.vision}, {options.llm} and {options.data[0]}: "
              f"training the embedded nano model on the drawings in {drawings}")
        if not drawings.exists():
            command = [sys.executable, "-m", "drawings", "--out", str(drawings.absolute())]
            drawn = subprocess.run(command, cwd=ROOT)
            # It has said why.
            if drawn.returncode:
                sys.exit(drawn.returncode)
    parallel.wait_for_all(world)
    options.init, options.data = str(ROOT / "nano"), [str(drawings)]


def collect_settings(options, config, pairs, steps, world):
    """What decides the result of a run, for --resume: {name of an option or thing: its value}."""
    names = ("split", "rounds", "k", "tune", "instruction", "batch", "micro_batch", "share_image",
             "lr", "seed")
    settings = {f"--{name.replace('_', '-')}": getattr(options, name) for name in names}
    folders = [folder for folder in (config.vision, config.llm, options.init) if folder]
    return settings | {
        "steps": steps,
        "processes": world,
        "instances": len(pairs.instances),
        "the model": fingerprints.fingerprint_weights(folders),
        "the data": fingerprints.fingerprint_instances(pairs.instances),
        "the descriptions": fingerprints.compute_fingerprint([pairs.described]),
    }


def describe_run(options, model, pairs, steps, world, newest):
    """A line to start with. newest: the checkpoint that the run continues, or None."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    passes = math.ceil(options.batch / (world * options.micro_batch))
    how = f"resuming {newest}" if newest else "starting"
    return (f"{how}: {len(pairs.instances)} instances, {len(pairs)} pairs in the first epoch; "
            f"{trained:,} parameters trained; {steps} steps of {options.batch} pairs: "
            f"{world} processes x {passes} passes of up to {options.micro_batch}")
