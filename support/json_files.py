"""Read JSON and lines of JSON that anyone may have changed, cut short or damaged; write JSON.

    LOG = {"step": COUNT, "loss": NUMBER, "val": Maybe({"mPCK": NUMBER})}
    records = read_json_lines(Path("run/log.jsonl"), LOG, "remove this line")

A shape says what a value must be: a Kind; a dict, an object with at least these fields, Maybe some;
[shape], a list of such values; (shape, shape), a list of exactly these; Each, an object with any
names; OrNull. Where a value differs, a ValueError names the file, line, field and remedy.
"""

import json
import math
from typing import Any, NamedTuple

from support.files import refuse_special
from support.quote import cut

# How deep objects may lie in each other; ours lie six deep, Python gives up at a thousand.
DEEPEST = 50
# Larger numbers overflow as soon as they are squared; larger whole ones are no floats.
LARGEST, LARGEST_WHOLE = 1e100, 2**53


class Kind(NamedTuple):
    """A plain value. name: in words; types: true and false are no int here; least, most: if it is a
    number."""

    name: str
    types: tuple
    least: float = -LARGEST
    most: float = LARGEST

    def fits(self, value):
        if isinstance(value, bool):
            return bool in self.types
        is_number = isinstance(value, (int, float))
        return isinstance(value, self.types) and (
            not is_number or self.least <= value <= self.most
        )


class Maybe(NamedTuple):
    """A field that an object may lack."""

    shape: Any


class OrNull(NamedTuple):
    shape: Any


class Each(NamedTuple):
    """An object with fields of any names, all of one shape."""

    shape: Any


NUMBER = Kind("a number", (int, float))
NOT_NEGATIVE = Kind("a number from 0 on", (int, float), least=0)
# Nothing that we divide by is smaller.
POSITIVE = Kind("a number above 0", (int, float), least=1e-9)
WHOLE = Kind("a whole number", (int,), -LARGEST_WHOLE, LARGEST_WHOLE)
COUNT = Kind("a whole number from 0 on", (int,), 0, LARGEST_WHOLE)
POSITIVE_COUNT = Kind("a whole number from 1 on", (int,), 1, LARGEST_WHOLE)
TEXT = Kind("a text", (str,))
NAME = Kind("a text or a number", (str, int, float))
BOOL = Kind("true or false", (bool,))
OBJECT = Kind("an object", (dict,))
LIST = Kind("a list", (list,))


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
        return json.loads(text, parse_constant=refuse_constant)
    except UnicodeDecodeError:
        raise ValueError("this is no text in UTF-8") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(f"this is no JSON from {line}column {error.colno} on") from None
    except RecursionError:
        raise ValueError("this is nested too deep") from None


def refuse_constant(name):
    raise ValueError(f"{name} is no number of JSON")


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
            if any("\ud800" <= character <= "\udfff" for character in value):
                raise ValueError(f"{cut(value)} holds half of a character")
        elif value is not None and not -LARGEST <= value <= LARGEST:
            raise ValueError("it holds a number that is too large")


def check_shape(value, shape, name=""):
    """ValueError names the field of a value that is of another shape. name: of the value itself."""
    if isinstance(shape, Kind):
        check_kind(value, shape, name)
    elif isinstance(shape, OrNull):
        if value is not None:
            check_shape(value, shape.shape, name)
    elif isinstance(shape, list):
        check_kind(value, LIST, name)
        for n, item in enumerate(value):
            check_shape(item, shape[0], f"{name}[{n}]")
    elif isinstance(shape, Each):
        check_kind(value, OBJECT, name)
        for key, field in value.items():
            check_shape(field, shape.shape, join_names(name, key))
    elif isinstance(shape, dict):
        check_kind(value, OBJECT, name)
        check_fields(value, shape, name)
    else:
        check_kind(value, LIST, name)
        if len(value) != len(shape):
            raise ValueError(f"{cut(name) or 'this'} has {len(value)} items, not {len(shape)}")
        for n, (item, wanted) in enumerate(zip(value, shape, strict=True)):
            check_shape(item, wanted, f"{name}[{n}]")


def check_kind(value, kind, name):
    if not kind.fits(value):
        found = cut(json.dumps(value, ensure_ascii=False, allow_nan=False))
        raise ValueError(f"{cut(name) or 'this'} is {found}, not {kind.name}")


def check_fields(value, shape, name):
    for key, wanted in shape.items():
        if key in value:
            if isinstance(wanted, Maybe):
                wanted = wanted.shape
            check_shape(value[key], wanted, join_names(name, key))
        elif not isinstance(wanted, Maybe):
            raise ValueError(f"{cut(join_names(name, key))} is missing")


def join_names(outer, inner):
    return f"{outer}.{inner}" if outer else inner


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
