"""Whether and when a process that has failed is started again; pure, it starts nothing."""

from __future__ import annotations

import signal

from pgq_trio.cli.program import HOPELESS
from pgq_trio.concurrency.backoff import Backoff

#: A process that has run for so many seconds has started well: its failures count anew.
STABLE = 60.0

#: The longest delay before a restart, in seconds, unless the first one is longer.
LONGEST_DELAY = 30.0

#: How a process ends that a signal reaches before it runs jobs: nothing was interrupted.
_BEFORE_IT_RAN = frozenset(
    code
    for number in (signal.SIGTERM, signal.SIGINT)
    for code in (-number, 128 + number)  # by the signal's default action; by the command
)


class Restarts:
    """The failures in a row of one place in the fleet, and the delays between its processes."""

    def __init__(self, limit: int, delay: float) -> None:
        self.failures: int = 0
        self._limit = limit
        self._delays = Backoff(delay, max(delay, LONGEST_DELAY))

    def next(self, lived: float) -> float | None:
        """Count a failure and return the seconds before the restart; None when there is none."""
        if lived >= STABLE:
            self.failures = 0
            self._delays.reset()
        self.failures += 1
        return None if self.failures > self._limit else self._delays.next()


def is_hopeless(code: int | None) -> bool:
    """Whether another process would end with this exit code as well."""
    return code in {2, HOPELESS}


def is_clean(code: int | None) -> bool:
    """Whether a process that was asked to stop has left no job behind."""
    return code == 0 or code in _BEFORE_IT_RAN


def describe_end(code: int) -> str:
    """Return how a process ended."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}"
