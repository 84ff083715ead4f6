"""fuzz.py: a few damaged inputs of each kind, always the same; and that it sees what is wrong."""

import subprocess
import sys

import pytest

from fuzz import Ended, judge, judge_json
from fuzz_inputs import KINDS, Case
from support.files import ROOT


def test_a_few_inputs_end_as_they_should():
    command = [sys.executable, "tests/fuzz.py", "--seed", "0", "--inputs", str(4 * len(KINDS))]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


FINE = Ended(2, "", "x.py: photo.png is missing\n")


@pytest.mark.parametrize(
    "changed, expected",
    [
        ({}, []),
        ({"code": 0, "error": "\r 10%|# | 1/9 [00:01<?, ?image/s]\n"}, []),
        ({"code": 0, "error": "", "out": "nose nan\nwritten: a"}, ["printed what is not finite"]),
        ({"code": 0, "error": "", "out": "nose 1\nwritten: nan"}, []),
        ({"code": 0}, ["noise on stderr"]),
        ({"code": -14}, ["hang"]),
        ({"code": -11, "error": ""}, ["exit code -11"]),
        ({"error": ""}, ["no message"]),
        ({"error": "x.py: no\nx.py: photo.png\n"}, ["2 lines"]),
        ({"error": "x.py: \x1bphoto.png\n"}, ["unprintable characters"]),
        ({"error": "x.py: it is missing\n"}, ["names no file"]),
        ({"error": f"x.py: photo.png {'x' * 900}\n"}, ["long message"]),
        ({"code": 1, "error": "Traceback (most ...\nKeyError: 2\n"}, ["traceback ? KeyError: 2"]),
    ],
)
def test_what_is_wrong_is_seen(changed, expected):
    case = Case(["x.py"], ("photo.png",), "")
    assert judge(case, FINE._replace(**changed), {}, {}) == expected


def test_files_that_are_not_left_as_they_should_be_are_seen(tmp_path):
    path, case = tmp_path / "a.json", Case(["x.py"], ("photo.png",), "")
    path.write_text('{"x": NaN}')
    assert judge_json(path) == ["wrote no strict JSON: a.json"]
    path.write_text('{"x": 1}')
    assert judge(case, FINE, {path: "old"}, {path: "new"}) == ["refused, but changed a.json"]
    partial = tmp_path / ".a.partial.png"
    assert judge(case, FINE, {}, {partial: "new"}) == ["left half-written files"]
