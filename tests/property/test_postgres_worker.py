"""Workers on PostgreSQL that are killed, or lose their connections: every job ends once."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from hypothesis import example, given, strategies as st

from pgq_trio import Job, PgQueuer, Queries
from pgq_trio.db import PsycopgDriver
from pgq_trio.postgres import Connection, ConnectionPool, connect, open_pool
from pgq_trio.testing import BACKENDS
from pgq_trio.types import FINAL_STATES, JobId
from tests.conftest import NEWEST_SERVER
from tests.property import doomed
from tests.property.postgres_proxy import open_proxy
from tests.property.profiles import examples
from tests.servers import PostgresServer

pytestmark = pytest.mark.parametrize(
    "postgres_server", NEWEST_SERVER, indirect=True, scope="session"
)

#: Longer than this nothing takes, however busy the machine is.
PATIENCE = 60.0

PAYLOADS = (b"ok", b"again", b"fail", b"ok", b"ok")
ENDS = {b"ok": "successful", b"again": "successful", b"fail": "exception"}


@dataclass(eq=False)
class Queue:
    """A queue, and who looks at it from outside."""

    observer: Connection[Any]
    queries: Queries
    ids: list[JobId] = field(default_factory=list[JobId])

    async def fill(self) -> None:
        """Begin anew."""
        await self.observer.execute(
            "TRUNCATE pgqueuer, pgqueuer_log, pgqueuer_statistics, pgqueuer_schedules"
        )
        self.ids = await self.queries.enqueue(["it"] * len(PAYLOADS), [*PAYLOADS])

    async def rows(self) -> dict[JobId, Job]:
        """Return what is in the queue."""
        return {job.id: job for job in await self.queries.browse_queue(limit=99)}

    async def ends(self) -> dict[JobId, list[str]]:
        """Return the outcomes of each job."""
        ends: dict[JobId, list[str]] = {job_id: [] for job_id in self.ids}
        for entry in await self.queries.queue_log():
            if entry.status in FINAL_STATES:
                ends[entry.job_id].append(entry.status)
        return ends

    async def expire_leases(self) -> None:
        """Have those who hold jobs be silent for too long."""
        await self.observer.execute(
            "UPDATE pgqueuer SET heartbeat = heartbeat - interval '2 hours' WHERE status = 'picked'"
        )

    async def check_ended(self) -> None:
        """Each job has ended, once, as it should."""
        assert await self.rows() == {}
        expected = [[ENDS[payload]] for payload in PAYLOADS]
        assert [*(await self.ends()).values()] == expected


@asynccontextmanager
async def open_queue(dsn: str) -> AsyncGenerator[Queue]:
    """Open a queue for a while."""
    async with await connect(dsn, autocommit=True) as observer:
        yield Queue(observer, Queries(PsycopgDriver(observer)))


@asynccontextmanager
async def doomed_workers(dsn: str, backend: str) -> AsyncGenerator[Any]:
    """Give a function that runs a worker to its end, given the moment of that."""
    command = [sys.executable, "-m", doomed.__name__, dsn, backend]
    async with await anyio.open_process(command, stderr=None) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        told = BufferedByteReceiveStream(process.stdout)
        stdin = process.stdin

        async def live(moment: int) -> str:
            await stdin.send(b"%d\n" % moment)
            with anyio.fail_after(PATIENCE):
                return (await told.receive_until(b"\n", 100)).decode()

        yield live
        await stdin.aclose()


@pytest.mark.anyio
async def test_killed_at_each_operation(installed_dsn: str, anyio_backend_name: str) -> None:
    """A second worker ends what is left, and knows of each job how often it was begun before."""
    interrupted: Counter[int] = Counter()
    async with (
        open_queue(installed_dsn) as queue,
        open_pool(installed_dsn, max_size=3, autocommit=True) as pool,
        doomed_workers(installed_dsn, anyio_backend_name) as live,
    ):
        for moment in range(1, 1000):
            await queue.fill()
            became = await live(moment)
            try:
                interrupted[await _second_worker(queue, pool)] += 1
            except BaseException as exc:
                exc.add_note(f"killed at moment {moment}")
                raise
            if became != "killed":
                assert became == "drained"
                assert moment > 10
                assert interrupted.keys() > {0}, "nobody was interrupted"
                return
    raise AssertionError("it never lives to the end")


async def _second_worker(queue: Queue, pool: ConnectionPool[Any]) -> int:
    """End what a dead worker has left; return how many jobs it held."""
    left, ended = await queue.rows(), await queue.ends()
    # In the table or in the log, never in both, never in none.
    assert [len(ends) + (job_id in left) for job_id, ends in ended.items()] == [1] * len(PAYLOADS)
    await queue.expire_leases()
    starts: list[Job] = []
    await _drain(pool, starts.append)
    begun: dict[JobId, Job] = {}
    for job in starts:
        begun.setdefault(job.id, job)
    assert begun.keys() == left.keys()
    for job_id, job in begun.items():
        assert job.attempts == left[job_id].attempts + (left[job_id].status == "picked")
    await queue.check_ended()
    return sum(job.status == "picked" for job in left.values())


@pytest.fixture(scope="module")
def queue_dsn(postgres_server: PostgresServer, install_sql: list[str]) -> Any:
    """A database for all examples of this module."""
    with postgres_server.fresh_database(install_sql) as dsn:
        yield dsn


@pytest.mark.parametrize("backend", BACKENDS)
@examples(8)
@given(cuts=st.sets(st.integers(1, 60), min_size=1, max_size=3))
@example(cuts={1})  # the first outcome is asked for
@example(cuts={8})  # and answered
def test_cut_while_it_works(queue_dsn: str, backend: str, cuts: set[int]) -> None:
    """The one worker goes on when it is connected again; no job ends twice, none is lost."""
    anyio.run(_work_and_cut, queue_dsn, cuts, backend=backend)


async def _work_and_cut(dsn: str, cuts: set[int]) -> None:
    async with (
        open_queue(dsn) as queue,
        open_proxy(dsn) as proxy,
        open_pool(proxy.dsn, max_size=3, autocommit=True) as pool,
    ):
        await queue.fill()
        starts: list[Job] = []

        def started(job: Job) -> None:
            if not starts:
                proxy.cut_at(*cuts)
            starts.append(job)

        await _drain(pool, started)
        proxy.cut_at()
        left = {(job.id, job.attempts) for job in (await queue.rows()).values()}
        assert not left & {(job.id, job.attempts) for job in starts}, "an outcome was not kept"
        # What was claimed by a request whose reply was lost is a dead worker's.
        await queue.expire_leases()
        await _drain(pool, started)
        await queue.check_ended()


async def _drain(pool: ConnectionPool[Any], started: Callable[[Job], object]) -> None:
    async with PgQueuer.open(PsycopgDriver(pool)) as pgq:
        doomed.register(pgq, started)
        with anyio.fail_after(PATIENCE):
            await doomed.drain(pgq)
