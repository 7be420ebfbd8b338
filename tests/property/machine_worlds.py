"""Where the machine's queue is, in memory or on PostgreSQL, and the workers that serve it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import psycopg

from pgq_trio import (
    Context,
    InMemoryDriver,
    Job,
    PgQueuer,
    Queries,
    RetryRequested,
    Schedule,
    ScheduleContext,
)
from pgq_trio.abc import Driver
from pgq_trio.db import PsycopgDriver
from pgq_trio.errors import ConnectionLost
from pgq_trio.postgres import open_pool
from pgq_trio.testing import LiveTask, LiveWorld, UnreliableDriver
from pgq_trio.types import FINAL_STATES, JobId, QueueManagerId
from tests.property.machine_fires import EXPRESSION, RARELY, Fires
from tests.property.machine_model import LIMIT, MAX_ATTEMPTS, RETRY, End, Model, View

#: Seconds after which the job of a worker that is silent is rescued.
LEASE = 30.0

#: After a connection was lost for a moment, a worker looks again within so many seconds.
RECOVERY = 6.0

#: When the store in memory begins: no step of the machine ends on a fire time.
BEGIN = datetime(2026, 1, 1, 0, 0, 3, 237_000, tzinfo=UTC)


class Place:
    """A queue in memory, whose clock jumps."""

    silence = 2.0
    expression = EXPRESSION
    #: At a heartbeat a worker learns what is not its own any more.
    hears_within = LEASE / 3 + 2 * RECOVERY

    def __init__(self, world: LiveWorld) -> None:
        self.world = world
        self.driver = self.make_driver()
        self.queries = Queries(self.driver)
        self.looked = 0.0

    def make_driver(self) -> Driver:
        """Return the driver that all share."""
        return InMemoryDriver(self.wall)

    def wall(self) -> datetime:
        """Return the store's time, on the event loop."""
        return BEGIN + timedelta(seconds=anyio.current_time())

    def time_of(self, wall: datetime) -> float:
        """Return when that was on the machine's clock."""
        return (wall - BEGIN).total_seconds()

    def now(self) -> float:
        """Return the machine's time, on the event loop."""
        return anyio.current_time()

    def advance(self, seconds: float, dead: Iterable[QueueManagerId]) -> None:
        """Let time pass."""
        self.world.advance(seconds)

    def expired_before(self, now: float) -> float:
        """Return when a worker must have died for its jobs to be rescued by now."""
        # Looked for once in its length, and a lost connection may make that one look later.
        return now - 2 * LEASE - RECOVERY

    def close(self) -> None:
        """Leave it as it was found."""


class PostgresPlace(Place):
    """A queue in a database. Time passes by moving the times in its tables back."""

    silence = 0.1
    expression = RARELY
    hears_within = math.inf

    def __init__(self, world: LiveWorld, dsn: str) -> None:
        self._shift = 0.0
        self._last_advance = -LEASE
        self._dsn = dsn
        self._admin = psycopg.connect(dsn, autocommit=True)
        for table in ("pgqueuer", "pgqueuer_log", "pgqueuer_schedules"):
            self._admin.execute(f"DELETE FROM {table}")
        super().__init__(world)

    def make_driver(self) -> Driver:
        return PsycopgDriver(self.world.enter(open_pool(self._dsn, max_size=4, autocommit=True)))

    def now(self) -> float:
        return anyio.current_time() + self._shift

    def advance(self, seconds: float, dead: Iterable[QueueManagerId]) -> None:
        interval = timedelta(seconds=seconds)
        with self._admin.transaction():
            self._admin.execute(
                "UPDATE pgqueuer SET execute_after = execute_after - %s WHERE status = 'queued'",
                [interval],
            )
            self._admin.execute(
                "UPDATE pgqueuer SET heartbeat = heartbeat - %s"
                " WHERE status = 'picked' AND queue_manager_id = ANY (%s)",
                [interval, list(dead)],
            )
            self._admin.execute(
                "SELECT pg_notify('ch_pgqueuer', %s)",
                ['{"type": "table_changed_event", "operation": "insert", "table": "pgqueuer"}'],
            )
            self._shift += seconds
        self._last_advance = self.world.call(self.now)

    def expired_before(self, now: float) -> float:
        return self._last_advance - LEASE - 1.0

    def close(self) -> None:
        self._admin.close()


