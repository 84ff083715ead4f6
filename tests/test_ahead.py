"""ahead.py: what is loaded in a thread, and when."""

import threading
import time

import pytest

from support.ahead import load_ahead, take_groups


def test_the_thread_is_ahead_by_so_many_and_no_more():
    loaded = []

    def load(n):
        loaded.append(n)
        return n * n

    squares = load_ahead(load, range(10), ahead=3)
    assert next(squares) == 0
    deadline = time.monotonic() + 10
    while len(loaded) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert loaded == [0, 1, 2, 3]
    assert list(squares) == [n * n for n in range(1, 10)]
    assert loaded == list(range(10))


@pytest.mark.parametrize("items", [0, 1, 2, 5])
def test_order_and_number_stay(items):
    assert list(load_ahead(str, range(items), ahead=2)) == [str(n) for n in range(items)]


def test_an_error_is_raised_at_its_item():
    found = []
    with pytest.raises(ZeroDivisionError):
        for value in load_ahead(lambda n: 1 / n, [1, 2, 0, 4], ahead=4):
            found.append(value)
    assert found == [1, 0.5]


def test_nothing_more_is_loaded_once_it_is_closed():
    """What waits is forgotten, and nobody waits for what is being loaded."""
    loaded, go = [], threading.Event()

    def load(n):
        loaded.append(n)
        if n:
            go.wait(10)
        return n

    values = load_ahead(load, range(9), ahead=5)
    assert next(values) == 0
    began = time.monotonic()
    values.close()
    assert time.monotonic() - began < 5
    go.set()
    time.sleep(0.02)
    assert loaded in ([0], [0, 1])


def test_groups():
    assert list(take_groups(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(take_groups(range(4), 2)) == [[0, 1], [2, 3]]
    assert list(take_groups([], 2)) == []
