"""The port of the schedules table."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pgq_trio.models import Schedule

__all__ = ["NewSchedule", "ScheduleStore", "Snapshot"]


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A schedule to make known; `next_run` is its first fire time."""

    entrypoint: str
    expression: str
    next_run: datetime


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The schedules at one moment of the store's clock."""

    now: datetime
    schedules: list[Schedule]


class ScheduleStore(Protocol):
    """The schedules table: one row for each entrypoint and expression."""

    async def snapshot(self) -> Snapshot:
        """Return all schedules and the store's now, ordered by id."""
        ...

    async def add(self, schedules: Sequence[NewSchedule]) -> None:
        """Insert those schedules that are not there yet; leave the others as they are."""
        ...

    async def claim(
        self, schedule: Schedule, *, next_run: datetime, heartbeat_timeout: float
    ) -> Schedule | None:
        """Take one fire of a schedule, at most one worker for each.

        Succeeds only if the row still has the `next_run` and `updated` of the given snapshot and
        is queued and due, or is picked with a heartbeat older than the timeout (seconds). Sets
        `picked`, `updated = heartbeat = now` and the new `next_run`. Returns the row, or None
        when another worker was first.
        """
        ...

    async def heartbeat(self, schedules: Sequence[Schedule]) -> set[int]:
        """Renew the leases of claimed schedules. Returns the ids still owned."""
        ...

    async def pause(
        self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()
    ) -> set[int]:
        """Keep schedules from firing until they are resumed; one that runs goes on to its end.

        The row's status becomes `canceled`, which neither package fires. Returns the ids found.
        """
        ...

    async def resume(
        self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()
    ) -> set[int]:
        """Have paused schedules fire again, and wake the schedulers. Returns the ids resumed.

        Fire times that passed meanwhile are misfires.
        """
        ...

    async def trigger(
        self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()
    ) -> set[int]:
        """Make schedules due now, and wake the schedulers. Returns the ids of those that fire.

        One that runs fires again when it has ended; a paused one does not fire.
        """
        ...

    async def finish(self, schedule: Schedule, *, next_run: datetime | None = None) -> bool:
        """End a claimed fire: `queued` again with `last_run = now`, if the claim still owns it.

        With `next_run` the fire was interrupted: it becomes due again at that time and `last_run`
        stays as it was. Returns whether the claim still owned the row.
        """
        ...

    async def delete(self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()) -> int:
        """Delete schedules by id or entrypoint. Returns how many went."""
        ...

    async def clear(self) -> int:
        """Delete all schedules. Returns how many went."""
        ...
