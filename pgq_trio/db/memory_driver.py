"""The driver on plain memory."""

from __future__ import annotations

from pgq_trio.abc import Backend, Driver
from pgq_trio.settings import Settings
from pgq_trio.store.memory import memory_backend
from pgq_trio.store.memory_clock import Clock, LoopClock, Ticker

__all__ = ["InMemoryDriver"]


class InMemoryDriver(Driver):
    """A queue in memory, for tests and trials; gone with the driver.

    All queries and workers on one driver share its queue, also across runs of an event loop.

    Args:
        clock: returns the store's now as an aware datetime. The default is wall time that follows
            the event loop's clock, so that Trio's MockClock drives deferred jobs and schedules.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._ticker = Ticker(clock or LoopClock())
        self._backends: dict[Settings, Backend] = {}

    def backend(self, settings: Settings) -> Backend:
        """Return the stores on this driver; calls with equal settings share one store."""
        backend = self._backends.get(settings)
        if backend is None:
            backend = self._backends[settings] = memory_backend(settings, self._ticker)
        return backend
