"""Load in a thread what is needed next, while the model works."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor


def load_ahead(load, items, ahead):
    """Yield load(item) of each item, in order; a thread has up to `ahead` more of them ready.

    What `load` raises is raised here. Nothing more is loaded once the generator is closed.
    """
    pool, waiting = ThreadPoolExecutor(1), deque()
    try:
        for item in items:
            waiting.append(pool.submit(load, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def take_groups(items, size):
    """Lists of so many items; the last may be shorter."""
    group = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
