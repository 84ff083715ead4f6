"""Start a command, and end it: torchrun's processes, and what goes wrong in one line."""

import errno
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from datetime import timedelta
from functools import partial
from typing import NamedTuple

import torch

from support import meeting
from support.quote import cut, shorten

ITEMS_SHOWN = 5  # items in a message
LEAVING = threading.Lock()
JOIN = 5  # seconds, for a process that was killed
# A collective takes seconds. Whoever may wait longer uses meeting.wait first.
COLLECTIVE = timedelta(minutes=10)
# What PyTorch calls too little memory on a CPU, and what a system without any answers.
MEMORY_WORDS = ("can't allocate memory", "not enough memory", "can't start new thread")
# What gloo calls a process that is gone, and one that does not come.
GONE_WORDS = ("by peer", "Timed out waiting")
# Of torch.use_deterministic_algorithms.
ONLY_ON_CPU = "does not have a deterministic implementation"


class Process(NamedTuple):
    """Which of `world` processes this is, and the device that it computes on."""

    rank: int
    world: int
    device: torch.device


def setup():
    """The Process that runs this, under torchrun or alone. ValueError if the others do not come."""
    rank = int(os.environ.get("RANK", 0))
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        store = meeting.meet(rank, world, partial(leave, code=2))
    device = take_device(int(os.environ.get("LOCAL_RANK", 0)), world)
    if world > 1:
        on_gpu = device.type == "cuda"
        torch.distributed.init_process_group(
            "nccl" if on_gpu else "gloo", timeout=COLLECTIVE, store=store, rank=rank,
            world_size=world, device_id=device if on_gpu else None,
        )
    return Process(rank, world, device)


def take_device(local_rank, world):
    """The device of a process, which is number local_rank of its machine, of `world` in all."""
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        if local_rank >= count:
            raise ValueError(
                f"a process for each GPU, and this machine has {count}: "
                f"torchrun --nproc_per_node {count}"
            )
        torch.cuda.set_device(local_rank)
        choose_kernels()
        return torch.device("cuda", local_rank)
    # Apple's: nobody has tried it here. Processes cannot share it.
    is_apple = torch.backends.mps.is_available() and world == 1
    return torch.device("mps" if is_apple else "cpu")


def choose_dtype(device):
    """Of the weights that answers are computed with: on Apple's GPUs, too, fp32."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def choose_kernels():
    """Switch off cuDNN's attention, which H100s prefer.

    It builds a plan for each new shape, some 60 ms, and nearly every pass of decoding has a new
    shape. PyTorch's own kernels compute any shape at once.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def run(name, main, memory="close other programs, or take a larger machine"):
    """Call main() as the command `name`, and end all of its processes with it.

    Bad input, a full disk, too little memory (memory: what to do then) or a process that is gone
    is one line on stderr and exit code 2, Ctrl-C is exit code 130. What nobody foresaw keeps its
    traceback, exit code 1. What several processes fail at is said once.
    """
    # A file's name may be no text in UTF-8, or not in the terminal's encoding.
    sys.stdout.reconfigure(errors="backslashreplace")
    code = 0
    try:
        main()
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:
        code = read_exit_code(end)
    # Not Exception: what a library in Rust did not foresee, PanicException, is none.
    except BaseException as error:
        line = explain_error(error, memory)
        code = 2 if line else 1
        # Workers that another thread is killing raise here, too: that is no news.
        if LEAVING.locked():
            leave(code)
        text = f"{name}: {line}" if line else traceback.format_exc().rstrip()
        meeting.say_once(text, is_of_another(error))
    if torch.distributed.is_initialized() or multiprocessing.active_children():
        leave(code)
    if code:
        sys.exit(code)


def leave(code):
    """End this process and those that it has started, at once.

    Python's own teardown waits for threads and workers, which may wait for it: on a busy machine it
    hung. The first thread that leaves decides on the code, others wait for the end.
    """
    LEAVING.acquire()
    # PyTorch's handler raises an error when a worker is killed.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        # Not SIGTERM: those that load images ignore it.
        child.kill()
        child.join(JOIN)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def explain_error(error, memory):
    """What a user can do something about, in one line; None for anything else."""
    text = describe_error(error)
    if is_out_of_memory(error, text):
        what = cut(text.rpartition("DefaultCPUAllocator: ")[2])
        return f"too little memory ({what}): {memory}"
    is_of_torch = isinstance(error, RuntimeError)
    if is_of_torch and "DataLoader worker" in text:
        return (
            "a process that loads images was ended, mostly by a system that is short of memory "
            f"({cut(text)}): use --workers 0 or more memory, and --resume"
        )
    if is_of_torch and ONLY_ON_CPU in text:
        return f"--deterministic does not go with this on a GPU ({cut(text)}): leave it out"
    if is_of_another(error):
        return (
            f"another process is gone or stuck ({cut(text)}): where it says nothing itself, the "
            "system has ended it, mostly for want of memory. Go on with --resume"
        )
    if isinstance(error, (ValueError, OSError)):
        return text
    return None


def is_of_another(error):
    """Whether an error says no more than that another process does not take part."""
    if isinstance(error, torch.distributed.DistError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(words in text for words in GONE_WORDS)


def is_out_of_memory(error, text):
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in text for words in MEMORY_WORDS)


def describe_error(error):
    """An error in one line, paths and values in it not at length."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.strerror}: {error.filename}"
    # A worker of the DataLoader sends its traceback, which ends with "ValueError: message".
    if "\nOriginal Traceback" in text:
        name = type(error).__name__
        text = text.rpartition(f"\n{name}: ")[2] if f"\n{name}: " in text else name
    return shorten(text)


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
