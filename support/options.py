"""The parser of a command line, and its numbers."""

import argparse
import math

from support import meeting
from support.quote import shorten

MOST = 10**9  # of anything, far more than is of use


class Parser(argparse.ArgumentParser):
    """Its messages are as short as those about files; one process of a machine prints them."""

    def error(self, message):
        meeting.let_the_first_speak()
        super().error(shorten(message))


class DefaultsHelp(argparse.ArgumentDefaultsHelpFormatter):
    """Help that ends with the default, where there is one."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


def read_positive(text, kind=int):
    value = kind(text)
    if not 0 < value < MOST:
        raise argparse.ArgumentTypeError(f"{text} is no positive number below {MOST:,}")
    return value


def read_positive_float(text):
    return read_positive(text, float)


def read_not_negative(text):
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number from 0 on")
    return value


def read_seed(text):
    """A whole number that every generator of random numbers takes."""
    value = int(text)
    if abs(value) >= 2**62:
        raise argparse.ArgumentTypeError(f"{text} is too large, expected less than 2^62")
    return value
