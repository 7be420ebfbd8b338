"""Waits go on through outages; what no patience mends reaches each waiter, and as itself."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgq_trio import CompletionWatcher, PgqError, PgQueuer, Queries
from pgq_trio.errors import SchemaMissing, StoreError
from pgq_trio.testing import UnreliableDriver
from tests.client.tools import NEVER, both, execute, heard, looked, with_outcomes
from tests.servers import OwnServer, PostgresServer
from tests.worker.tools import SOON, Place, running


def listeners(server: PostgresServer, dsn: str) -> list[int]:
    """The sessions of watchers that listen in a database."""
    rows = server.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = %s AND query ILIKE 'LISTEN%%outcomes%%'",
        conninfo_to_dict(dsn)["dbname"],
    )
    return [pid for (pid,) in rows]


@pytest.mark.usefixtures("no_early_looks")
async def test_a_killed_listener(postgres_server: PostgresServer, installed_dsn: str) -> None:
    """What ends in the gap is found when it listens again; later it hears again."""
    async with (
        PgQueuer.open(installed_dsn) as pgq,
        CompletionWatcher(pgq.queries, refresh_interval=NEVER) as watcher,
    ):
        gate = with_outcomes(pgq)
        async with running(pgq):
            for _ in range(3):
                (job_id,) = await pgq.queries.enqueue("it", execute_after=NEVER)

                async def end(job_id: int = job_id) -> None:
                    # Killed a moment ago, it may still be on its way back.
                    while not (pids := listeners(postgres_server, installed_dsn)):
                        await anyio.sleep(0.01)
                    postgres_server.execute("SELECT pg_terminate_backend(%s)", pids[0])
                    await pgq.queries.mark_job_as_cancelled(job_id)

                assert await both(watcher, job_id, end) == "canceled"
            (job_id,) = await pgq.queries.enqueue("it")

            async def open_gate() -> None:
                await heard(pgq)
                gate.open()

            assert await both(watcher, job_id, open_gate) == "successful"


async def test_a_restart_of_the_server(own_server: OwnServer, install_sql: list[str]) -> None:
    with own_server.fresh_database(install_sql) as dsn:
        async with (
            PgQueuer.open(dsn) as pgq,
            CompletionWatcher(pgq.queries, refresh_interval=NEVER) as watcher,
        ):
            (job_id,) = await pgq.queries.enqueue("it")

            async def end() -> None:
                await anyio.to_thread.run_sync(own_server.restart)
                await execute(Place(dsn), "DELETE FROM pgqueuer")

            assert await both(watcher, job_id, end) == "deleted"


async def test_a_server_that_is_away_when_it_is_entered(
    own_server: OwnServer, install_sql: list[str]
) -> None:
    with own_server.fresh_database(install_sql) as dsn:
        async with PgQueuer.open(dsn) as pgq:
            (job_id,) = await pgq.queries.enqueue("it")
            await pgq.queries.mark_job_as_cancelled(job_id)
            async with CompletionWatcher(pgq.queries):
                pass  # it knows how to connect now
            await anyio.to_thread.run_sync(own_server.stop)
            learned: list[str] = []
            async with anyio.create_task_group() as tasks:

                async def wait() -> None:
                    learned.append(await pgq.queries.wait_for(job_id))

                tasks.start_soon(wait)
                await anyio.sleep(0.3)  # some tries fail
                await anyio.to_thread.run_sync(own_server.start)
            assert learned == ["canceled"]


async def test_looks_that_fail_are_repeated(place: Place) -> None:
    async with place.driver() as driver:
        watched = UnreliableDriver(driver)
        watched.lose("job_status", "request")
        watched.fail("job_status", StoreError("a deadlock", retryable=True))
        queries = Queries(watched)
        async with CompletionWatcher(queries, refresh_interval=NEVER) as watcher:
            (job_id,) = await queries.enqueue("it")
            await queries.clear_queue()
            with anyio.fail_after(SOON):
                assert await watcher.wait_for(job_id) == "deleted"
        assert watched.calls["job_status"] >= 3


class TestForGood:
    """An error that no other try mends."""

    async def test_it_comes_out_as_itself_and_cancels_the_block(self, database: Place) -> None:
        async with database.open() as pgq:
            (job_id,) = await pgq.queries.enqueue("it")
            with pytest.raises(SchemaMissing):
                async with CompletionWatcher(pgq.queries, refresh_interval=0.1) as watcher:
                    await pgq.queries.uninstall()
                    with anyio.fail_after(SOON):
                        await watcher.wait_for(job_id)
            with pytest.raises(SchemaMissing):
                await pgq.queries.wait_for(job_id)
            with pytest.raises(SchemaMissing):
                await watcher.wait_for(job_id)

    async def test_many_waiters_in_the_block_and_outside(self, database: Place) -> None:
        errors: list[BaseException] = []
        async with database.open() as pgq, anyio.create_task_group() as outside:
            ids = await pgq.queries.enqueue(["it"] * 5)
            with pytest.raises(SchemaMissing) as caught:
                async with (
                    CompletionWatcher(pgq.queries, refresh_interval=0.1) as watcher,
                    anyio.create_task_group() as inside,
                ):

                    async def wait(job_id: int) -> None:
                        try:
                            await watcher.wait_for(job_id)
                        except PgqError as exc:
                            errors.append(exc)
                            raise

                    async def wait_outside(job_id: int) -> None:
                        with pytest.raises(SchemaMissing):
                            await wait(job_id)

                    for job_id in ids:
                        inside.start_soon(wait, job_id)
                        outside.start_soon(wait_outside, job_id)
                    await looked(watcher, 10)
                    await pgq.queries.uninstall()
            assert errors == [caught.value] * 10

    async def test_nobody_waits_in_the_block(self, database: Place) -> None:
        """The block is cancelled, and the error of the one who waits elsewhere ends it."""
        async with database.open() as pgq, anyio.create_task_group() as outside:
            (job_id,) = await pgq.queries.enqueue("it")

            async def wait(watcher: CompletionWatcher) -> None:
                with pytest.raises(SchemaMissing):
                    await watcher.wait_for(job_id)

            with anyio.fail_after(SOON), pytest.raises(SchemaMissing):
                async with CompletionWatcher(pgq.queries, refresh_interval=0.1) as watcher:
                    outside.start_soon(wait, watcher)
                    await looked(watcher, 1)
                    await pgq.queries.uninstall()
                    await anyio.sleep_forever()

    async def test_an_error_of_the_block_itself_is_worth_more(self, database: Place) -> None:
        async with database.open() as pgq:
            (job_id,) = await pgq.queries.enqueue("it")
            with pytest.raises(ZeroDivisionError) as caught:
                async with CompletionWatcher(pgq.queries, refresh_interval=0.1) as watcher:
                    await pgq.queries.uninstall()
                    try:
                        await watcher.wait_for(job_id)
                    finally:
                        raise ZeroDivisionError
            assert isinstance(caught.value.__context__, SchemaMissing)
            assert "Waiting for jobs failed as well" in caught.value.__notes__[0]

    async def test_a_refused_connection(self, place: Place) -> None:
        """On entering, and later, when the password does not hold any more."""
        async with place.driver() as driver:
            refusing, refusal = UnreliableDriver(driver), StoreError("no such role")
            queries = Queries(refusing)
            (job_id,) = await queries.enqueue("it")
            refusing.fail("listen", refusal)
            with pytest.raises(StoreError, match="no such role"):
                await queries.wait_for(job_id)
            with anyio.fail_after(SOON), pytest.raises(StoreError, match="no such role") as caught:
                async with CompletionWatcher(queries, refresh_interval=NEVER) as watcher:
                    refusing.fail("listen", refusal)
                    refusing.cut(0)
                    await watcher.wait_for(job_id)
            assert caught.value is refusal
