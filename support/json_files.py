"""Read JSON and lines of JSON that anyone may have changed, cut short or damaged; write JSON.

    LOG = {"step": COUNT, "loss": NUMBER, "val": Maybe({"mPCK": NUMBER})}
    records = read_json_lines(Path("run/log.jsonl"), LOG, "remove this line")

Where a value has not the shape (support/shapes.py), a ValueError names the file, line, field and
remedy.
"""

import json
import math
import re

from support.files import refuse_special
from support.quote import cut, quote_json
from support.shapes import LARGEST, check_shape

# How deep objects may lie in each other; ours lie six deep, Python gives up at a thousand.
DEEPEST = 50


# Reading.


def read_json(path, shape, remedy):
    """What a file holds. ValueError or OSError names the file, and the field at fault.

    remedy: how the message ends, an imperative.
    """
    refuse_special(path)
    return parse_json(path.read_bytes(), shape, path, remedy)


def read_json_lines(path, shape, remedy, first=None):
    """What the lines of a file hold, a list. ValueError or OSError names the line at fault.

    first: the shape of the first line, if it is another one. A crash may cut the last line short:
    if no line break ends it, and it is no whole JSON, it is left out.
    """
    refuse_special(path)
    *lines, last = path.read_bytes().split(b"\n")
    if is_json(last):
        lines.append(last)
    values = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            wanted = first if first and not values else shape
            values.append(parse_json(line, wanted, f"{path}, line {number}", remedy))
    return values


def is_json(text):
    try:
        decode_json(text)
    except ValueError:
        return False
    return True


def parse_json(text, shape, place, remedy):
    """What a JSON text (str or bytes) holds. place: what a message names."""
    try:
        value = decode_json(text)
        refuse_extremes(value)
        check_shape(value, shape)
    except ValueError as error:
        raise ValueError(f"{place}: {error}: {remedy}") from None
    return value


def decode_json(text):
    """What a JSON text holds. ValueError says in a few words why nothing."""
    try:
        return json.loads(text)
    except UnicodeDecodeError:
        raise ValueError("this is no text in UTF-8") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(f"this is no JSON from {line}column {error.colno} on") from None
    except RecursionError:
        raise ValueError("this is nested too deep") from None
    except ValueError:
        raise ValueError("this is no JSON: a number has thousands of digits") from None


def refuse_extremes(value):
    """ValueError if anything in a value, known to a shape or not, could not be written again."""
    held = [(value, 1)]
    while held:
        value, depth = held.pop()
        if depth > DEEPEST:
            raise ValueError("this is nested too deep")
        if isinstance(value, dict):
            held += [(each, depth + 1) for pair in value.items() for each in pair]
        elif isinstance(value, list):
            held += [(each, depth + 1) for each in value]
        elif isinstance(value, str):
            if re.search("[\ud800-\udfff]", value):
                raise ValueError(f"{cut(value)} holds half of a character")
        elif value is not None and not -LARGEST <= value <= LARGEST:
            raise ValueError(f"it holds {quote_json(value)}, which is no number to compute with")


# Writing.


def format_json(value, indent=None):
    """A value as JSON; a number that is not finite, which JSON has not, becomes null."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(replace_not_finite(value), indent=indent, allow_nan=False)


def replace_not_finite(value):
    if isinstance(value, dict):
        return {key: replace_not_finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [replace_not_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
