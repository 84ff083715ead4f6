"""support/fields.py: hints that are checked, and a dataclass filled."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, NotRequired, TypedDict

import pytest

from helpers import one_line
from support.fields import Range, Text, check_value, fill_dataclass


class Place(TypedDict):
    x: Annotated[int, Range(0, 9)]
    note: NotRequired[Text]


@dataclass
class Record:
    name: Text
    places: list[Place] = field(default_factory=list)
    score: Annotated[float, Range(0, 1)] | None = None


HINTS = {
    bool: ([True, False], [0, 1, "true", None]),
    dict: ([{}, {"a": 1}], [[], None, "{}"]),
    Text: (["a", "é" * 4096], ["", "a" * 4097, "a\0", 3, None]),
    Annotated[int, Range(1, 9)]: ([1, 9], [0, 10, 3.0, True, "3", None, 10**400]),
    Annotated[float, Range(0, 1)]: ([0, 1, 0.5], [True, float("nan"), float("inf"), -1e-9, "0"]),
    Literal[1, "a"]: ([1, "a"], [True, 1.0, "b", [1], {}]),
    list[bool]: ([[], [True]], [[1], [True, None], (True,), {}]),
    Text | None: (["a", None], [3, ""]),
    Place: ([{"x": 3}, {"x": 0, "note": "a"}], [{}, {"x": 10}, {"x": 1, "y": 1}, {"note": "a"}]),
}


@pytest.mark.parametrize("hint, values", HINTS.items(), ids=str)
def test_values_of_a_hint(hint, values):
    good, bad = values
    for value in good:
        check_value("entry", value, hint)
    for value in bad:
        with pytest.raises(ValueError, match="^entry") as error:
            check_value("entry", value, hint)
        assert len(one_line(error)) < 400


def test_a_dataclass_is_filled():
    assert fill_dataclass(Record, {"name": "n", "places": [{"x": 2}]}) == Record("n", [{"x": 2}])


@pytest.mark.parametrize(
    "entries, message",
    [
        ({}, "it lacks name"),
        ([], "it is [], expected an object"),
        ({"name": "n", "extra": 1}, "it has an unknown entry 'extra'"),
        ({"name": "n", "places": [{"x": 1}, {"x": "2"}]}, "places[1].x is '2', expected a whole"),
        ({"name": "n", "places": [{}]}, "places[0] lacks x"),
    ],
)
def test_what_does_not_fit_a_dataclass_is_named_by_its_place(entries, message):
    with pytest.raises(ValueError) as error:
        fill_dataclass(Record, entries)
    assert message in one_line(error)
