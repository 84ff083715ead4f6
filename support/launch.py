"""Start a command: torchrun's processes, and a user's errors in one line."""

import os
import sys
from datetime import timedelta
from typing import NamedTuple

import torch

ITEMS_SHOWN = 5  # items in a message


class Process(NamedTuple):
    """Which of `world` processes this is, and the device that it computes on."""

    rank: int
    world: int
    device: torch.device


def setup():
    """The Process that runs this, under torchrun or alone."""
    rank = int(os.environ.get("RANK", 0))
    world = int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if world > 1:
        backend = "nccl" if device.type == "cuda" else "gloo"
        # Long: a process that is done waits for the others, and if one fails torchrun ends all.
        torch.distributed.init_process_group(backend, timeout=timedelta(days=7))
    return Process(rank, world, device)


def run(name, main):
    """Call main() as the command `name`.

    Bad input or a full disk (ValueError, OSError) is one line on stderr and exit code 2, Ctrl-C is
    exit code 130.
    """
    code = 0
    try:
        main()
    except (ValueError, OSError) as error:
        print(f"{name}: {describe_error(error)}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:
        code = read_exit_code(end)
    if torch.distributed.is_initialized():
        # No teardown: on a busy machine it hung, waiting for threads of the process group that
        # waited for Python's lock.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if code:
        sys.exit(code)


def describe_error(error):
    """An error in one line."""
    text = str(error)
    # A worker of the DataLoader sends its traceback, which ends with "ValueError: message".
    if "\nOriginal Traceback" in text:
        last = text.strip().rpartition("\n")[2]
        text = last.partition(": ")[2]
    return " ".join(text.split())


def read_exit_code(end):
    """The exit code of a SystemExit, whose text is printed as Python would."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


def list_first(texts):
    """The first few of some texts, for a message."""
    shown = ", ".join(texts[:ITEMS_SHOWN])
    if len(texts) > ITEMS_SHOWN:
        shown += f" and {len(texts) - ITEMS_SHOWN} more"
    return shown
