"""Processes that wait for each other as long as it takes, but not for one that is gone.

A collective of torch.distributed gives up after a limit of its own, and knows nothing of the
others: a process whose share of the work is larger looks like one that is dead. So every process
lets its heart beat, in a thread, as a counter in the store that all share. Whoever waits looks at
the counters: it goes on waiting while they rise, and ends if one of them stands still.

The same store lets processes say a thing once, and end together: what one of them fails at, the
others would wait for.
"""

import os
import sys
import threading
import time
from datetime import timedelta

import torch.distributed as dist

from support.digest import compute_fingerprint
from support.quote import cut

BEAT = 2.0  # seconds
SILENCE = 120.0  # seconds without a beat after which a process is gone
MEETING = timedelta(minutes=5)  # for all to come, at the start
PATIENCE = 5.0  # seconds; torchrun ends all processes sooner, once one has failed


class Meeting:
    """What this process knows of the others. end(): called in a thread when one of them fails."""

    def __init__(self, store, rank, world, end):
        self.store, self.rank, self.world, self.end = store, rank, world, end
        self.number = 0
        self.failed = False
        threading.Thread(target=self.beat, daemon=True).start()

    def beat(self):
        while True:
            try:
                self.store.add(f"beat {self.rank}", 1)
                if self.has_failed() and not self.failed:
                    self.end()
            except RuntimeError:
                # The process that keeps the store has ended; who waits for it will say so.
                return
            time.sleep(BEAT)

    def has_failed(self):
        """Whether any process has."""
        return self.store.check(["failed"])

    def fail(self, text, is_consequence):
        """Let the others end, whatever they wait for; see `say_once`."""
        self.failed = True
        key = "gone" if is_consequence else compute_fingerprint([ascii(text)])
        try:
            is_first = self.store.add(f"said {key}", 1) == 1
            is_news = is_first and not (is_consequence and self.has_failed())
            self.store.set("failed", "")
        except RuntimeError:
            # The process that keeps the store has ended.
            return True
        return is_news

    def wait(self):
        """Wait until all processes have called this as often as this one.

        ValueError if one is gone.
        """
        self.number += 1
        heard = {}
        arrived = self.store.add(f"meeting {self.number}", 1)
        while arrived < self.world:
            time.sleep(0.05)
            self.listen(heard, time.monotonic())
            arrived = self.store.add(f"meeting {self.number}", 0)

    def listen(self, heard, now):
        """Note when each process's heart last beat: heard {rank: (beats, since when)}."""
        for rank in range(self.world):
            beats = self.store.add(f"beat {rank}", 0)
            if rank not in heard or heard[rank][0] != beats:
                heard[rank] = beats, now
            # Before its first beat a process has not come yet.
            elif beats and now - heard[rank][1] > SILENCE:
                raise ValueError(
                    f"process {rank} has been silent for {SILENCE:g} s: look for its message, and "
                    "go on with --resume"
                )


meetings = []  # of this process, one or none


def meet(rank, world, end):
    """Meet the other processes that torchrun, or whoever set its variables, has started.

    end(): see Meeting. Returns the store that all share. ValueError if they do not come.
    """
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(
            f"WORLD_SIZE is {world}, but {missing[0]} is not set: start with torchrun, or unset "
            "WORLD_SIZE"
        )
    try:
        store, _, _ = next(dist.rendezvous("env://", rank, world, timeout=MEETING))
    except dist.DistError as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ValueError(
            f"the processes cannot meet at {address} ({cut(error)}): start "
            "with torchrun, or unset WORLD_SIZE"
        ) from None
    meetings[:] = [Meeting(dist.PrefixStore("meeting", store), rank, world, end)]
    return store


def wait():
    """Wait until all processes are here, however long they work, as long as they live."""
    for meeting in meetings:
        meeting.wait()


def let_the_first_speak():
    """Wait until torchrun ends this process, since the first one of its machine fails as well.

    So it is with what is wrong before the processes meet. If nothing happens, it is this process's
    to say it.
    """
    if int(os.environ.get("LOCAL_RANK", 0)) > 0:
        time.sleep(PATIENCE)


def say_once(text, is_consequence=False):
    """Print why this process fails, unless another says the same; all processes end then.

    is_consequence: it fails because another one is gone, which mostly has said why.
    """
    if not meetings:
        let_the_first_speak()
    if all([meeting.fail(text, is_consequence) for meeting in meetings]):
        print(text, file=sys.stderr, flush=True)
