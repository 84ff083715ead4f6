"""The parser of a command line, whose messages are as short as those about files."""

import argparse

from support.quote import shorten


class Parser(argparse.ArgumentParser):
    def error(self, message):
        super().error(shorten(message))
