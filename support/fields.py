"""The fields of a dataclass, checked by its type hints.

    @dataclass
    class Place:
        x: Annotated[int, whole_between(0, 9)]
        names: list[Text] | None = None

    fill_dataclass(Place, {"x": "3"})  # ValueError: x is "3", not a whole number from 0 to 9
"""

from dataclasses import MISSING, fields
from types import UnionType
from typing import Annotated, Literal, NotRequired, Union, get_args, get_origin, get_type_hints

from support.shapes import BOOL, OBJECT, Closed, Kind, Maybe, OneOf, OrNull, check_shape

# Long enough for a path.
Text = Annotated[str, Kind("a text of 1 to 4096 characters", (str,), 1, 4096)]


def read_hint(hint):
    """The shape that a type hint states.

    hint: bool, dict, Annotated[type, its shape], Literal, list[hint], `hint | None`, or a
    TypedDict.
    """
    kind, arguments = get_origin(hint), get_args(hint)
    if hint in (bool, dict):
        return BOOL if hint is bool else OBJECT
    if kind is Annotated:
        return arguments[1]
    if kind is Literal:
        return OneOf(arguments)
    if kind is list:
        return [read_hint(arguments[0])]
    if kind is NotRequired:
        return Maybe(read_hint(arguments[0]))
    if kind in (Union, UnionType):
        return OrNull(read_hint(arguments[0]))
    return Closed(read_hints(hint))


def read_hints(cls):
    """{field: shape} of a dataclass or a TypedDict."""
    hints = get_type_hints(cls, include_extras=True)
    return {name: read_hint(hint) for name, hint in hints.items()}


def check_fields(instance):
    """ValueError naming the field of a dataclass whose value is not what its hint says."""
    check_shape(vars(instance), Closed(read_hints(type(instance))))


def fill_dataclass(cls, entries):
    """A dataclass from a dict that has its fields and no others; ValueError naming the field."""
    shapes = read_hints(cls)
    for f in fields(cls):
        if f.default is not MISSING or f.default_factory is not MISSING:
            shapes[f.name] = Maybe(shapes[f.name])
    check_shape(entries, Closed(shapes))
    return cls(**entries)
