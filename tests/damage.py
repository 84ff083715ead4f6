"""Damage to JSON: what a crash, an editor or another program may make of it."""

import copy
import json
import os

DEEP = "[" * 3000 + "]" * 3000
# In the place of a value, as JSON; the last ones are no JSON, or beyond what we compute with.
OTHERS = ["null", "true", "-3", "1e-320", '"a\\u202eb\\n"', "[]", "{}", '{"a": [1]}']
OTHERS += [DEEP, "NaN", "1e999", "9" * 400, "9" * 5000, '"\\ud800"', '"' + "x" * 5000 + '"', ""]
MARK = "here it was"


def list_places(value, place=()):
    """The places of all fields and items in a value, each a tuple of keys."""
    places = []
    if isinstance(value, dict):
        items = list(value.items())
    else:
        items = list(enumerate(value)) if isinstance(value, list) else []
    for key, inner in items:
        places += [(*place, key), *list_places(inner, (*place, key))]
    return places


def find_holder(value, place):
    for key in place[:-1]:
        value = value[key]
    return value


def remove(value, place):
    """A copy of the value as JSON, without what is at a place."""
    changed = copy.deepcopy(value)
    del find_holder(changed, place)[place[-1]]
    return json.dumps(changed)


def replace(value, place, other):
    """A copy of the value as JSON, with another JSON text at a place."""
    changed = copy.deepcopy(value)
    find_holder(changed, place)[place[-1]] = MARK
    return json.dumps(changed).replace(json.dumps(MARK), other)


def damage_value(rng, value):
    """A damaged JSON text of a value, bytes: one field removed or replaced, or the text itself."""
    text = json.dumps(value).encode()
    places = list_places(value)
    kind = rng.randrange(10)
    if kind == 0:
        return text[: rng.randrange(1, len(text))]
    if kind == 1:
        at = rng.randrange(len(text))
        odd = rng.choice([b"\xff", b"\0", b"\xef\xbb\xbf", b"\xed\xa0\x80"])
        return text[:at] + odd + text[at:]
    if kind == 2:
        return rng.choice(OTHERS).encode()
    # As many of the top as of what lies deep in it.
    key = rng.choice(list(value))
    place = rng.choice([each for each in places if each[0] == key])
    if kind < 5:
        return remove(value, place).encode()
    return replace(value, place, rng.choice(OTHERS)).encode()


def check_message(text, file):
    """A line that names the file, in characters that can be printed, and not at length."""
    assert str(file) in text and text.isprintable() and len(text) < 800, text[:2000]


def make_special(path, kind):
    """Put something that is no file in the place of a path."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
