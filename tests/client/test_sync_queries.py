"""`SyncQueries`: asking for work without an event loop, in transactions of several frameworks."""

from __future__ import annotations

import inspect
import sqlite3
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio.to_thread
import psycopg
import psycopg_pool
import pytest
import sqlalchemy
import sqlalchemy.orm
from psycopg.types.string import TextBinaryLoader

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
    ConnectionLost,
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
    configure_django,
    engine_on,
    in_thread,
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


class TestSqlAlchemy:
    def test_together_with_statements_of_the_program(self, installed_dsn: str) -> None:
        engine = engine_on(installed_dsn)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("CREATE TABLE orders (id int)"))
            SyncQueries(SyncPsycopgDriver(connection)).enqueue("it", b"1")
        assert payloads_in(installed_dsn) == [b"1"]
        with pytest.raises(ZeroDivisionError), engine.begin() as connection:
            connection.execute(sqlalchemy.text("INSERT INTO orders VALUES (1)"))
            SyncQueries(SyncPsycopgDriver(connection)).enqueue("it", b"2")
            raise ZeroDivisionError
        assert payloads_in(installed_dsn) == [b"1"]
        engine.dispose()

    def test_savepoints(self, installed_dsn: str) -> None:
        engine = engine_on(installed_dsn)
        with engine.connect() as connection:
            queries = SyncQueries(SyncPsycopgDriver(connection))
            queries.enqueue("it", b"1")
            nested = connection.begin_nested()
            queries.enqueue("it", b"2")
            nested.rollback()
            connection.commit()
            # Again, in SQLAlchemy's next transaction.
            queries.enqueue("it", b"3")
            connection.commit()
        assert payloads_in(installed_dsn) == [b"1", b"3"]
        engine.dispose()

    def test_a_transaction_that_is_over(self, installed_dsn: str) -> None:
        """Nothing is written where SQLAlchemy would not write either."""
        engine = engine_on(installed_dsn)
        with engine.connect() as connection, connection.begin() as transaction:
            transaction.rollback()
            with pytest.raises(sqlalchemy.exc.InvalidRequestError):
                SyncQueries(SyncPsycopgDriver(connection)).enqueue("it")
        assert payloads_in(installed_dsn) == []
        engine.dispose()

    def test_what_is_not_meant(self, installed_dsn: str) -> None:
        engine = engine_on(installed_dsn)
        for wrong in (engine, sqlalchemy.orm.sessionmaker(engine)):
            with pytest.raises(TypeError, match="a connection or a session that it has opened"):
                SyncPsycopgDriver(wrong)

    def test_another_driver(self) -> None:
        engine = sqlalchemy.create_engine("sqlite://")
        with engine.connect() as connection:
            queries = SyncQueries(SyncPsycopgDriver(connection))
            with pytest.raises(TypeError, match=r"is sqlite3; SyncQueries needs psycopg 3"):
                queries.enqueue("it")
            assert not connection.in_transaction()
        engine.dispose()


