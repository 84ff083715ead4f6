"""Signals: a run that is asked to stop ends its step, saves and leaves."""

import signal
import sys

# What torchrun, a cluster or Ctrl-C send.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def leave_at_once():
    """Before the first step nothing is lost: SIGTERM ends the process, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())


def note_signals():
    """From now on signals that ask to stop do nothing but add their number to this list."""
    noted = []
    for number in STOP_SIGNALS:
        signal.signal(number, lambda number, _: noted.append(number))
    return noted


def ignore_signals():
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
