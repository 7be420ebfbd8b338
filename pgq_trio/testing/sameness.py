"""What a run takes from outside is the same in each: random numbers and the queue's date.

It knows no event loop. What is left are ids from `uuid4`, which no decision of this package looks
at, and the order of a user's own sets of strings.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from unittest.mock import patch

from pgq_trio.store import memory_clock

__all__ = ["same_again"]


@contextmanager
def same_again(seed: int) -> Generator[None]:
    """Have `random` start from a seed, and queues in memory at midnight, for the length of a block.

    Afterwards `random` goes on where it was.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        with patch.object(memory_clock, "wall_time", _midnight):
            yield
    finally:
        random.setstate(state)


@cache
def _midnight() -> datetime:
    # Today's, not a date of long ago: a deadline that a scenario computes from the wall's time is
    # a day ahead at most. Once for the process, so that no run is another one after midnight.
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
