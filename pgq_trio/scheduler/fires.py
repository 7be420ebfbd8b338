"""One fire of a schedule: its claim, its handler under a cancel scope, its end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import cast

import anyio

from pgq_trio.abc import ScheduleStore
from pgq_trio.errors import ConnectionLost, PgqError
from pgq_trio.model.events import Event, ScheduleEnded
from pgq_trio.model.firing import Fire, Skip
from pgq_trio.models import ResourceMapping, Schedule, ScheduleContext
from pgq_trio.scheduler.health import logger
from pgq_trio.scheduler.leases import END_LIMIT, Lease, Leases
from pgq_trio.scheduler.registry import ScheduleEntry
from pgq_trio.scheduler.timetable import STALE_AFTER, Due

#: A claim cannot be abandoned half way: the server may have committed it. Its shield ends here.
_CLAIM_LIMIT = 10.0


class Fires:
    """Runs fires; every one in a task of its own, which never ends with a handler's error."""

    def __init__(
        self,
        store: ScheduleStore,
        *,
        resources: ResourceMapping,
        leases: Leases,
        emit: Callable[[Event], None],
        failures: Counter[str],
    ) -> None:
        self._store = store
        self._resources = resources
        self._leases = leases
        self._emit = emit
        self._failures = failures

    async def claim(self, due: Due) -> Schedule | None:
        """Take one fire; None when another worker was first.

        Shielded with a deadline, so that a cancellation cannot leave a row claimed by nobody.

        Raises:
            StoreError: the store refused, or gave no answer in time (`ConnectionLost`).
        """
        with anyio.move_on_after(_CLAIM_LIMIT, shield=True):
            return await self._store.claim(
                due.row, next_run=due.decision.next_run, heartbeat_timeout=STALE_AFTER
            )
        raise ConnectionLost(f"the claim of a schedule got no answer within {_CLAIM_LIMIT:g} s")

    async def run(self, entry: ScheduleEntry, row: Schedule, decision: Fire | Skip) -> bool:
        """Do with a claimed row what was decided, and write its end.

        Returns whether the row is known to be queued again. Cancelled, the fire is queued again
        under a shield with a deadline, to be run elsewhere; so it is after any other exception
        that is no `Exception`, which is raised.
        """
        with self._leases.hold(row) as lease:
            if isinstance(decision, Skip):
                logger.info(
                    "schedule %r: skipped what was missed, next is %s",
                    entry.name,
                    decision.next_run,
                )
                return await self._leases.finish(lease, next_run=decision.next_run)
            return await self._run(entry, lease, decision)

    async def _run(self, entry: ScheduleEntry, lease: Lease, fire: Fire) -> bool:
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
                await entry.executor.execute(lease.row, context)
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
        if lease.lost:
            error = error or PgqError(
                f"the lease on schedule {entry.name!r} was lost while it ran, so it was cancelled"
            )
        self._report(lease.row, began, error)
        if lease.lost:
            await anyio.lowlevel.checkpoint()
            return False
        if error is not None and anyio.current_effective_deadline() == -math.inf:
            await self._interrupted(lease, fire)  # it answered the cancellation with an error
            return False
        return await self._leases.finish(lease)

    async def _interrupted(self, lease: Lease, fire: Fire) -> None:
        logger.info("schedule %r was interrupted; it is queued again", lease.row.entrypoint)
        await self._leases.hand_back(lease, next_run=fire.fire_time)

    def _report(self, row: Schedule, began: float, error: Exception | None) -> None:
        if error is not None:
            self._failures[row.entrypoint] += 1
            logger.error("schedule %r failed: %r", row.entrypoint, error, exc_info=error)
        self._emit(ScheduleEnded(row, anyio.current_time() - began, error))


def _apart(
    group: BaseExceptionGroup[BaseException],
) -> tuple[Exception | None, BaseException]:
    """Separate a handler's own errors from the cancellation they came along with."""
    errors, rest = group.split(Exception)
    return cast("Exception | None", errors), group if rest is None else rest
