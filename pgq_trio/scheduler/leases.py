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
from pgq_trio.answers import answer_to
from pgq_trio.concurrency.backoff import Backoff
from pgq_trio.concurrency.wakeup import Wakeup
from pgq_trio.errors import StoreError
from pgq_trio.models import Schedule
from pgq_trio.scheduler.health import StoreHealth, logger
from pgq_trio.scheduler.timetable import STALE_AFTER

#: Heartbeats in one lease: two may fail before the third comes too late.
_BEATS = 3

#: How long one may take to be answered, in seconds: there is time to send another one.
_BEAT_LIMIT = STALE_AFTER / _BEATS / 2

#: How long writing the end of a fire may hold up a cancellation, in seconds.
END_LIMIT = 5.0

#: How long one such statement may take, in seconds: a silence is noticed within that time.
_FINISH_LIMIT = 4.0


class Lease:
    """One claimed row, from the claim until its end is written.

    The handler's scope has the end of the lease as its deadline: from then on somebody else may
    run the fire. Heartbeats that are answered put it off.

    Attributes:
        lost: whether the store has said that the claim does not own the row any more.
    """

    __slots__ = ("ended", "ending", "lost", "row", "scope")

    def __init__(self, row: Schedule, sent: float) -> None:
        self.row: Schedule = row
        self.scope: anyio.CancelScope = anyio.CancelScope(deadline=sent + STALE_AFTER)
        self.lost: bool = False
        self.ending: bool = False
        self.ended: Schedule | None = None

    def renew(self, sent: float) -> None:
        """Note a heartbeat that succeeded, and when it was sent.

        The store's now was not earlier, so the lease does not end earlier than this says. What
        was cancelled stays so: the row is only kept until its handler has cleaned up.
        """
        if not self.may_be_over:
            self.scope.deadline = sent + STALE_AFTER

    @property
    def may_be_over(self) -> bool:
        """Whether it may have expired, for want of a heartbeat that was answered."""
        return anyio.current_time() >= self.scope.deadline


class Leases:
    """All leases of one run of the scheduler, and what is written for them."""

    def __init__(self, store: ScheduleStore, health: StoreHealth) -> None:
        self._store = store
        self._health = health
        self._leases: list[Lease] = []
        self._added = Wakeup()

    @contextmanager
    def hold(self, row: Schedule, sent: float) -> Generator[Lease, None, None]:
        """Keep the lease on a claimed row alive while the block runs.

        Args:
            row: as the claim returned it.
            sent: when the claim was sent, on the event loop's clock.
        """
        lease = Lease(row, sent)
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
        sent, at = list(self._leases), anyio.current_time()
        beat = self._store.heartbeat([lease.row for lease in sent])
        owned = await answer_to("a heartbeat of schedules", beat, limit=_BEAT_LIMIT)
        for lease in sent:
            if lease.row.id in owned:
                lease.renew(at)
            # What is being written is judged by the write itself.
            elif not lease.ending:
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
                end = self._store.finish(lease.row, next_run=next_run, ran=ran)
                try:
                    lease.ended = await answer_to("the end of a fire", end, limit=_FINISH_LIMIT)
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
