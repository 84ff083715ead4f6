"""support/fields.py: what hints allow, and a dataclass filled."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, NotRequired, TypedDict

import pytest

from helpers import one_line
from support.fields import Text, check_fields, fill_dataclass, read_hint
from support.shapes import between, check_shape, whole_between


class Place(TypedDict):
    x: Annotated[int, whole_between(0, 9)]
    note: NotRequired[Text]


@dataclass
class Record:
    name: Text
    places: list[Place] = field(default_factory=list)
    score: Annotated[float, between(0, 1)] | None = None


HINTS = {
    bool: ([True, False], [0, 1, "true", None]),
    dict: ([{}, {"a": 1}], [[], None, "{}"]),
    Text: (["a", "é" * 4096], ["", "a" * 4097, "a\0", 3, None]),
    Annotated[int, whole_between(1, 9)]: ([1, 9], [0, 10, 3.0, True, "3", None, 10**400]),
    Annotated[float, between(0, 1)]: (
        [0, 1, 0.5],
        [True, float("nan"), float("inf"), -1e-9, "0"],
    ),
    Literal[1, "a"]: ([1, "a"], [True, 1.0, "b", [1], {}]),
    list[bool]: ([[], [True]], [[1], [True, None], (True,), {}]),
    Text | None: (["a", None], [3, ""]),
    Place: ([{"x": 3}, {"x": 0, "note": "a"}], [{}, {"x": 10}, {"x": 1, "y": 1}, {"note": "a"}]),
}


@pytest.mark.parametrize("hint, values", HINTS.items(), ids=str)
def test_values_of_a_hint(hint, values):
    good, bad = values
    shape = read_hint(hint)
    for value in good:
        check_shape(value, shape, "entry")
    for value in bad:
        with pytest.raises(ValueError, match="^entry") as error:
            check_shape(value, shape, "entry")
        assert len(one_line(error)) < 400


def test_a_dataclass_is_filled():
    assert fill_dataclass(Record, {"name": "n", "places": [{"x": 2}]}) == Record("n", [{"x": 2}])


@pytest.mark.parametrize(
    "entries, message",
    [
        ({}, "name is missing"),
        ([], "this is [], not an object"),
        ({"name": "n", "extra": 1}, "extra is not known"),
        ({"name": "n", "places": [{"x": 1}, {"x": "2"}]}, 'places[1].x is "2", not a whole'),
        ({"name": "n", "places": [{}]}, "places[0].x is missing"),
        ({"name": "n", "places": [{"x": 1, "y": 1}]}, "places[0].y is not known"),
    ],
)
def test_what_does_not_fit_a_dataclass_is_named_by_its_place(entries, message):
    with pytest.raises(ValueError) as error:
        fill_dataclass(Record, entries)
    assert message in one_line(error)


def test_an_instance_is_checked_too():
    check_fields(Record("n", score=1))
    with pytest.raises(ValueError, match="score is 2, not a number from 0 to 1"):
        check_fields(Record("n", score=2))
