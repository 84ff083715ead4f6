"""support/meeting.py: who waits for whom, and for how long."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from helpers import one_line
from support import launch, meeting
from support.meeting import Meeting


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(meeting, "BEAT", 0.05)
    monkeypatch.setattr(meeting, "SILENCE", 0.5)


def end():
    raise AssertionError("no process has failed")


def test_nobody_leaves_before_all_have_come():
    store, left, lock = dist.HashStore(), [], threading.Lock()

    def work(rank):
        mine = Meeting(store, rank, 3, end)
        for round in range(4):
            time.sleep(0.1 * rank)
            with lock:
                left.append(("came", round))
            mine.wait()
            with lock:
                left.append(("left", round))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    for round in range(4):
        came = [i for i, event in enumerate(left) if event == ("came", round)]
        assert len(came) == 3 and left.index(("left", round)) > max(came)


def test_who_works_long_is_waited_for():
    """Four times as long as silence is borne: its heart beats."""
    store = dist.HashStore()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(Meeting(store, 0, 2, end).wait)
        busy = Meeting(store, 1, 2, end)
        time.sleep(2)
        assert not first.done()
        busy.wait()
        assert first.result(timeout=5) is None


def test_who_is_gone_is_named():
    store = dist.HashStore()
    store.add("beat 1", 7)
    began = time.monotonic()
    with pytest.raises(ValueError) as error:
        Meeting(store, 0, 2, end).wait()
    assert "process 1 has been silent for 0.5 s" in one_line(error)
    assert time.monotonic() - began < 5


def test_all_end_when_one_fails():
    store, ended = dist.HashStore(), [threading.Event() for _ in range(3)]
    others = [Meeting(store, rank, 3, ended[rank].set) for rank in range(3)]
    time.sleep(0.2)
    assert not any(event.is_set() for event in ended)
    assert others[1].fail("no photo", is_consequence=False)
    assert ended[0].wait(timeout=5) and ended[2].wait(timeout=5)
    # It ends by itself, with its own exit code.
    assert not ended[1].is_set()


def test_a_thing_is_said_once(capsys, monkeypatch):
    """Each process says what no other has said; that another is gone only if none says why."""
    store = dist.HashStore()

    def say(rank, text, is_consequence=False):
        monkeypatch.setattr(meeting, "meetings", [Meeting(store, rank, 3, lambda: None)])
        meeting.say_once(text, is_consequence)
        return capsys.readouterr().err

    assert say(0, "no photo") == "no photo\n"
    assert say(1, "no photo") == ""
    assert say(2, "no room") == "no room\n"
    assert say(1, "another process is gone (1)", is_consequence=True) == ""
    store = dist.HashStore()
    assert say(0, "another process is gone (2)", is_consequence=True).endswith("gone (2)\n")
    assert say(1, "another process is gone (3)", is_consequence=True) == ""


def test_variables_left_over_end_in_a_line(monkeypatch):
    """WORLD_SIZE from an earlier job, with or without an address."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError) as error:
        launch.setup()
    assert "WORLD_SIZE is 2, but MASTER_ADDR is not set" in one_line(error)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.setattr(meeting, "MEETING", meeting.timedelta(seconds=1))
    with pytest.raises(ValueError) as error:
        launch.setup()
    text = one_line(error)
    assert f"cannot meet at 127.0.0.1:{port}" in text and "1/2 clients joined" in text
    assert text.endswith("start with torchrun, or unset WORLD_SIZE")
    # As another rank: nobody keeps the store.
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("MASTER_PORT", str(port + 1))
    with pytest.raises(ValueError) as error:
        launch.setup()
    assert f"the processes cannot meet at 127.0.0.1:{port + 1}" in one_line(error)
