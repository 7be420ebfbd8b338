"""The memory store's clock; knows the event loop's time, not jobs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import anyio
from anyio.lowlevel import RunVar

__all__ = ["Clock", "LoopClock", "Ticker", "wall_time"]

#: Returns an aware point in time.
Clock: TypeAlias = Callable[[], datetime]

_TICK = timedelta(microseconds=1)


def wall_time() -> datetime:
    """Return the wall's time; simulations of the test kit put another clock here."""
    return datetime.now(UTC)


class LoopClock:
    """Wall time that runs with the event loop's clock, so that Trio's MockClock drives it.

    In each run of an event loop it starts at the wall's time, or where the run before ended if
    that is later, and from then on it follows `anyio.current_time()`.
    """

    def __init__(self) -> None:
        self._anchor: RunVar[tuple[datetime, float]] = RunVar("pgq_trio.LoopClock")
        self._last = datetime.min.replace(tzinfo=UTC)

    def __call__(self) -> datetime:
        now = anyio.current_time()
        anchor = self._anchor.get(None)
        if anchor is None:
            anchor = max(self._last, wall_time()), now
            self._anchor.set(anchor)
        wall, zero = anchor
        self._last = wall + timedelta(seconds=now - zero)
        return self._last


class Ticker:
    """A clock on which time passes between any two readings, as it does in a database.

    Two changes never have the same time then: `updated` tells two claims of a row apart, and what
    was queued for "now" is due at the next look.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = datetime.min.replace(tzinfo=UTC)

    def __call__(self) -> datetime:
        self._last = max(self._clock(), self._last + _TICK)
        return self._last
