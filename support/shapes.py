"""What a value of JSON must be, stated once, and checked.

    LOG = {"step": COUNT, "loss": NUMBER, "val": Maybe({"mPCK": NUMBER})}
    check_shape({"step": 3, "loss": "a"}, LOG)  # ValueError: loss is "a", not a number

A shape is a Kind; OneOf some values; a dict, an object with at least these fields, Maybe some;
Closed, an object with no others; Each, an object with fields of any names; [shape], a list of such
values; (shape, shape), a list of exactly these; OrNull.
"""

import json
from typing import Any, NamedTuple

from support.quote import cut, quote_json

# Larger numbers overflow as soon as they are squared; larger whole ones are no floats.
LARGEST, LARGEST_WHOLE = 1e100, 2**53


class Kind(NamedTuple):
    """A plain value. name: in words; types: true and false are no int here; least, most: of a
    number, or of a text's length."""

    name: str
    types: tuple
    least: float = -LARGEST
    most: float = LARGEST

    def fits(self, value):
        if type(value) not in self.types:
            return False
        if isinstance(value, str):
            # The system takes no text with a NUL in it.
            return self.least <= len(value) <= self.most and "\0" not in value
        if type(value) is int and str not in self.types and abs(value) > LARGEST_WHOLE:
            # NumPy does not compute with it. An id may be as large.
            return False
        if isinstance(value, (int, float)):
            # Not true for NaN.
            return self.least <= value <= self.most
        return True


class OneOf(NamedTuple):
    """One of these texts or numbers."""

    values: tuple

    @property
    def name(self):
        return " or ".join(json.dumps(known, allow_nan=False) for known in self.values)

    def fits(self, value):
        # Not `in`: True is 1.
        return any(type(value) is type(known) and value == known for known in self.values)


class Maybe(NamedTuple):
    """A field that an object may lack."""

    shape: Any


class OrNull(NamedTuple):
    shape: Any


class Each(NamedTuple):
    """An object with fields of any names, all of one shape."""

    shape: Any


class Closed(NamedTuple):
    """An object with these fields and no others."""

    fields: dict


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


def between(least, most):
    """The kind of a number within these limits."""
    return Kind(f"a number from {least} to {most}", (int, float), least, most)


def whole_between(least, most):
    return Kind(f"a whole number from {least} to {most}", (int,), least, most)


def check_shape(value, shape, name=""):
    """ValueError names the field of a value that is of another shape. name: of the value itself."""
    if isinstance(shape, (Kind, OneOf)):
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
    elif isinstance(shape, Closed):
        check_shape(value, shape.fields, name)
        for key in value:
            if key not in shape.fields:
                raise ValueError(f"{cut(join_names(name, key))} is not known")
    elif isinstance(shape, dict):
        check_kind(value, OBJECT, name)
        check_fields(value, shape, name)
    else:
        check_items(value, shape, name)


def check_kind(value, kind, name):
    if not kind.fits(value):
        raise ValueError(f"{cut(name) or 'this'} is {quote_json(value)}, not {kind.name}")


def check_fields(value, shape, name):
    for key, wanted in shape.items():
        if key in value:
            if isinstance(wanted, Maybe):
                wanted = wanted.shape
            check_shape(value[key], wanted, join_names(name, key))
        elif not isinstance(wanted, Maybe):
            raise ValueError(f"{cut(join_names(name, key))} is missing")


def check_items(value, shape, name):
    check_kind(value, LIST, name)
    if len(value) != len(shape):
        raise ValueError(f"{cut(name) or 'this'} has {len(value)} items, not {len(shape)}")
    for n, (item, wanted) in enumerate(zip(value, shape, strict=True)):
        check_shape(item, wanted, f"{name}[{n}]")


def join_names(outer, inner):
    return f"{outer}.{inner}" if outer else str(inner)
