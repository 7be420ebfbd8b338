"""`SyncQueries` on what frameworks hold: SQLAlchemy, Django, and pools of connections."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import psycopg_pool
import pytest
import sqlalchemy
import sqlalchemy.orm
from psycopg.types.string import TextBinaryLoader

from pgq_trio import (
    SyncPsycopgDriver,
    SyncQueries,
)
from pgq_trio.errors import (
    ConnectionLost,
    DuplicateJobError,
    StoreError,
)
from tests.client.sync_targets import (
    configure_django,
    engine_on,
    in_thread,
)
from tests.client.transactions import payloads_in


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
