"""The options of train.py: what they mean, which exclude each other, which decide the result.

The defaults are the paper's settings (Section 4.1) on its model and data.
"""

import math
import subprocess
import sys
from functools import partial
from pathlib import Path

from study.instructions import INSTRUCTIONS
from support import checkpoints, determinism, few, fingerprints, parallel
from support.descriptions import DESCRIPTIONS
from support.digest import compute_fingerprint
from support.files import ROOT
from support.options import (
    DefaultsHelp,
    Parser,
    read_not_negative,
    read_positive,
    read_positive_float,
    read_seed,
)

VISION_FOLDER = "weights/dinov2-large"
LLM_FOLDER = "weights/Llama-3.1-8B"
# Rounds of a conversation: Section 4.1, and LocLLM's published code.
PAPER_K, LOCLLM_K = 4, 5
DATA_FOLDERS = ["data/mp100"]
# More than anyone needs: what is larger only keeps a machine busy.
MOST = {"k": 1000, "epochs": 10_000, "batch": 1_000_000}
# What to do if memory is short.
MEMORY = "lower --micro-batch, add --checkpoint-activations, or --fsdp over several GPUs"


def read_options(description, strategies):
    """The command line of train.py. strategies: the names that --rounds may have."""
    parser = Parser(description=description, formatter_class=DefaultsHelp)
    add_data_options(parser.add_argument_group("data").add_argument, strategies)
    add_model_options(parser.add_argument_group("model").add_argument)
    add_training_options(parser.add_argument_group("what is trained, and how long").add_argument)
    add_machine_options(parser.add_argument_group("where it runs").add_argument)
    options = parser.parse_args()
    if options.k is None:
        options.k = LOCLLM_K if options.rounds == "locllm" else PAPER_K
    return options


def add_data_options(add, strategies):
    add("--data", nargs="+", default=DATA_FOLDERS, metavar="FOLDER",
        help="folders with annotations/ and images/, MP-100's or your own")
    add("--split", type=int, default=1, help="MP-100 split, 1 to 5")
    add("--descriptions", default=str(DESCRIPTIONS), metavar="FOLDER",
        help="folder of <definition or category>.txt")
    add("--skip-missing", action="store_true",
        help="train without the images that are missing, unreadable or of another size")
    add("--rounds", default="fixed", choices=strategies,
        help="how an image's keypoints are grouped (Section 3.3)")
    add("--augmentation", choices=["paper", "wide"],
        help="images are turned and scaled as the authors do, or also stretched, mirrored where "
             "that is right, in other poses, light and colours"
             + few.describe_default("augmentation"))
    add("--k", type=read_positive,
        help="rounds of a conversation (default: fixed 4, locllm 5, as LocLLM has)")
    add("--instruction", default="base", choices=INSTRUCTIONS,
        help="how a conversation reads (Section 3.2, Supplement B.1); the two -qa train the "
             "projection alone (Supplement C)")


def add_model_options(add):
    add("--vision", default=VISION_FOLDER, metavar="FOLDER", help="official DINOv2 or Hiera folder")
    add("--llm", default=LLM_FOLDER, metavar="FOLDER",
        help="official Llama, Mistral or Vicuna folder")
    add("--init", metavar="FOLDER",
        help="start from this model folder instead of the two backbones")
    add("--digits", type=int, choices=[1, 3],
        help="tokens of a coordinate: 3 decimal digits, or 1 of a thousand, which needs Llama 3's "
             "vocabulary (default: 3, or as in --init)")
    add("--output-format", choices=["text", "token"],
        help="answer with digits, or with one token <KEYPOINT> and a decoder (Table 17; default: "
             "text, or as in --init)")


def add_training_options(add):
    add("--tune", choices=["lora", "frozen", "full", "everything"],
        help="the vision encoder is trained through adapters, not at all, or in full (Table 15), "
             "the language model through adapters; or both in full"
             + few.describe_default("tune"))
    add("--optimiser", choices=["adamw", "muon"],
        help="what updates weights: the paper's, or Muon for the matrices of backbones that are "
             "trained in whole (--tune everything)" + few.describe_default("optimiser"))
    add("--lr", type=read_positive_float,
        help="highest learning rate" + few.describe_default("lr"))
    add("--clip", type=read_not_negative, default=1.0,
        help="highest norm of the gradients, longer ones are scaled down; 0: none is")
    add("--epochs", type=read_positive_float,
        help="times each image is seen" + few.describe_default("epochs"))
    add("--steps", type=read_positive, help="optimiser steps, instead of --epochs")
    # 4 GPUs x 1 pair x 32 accumulation steps.
    add("--batch", type=read_positive,
        help="pairs of an image and a conversation an optimiser step, over all processes"
             + few.describe_default("batch"))
    add("--share-image", action="store_true", default=None,
        help="compute an image once for its pairs in a pass, which have one augmentation "
             "(default: of few objects and a small model, where they have several)")
    add("--seed", type=read_seed, default=42, help="of the order, augmentation and dropout")


