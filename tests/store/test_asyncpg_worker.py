"""A worker on the asyncpg drivers, from a job's enqueueing to its outcome."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from pgq_trio import AsyncpgDriver, AsyncpgPoolDriver, Job, PgQueuer, RetryRequested
from pgq_trio.abc import Driver
from pgq_trio.model.events import JobEnded
from tests.conftest import NEWEST_SERVER
from tests.servers import PostgresServer
from tests.store.asyncpg_world import asyncpg_connection, asyncpg_pool
from tests.worker.tools import Notes, Watcher, in_table, running, statuses

pytestmark = pytest.mark.parametrize(
    "postgres_server", NEWEST_SERVER, indirect=True, scope="session"
)

#: The whole of a test, in seconds.
BOUND = 60.0

#: Longer than a test: what happens before did not wait for it.
POLL = 600.0


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """asyncpg runs on asyncio only."""
    return "asyncio"


@pytest.fixture(params=["connection", "pool", "pool of one"])
async def driver(request: pytest.FixtureRequest, emptied_dsn: str) -> AsyncIterator[Driver]:
    if request.param == "connection":
        async with asyncpg_connection(emptied_dsn, application_name="me") as connection:
            yield AsyncpgDriver(connection)
        return
    size = 1 if request.param == "pool of one" else 4
    async with asyncpg_pool(emptied_dsn, max_size=size, application_name="me") as pool:
        yield AsyncpgPoolDriver(pool)


async def test_it_runs_what_comes(driver: Driver) -> None:
    watcher = Watcher()
    with anyio.fail_after(BOUND):
        async with PgQueuer.open(driver, observers=[watcher]) as pgq:
            payloads: list[bytes | None] = []
            entered: Notes[int] = Notes()

            @pgq.entrypoint("note")
            async def note(job: Job) -> None:
                payloads.append(job.payload)

            @pgq.entrypoint("again")
            async def again(job: Job) -> None:
                if job.attempts == 0:
                    raise RetryRequested

            @pgq.entrypoint("fail")
            async def fail(job: Job) -> None:
                raise ZeroDivisionError

            @pgq.entrypoint("wait")
            async def wait(job: Job) -> None:
                entered.add(job.id)
                await anyio.sleep_forever()

            async with running(pgq, dequeue_timeout=POLL):
                enqueue = pgq.queries.enqueue
                [first, second] = await enqueue(["note", "note"], [b"1", b"\x00\xff"])
                await watcher.until_all(lambda: len(watcher.of(JobEnded)) == 2)
                [retried] = await enqueue("again")
                [failed] = await enqueue("fail")
                [waits] = await enqueue("wait", headers={"k": [1]})
                await entered.until(1)
                assert await pgq.queries.mark_job_as_cancelled(waits) == {waits}
                await watcher.until_all(lambda: len(watcher.of(JobEnded)) == 6)
            assert sorted(payloads, key=str) == [b"1", b"\x00\xff"]
            history = {
                job_id: await statuses(pgq.queries, job_id)
                for job_id in (first, second, retried, failed, waits)
            }
            assert await in_table(pgq.queries) == {}
    assert history == {
        first: ["queued", "picked", "successful"],
        second: ["queued", "picked", "successful"],
        retried: ["queued", "picked", "queued", "picked", "successful"],
        failed: ["queued", "picked", "exception"],
        waits: ["queued", "picked", "canceled"],
    }


async def test_an_outage_of_a_pools_connections(
    emptied_dsn: str, postgres_server: PostgresServer
) -> None:
    watcher = Watcher()
    with anyio.fail_after(BOUND):
        async with (
            asyncpg_pool(emptied_dsn, application_name="me") as pool,
            PgQueuer.open(AsyncpgPoolDriver(pool), observers=[watcher]) as pgq,
        ):

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None: ...

            async with running(pgq, dequeue_timeout=POLL):
                for round_ in (1, 2, 3):
                    await pgq.queries.enqueue("it")
                    await watcher.until_all(lambda n=round_: len(watcher.of(JobEnded)) == n)  # type: ignore[misc]
                    postgres_server.kill_backends(application_name="me")
                    with anyio.fail_after(BOUND):
                        await _until_a_connection(pgq)
            assert await in_table(pgq.queries) == {}


async def _until_a_connection(pgq: PgQueuer) -> None:
    """The producer sees the outage, too, and tries again."""
    from pgq_trio.errors import ConnectionLost

    while True:
        try:
            await pgq.queries.queue_size()
        except ConnectionLost:
            continue
        return
