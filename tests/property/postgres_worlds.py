"""A queue on PostgreSQL in one certain situation, and every operation that changes it.

The situation is made once and copied; each run begins with the copy, so the claims that Alice
holds are valid in all of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias
from unittest.mock import patch

import anyio

from pgq_trio.abc import Backend, ClaimRequest, NewSchedule
from pgq_trio.db import PsycopgDriver
from pgq_trio.model.outcomes import SUCCESSFUL, Claim, Finished, Outcome
from pgq_trio.model.retention import Retention
from pgq_trio.models import Job, Schedule
from pgq_trio.postgres import Connection, ConnectionPool, connect, open_pool
from pgq_trio.settings import Settings
from pgq_trio.store import batches
from tests.store.world import ALICE, BOB, new

#: In seconds; what is not stale stays so.
LEASE = 3600.0

#: Longer than this nothing takes, however busy the machine is.
PATIENCE = 60.0

_TABLES = ("pgqueuer", "pgqueuer_log", "pgqueuer_statistics", "pgqueuer_schedules")

_SAVE = "; ".join(f"CREATE TABLE saved_{name} AS TABLE {name}" for name in _TABLES)
_RESTORE = "; ".join(
    [f"DELETE FROM {name}" for name in _TABLES]
    + [f"INSERT INTO {name} OVERRIDING SYSTEM VALUE TABLE saved_{name}" for name in _TABLES]
)

#: Everything but ids and times; of times, whether somebody has set them in this run.
_STATE = """
SELECT
    (SELECT array_agg(row_text ORDER BY row_text) FROM (
        SELECT concat_ws(' ', entrypoint, status, attempts, queue_manager_id, priority, slot,
            heartbeat > now() - interval '5 minutes', updated > now() - interval '5 minutes')
            AS row_text
        FROM pgqueuer) jobs),
    (SELECT array_agg(row_text ORDER BY row_text) FROM (
        SELECT concat_ws(' ', entrypoint, status, priority, aggregated) AS row_text
        FROM pgqueuer_log) log),
    (SELECT array_agg(row_text ORDER BY row_text) FROM (
        SELECT concat_ws(' ', entrypoint, status, priority, count) AS row_text
        FROM pgqueuer_statistics) statistics),
    (SELECT array_agg(row_text ORDER BY row_text) FROM (
        SELECT concat_ws(' ', entrypoint, expression, status, next_run < now(),
            last_run IS NULL, heartbeat > now() - interval '5 minutes') AS row_text
        FROM pgqueuer_schedules) schedules)
"""

State: TypeAlias = str


@dataclass(frozen=True)
class Situation:
    """What there is, as the stores gave it."""

    jobs: dict[str, Job]
    schedules: dict[str, Schedule]

    def claims(self, *names: str) -> list[Claim]:
        """Return the fences of claims that Alice holds."""
        return [Claim(self.jobs[name].id, self.jobs[name].updated) for name in names]


Operation: TypeAlias = Callable[[Backend, Situation], Awaitable[object]]


def claim_request(limits: dict[str, int], batch: int = 10) -> ClaimRequest:
    """Return a claim of Bob's."""
    return ClaimRequest(
        queue_manager_id=BOB,
        limits=limits,
        batch_size=batch,
        limited_batch_size=batch,
        heartbeat_timeout=LEASE,
    )


async def enqueue(backend: Backend, _: Situation) -> object:
    """Two jobs, one with a key."""
    return await backend.jobs.enqueue([new("new"), new("new", key="n")], on_conflict="raise")


async def enqueue_in_chunks(backend: Backend, _: Situation) -> object:
    """So many that it takes two statements."""
    with patch.object(batches, "MAX_CHUNK_JOBS", 1):
        return await backend.jobs.enqueue([new("new"), new("other")], on_conflict="raise")


async def raise_priority(backend: Backend, _: Situation) -> object:
    """A job whose key is taken."""
    job = new("queued", priority=5, key="k")
    return await backend.jobs.enqueue([job, new("new")], on_conflict="update_priority")


