"""`SyncQueries`: asking for work without an event loop, in transactions of several frameworks."""

from __future__ import annotations

import inspect
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import anyio.to_thread
import psycopg
import psycopg_pool
import pytest

from pgq_trio import (
    InMemoryDriver,
    PgQueuer,
    PsycopgDriver,
    Queries,
    Settings,
    SyncPsycopgDriver,
    SyncQueries,
)
from pgq_trio.abc import Backend, Driver, SyncDriver
from pgq_trio.client.job_queries import JobQueries
from pgq_trio.errors import (
    BackendNotSupported,
    DuplicateJobError,
    SchemaMissing,
    StoreError,
)
from pgq_trio.postgres import connect
from pgq_trio.store import batches
from tests.client.sync_targets import (
    AT_ONCE,
    TRANSACTIONS,
    Program,
    program,
)
from tests.client.transactions import named_as, payloads_in, serving


@pytest.fixture(params=TRANSACTIONS)
def caller(request: pytest.FixtureRequest, installed_dsn: str) -> Iterator[Program]:
    """A program with a transaction."""
    with program(request.param, installed_dsn) as opened:
        yield opened


@pytest.fixture(params=AT_ONCE)
def writer(request: pytest.FixtureRequest, installed_dsn: str) -> Iterator[Program]:
    """A program that writes at once."""
    with program(request.param, installed_dsn) as opened:
        yield opened


def queries_of(found: Program) -> SyncQueries:
    return SyncQueries(SyncPsycopgDriver(found.target))


