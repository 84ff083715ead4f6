"""Start a command: torchrun's processes, and errors of a user in one line."""

import os
import sys
from datetime import timedelta

import torch


def setup():
    """(rank, world size, device) of this process, under torchrun or alone."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if world > 1:           # long: who is done first waits for the others, and where one fails torchrun ends all
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=7))
    return rank, world, device


def run(name, main):
    """Call main() as the command `name`: bad input or a full disk is one line on stderr and exit code 2, Ctrl-C is 130."""
    code = 0
    try:
        main()
    except (ValueError, OSError) as e:                  # FileNotFoundError is an OSError
        text = str(e)
        if "\nOriginal Traceback" in text:             # a worker of the DataLoader: its error is the last line
            text = text.strip().rpartition("\n")[2].partition(": ")[2]
        print(f"{name}: {' '.join(text.split())}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    except SystemExit as e:
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
        code = int(e.code is not None) if not isinstance(e.code, int) else e.code
    if torch.distributed.is_initialized():
        # No teardown: on a busy machine it hung, waiting for threads of the process group that waited for Python's lock.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if code:
        sys.exit(code)
