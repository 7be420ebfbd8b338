"""One fire of a schedule: its claim, its handler under a cancel scope, its end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import cast

import anyio

from pgq_trio.abc import ScheduleStore
from pgq_trio.answers import answer_to
from pgq_trio.errors import PgqError
from pgq_trio.model.events import Event, ScheduleEnded, ScheduleSkipped
from pgq_trio.model.firing import Fire, Skip, passed_meanwhile
from pgq_trio.models import ResourceMapping, Schedule, ScheduleContext
from pgq_trio.scheduler.health import logger
from pgq_trio.scheduler.leases import END_LIMIT, Lease, Leases
from pgq_trio.scheduler.timetable import STALE_AFTER, Due


class Fires:
    """Runs fires; every one in a task of its own, which never ends with a handler's error."""

    def __init__(
        self,
        store: ScheduleStore,
        *,
        resources: ResourceMapping,
        leases: Leases,
        emit: Callable[[Event], None],
        now: Callable[[], datetime],
        failures: Counter[str],
        skipped: Counter[str],
    ) -> None:
        self._store = store
        self._resources = resources
        self._leases = leases
        self._emit = emit
        self._now = now
        self._failures = failures
        self._skipped = skipped

    async def claim(self, due: Due) -> Schedule | None:
        """Take one fire; None when another worker was first.

        Shielded with a deadline, so that a cancellation cannot leave a row claimed by nobody: the
        server may have committed a claim that is abandoned half way.

        Raises:
            StoreError: the store refused, or gave no answer in time (`ConnectionLost`).
        """
        claim = self._store.claim(
            due.row, next_run=due.decision.next_run, heartbeat_timeout=STALE_AFTER
        )
        return await answer_to("the claim of a schedule", claim, shield=True)

    async def run(self, due: Due, row: Schedule, *, sent: float) -> Schedule | None:
        """Do with a row whose claim was sent then what was decided, and write its end.

        Returns the row as that left it, None if that is not known. Cancelled, the fire is queued
        again under a shield with a deadline, to be run elsewhere; so it is after any other
        exception that is no `Exception`, which is raised.
        """
        with self._leases.hold(row, sent) as lease:
            if isinstance(due.decision, Skip):
                logger.info(
                    "schedule %r: left out what was missed, next is %s",
                    due.entry.name,
                    due.decision.next_run,
                )
                return await self._leases.finish(lease, ran=False)
            return await self._run(due, lease, due.decision)

    async def _run(self, due: Due, lease: Lease, fire: Fire) -> Schedule | None:
        context = ScheduleContext(
            resources=self._resources,
            fire_time=fire.fire_time,
            missed=fire.missed,
            cancellation=lease.scope,
        )
        began = anyio.current_time()
        error: Exception | None = None
        try:
            with lease.scope:
                await anyio.lowlevel.checkpoint_if_cancelled()
                await due.entry.executor.execute(lease.row, context)
        except Exception as exc:  # noqa: BLE001 - a handler may raise anything; it is reported
            error = exc
        except BaseExceptionGroup as group:
            error, rest = _apart(group)
            if error is not None:
                self._report(lease.row, began, error)
            with anyio.move_on_after(END_LIMIT, shield=True):
                await self._interrupted(lease, fire)
            raise rest from None
        except BaseException:
            with anyio.move_on_after(END_LIMIT, shield=True):
                await self._interrupted(lease, fire)
            raise
        expired = lease.may_be_over and (error is not None or lease.scope.cancelled_caught)
        if lease.lost or expired:
            error = error or PgqError(_why_cancelled(lease))
        self._report(lease.row, began, error)
        if lease.lost:
            await anyio.lowlevel.checkpoint()
            return None
        if expired or (error is not None and _is_cancelled()):  # it answered that with an error
            await self._interrupted(lease, fire)
            return lease.ended
        return await self._finish(due, lease)

    async def _finish(self, due: Due, lease: Lease) -> Schedule | None:
        """Write the end of a run, and skip the fire times that came while it went on."""
        now, next_run = self._now(), lease.row.next_run
        if not due.missed_until < next_run <= now:
            return await self._leases.finish(lease)
        count, following = passed_meanwhile(next_run, now=now, cron=due.entry.cron)
        ended = await self._leases.finish(lease, next_run=following)
        if ended is not None:
            self._skipped[ended.entrypoint] += count
            logger.warning(
                "schedule %r still ran at %d of its fire times, which are skipped; next is %s",
                ended.entrypoint,
                count,
                ended.next_run,
            )
            self._emit(ScheduleSkipped(ended, count))
        return ended

    async def _interrupted(self, lease: Lease, fire: Fire) -> None:
        logger.info("schedule %r was interrupted; it is queued again", lease.row.entrypoint)
        await self._leases.hand_back(lease, next_run=fire.fire_time)

    def _report(self, row: Schedule, began: float, error: Exception | None) -> None:
        if error is not None:
            self._failures[row.entrypoint] += 1
            logger.error("schedule %r failed: %r", row.entrypoint, error, exc_info=error)
        self._emit(ScheduleEnded(row, anyio.current_time() - began, error))


def _why_cancelled(lease: Lease) -> str:
    name = lease.row.entrypoint
    if lease.lost:
        return f"the lease on schedule {name!r} was lost while it ran, so it was cancelled"
    return (
        f"no heartbeat of schedule {name!r} was answered for {STALE_AFTER:g} s, after which "
        "another worker may run it, so it was cancelled"
    )


def _is_cancelled() -> bool:
    return anyio.current_effective_deadline() == -math.inf


def _apart(
    group: BaseExceptionGroup[BaseException],
) -> tuple[Exception | None, BaseException]:
    """Separate a handler's own errors from the cancellation they came along with."""
    errors, rest = group.split(Exception)
    return cast("Exception | None", errors), group if rest is None else rest
