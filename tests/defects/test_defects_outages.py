"""Defects 5 and 6: the server restarts, the listener's session is killed."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.to_thread
from psycopg.conninfo import conninfo_to_dict

from pgq_trio import Job, PgQueuer
from pgq_trio.model.events import HealthChanged
from tests.servers import OwnServer, PostgresServer
from tests.worker.tools import Gate, Notes, Watcher, in_table, outcome, running, statuses, until

Record = Callable[[str, object], None]


async def test_defect_05_a_restart_of_the_server_loses_nothing(
    own_server: OwnServer, install_sql: list[str], record_property: Record
) -> None:
    gate, first = Gate(), Gate()
    ran: Notes[int] = Notes()
    watcher = Watcher()
    with own_server.fresh_database(install_sql) as dsn:
        async with PgQueuer.open(dsn, observers=[watcher]) as pgq:

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None:
                ran.add(job.id)
                await (first if job.payload else gate).pass_through(job.id)

            async with running(pgq):
                ids = await pgq.queries.enqueue(["it"] * 4, [b"first", None, None, b"first"])
                await ran.until(4)
                assert pgq.health().status == "ok"
                await anyio.to_thread.run_sync(own_server.stop)
                await watcher.until_all(
                    lambda: any(event.problem for event in watcher.of(HealthChanged))
                )
                assert pgq.health().status == "degraded"
                assert pgq.health().problems
                # Running jobs go on, and may end while there is no server.
                assert gate.inside + first.inside == 4
                first.open()
                await first.left.until(2)
                await watcher.until_all(lambda: "outcomes" in pgq.health().problems)
                await anyio.to_thread.run_sync(own_server.start)
                began = anyio.current_time()
                await watcher.until_all(lambda: pgq.health().status == "ok")
                record_property("healthy again after", anyio.current_time() - began)

                async def written() -> bool:
                    return await in_table(pgq.queries) == {"picked": 2}

                await until(written)
                (later,) = await pgq.queries.enqueue("it", b"first")  # claiming resumes
                await first.left.until(3)
                gate.open()
                await gate.left.until(2)
            ids.append(later)
            assert await in_table(pgq.queries) == {}
            for job_id in ids:
                assert await statuses(pgq.queries, job_id) == ["queued", "picked", "successful"]
    assert sorted(ran.entries) == ids


async def test_defect_05_a_crash_of_the_server_while_idle(
    own_server: OwnServer, install_sql: list[str]
) -> None:
    """What is enqueued as soon as the server is back runs, without waiting for a poll."""
    ran: Notes[int] = Notes()
    with own_server.fresh_database(install_sql) as dsn:
        async with PgQueuer.open(dsn) as pgq:

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None:
                ran.add(job.id)

            async with running(pgq):

                def crash() -> None:
                    own_server.stop("immediate")
                    own_server.start()

                await anyio.to_thread.run_sync(crash)
                (job_id,) = await pgq.queries.enqueue("it")
                await ran.until(1)
            assert await outcome(pgq.queries, job_id) == "successful"


async def test_defect_06_a_killed_listener_listens_again_and_catches_up(
    postgres_server: PostgresServer, installed_dsn: str, record_property: Record
) -> None:
    ran: Notes[float] = Notes()
    watcher = Watcher()
    async with PgQueuer.open(installed_dsn, observers=[watcher]) as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            ran.add(anyio.current_time())

        async with running(pgq):
            for round_ in range(1, 4):
                (killed,) = listeners(postgres_server, installed_dsn)
                kill(postgres_server, killed)
                enqueued = anyio.current_time()
                await pgq.queries.enqueue("it")  # in the gap: nobody hears of it
                started = (await ran.until(2 * round_ - 1))[-1]
                record_property(f"gap {round_}", started - enqueued)
                print(f"in the gap: {(started - enqueued) * 1000:.1f} ms")
                assert started - enqueued < 2

                async def listens(killed: int = killed) -> bool:
                    now = listeners(postgres_server, installed_dsn)
                    return len(now) == 1 and now != {killed}

                await until(listens)
                await watcher.until_all(lambda: pgq.health().status == "ok")
                enqueued = anyio.current_time()
                await pgq.queries.enqueue("it")  # and now it hears again
                started = (await ran.until(2 * round_))[-1]
                assert started - enqueued < 0.5
    problems = [event.problem for event in watcher.of(HealthChanged) if event.part == "listener"]
    assert sum(problem is not None for problem in problems) == 3
    assert problems[-1] is None


def listeners(server: PostgresServer, dsn: str) -> set[int]:
    """The sessions that listen in this database."""
    rows = server.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = %s AND query ILIKE 'LISTEN%%'",
        conninfo_to_dict(dsn)["dbname"],
    )
    return {pid for (pid,) in rows}


def kill(server: PostgresServer, pid: int) -> None:
    """End one session."""
    assert server.execute("SELECT pg_terminate_backend(%s)", pid) == [(True,)]
