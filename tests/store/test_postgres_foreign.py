"""What others may have written into the tables: times and records that no client of ours writes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import psycopg
import pytest

from pgq_trio.client.queries import Queries
from pgq_trio.db import PsycopgDriver
from pgq_trio.model.outcomes import Outcome
from pgq_trio.postgres import open_pool
from pgq_trio.settings import Settings
from tests.store.postgres_world import pool_world
from tests.store.world import World, ids_of, new

#: Times that PostgreSQL has and Python has not; the last ones in some time zones only.
TIMES = ["-infinity", "infinity", "4713-01-01 BC", "294276-01-01", "0001-01-01", "9999-12-31 23:59"]


@pytest.fixture
async def world(emptied_dsn: str) -> AsyncIterator[World]:
    async with pool_world(emptied_dsn, Settings()) as world:
        yield world


@pytest.fixture
def server(emptied_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(emptied_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def queries(emptied_dsn: str) -> AsyncIterator[Queries]:
    """On connections whose time zone is west of UTC: there the first days of year 1 are BC."""
    zone = "-c TimeZone=America/Los_Angeles"
    async with open_pool(emptied_dsn, autocommit=True, options=zone) as pool:
        yield Queries(PsycopgDriver(pool))


@pytest.mark.parametrize("limits", [{"a": 0}, {"a": 9}])
@pytest.mark.parametrize("time", TIMES)
class TestTimes:
    async def test_a_claim(
        self, world: World, server: psycopg.Connection, time: str, limits: dict[str, int]
    ) -> None:
        ids = await world.enqueue_ids(*(new() for _ in range(5)))
        for job_id, column in zip(ids, ("created", "updated", "heartbeat"), strict=False):
            server.execute(
                f"UPDATE pgqueuer SET {column} = %s WHERE id = %s".encode(), [time, job_id]
            )
        server.execute("UPDATE pgqueuer SET execute_after = %s WHERE id = %s", [time, ids[3]])
        claimed = await world.claim(limits)
        is_due = server.execute("SELECT %s::timestamptz < now()", [time]).fetchone() == (True,)
        assert set(ids_of(claimed.jobs)) == set(ids) - (set() if is_due else {ids[3]})
        for due in (claimed.next_due, claimed.next_later):
            assert (due is None) if is_due else (due is not None and due > 0)
        assert await world.finish(claimed.jobs) == set(ids_of(claimed.jobs))

    async def test_what_is_not_to_be_had(
        self, world: World, server: psycopg.Connection, time: str, limits: dict[str, int]
    ) -> None:
        ids = await world.enqueue_ids(new(), new(), new(after=timedelta(seconds=50)))
        server.execute("UPDATE pgqueuer SET execute_after = %s WHERE id = %s", [time, ids[1]])
        with server.transaction():
            server.execute("SELECT FROM pgqueuer WHERE execute_after < now() FOR UPDATE")
            claimed = await world.claim(limits)
        assert claimed.jobs == []
        assert claimed.next_due is not None
        assert claimed.next_due <= 0
        assert claimed.next_later == pytest.approx(50, abs=2)


@pytest.mark.parametrize("time", TIMES)
async def test_looking_at_such_jobs(
    world: World, queries: Queries, server: psycopg.Connection, time: str
) -> None:
    await world.enqueue(new(), new(), new("b"))
    held, picked = (await world.claim({"a": 0})).jobs
    await world.finish([held], Outcome("failed"))
    server.execute(
        "UPDATE pgqueuer SET created = %(time)s, execute_after = %(time)s, updated = %(time)s,"
        " heartbeat = %(time)s",
        {"time": time},
    )
    for order in ("ASC", "DESC"):
        assert ids_of(await queries.list_failed_jobs(order=order)) == [held.id]
    assert len(await queries.browse_queue()) == 3
    seen = await queries.queue_job_by_id(picked.id)
    assert seen is not None
    assert seen.created == seen.updated == seen.heartbeat == seen.execute_after
    is_past = server.execute("SELECT %s::timestamptz < now()", [time]).fetchone() == (True,)
    assert len(await queries.stale_jobs(timedelta(seconds=1))) == is_past
    [age] = await queries.queue_age()
    assert (age.entrypoint, (age.oldest_age_seconds or 0) > 0) == ("b", is_past)
    [worker] = await queries.active_workers()
    assert worker.oldest_heartbeat == worker.newest_heartbeat


#: What somebody may have logged as the traceback, and what is kept of it.
RECORDS = {
    '"text"': "text",
    "[1, 2]": "[1, 2]",
    "{}": "",
    "7": "7",
    '{"job_id": "a", "timestamp": "nope", "traceback": "t"}': "t",
    '{"job_id": true, "timestamp": 5, "exception_type": 3, "traceback": ["t"],'
    ' "additional_context": "text"}': '["t"]',
    '{"traceback": "t", "timestamp": "2030-01-01", "additional_context": {"a": 1}}': "t",
    "1" * 5000: "1" * 5000,
    "[" * 3000 + "]" * 3000: "[" * 3000 + "]" * 3000,
}


@pytest.mark.parametrize("record", RECORDS)
async def test_tracebacks_of_a_foreign_shape(
    queries: Queries, server: psycopg.Connection, record: str
) -> None:
    server.execute(
        "INSERT INTO pgqueuer_log (job_id, status, priority, entrypoint, traceback)"
        " VALUES (7, 'exception', 0, 'a', %s::text::jsonb)",
        [record],
    )
    [entry] = await queries.queue_log()
    assert entry.traceback is not None
    assert entry.traceback.job_id == 7
    assert entry.traceback.traceback == RECORDS[record]
    assert entry.traceback.timestamp.tzinfo is not None
    assert await queries.queue_log(job_id=7) == [entry]
    assert await queries.exception_logs() == [entry]
    assert await queries.job_log_history(7) == [entry]


async def test_a_traceback_that_is_null(queries: Queries, server: psycopg.Connection) -> None:
    server.execute(
        "INSERT INTO pgqueuer_log (job_id, status, priority, entrypoint, traceback)"
        " VALUES (7, 'exception', 0, 'a', 'null')"
    )
    [entry] = await queries.queue_log()
    assert entry.traceback is None
