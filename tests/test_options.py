"""support/options.py: numbers of a command line, and how others are refused."""

import pytest

from support.options import Parser, read_not_negative, read_positive, read_positive_float, read_seed
from support.quote import LONGEST_MESSAGE

ODD = ["x" * 5000, "9" * 5000, "\x1b[31mred", "a\nb", "\udcff", "nan", ""]


def parse(*arguments):
    parser = Parser(prog="x.py")
    parser.add_argument("--steps", type=read_positive)
    parser.add_argument("--lr", type=read_positive_float)
    parser.add_argument("--clip", type=read_not_negative)
    parser.add_argument("--seed", type=read_seed)
    parser.add_argument("--how", choices=["this", "that"])
    return parser.parse_args(arguments)


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("option", ["--steps", "--lr", "--clip", "--seed", "--how", "--new"])
def test_what_is_refused_is_named_in_a_short_line(option, value, capsys):
    with pytest.raises(SystemExit) as end:
        parse(option, value)
    line = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and option in line
    assert line.isprintable() and len(line) < LONGEST_MESSAGE + 20


def test_numbers_have_ranges(capsys):
    good = parse("--steps", "3", "--lr", "1e-3", "--clip", "0", "--seed", "-7")
    assert (good.steps, good.lr, good.clip, good.seed) == (3, 0.001, 0, -7)
    for option, value in (
        ("--steps", "0"),
        ("--lr", "inf"),
        ("--clip=-1", ""),
        ("--seed", "9" * 20),
        ("--seed=-" + "9" * 20, ""),
    ):
        with pytest.raises(SystemExit):
            parse(option, *value.split())
        assert option[:6] in capsys.readouterr().err