class TestTransaction:
    def test_it_is_seen_after_the_commit(self, caller: Program, installed_dsn: str) -> None:
        """Although the caller itself executes nothing."""
        [job_id] = queries_of(caller).enqueue("it", b"1")
        assert isinstance(job_id, int)
        assert payloads_in(installed_dsn) == []
        caller.commit()
        assert payloads_in(installed_dsn) == [b"1"]

    def test_it_is_gone_after_a_rollback(self, caller: Program, installed_dsn: str) -> None:
        queries = queries_of(caller)
        [job_id] = queries.enqueue("it", b"1", headers={"k": [1]}, execute_after=5)
        assert queries.job_status([job_id]) == [(job_id, "queued")]
        caller.rollback()
        assert payloads_in(installed_dsn) == []

    def test_what_takes_several_statements(
        self, caller: Program, installed_dsn: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also as the first thing in the transaction, it commits nothing."""
        monkeypatch.setattr(batches, "MAX_CHUNK_JOBS", 2)
        with psycopg.connect(installed_dsn) as other:
            ids = SyncQueries(SyncPsycopgDriver(other)).enqueue(["it"] * 3, [b"1", b"2", b"3"])
        queries = queries_of(caller)
        assert queries.mark_job_as_cancelled(ids[:2]) == set(ids[:2])
        queries.enqueue(["it"] * 5)
        assert payloads_in(installed_dsn) == [b"1", b"2", b"3"]
        caller.rollback()
        assert payloads_in(installed_dsn) == [b"1", b"2", b"3"]

    def test_a_taken_key(self, caller: Program, installed_dsn: str) -> None:
        with psycopg.connect(installed_dsn) as other:
            SyncQueries(SyncPsycopgDriver(other)).enqueue("it", b"0", dedupe_key="k")
        queries = queries_of(caller)
        assert queries.enqueue("it", b"1", dedupe_key="k", on_conflict="skip") == [None]
        with pytest.raises(DuplicateJobError):
            queries.enqueue("it", b"2", dedupe_key="k")
        with pytest.raises(StoreError, match="aborted"):
            queries.enqueue("it", b"3")
        caller.rollback()
        assert payloads_in(installed_dsn) == [b"0"]

    @pytest.mark.parametrize("kind", TRANSACTIONS)
    async def test_a_worker_wakes_at_the_commit(self, kind: str, installed_dsn: str) -> None:
        def ask() -> None:
            with program(kind, installed_dsn) as caller:
                queries_of(caller).enqueue("it", b"1")
                assert payloads_in(installed_dsn) == []
                caller.commit()

        async with serving(installed_dsn) as ran:
            # Beside the event loop, as everything in such programs: Django insists on it.
            await anyio.to_thread.run_sync(ask)
            assert await ran.until(1) == [b"1"]

    @pytest.mark.parametrize("kind", AT_ONCE)
    async def test_a_worker_wakes_at_once(self, kind: str, installed_dsn: str) -> None:
        def ask() -> None:
            with program(kind, installed_dsn) as writer:
                queries_of(writer).enqueue("it", b"1")

        async with serving(installed_dsn) as ran:
            await anyio.to_thread.run_sync(ask)
            assert await ran.until(1) == [b"1"]

    def test_what_is_written_at_once(self, writer: Program, installed_dsn: str) -> None:
        queries = queries_of(writer)
        ids = queries.enqueue(["it", "it"], [b"1", b"2"])
        assert payloads_in(installed_dsn) == [b"1", b"2"]
        assert queries.mark_job_as_cancelled(ids[0]) == {ids[0]}
        assert payloads_in(installed_dsn) == [b"2"]

    def test_the_session_is_left_as_it_is(self, installed_dsn: str) -> None:
        with psycopg.connect(installed_dsn) as connection:
            connection.prepare_threshold = None
            queries = SyncQueries(SyncPsycopgDriver(connection))
            for _ in range(8):
                queries.enqueue("it")
            row = connection.execute(
                "SELECT current_setting('jit'), (SELECT count(*) FROM pg_prepared_statements)"
            ).fetchone()
            assert row == ("on", 0)
            assert not connection.autocommit


class TestTheWholeSide:
    def test_everything(self, dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            queries = SyncQueries(SyncPsycopgDriver(connection))
            with pytest.raises(SchemaMissing):
                queries.enqueue("it")
            assert queries.verify() != []
            queries.install()
            assert queries.verify() == []
            [first] = queries.enqueue("it", priority=3, execute_after=timedelta(seconds=1))
            [second] = queries.enqueue("it", dedupe_key="k")
            raised = queries.enqueue(
                "it", priority=9, dedupe_key="k", on_conflict="update_priority"
            )
            assert raised == [second]
            assert sorted(size.priority for size in queries.queue_size()) == [3, 9]
            connection.execute("UPDATE pgqueuer SET status = 'failed' WHERE id = %s", [first])
            assert [job.id for job in queries.list_failed_jobs()] == [first]
            assert queries.requeue_jobs(first) == {first}
            assert queries.mark_job_as_cancelled(second) == {second}
            assert queries.job_status([second, first]) == [(second, "canceled"), (first, "queued")]
            assert [entry.status for entry in queries.queue_log(job_id=second)] == [
                "queued",
                "canceled",
            ]
            assert queries.clear_queue("other") == 0
            assert queries.clear_queue() == 1
            assert queries.clear_queue_log(["it"]) > 0
            assert queries.queue_log(limit=5) == []

    def test_nothing_is_asked_for(self, installed_dsn: str) -> None:
        """No operation needs an event loop, with nothing to do either."""
        with psycopg.connect(installed_dsn, autocommit=True) as connection:
            queries = SyncQueries(SyncPsycopgDriver(connection))
            assert queries.enqueue([]) == []
            assert queries.mark_job_as_cancelled([]) == set()
            assert queries.requeue_jobs([]) == set()
            assert queries.job_status([]) == []
            assert queries.clear_queue([]) == 0
            assert queries.clear_queue_log([]) == 0

    def test_bad_arguments(self, installed_dsn: str) -> None:
        with psycopg.connect(installed_dsn, autocommit=True) as connection:
            queries = SyncQueries(SyncPsycopgDriver(connection))
            with pytest.raises(ValueError, match="on_conflict"):
                queries.enqueue("it", on_conflict="perhaps")  # type: ignore[call-overload]
            with pytest.raises(ValueError, match="on_conflict"):
                queries.enqueue([], on_conflict="perhaps")  # type: ignore[call-overload]
            with pytest.raises((TypeError, ValueError)):
                queries.enqueue(["it", "it"], [b"1"])
            with pytest.raises((TypeError, ValueError)):
                queries.enqueue([], [b"1"])
            with pytest.raises(ValueError, match="64 bits"):
                queries.mark_job_as_cancelled(2**70)
            assert queries.queue_size() == []

    def test_names_of_ones_own(self, dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            settings = Settings(schema='My "s"', prefix="it's ")
            queries = SyncQueries(SyncPsycopgDriver(connection), settings=settings)
            assert queries.settings == settings
            connection.execute('CREATE SCHEMA "My ""s"""')
            queries.install()
            queries.enqueue("it")
            assert queries.verify() == []

    async def test_inside_of_an_event_loop(self, installed_dsn: str) -> None:
        """It blocks the loop, but works; in a thread it does not block."""
        with psycopg.connect(installed_dsn, autocommit=True) as connection:
            queries = SyncQueries(SyncPsycopgDriver(connection))
            queries.enqueue("it")
            assert queries.enqueue([]) == []
            await anyio.to_thread.run_sync(queries.enqueue, "it")
            assert queries.queue_size()[0].count == 2

    @pytest.mark.parametrize(
        "name",
        ["enqueue", "mark_job_as_cancelled", "requeue_jobs", "list_failed_jobs", "queue_size",
         "queue_log", "job_status", "clear_queue", "clear_queue_log"],
    )  # fmt: skip
    def test_the_same_arguments_as_with_an_event_loop(self, name: str) -> None:
        with_loop = inspect.signature(getattr(JobQueries, name))
        assert inspect.signature(getattr(SyncQueries, name)) == with_loop


class _Suspending(SyncDriver):
    """A driver that is none: its stores wait."""

    def sync_backend(self, settings: Settings) -> Backend:
        return InMemoryDriver().backend(settings)


class TestRefusals:
    @pytest.mark.parametrize(
        ("target", "hint"),
        [
            ("host=x", "open it first"),
            (None, "NoneType"),
            (object.__new__(psycopg.AsyncConnection), r"queries\.using"),
            (object.__new__(psycopg_pool.AsyncConnectionPool), "AsyncConnectionPool"),
            (sqlite3.Connection, "SQLAlchemy"),
            (
                named_as("sqlalchemy.ext.asyncio", "AsyncSession"),
                "async connections are not supported",
            ),
        ],
    )
    def test_wrong_targets(self, target: object, hint: str) -> None:
        with pytest.raises(TypeError, match=hint):
            SyncPsycopgDriver(target)

    async def test_drivers_of_an_event_loop(self, installed_dsn: str) -> None:
        async with await connect(installed_dsn) as connection:
            for wrong in (PsycopgDriver(connection), InMemoryDriver(), installed_dsn):
                with pytest.raises(TypeError, match="on an event loop use Queries"):
                    SyncQueries(wrong)  # type: ignore[arg-type]

    def test_where_an_event_loop_is_needed(self, installed_dsn: str) -> None:
        with psycopg.connect(installed_dsn) as connection:
            driver: Any = SyncPsycopgDriver(connection)
            assert not isinstance(driver, Driver)
            with pytest.raises(TypeError, match="SyncPsycopgDriver"):
                PgQueuer(driver)
            with pytest.raises(TypeError, match="SyncQueries"):
                Queries(driver)
            with pytest.raises(BackendNotSupported, match="event loop"):
                driver.sync_backend(Settings()).notifier.listen()

    async def test_a_store_that_waits_is_a_fault(self) -> None:
        with pytest.raises(RuntimeError, match="a fault of this package"):
            SyncQueries(_Suspending()).queue_size()
