"""The scheduler: looks at the table when something is due and has it fired; it knows no SQL.

Times are the store's. Between two looks its now is estimated from the last one and the event
loop's clock, never ahead of the truth, so hosts whose wall clocks differ fire alike.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import anyio
from anyio.abc import TaskGroup, TaskStatus

from pgq_trio.abc import ScheduleStore
from pgq_trio.answers import answer_to
from pgq_trio.concurrency.backoff import Backoff
from pgq_trio.concurrency.errors import raise_as_itself
from pgq_trio.concurrency.services import open_service_group
from pgq_trio.concurrency.wakeup import Wakeup
from pgq_trio.errors import StoreError
from pgq_trio.model.events import Event
from pgq_trio.models import ResourceMapping
from pgq_trio.scheduler.fires import Fires
from pgq_trio.scheduler.health import StoreHealth
from pgq_trio.scheduler.leases import Leases
from pgq_trio.scheduler.registry import ScheduleEntry
from pgq_trio.scheduler.timetable import Due, Timetable

#: Seconds after which an idle scheduler looks again: somebody may have changed a row by hand, and
#: the clocks of two hosts drift apart by some ms in that time.
IDLE_LOOK = 60.0

#: Claims under way at once: enough to hide the round trips when many schedules share a minute,
#: few enough to leave the pool's connections to the queue.
_PARALLEL_CLAIMS = 4

#: Names the statement in an error.
_LOOK = "a look at the schedules"


class Scheduler:
    """One run of the schedules of an application; make a new one for each run.

    Attributes:
        failures: how many fires of each name raised.
        skipped: how many fire times of each name came while it still ran.
    """

    def __init__(
        self,
        store: ScheduleStore,
        entries: Iterable[ScheduleEntry],
        *,
        resources: ResourceMapping,
        emit: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self.failures: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self._store = store
        self._timetable = Timetable(entries)
        self._health = StoreHealth(emit)
        self._leases = Leases(store, self._health)
        self._fires = Fires(
            store,
            resources=resources,
            leases=self._leases,
            emit=emit,
            now=self._now,
            failures=self.failures,
            skipped=self.skipped,
        )
        self._claims = anyio.Semaphore(_PARALLEL_CLAIMS)
        self._wakeup = Wakeup()
        self._stopped = False
        self._backoffs = {"look": Backoff(), "claim": Backoff()}
        self._asked = False
        self._looked = -math.inf
        self._not_before = -math.inf
        self._seen = datetime.min.replace(tzinfo=UTC)

    def notify(self) -> None:
        """Look at the table now: somebody has changed a schedule."""
        self._asked = True
        self._wakeup.set()

    def stop(self) -> None:
        """Fire nothing more; `run` returns when what runs now has ended. May be called again.

        On the event loop's own thread only.
        """
        self._stopped = True
        self._wakeup.set()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Fire schedules until stopped; `started()` is called once their rows are in the table.

        A lost connection is waited out. Cancelled, it cancels all handlers at once and queues
        their fires again, each under a shield with a deadline.

        Raises:
            StoreError: what the store refused and no other try mends (`SchemaMissing` too).
        """
        await anyio.lowlevel.checkpoint()
        threads = anyio.CapacityLimiter(max(1, len(self._timetable)))  # each runs once at a time
        for entry in self._timetable:
            entry.executor.limiter = threads
        try:
            async with open_service_group() as services:
                await services.start(self._leases.run, name="schedule heartbeat")
                async with anyio.create_task_group() as fires:
                    await self._prepare()
                    task_status.started()
                    await self._loop(fires)
        except BaseExceptionGroup as group:
            raise_as_itself(group)

    async def _prepare(self) -> None:
        while len(self._timetable) and not self._stopped:
            try:
                snapshot = await answer_to(_LOOK, self._store.snapshot())
                if outdated := self._timetable.outdated(snapshot):
                    deletion = self._store.delete(ids=outdated)
                    await answer_to("the deletion of old schedules", deletion)
                if missing := self._timetable.missing(snapshot):
                    await answer_to("the insertion of schedules", self._store.add(missing))
            except StoreError as exc:
                self._failed("look", exc)
                await self._wakeup.wait(self._not_before - anyio.current_time())
            else:
                self._worked("look")
                return
        await anyio.lowlevel.checkpoint()

    async def _loop(self, fires: TaskGroup) -> None:
        while not self._stopped:
            # Cleared before looking: what ends while we look wakes us again.
            self._wakeup.clear()
            delay = self._delay()
            if delay <= 0:
                await self._look(fires)
            else:
                await self._wakeup.wait(None if delay == math.inf else delay)
        await anyio.lowlevel.checkpoint()

    def _delay(self) -> float:
        """Return the seconds until the next look."""
        if not len(self._timetable):
            return math.inf
        now = anyio.current_time()
        delay = -math.inf if self._asked else self._looked + IDLE_LOOK - now
        if (due := self._timetable.next_look()) is not None:
            delay = min(delay, (due - self._now()).total_seconds())
        return max(delay, self._not_before - now)

    async def _look(self, fires: TaskGroup) -> None:
        self._asked = False
        try:
            snapshot = await answer_to(_LOOK, self._store.snapshot())
        except StoreError as exc:
            self._failed("look", exc)
            self._asked = True
            await anyio.lowlevel.checkpoint()
            return
        self._worked("look")
        self._seen = snapshot.now.astimezone(UTC)
        self._looked = anyio.current_time()
        self._timetable.update(snapshot)
        if self._stopped:
            return
        for due in self._timetable.due(self._seen):
            self._timetable.begin(due)
            fires.start_soon(self._fire, due, name=f"schedule {due.entry.name}")

    async def _fire(self, due: Due) -> None:
        try:
            async with self._claims:  # cancelled while waiting, nothing is claimed
                sent = anyio.current_time()
                row = None if self._stopped else await self._fires.claim(due)
        except StoreError as exc:
            self._failed("claim", exc)
            await anyio.lowlevel.checkpoint()
        else:
            self._worked("claim")
            if row is None:
                self._timetable.lost(due, self._now())
                return
            self._timetable.changed(due.entry, row, before=due.row)
            if (ended := await self._fires.run(due, row, sent=sent)) is not None:
                self._timetable.changed(due.entry, ended, before=row)
        finally:
            self._timetable.end(due.entry)
            self._wakeup.set()

    def _now(self) -> datetime:
        """Return the store's now as the last look tells, never later than it is."""
        return self._seen + timedelta(seconds=anyio.current_time() - self._looked)

    def _failed(self, operation: str, exc: StoreError) -> None:
        self._health.failed(operation, exc)
        if (now := anyio.current_time()) >= self._not_before:  # not once for each of many claims
            self._not_before = now + self._backoffs[operation].next()

    def _worked(self, operation: str) -> None:
        self._health.worked(operation)
        self._backoffs[operation].reset()
