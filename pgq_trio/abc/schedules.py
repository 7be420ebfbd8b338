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
        """Renew the leases of claimed schedules, paused ones too. Returns the ids still owned."""
        ...

    async def finish(
        self, schedule: Schedule, *, next_run: datetime | None = None, ran: bool = True
    ) -> Schedule | None:
        """End a claimed fire, if the claim still owns the row.

        The row is `queued` again, or stays `canceled` if it was paused meanwhile. If it is due
        then, the schedulers are woken.

        Args:
            schedule: the row as `claim` returned it.
            next_run: when it is due next; None: as the row says. What somebody set meanwhile
                (`trigger`) stands and is due now if it is past, but an earlier fire that did not
                run comes first.
            ran: whether the handler has run to its end, so that `last_run` is now.

        Returns:
            the row as it is now, None when the claim does not own it any more.
        """
        ...

    async def pause(
        self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()
    ) -> set[int]:
        """Keep schedules from firing until they are resumed; one that runs goes on to its end.

        The row's status becomes `canceled`, which neither package fires; `updated` stays, so that
        a run keeps its claim. Returns the ids found, those that were paused before among them.
        """
        ...

    async def resume(
        self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()
    ) -> set[int]:
        """Have paused schedules fire again, and wake the schedulers. Returns the ids resumed.

        Fire times that passed meanwhile are misfires. A row whose run goes on is `picked` again,
        so that nobody begins another one beside it.
        """
        ...

    async def trigger(
        self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()
    ) -> set[int]:
        """Make schedules due now, and wake the schedulers. Returns the ids of those that fire.

        One that runs fires again when it has ended; a paused one does not fire and stays as it
        is. A `next_run` that holds a fraction of a second was triggered, and fires whatever the
        schedule's misfire policy: fire times are whole seconds. A row that is due already keeps its
        fire time, marked with a microsecond, so that none after it is forgotten.
        """
        ...

    async def delete(self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()) -> int:
        """Delete schedules by id or entrypoint; a run of one loses its lease. Returns how many."""
        ...

    async def clear(self) -> int:
        """Delete all schedules. Returns how many went."""
        ...
