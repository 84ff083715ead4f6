"""Types and ranges of what a JSON file holds, stated once as type hints and checked here.

    class Place(TypedDict):
        x: Annotated[int, Range(0, 9)]
        names: NotRequired[list[str]]

    check_value("place", {"x": "3"}, Place)  # ValueError: place.x is '3', expected a whole ...
"""

from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import (
    Annotated,
    Literal,
    NamedTuple,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from support.quote import quote

NAMES = {str: "a text", bool: "true or false", dict: "an object", list: "a list"}


# Long enough for a path.
Text = Annotated[str, 4096]


class Range(NamedTuple):
    """The least and the greatest value of a number."""

    least: float
    most: float


def check_fields(instance):
    """ValueError naming the field of a dataclass whose value is not what its hint says."""
    for name, hint in get_type_hints(type(instance), include_extras=True).items():
        check_value(name, getattr(instance, name), hint)


def fill_dataclass(cls, entries):
    """A dataclass from a dict that has its fields and no others; ValueError naming the field."""
    required = [f.name for f in fields(cls) if f.default is f.default_factory is MISSING]
    check_entries("", entries, get_type_hints(cls, include_extras=True), required)
    return cls(**entries)


def check_value(name, value, hint):
    """ValueError with this name unless a value is what a type hint says.

    hint: bool, dict, Text, a number (Annotated[int or float, Range]), Literal, list[...],
    `... | None`, or a TypedDict, whose entries are checked and which has no others.
    """
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is NotRequired:
        check_value(name, value, arguments[0])
    elif kind in (Union, UnionType):
        if value is not None or NoneType not in arguments:
            check_value(name, value, arguments[0])
    elif kind is Annotated and arguments[0] is str:
        check_text(name, value, *arguments[1:])
    elif kind is Annotated:
        check_number(name, value, *arguments)
    elif kind is Literal:
        # Not `in`: True is 1.
        if not any(type(value) is type(known) and value == known for known in arguments):
            raise ValueError(explain(name, value, " or ".join(map(repr, arguments))))
    elif kind is list:
        check_kind(name, value, list)
        for i, item in enumerate(value):
            check_value(f"{name}[{i}]", item, arguments[0])
    elif is_typeddict(hint):
        hints = get_type_hints(hint, include_extras=True)
        check_entries(name, value, hints, sorted(hint.__required_keys__))
    else:
        check_kind(name, value, hint)


def check_kind(name, value, kind):
    if type(value) is not kind:
        raise ValueError(explain(name, value, NAMES[kind]))


def check_text(name, value, longest):
    check_kind(name, value, str)
    if not 0 < len(value) <= longest or "\0" in value:
        raise ValueError(explain(name, value, f"a text of 1 to {longest} characters"))


def check_number(name, value, kind, allowed: Range):
    kinds = (int, float) if kind is float else (int,)
    # Not true for NaN.
    if type(value) not in kinds or not allowed.least <= value <= allowed.most:
        noun = "number" if kind is float else "whole number"
        raise ValueError(explain(name, value, f"a {noun} from {allowed.least} to {allowed.most}"))


def check_entries(name, value, hints, required):
    check_kind(name or "it", value, dict)
    missing = [key for key in required if key not in value]
    if missing:
        raise ValueError(f"{name or 'it'} lacks {', '.join(missing)}")
    for key, item in value.items():
        if key not in hints:
            raise ValueError(f"{name or 'it'} has an unknown entry {quote(key)}")
        check_value(f"{name}.{key}".removeprefix("."), item, hints[key])


def explain(name, value, expected):
    return f"{name} is {quote(value)}, expected {expected}"
