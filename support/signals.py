"""Signals: a run that is asked to stop ends its step, saves and leaves; asked again, it leaves."""

import signal
import socket
import sys
import threading
import time

from support.launch import leave

# What torchrun, a cluster, Ctrl-C or a terminal that closes send.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Seconds: a terminal and torchrun both pass one Ctrl-C on.
TWICE = 1.0


def leave_at_once():
    """Before the first step nothing is lost: SIGTERM ends the process, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())


def note_signals():
    """From now on signals that ask to stop do nothing but add their number to this list.

    A second Ctrl-C ends the process, whatever it waits for.
    """
    noted = []
    for number in STOP_SIGNALS:
        # nohup asks to ignore SIGHUP.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: noted.append(number))
    watch_interrupts()
    return noted


def watch_interrupts():
    """Let a thread see signals: the main thread may be deep in a call that does not return."""
    seen, sent = socket.socketpair()
    sent.setblocking(False)
    signal.set_wakeup_fd(sent.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=end_at_second_interrupt, args=(seen, sent), daemon=True).start()


def end_at_second_interrupt(seen, sent):
    """seen: a socket with a byte for each signal; sent: its other end, kept open."""
    first = None
    while True:
        (number,) = seen.recv(1)
        now = time.monotonic()
        if number == signal.SIGINT:
            if first is not None and now - first > TWICE:
                leave(130)
            first = first or now


def ignore_signals():
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
