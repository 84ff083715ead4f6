"""Quote in a message what a file or an option holds: short, and in printable characters."""

import json
import reprlib

LONGEST = 200  # characters
LONGEST_MESSAGE = 600

_cut = reprlib.Repr()
_cut.maxstring = _cut.maxother = _cut.maxlong = LONGEST


def quote(value) -> str:
    """A value as Python writes it, its middle or its end left out if it is long."""
    return cut(_cut.repr(value))


def quote_json(value) -> str:
    """A value as JSON writes it, its end left out if it is long."""
    try:
        return cut(json.dumps(value, ensure_ascii=False, allow_nan=False, default=repr))
    # No number of JSON, or nested a thousand deep.
    except (ValueError, RecursionError):
        return quote(value)


def cut(text) -> str:
    """A text or an error on one line: what cannot be printed escaped, its end left out if long."""
    # Twice as many as are shown: escaping makes a text longer, never shorter.
    characters = " ".join(str(text)[:2 * LONGEST].split())
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in characters)
    return printable if len(printable) <= LONGEST else printable[:LONGEST - 3] + "..."


def shorten(message) -> str:
    """A message on one line: each long word, as paths and values are, is cut, then its middle."""
    line = " ".join(cut(word) for word in str(message).split())
    half = LONGEST_MESSAGE // 2 - 3
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:half]} ... {line[-half:]}"
