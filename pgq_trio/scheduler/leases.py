"""The right to run a fire: kept by heartbeats, given back at its end; it knows no cron and no
handler.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime

import anyio
from anyio.abc import TaskStatus

from pgq_trio.abc import ScheduleStore
from pgq_trio.concurrency.backoff import Backoff
from pgq_trio.concurrency.wakeup import Wakeup
from pgq_trio.errors import StoreError
from pgq_trio.models import Schedule
from pgq_trio.scheduler.health import StoreHealth, logger
from pgq_trio.scheduler.timetable import STALE_AFTER

#: Heartbeats in one lease: two may fail before the third comes too late.
_BEATS = 3

#: How long writing the end of a fire may hold up a cancellation, in seconds.
END_LIMIT = 5.0


class Lease:
    """One claimed row, from the claim until its end is written."""

    __slots__ = ("ended", "ending", "lost", "row", "scope")

    def __init__(self, row: Schedule) -> None:
        self.row: Schedule = row
        self.scope: anyio.CancelScope = anyio.CancelScope()
        self.lost: bool = False
        self.ending: bool = False
        self.ended: Schedule | None = None


class Leases:
    """All leases of one run of the scheduler, and what is written for them."""

    def __init__(self, store: ScheduleStore, health: StoreHealth) -> None:
        self._store = store
        self._health = health
        self._leases: list[Lease] = []
        self._added = Wakeup()

    @contextmanager
    def hold(self, row: Schedule) -> Generator[Lease, None, None]:
        """Keep the lease on a claimed row alive while the block runs."""
        lease = Lease(row)
        self._leases.append(lease)
        self._added.set()
        try:
            yield lease
        finally:
            self._leases.remove(lease)

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Send heartbeats until cancelled; it sleeps while there is no lease."""
        task_status.started()
        interval = STALE_AFTER / _BEATS
        backoff = Backoff(maximum=1.0)
        while True:
            self._added.clear()
            if not self._leases:
                await self._added.wait()
            await anyio.sleep(interval)
            while self._leases:
                try:
                    await self._beat()
                except StoreError as exc:
                    self._health.failed("heartbeat", exc)
                    await anyio.sleep(backoff.next())
                else:
                    backoff.reset()
                    break
            self._health.worked("heartbeat")

    async def _beat(self) -> None:
        sent = list(self._leases)
        owned = await self._store.heartbeat([lease.row for lease in sent])
        for lease in sent:
            # What is being written is judged by the write itself.
            if lease.row.id not in owned and not lease.ending:
                lease.lost = True
                lease.scope.cancel("lease lost")

    async def finish(
        self, lease: Lease, *, next_run: datetime | None = None, ran: bool = True
    ) -> Schedule | None:
        """Write the end of a fire, however long that takes, with the lease kept meanwhile.

        Returns the row as that left it, None when the lease was lost. A cancellation is held up
        for at most `END_LIMIT` seconds; if the store cannot be reached by then, the fire is run
        again by whoever finds its lease expired.
        """
        while True:
            if await self.hand_back(lease, next_run=next_run, ran=ran):
                return lease.ended
            await anyio.lowlevel.checkpoint()

    async def hand_back(
        self, lease: Lease, *, next_run: datetime | None, ran: bool = False
    ) -> bool:
        """Write the end of a fire, shielded, trying for `END_LIMIT` seconds.

        Returns whether the store could be reached; `lease.ended` is the row then, or None if the
        lease was lost.
        """
        lease.ending = True
        backoff = Backoff()
        with anyio.move_on_after(END_LIMIT, shield=True):
            while True:
                try:
                    lease.ended = await self._store.finish(lease.row, next_run=next_run, ran=ran)
                except StoreError as exc:
                    self._health.failed("finish", exc)
                    await anyio.sleep(backoff.next())
                else:
                    self._health.worked("finish")
                    if lease.ended is None:
                        logger.warning(
                            "the lease on schedule %r was lost before its run had ended: another "
                            "worker runs it, or its row was deleted",
                            lease.row.entrypoint,
                        )
                    return True
        return False
