"""How long to wait before the next try: exponential, bounded, jittered; pure, it never sleeps."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Delays in seconds, doubling from `initial` to `maximum`.

    Each is drawn from the upper half of its range, so that a fleet that lost its server together
    does not come back together.
    """

    def __init__(
        self,
        initial: float = 0.1,
        maximum: float = 5.0,
        *,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._initial = initial
        self._maximum = maximum
        self._uniform = uniform
        self._next = initial

    def next(self) -> float:
        """Return the delay before the next try."""
        delay = self._next
        self._next = min(self._maximum, delay * 2)
        return self._uniform(delay / 2, delay)

    def reset(self) -> None:
        """Start over after a success."""
        self._next = self._initial