@dataclass(eq=False)
class Worker:
    """An application with a connection of its own, which can be lost.

    Attributes:
        maximum: how many of its jobs run at once.
        identity: what the queue calls it, once it claims.
        resources: what its jobs share: how often one ran.
        runs: how often one ran, counted beside the container; `active` run now.
    """

    name: str
    place: Place
    model: Model
    fires: Fires
    gates: dict[JobId, anyio.Event]
    maximum: int
    runs: int = 0
    active: int = 0
    is_dead: bool = False
    is_draining: bool = False
    cut_until: float = -RECOVERY
    ends_by: float | None = None
    lives: Counter[str] = field(default_factory=Counter[str])
    pgq: PgQueuer | None = None
    task: LiveTask | None = None

    def __post_init__(self) -> None:
        self.connection = UnreliableDriver(self.place.driver)

    @property
    def identity(self) -> QueueManagerId | None:
        engine = None if self.pgq is None else self.pgq._core._engine
        return None if engine is None or engine.worker is None else engine.worker.queue_manager_id

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.task is not None and self.task.is_running

    def is_free(self, now: float) -> bool:
        return not self.is_dead and not self.is_draining and not self.is_cut(now)

    def is_cut(self, now: float) -> bool:
        return now < self.cut_until + RECOVERY

    # ------------------------------------------------------------------ on the event loop

    async def run(self) -> None:
        """Open, serve until told to stop, close."""
        try:
            async with PgQueuer.open(self.connection, resources=self._resources) as pgq:
                self._register(pgq)
                self.pgq = pgq
                await pgq.run(
                    handle_signals=False,
                    heartbeat_timeout=LEASE,
                    max_concurrent_jobs=self.maximum,
                )
        except ConnectionLost:
            if not self.is_dead:
                raise

    @asynccontextmanager
    async def _resources(self) -> AsyncGenerator[dict[str, Any]]:
        self.lives["entered"] += 1
        self.shared: dict[str, Any] = {"runs": 0}
        try:
            yield self.shared
        finally:
            self.lives["left"] += 1
            if self.active:
                self.model.problems.append(f"{self.name} closed its resources under a job")

    def _register(self, pgq: PgQueuer) -> None:
        pgq.entrypoint("plain")(self.handle)
        pgq.entrypoint("limited", concurrency_limit=LIMIT)(self.handle)
        pgq.entrypoint("held", on_failure="hold", max_attempts=MAX_ATTEMPTS)(self.handle)
        pgq.schedule("tick", self.place.expression, misfire="all")(self.tick)

    async def handle(self, job: Job, context: Context) -> None:
        """Do what the payload says, and note it."""
        self._note(partial(self.model.begins, job, self))
        if context.resources is not self.shared or self.lives["left"]:
            self.model.problems.append(f"job {job.id} got other resources than {self.name} has")
        self.shared["runs"] += 1
        self.runs += 1
        self.active += 1
        end: End = "canceled"
        try:
            end = await self._behave(job)
        finally:
            self.active -= 1
            self._note(partial(self.model.ends, job.id, self, end))
        if end == "retry":
            raise RetryRequested(delay=RETRY)
        if end != "successful":
            raise ValueError("as asked")

    async def _behave(self, job: Job) -> End:
        await anyio.lowlevel.checkpoint()
        match job.payload:
            case b"fail":
                return "failed" if job.entrypoint == "held" else "exception"
            case b"again" if job.attempts == 0:
                return "retry"
            case b"sleep":
                await anyio.sleep(self.place.silence)
            case b"hold":
                await self.gates.setdefault(job.id, anyio.Event()).wait()
            case _:
                pass
        return "successful"

    async def tick(self, _schedule: Schedule, context: ScheduleContext) -> None:
        """Note a fire at its end: one that is interrupted is run again."""
        if context.resources is not self.shared:
            self.model.problems.append(f"the schedule got other resources than {self.name} has")
        await anyio.lowlevel.checkpoint()
        self._note(partial(self.fires.fired, context.fire_time))

    def _note(self, fact: Any) -> None:
        self.model.facts.append(partial(fact, self.place.now()))

    def crash(self) -> None:
        """Lose the connection for ever, and everything else right after."""
        self.is_dead = True
        self.connection.crash()

    def fall_silent(self) -> None:
        """Lose the connection for a moment."""
        self.cut_until = self.place.now() + self.place.silence
        self.connection.cut(self.place.silence)


async def look(place: Place) -> View:
    """Ask the queue for all it knows."""
    rows = {row.id: row for row in await place.queries.browse_queue(limit=10_000)}
    ends: dict[JobId, list[str]] = {}
    for entry in await place.queries.queue_log():
        ends.setdefault(entry.job_id, [])
        if entry.status in FINAL_STATES:
            ends[entry.job_id].append(entry.status)
    return View(place.now(), rows, ends)
