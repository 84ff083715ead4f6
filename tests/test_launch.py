"""Commands: a user's error is one line and a code, and what is long is cut."""

import signal

import pytest
import torch

from support import launch


def stop(error):
    """A command that ends with this error."""

    def main():
        raise error

    return main


@pytest.mark.parametrize(
    "error, code, text",
    [
        (ValueError("bad\n  box"), 2, "x.py: bad box\n"),
        (FileNotFoundError("no photo"), 2, "x.py: no photo\n"),
        (KeyboardInterrupt(), 128 + signal.SIGINT, ""),
        (SystemExit(7), 7, ""),
        (SystemExit("one image is missing"), 1, "one image is missing\n"),
    ],
)
def test_errors_are_a_line_and_an_exit_code(error, code, text, capsys):
    with pytest.raises(SystemExit) as end:
        launch.run("x.py", stop(error))
    assert end.value.code == code
    assert capsys.readouterr() == ("", text)


def test_success_is_silent(capsys):
    for main in (lambda: 5, stop(SystemExit()), stop(SystemExit(0))):
        assert launch.run("x.py", main) is None
    assert capsys.readouterr() == ("", "")


def test_a_mistake_of_the_code_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        launch.run("x.py", lambda: 1 / 0)


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, i):
        raise ValueError("boat.jpg is damaged: replace the file")


def test_an_error_of_a_worker_is_its_last_line():
    """As torch's own DataLoader sends it, with a traceback."""
    loader = torch.utils.data.DataLoader(Broken(), num_workers=1)
    with pytest.raises(ValueError, match="Original Traceback") as error:
        next(iter(loader))
    assert launch.describe_error(error.value) == "boat.jpg is damaged: replace the file"


@pytest.mark.parametrize("count", [0, 1, 5, 6, 100])
def test_a_long_list_is_cut(count):
    names = [f"n{i}" for i in range(count)]
    text = launch.list_first(names)
    listed, _, more = text.partition(" and ")
    shown = listed.split(", ") if listed else []
    assert shown == names[:5]
    assert len(shown) + int(more.removesuffix(" more") or 0) == count


def test_alone_a_process_is_the_first_of_one(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert launch.setup() == (0, 1, torch.device("cpu"))