class TestDjango:
    @pytest.fixture
    def django_connection(self, installed_dsn: str) -> Iterator[Any]:
        connection = configure_django(installed_dsn)
        yield connection
        connection.close()

    def test_rows_in_spite_of_its_adapters(self, django_connection: Any) -> None:
        """Django has timestamps without a zone, and jsonb as text, on its connections."""
        with django_connection.cursor() as cursor:
            cursor.execute("SELECT now()")
            assert cursor.fetchone()[0].tzinfo is None
        # Those are for results in text; a project may register others.
        for name in ("int8", "timestamptz"):
            django_connection.connection.adapters.register_loader(name, TextBinaryLoader)
        queries = SyncQueries(SyncPsycopgDriver(django_connection))
        at = datetime(2030, 1, 1, tzinfo=UTC)
        [job_id] = queries.enqueue("it", execute_after=at, headers={"a": "b"})
        with django_connection.cursor() as cursor:
            cursor.execute("UPDATE pgqueuer SET status = 'failed'")
        [job] = queries.list_failed_jobs()
        assert (job.id, job.execute_after, job.headers) == (job_id, at, {"a": "b"})
        [entry] = queries.queue_log()
        assert entry.created.tzinfo is not None

    def test_before_django_has_loaded_its_backend(
        self, django_connection: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As in a project's module, which is imported before there is a connection."""
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, "django.db.backends.base.base")
            queries = SyncQueries(SyncPsycopgDriver(django_connection))
        assert queries.queue_size() == []

    def test_nested_blocks(self, django_connection: Any, installed_dsn: str) -> None:
        from django.db import transaction

        queries = SyncQueries(SyncPsycopgDriver(django_connection))
        with transaction.atomic():
            queries.enqueue("it", b"1")
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                queries.enqueue("it", b"2")
                raise ZeroDivisionError
            assert payloads_in(installed_dsn) == []
        assert payloads_in(installed_dsn) == [b"1"]

    def test_a_block_that_is_broken(self, django_connection: Any) -> None:
        """Django's cursors refuse it, and so does this."""
        from django.db import transaction

        queries = SyncQueries(SyncPsycopgDriver(django_connection))
        with transaction.atomic():
            transaction.set_rollback(True)
            with pytest.raises(transaction.TransactionManagementError):
                queries.enqueue("it")

    def test_each_thread_has_its_own_connection(
        self, django_connection: Any, installed_dsn: str
    ) -> None:
        from django.db import connections, transaction

        queries = SyncQueries(SyncPsycopgDriver(django_connection))

        def elsewhere() -> None:
            try:
                queries.enqueue("it", b"elsewhere")
            finally:
                connections["default"].close()

        with transaction.atomic():
            queries.enqueue("it", b"here")
            assert in_thread(elsewhere) is None
            assert payloads_in(installed_dsn) == [b"elsewhere"]
        mine = SyncQueries(SyncPsycopgDriver(connections["default"]))
        refused = in_thread(lambda: mine.enqueue("it"))
        assert "thread" in str(refused)

    def test_a_connection_that_breaks(self, django_connection: Any, installed_dsn: str) -> None:
        queries = SyncQueries(SyncPsycopgDriver(django_connection))
        queries.queue_size()
        with psycopg.connect(installed_dsn, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(%s)", [django_connection.connection.info.backend_pid]
            )
        with pytest.raises(ConnectionLost):
            queries.queue_size()
        # As at the end of a request.
        django_connection.close_if_unusable_or_obsolete()
        assert queries.queue_size() == []

    def test_a_server_that_is_not_there(self, django_connection: Any) -> None:
        django_connection.close()
        django_connection.settings_dict.update(HOST="127.0.0.1", PORT="1")
        with pytest.raises(ConnectionLost):
            SyncQueries(SyncPsycopgDriver(django_connection)).queue_size()

    def test_what_is_not_meant(self, django_connection: Any) -> None:
        from django.db import connections

        with pytest.raises(TypeError, match=r"connections\['default'\]"):
            SyncPsycopgDriver(connections)


class TestPool:
    def test_from_many_threads(self, installed_dsn: str) -> None:
        with psycopg_pool.ConnectionPool(installed_dsn, min_size=1, max_size=2) as pool:
            queries = SyncQueries(SyncPsycopgDriver(pool))
            failures = [
                in_thread(lambda n=n: queries.enqueue("it", b"%d" % n))  # type: ignore[misc]
                for n in range(8)
            ]
            assert failures == [None] * 8
            assert queries.queue_size()[0].count == 8

    def test_a_failure_takes_back_its_call_alone(self, installed_dsn: str) -> None:
        with psycopg_pool.ConnectionPool(installed_dsn, min_size=1, max_size=1) as pool:
            queries = SyncQueries(SyncPsycopgDriver(pool))
            queries.enqueue("it", b"1", dedupe_key="k")
            with pytest.raises(DuplicateJobError):
                queries.enqueue("it", b"2", dedupe_key="k")
            queries.enqueue("it", b"3")
        assert payloads_in(installed_dsn) == [b"1", b"3"]

    def test_one_that_is_closed(self, installed_dsn: str) -> None:
        pool = psycopg_pool.ConnectionPool(installed_dsn, open=False)
        with pytest.raises(StoreError, match="not open yet"):
            SyncQueries(SyncPsycopgDriver(pool)).queue_size()


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
