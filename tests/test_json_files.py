"""json_files.py: what is read has its shape and can be written again; the rest is one line."""

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from damage import check_message, damage_value, make_special
from support.json_files import DEEPEST, format_json, read_json, read_json_lines
from support.shapes import BOOL, COUNT, NAME, NUMBER, OBJECT, POSITIVE, TEXT, Each, Maybe, OrNull

SHAPE = {
    "step": COUNT,
    "size": POSITIVE,
    "id": NAME,
    "text": TEXT,
    "yes": BOOL,
    "any": OBJECT,
    "best": OrNull((NUMBER, COUNT)),
    "points": Each([NUMBER]),
    "val": Maybe({"mPCK": NUMBER}),
}
VALUE = {
    "step": 3,
    "size": 0.5,
    "id": "a",
    "text": "é",
    "yes": True,
    "any": {"more": [None, {"x": 1}]},
    "best": [0.5, 6],
    "points": {"eye": [1, 2.5], "": []},
    "val": {"mPCK": 0.25},
}


def is_number(value):
    return type(value) in (int, float) and math.isfinite(value)


def has_shape(v):
    """SHAPE in plain words."""
    lists = [each for each in v["points"].values() if isinstance(each, list)]
    numbers = [v["size"], *sum(lists, [])]
    if "val" in v:
        numbers.append(v["val"]["mPCK"])
    if v["best"] is not None:
        numbers += v["best"]
        assert len(v["best"]) == 2 and type(v["best"][1]) is int
    assert len(lists) == len(v["points"]) and all(map(is_number, numbers))
    assert type(v["step"]) is int and v["step"] >= 0 and v["size"] > 0
    assert type(v["id"]) in (str, int, float) and type(v["text"]) is str
    assert type(v["yes"]) is bool and type(v["any"]) is dict
    return True


@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_what_is_read_has_the_shape_and_the_rest_is_a_line(tmp_path_factory, seed):
    path = tmp_path_factory.getbasetemp() / "value.json"
    path.write_bytes(damage_value(random.Random(seed), VALUE))
    try:
        value = read_json(path, SHAPE, "evaluate again")
    except ValueError as error:
        check_message(str(error), path)
        assert str(error).endswith(": evaluate again")
    else:
        assert has_shape(value)
        # Any reader takes it, and any terminal.
        assert json.loads(json.dumps(value, allow_nan=False)) == value
        json.dumps(value, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"step": -1}, "step is -1, not a whole number from 0 on"),
        ({"step": True}, "step is true, not a whole number from 0 on"),
        ({"step": 1.0}, "step is 1.0, not a whole number"),
        ({"size": 0}, "size is 0, not a number above 0"),
        ({"id": None}, "id is null, not a text or a number"),
        ({"yes": 1}, "yes is 1, not true or false"),
        ({"any": []}, "any is [], not an object"),
        ({"best": [1]}, "best has 1 items, not 2"),
        ({"best": ["é", 1]}, 'best[0] is "é", not a number'),
        ({"points": {"eye": [1, {}]}}, "points.eye[1] is {}, not a number"),
        ({"val": {}}, "val.mPCK is missing"),
        ({"val": None}, "val is null, not an object"),
        ({"any": {"x": float("nan")}}, "it holds nan, which is no number to compute with"),
        ({"size": 10**30}, f"size is {10**30}, not a number above 0"),
        ({"any": {"x": 10**120}}, "which is no number to compute with"),
        ({"any": {"\ud800": 1}}, "\\ud800 holds half of a character"),
    ],
)
def test_the_field_is_named(tmp_path, change, message):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(VALUE | change))
    with pytest.raises(ValueError) as error:
        read_json(path, SHAPE, "do so")
    assert message in str(error.value)


@pytest.mark.parametrize("name, read", [("one", read_json), ("lines", read_json_lines)])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_not_waited_for(tmp_path, name, read, kind):
    make_special(tmp_path / name, kind)
    with pytest.raises(ValueError, match=f"{name} is no regular file"):
        read(tmp_path / name, SHAPE, "")


def test_lines(tmp_path):
    """Blank ones are left out, and a last one that was cut; all others are named."""
    path = tmp_path / "a.jsonl"
    line = '{"x": 1}'
    for text, expected in [
        ("", []),
        (f"{line}\n\n{line}\n", [1, 1]),
        (f"{line}\r\n{line}", [1, 1]),
        (f'{line}\n{{"x": 1', [1]),
        (f"{line}\n\0\0\0", [1]),
    ]:
        path.write_text(text, newline="")
        assert [value["x"] for value in read_json_lines(path, {"x": NUMBER}, "")] == expected
    for text, fault in [
        (f'{line}\n{{"x": 1\n{line}\n', "line 2: this is no JSON from column"),
        (f"{line}\n\n[1]\n", r"line 3: this is \[1\], not an object"),
        (f'{line}\n{{"x": "1"}}', 'line 2: x is "1", not a number'),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=f"a.jsonl, {fault}"):
            read_json_lines(path, {"x": NUMBER}, "do so")
    path.write_text(f'{{"y": "a"}}\n{line}\n')
    assert read_json_lines(path, {"x": NUMBER}, "", first={"y": TEXT}) == [{"y": "a"}, {"x": 1}]


def test_as_deep_as_may_be(tmp_path):
    path = tmp_path / "a.json"
    for more in (0, 1):
        depth = DEEPEST + more - 1
        path.write_text('{"a":' * depth + "{}" + "}" * depth)
        if more:
            with pytest.raises(ValueError, match="nested too deep"):
                read_json(path, OBJECT, "")
        else:
            read_json(path, OBJECT, "")


def test_what_is_not_finite_is_written_as_null():
    value = {"a": [1.5, float("nan"), (float("inf"), "NaN")], "b": True, 3: None}
    expected = {"a": [1.5, None, [None, "NaN"]], "b": True, "3": None}
    assert json.loads(format_json(value, indent=1)) == expected
    assert format_json({"a": 1}) == '{"a": 1}'
