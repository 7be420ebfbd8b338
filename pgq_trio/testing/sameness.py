"""What a run takes from outside is the same in each: random numbers and the queue's date.

It knows no event loop. What is left are ids from `uuid4`, which no decision of this package looks
at, and the order of a user's own sets of strings.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import cast

from pgq_trio.store import memory_clock
from pgq_trio.testing.threads import replaced_here

__all__ = ["same_again"]


class _Random:
    """The state of `random` outside of all runs, which the last of them puts back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs = 0
        self._outside: object = None

    @contextmanager
    def seeded(self, seed: int) -> Generator[None]:
        """Start from a seed for the length of a block; blocks of threads may end in any order."""
        with self._lock:
            if not self._runs:
                self._outside = random.getstate()
            self._runs += 1
            random.seed(seed)
        try:
            yield
        finally:
            with self._lock:
                self._runs -= 1
                if not self._runs:
                    random.setstate(cast("tuple[object, ...]", self._outside))


_RANDOM = _Random()


@contextmanager
def same_again(seed: int) -> Generator[None]:
    """Have `random` start from a seed, and queues in memory at midnight, for the length of a block.

    Afterwards `random` goes on where it was. The date is another one in this thread only.
    """
    with _RANDOM.seeded(seed), replaced_here(memory_clock, "wall_time", _midnight):
        yield


@cache
def _midnight() -> datetime:
    # Today's, not a date of long ago: a deadline that a scenario computes from the wall's time is
    # a day ahead at most. Once for the process, so that no run is another one after midnight.
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