def add_machine_options(add):
    add("--out", type=Path, default=Path("runs/capellm"), metavar="FOLDER",
        help="where checkpoints, log.jsonl and curves.png go")
    add("--resume", action="store_true", help="continue the newest checkpoint of --out")
    add("--save-every", type=read_positive, default=200, metavar="STEPS",
        help="optimiser steps between checkpoints")
    add("--val-every", type=read_positive, metavar="STEPS",
        help="optimiser steps between measurements on the validation part"
             + few.describe_default("val_every"))
    add("--patience", type=read_positive, metavar="N",
        help="stop after N measurements on the validation part that are clearly worse than the best"
             + few.describe_default("patience"))
    add("--micro-batch", type=read_positive,
        help="pairs a process and pass; the rest of --batch is accumulated"
             + few.describe_default("micro_batch"))
    add("--workers", type=int, default=2, help="processes that load images, for each GPU")
    add("--checkpoint-activations", action="store_true",
        help="less memory: compute every layer again going backward")
    add("--fsdp", action="store_true",
        help="shard weights and optimiser over the GPUs, if one cannot hold them")
    add("--deterministic", action="store_true",
        help="on a GPU, use kernels that add up in one order: slower, and resumed bit by bit")


def check_options(options, rank, world):
    """ValueError about options that exclude each other; of what lies in --out the first process
    tells. world: how many processes run."""
    check_numbers(options)
    is_pretraining = INSTRUCTIONS[options.instruction].pretraining
    if options.init and (options.vision, options.llm) != (VISION_FOLDER, LLM_FOLDER):
        raise ValueError(f"--init {options.init} names its own backbones: "
                         "leave out --vision and --llm")
    if options.fsdp and world == 1:
        raise ValueError("--fsdp shards over processes: "
                         "start them with torchrun --nproc_per_node N train.py ...")
    if is_pretraining and options.tune in ("full", "everything"):
        raise ValueError(f"--instruction {options.instruction} trains the projection alone: "
                         f"leave out --tune {options.tune}")
    if is_pretraining and options.output_format == "token":
        raise ValueError(f"--instruction {options.instruction} asks about coordinates in text: "
                         "leave out --output-format token")
    if options.digits and options.output_format == "token":
        raise ValueError("--digits is of answers in text: leave out one of --digits and "
                         "--output-format token")
    if is_pretraining and options.val_every:
        raise ValueError(f"--val-every measures coordinates, --instruction {options.instruction} "
                         "asks for names: leave one out")
    if rank == 0 and checkpoints.list_checkpoints(options.out) and not options.resume:
        raise ValueError(f"{options.out} holds checkpoints of an earlier run: add --resume, "
                         "or choose another --out")


def check_numbers(options):
    for name, most in MOST.items():
        if (getattr(options, name) or 0) > most:
            raise ValueError(f"--{name} {getattr(options, name)}: at most {most:,}")
    if options.workers < 0:
        raise ValueError(f"--workers {options.workers}: 0 loads images in the training process "
                         "itself")


def fill_open_options(options, instances, rank, world):
    """What the command line leaves open, see support/few.py. ValueError about options that then
    exclude each other."""
    filled = parallel.ask_first(partial(few.fill_options, options, instances), rank, world)
    for name, value in filled.options.items():
        setattr(options, name, value)
    if options.patience and not options.val_every:
        raise ValueError("--patience counts measurements of --val-every: give that, too")
    if options.share_image and options.micro_batch == 1:
        raise ValueError("--share-image shares within a pass, "
                         "which --micro-batch 1 leaves to one pair: raise it")
    if options.optimiser == "muon" and (options.tune != "everything" or options.fsdp):
        raise ValueError("--optimiser muon is for --tune everything, and not for --fsdp: "
                         "leave it out")
    if rank == 0 and filled.line:
        print(filled.line)