async def claim(backend: Backend, _: Situation) -> object:
    """Without limits."""
    return await backend.jobs.claim(claim_request({"queued": 0, "limited": 0}))


async def claim_limited(backend: Backend, _: Situation) -> object:
    """With a limit."""
    return await backend.jobs.claim(claim_request({"queued": 0, "limited": 2}))


async def rescue(backend: Backend, _: Situation) -> object:
    """Of a silent worker's job: its lost runs are counted in a second statement."""
    return await backend.jobs.claim(claim_request({"stale": 0}))


async def succeed(backend: Backend, situation: Situation) -> object:
    """Two jobs."""
    claims = situation.claims("picked", "picked too")
    return await backend.jobs.finish(ALICE, [Finished(claim, SUCCESSFUL) for claim in claims])


async def finish(backend: Backend, situation: Situation) -> object:
    """One job is to be tried again, one is held."""
    retry, fail = situation.claims("picked", "picked too")
    outcomes = [Finished(retry, Outcome("retry")), Finished(fail, Outcome("failed"))]
    return await backend.jobs.finish(ALICE, outcomes)


async def release(backend: Backend, situation: Situation) -> object:
    """Two jobs."""
    return await backend.jobs.release(ALICE, situation.claims("picked", "picked too"))


async def heartbeat(backend: Backend, situation: Situation) -> object:
    """Two jobs."""
    return await backend.jobs.heartbeat(ALICE, situation.claims("picked", "picked too"))


async def cancel(backend: Backend, situation: Situation) -> object:
    """A queued job and one that runs."""
    return await backend.jobs.cancel([situation.jobs[name].id for name in ("queued", "picked")])


async def requeue(backend: Backend, situation: Situation) -> object:
    """A held job."""
    return await backend.jobs.requeue([situation.jobs["failed"].id])


async def clear(backend: Backend, _: Situation) -> object:
    """Two entrypoints."""
    return await backend.jobs.clear(["queued", "picked"])


async def fold(backend: Backend, _: Situation) -> object:
    """The whole log."""
    return await backend.insights.fold()


async def expire(backend: Backend, _: Situation) -> object:
    """Everything."""
    return await backend.insights.expire(Retention(default=0), from_start=True)


async def add_schedules(backend: Backend, situation: Situation) -> None:
    """Two new ones, and one that is there."""
    due = situation.schedules["due"].next_run
    await backend.schedules.add(
        [NewSchedule(name, "* * * * *", due) for name in ("new", "newer", "due")]
    )


async def claim_schedule(backend: Backend, situation: Situation) -> object:
    """One that is due."""
    due = situation.schedules["due"]
    return await backend.schedules.claim(
        due, next_run=due.next_run + timedelta(days=1), heartbeat_timeout=LEASE
    )


async def finish_schedule(backend: Backend, situation: Situation) -> object:
    """One that runs."""
    return await backend.schedules.finish(situation.schedules["running"])


async def trigger(backend: Backend, _: Situation) -> object:
    """Both."""
    return await backend.schedules.trigger(entrypoints=["running"])


