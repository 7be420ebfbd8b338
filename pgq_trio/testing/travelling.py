"""A queue in memory whose clock a test moves forward; it knows neither jobs' handlers nor faults.

Only the store's clock is moved, which says what is due. The event loop's clock goes on as it does:
a handler that sleeps goes on sleeping, and a job's timeout comes when it would have come.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta

from pgq_trio.abc import Backend
from pgq_trio.db import InMemoryDriver
from pgq_trio.model.durations import Duration, seconds
from pgq_trio.models import Schedule
from pgq_trio.settings import Settings
from pgq_trio.store.backend import StoreBackend
from pgq_trio.store.memory import MemoryNotifier, MemorySchema
from pgq_trio.store.memory_clock import Clock, LoopClock
from pgq_trio.store.memory_insights import MemoryInsights
from pgq_trio.store.memory_jobs import MemoryJobs
from pgq_trio.store.memory_schedules import MemorySchedules
from pgq_trio.store.memory_state import MemoryState

__all__ = ["TimeTravel"]


class TimeTravel:
    """Moves the clock of the queues on its `driver`: `time_travel(hours=1)`.

    Attributes:
        driver: a driver in memory on this clock.
    """

    def __init__(self) -> None:
        self._clock = LoopClock()
        self._ahead = timedelta(0)
        self._driver = _Driver(self.now)

    @property
    def driver(self) -> InMemoryDriver:
        """The driver in memory whose clock this is."""
        return self._driver

    def now(self) -> datetime:
        """Return the store's now, an aware datetime; on an event loop only."""
        return self._clock() + self._ahead

    def __call__(
        self,
        by: Duration = 0.0,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        keep_leases: bool = True,
    ) -> None:
        """Move the clock forward, and wake workers and schedulers for what is due now.

        Call it on the thread of the event loop, or while none runs. What is due runs as soon as
        the workers come to it: after the caller's next checkpoints, not within the call.

        Args:
            by: how far, a `timedelta` or seconds.
            days, hours, minutes, seconds: how far as well; all are added.
            keep_leases: whether workers have kept the leases on what they run all the time. False:
                they were silent, and what they run is rescued once the time is longer than the
                heartbeat timeout.

        Raises:
            TypeError, ValueError: no duration, or one that leads nowhere or back.
        """
        length = _length(by) + timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        if length <= timedelta(0):
            raise ValueError(f"time goes forward, by more than nothing; got {length}")
        self._ahead += length
        self._driver.arrive(length if keep_leases else timedelta(0))

    def to(self, time: datetime, *, keep_leases: bool = True) -> None:
        """Move the clock forward to a point in time; on an event loop only.

        Raises:
            ValueError: it has passed, or is not aware.
        """
        if time.utcoffset() is None:
            raise ValueError(f"the time needs a zone, such as tzinfo=UTC; got {time!r}")
        self(time - self.now(), keep_leases=keep_leases)


def _length(by: Duration) -> timedelta:
    return by if isinstance(by, timedelta) else timedelta(seconds=seconds(by, "by"))


class _Driver(InMemoryDriver):
    """A driver in memory whose tables can be told that time has passed."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._states: dict[Settings, MemoryState] = {}

    def backend(self, settings: Settings) -> Backend:
        """Return the stores on this driver; calls with equal settings share one store."""
        backend = self._backends.get(settings)
        if backend is None:
            state = self._states[settings] = MemoryState(settings, self._ticker)
            backend = self._backends[settings] = StoreBackend(
                settings=settings,
                jobs=MemoryJobs(state),
                schedules=MemorySchedules(state),
                insights=MemoryInsights(state),
                schema=MemorySchema(),
                notifier=MemoryNotifier(state),
            )
        return backend

    def arrive(self, beaten: timedelta) -> None:
        """Move all heartbeats by so much, and tell all who listen that there may be work."""
        for settings, state in self._states.items():
            for row in state.jobs.rows.values():
                if row.status == "picked":
                    row.heartbeat += beaten
            for number, schedule in state.schedules.items():
                if _runs(schedule):
                    later = replace(schedule, heartbeat=schedule.heartbeat + beaten)
                    state.schedules[number] = later
            for table in (settings.queue_table, settings.schedules_table):
                event = {"type": "table_changed_event", "operation": "update", "table": table}
                state.notify(json.dumps(event))


def _runs(schedule: Schedule) -> bool:
    """Whether there is a lease; also one that was paused while it runs has one."""
    if schedule.status == "canceled":
        return schedule.heartbeat >= schedule.updated > schedule.created
    return schedule.status == "picked"