def choose_best(best, val, step):
    """[the mPCK that a later step must reach, the best step], after a measurement.

    The best step is the latest of which mPCK is within a standard error of the highest (Breiman et
    al., Classification and Regression Trees, 1984): objects that are few cannot tell more, and a
    learning rate that falls makes later steps the better ones.
    """
    least, chosen = best or [-1.0, step]
    if val["mPCK"] >= least:
        chosen = step
    return [max(least, val["mPCK"] - val["standard_error"]), chosen]


def has_stalled(options, step, best):
    """Whether the best step is --patience measurements ago."""
    if options.patience is None or best is None:
        return False
    return step - best[1] >= options.patience * options.val_every


def check_init(options, config, whole):
    """ValueError if the model folder --init was trained in a way that cannot be gone on from so.

    config: its CapeLLMConfig; whole: the parts that will be trained in whole.
    """
    if not set(config.whole) <= set(whole):
        tune = "everything" if "llm" in config.whole else "full"
        raise ValueError(f"{options.init} holds a model whose own weights were trained "
                         f"({', '.join(config.whole)}): go on with --tune {tune}")
    if config.output == "token" and (options.digits or options.output_format == "text"):
        raise ValueError(f"{options.init} answers with <KEYPOINT>, not with digits: leave out "
                         "--digits and --output-format text")


def describe_training(options, config):
    """What of a run the paper's tables vary, for config.json: {option: value}.

    config: of the model that it starts from, whose pre-training is remembered.
    """
    names = ("split", "rounds", "k", "tune", "instruction")
    trained = {name: getattr(options, name) for name in names}
    # The project's own go by their place in it, which may lie elsewhere at evaluation.
    texts = Path(options.descriptions).resolve()
    trained["descriptions"] = str(texts.relative_to(ROOT) if texts.is_relative_to(ROOT) else texts)
    if options.rounds == "dynamic":
        trained["k"] = None
    earlier = config.trained or {}
    first = earlier.get("first")
    if INSTRUCTIONS[earlier.get("instruction", "base")].pretraining:
        first = earlier["instruction"]
    return trained | {"first": first}


def fall_back_on_nano(options, rank, world):
    """If nothing is named and nothing is at hand, ask for the embedded nano model on drawings.

    The drawings are made first, by one process.
    """
    if not parallel.ask_first(partial(is_nothing_at_hand, options), rank, world):
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


def is_nothing_at_hand(options):
    is_named = options.init or options.data != DATA_FOLDERS
    named = (options.vision, options.llm, *options.data)
    return not is_named and not any(Path(path).exists() for path in named)


def collect_settings(options, config, pairs, world):
    """What decides the result of a run, for --resume: {name of an option or thing: its value}."""
    names = ("split", "rounds", "augmentation", "k", "tune", "instruction", "batch", "micro_batch",
             "share_image", "optimiser", "lr", "clip", "seed")
    settings = {f"--{name.replace('_', '-')}": getattr(options, name) for name in names}
    return settings | {
        "steps": options.steps,
        "processes": world,
        "instances": len(pairs.instances),
        "--digits": config.K,
        "--output-format": config.output,
        "the model": fingerprints.fingerprint_model(config.vision, config.llm, options.init),
        "the data": fingerprints.fingerprint_instances(pairs.instances),
        "the descriptions": compute_fingerprint([pairs.described]),
    }


def describe_end(options, step, best):
    """Lines to end with. best: of choose_best, or None."""
    how = "stopped, --resume continues"
    if step == options.steps:
        how = "done"
    elif has_stalled(options, step, best):
        how = f"done, worse for {options.patience} measurements"
    line = f"{how}: {options.out}/step-{step:07d}"
    for record in checkpoints.read_log(options.out):
        if best and record["step"] == best[1]:
            mPCK, error = record["val"]["mPCK"], record["val"]["standard_error"]
            line += f"\nbest: {options.out}/step-{best[1]:07d}, "
            line += f"mPCK {100 * mPCK:.1f} ± {100 * error:.1f} on validation"
    return line


def describe_run(options, model, pairs, world, newest):
    """A line to start with. newest: the checkpoint that the run continues, or None."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    passes = math.ceil(options.batch / (world * options.micro_batch))
    how = f"resuming {newest}" if newest else "starting"
    if options.deterministic:
        how = f"{determinism.describe()}\n{how}"
    return (f"{how}: {len(pairs.instances)} instances, {len(pairs)} pairs in the first epoch; "
            f"{trained:,} parameters trained; {options.steps} steps of {options.batch} pairs: "
            f"{world} processes x {passes} passes of up to {options.micro_batch}")