OPERATIONS: tuple[Operation, ...] = (
    enqueue, enqueue_in_chunks, raise_priority, claim, claim_limited, rescue, succeed, finish,
    release, heartbeat, cancel, requeue, clear, fold, expire, add_schedules, claim_schedule,
    finish_schedule, trigger,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Yard:
    """A queue in that situation, on a pool of one connection, seen by an observer."""

    pool: ConnectionPool[Any]
    observer: Connection[Any]
    backend: Backend
    situation: Situation

    async def restore(self) -> None:
        """Have the situation again."""
        await self.observer.execute(_RESTORE.encode())

    async def state(self) -> State:
        """Return what is in the tables."""
        cursor = await self.observer.execute(_STATE.encode(), prepare=True)
        return repr(await cursor.fetchone())

    async def before_and_after(self, operation: Operation) -> tuple[State, State]:
        """Return what there is at first, and what an operation makes of it that nobody disturbs."""
        await self.restore()
        before = await self.state()
        await operation(self.backend, self.situation)
        after = await self.state()
        assert before != after, "the operation does nothing"
        await self.restore()
        return before, after

    async def works(self) -> None:
        """Check that a job can be enqueued, claimed and finished, with nobody else about."""
        jobs = self.backend.jobs
        with anyio.fail_after(PATIENCE):
            [job_id] = await jobs.enqueue([new("next")], on_conflict="raise")
            [job] = (await jobs.claim(claim_request({"next": 0}))).jobs
            assert job.id == job_id
            assert await jobs.finish(BOB, [Finished(Claim(job.id, job.updated), SUCCESSFUL)])

    def is_whole(self) -> bool:
        """Whether the pool has all its connections and nobody waits."""
        stats = self.pool.get_stats()
        return stats["pool_size"] == stats["pool_available"] <= 1 and not stats["requests_waiting"]


@asynccontextmanager
async def open_yard(dsn: str, *, through: str | None = None) -> AsyncGenerator[Yard]:
    """Make the situation in an empty queue.

    Args:
        dsn: how the observer connects.
        through: how the pool does, if not likewise.
    """
    async with (
        await connect(dsn, autocommit=True) as observer,
        open_pool(through or dsn, min_size=0, max_size=1, autocommit=True) as pool,
    ):
        situation = await _make(observer)
        await observer.execute(_SAVE.encode())
        yield Yard(pool, observer, PsycopgDriver(pool).backend(Settings()), situation)


async def _make(observer: Connection[Any]) -> Situation:
    backend = PsycopgDriver(observer).backend(Settings())
    names = ["queued", "limited", "limited", "picked", "picked too", "stale", "failed"]
    keys = {"queued": "k"}
    await backend.jobs.enqueue(
        [new(name, key=keys.get(name)) for name in names], on_conflict="raise"
    )
    held = dict.fromkeys(["picked", "picked too", "stale", "failed"], 0)
    claimed = await backend.jobs.claim(
        ClaimRequest(
            queue_manager_id=ALICE,
            limits=held,
            batch_size=10,
            limited_batch_size=10,
            heartbeat_timeout=LEASE,
        )
    )
    failed = [Claim(job.id, job.updated) for job in claimed.jobs if job.entrypoint == "failed"]
    await backend.jobs.finish(ALICE, [Finished(claim, Outcome("failed")) for claim in failed])
    now = (await backend.schedules.snapshot()).now
    await backend.schedules.add(
        [NewSchedule(name, "* * * * *", now - timedelta(minutes=1)) for name in ("due", "running")]
    )
    [running] = [
        row for row in (await backend.schedules.snapshot()).schedules if row.entrypoint == "running"
    ]
    await backend.schedules.claim(
        running, next_run=now + timedelta(days=1), heartbeat_timeout=LEASE
    )
    # All that was some time ago, so that what a run sets can be told from it.
    ago = "- interval '10 minutes'"
    await observer.execute(
        f"UPDATE pgqueuer SET created = created {ago}, updated = updated {ago},"
        f" heartbeat = heartbeat {ago}, execute_after = execute_after {ago};"
        " UPDATE pgqueuer SET heartbeat = heartbeat - interval '2 hours'"
        " WHERE entrypoint = 'stale';"
        f" UPDATE pgqueuer_log SET created = created {ago};"
        f" UPDATE pgqueuer_schedules SET created = created {ago}, updated = updated {ago},"
        f" heartbeat = heartbeat {ago}".encode()
    )
    jobs = await backend.insights.browse(limit=99, offset=0, statuses=None, entrypoints=None)
    schedules = (await backend.schedules.snapshot()).schedules
    return Situation(
        {job.entrypoint: job for job in jobs}, {row.entrypoint: row for row in schedules}
    )
