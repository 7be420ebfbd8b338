"""The server of the fixtures: databases that are made once and copied, also after a restart."""

from __future__ import annotations

import psycopg

from pgq_trio import Settings
from tests.servers import OwnServer, PostgresServer


def tables(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT relname FROM pg_class WHERE relname LIKE '%queuer'")
        return {name for (name,) in rows.fetchall()}


def databases(server: PostgresServer) -> set[str]:
    return {name for (name,) in server.execute("SELECT datname FROM pg_database")}


def test_each_settings_have_a_template_that_is_made_once(own_server: OwnServer) -> None:
    mine = Settings(prefix="mine_")
    with own_server.database() as plain, own_server.database(mine) as named:
        assert tables(plain) == {"pgqueuer"}
        assert tables(named) == {mine.queue_table}
    before = databases(own_server)
    with own_server.database(), own_server.database(mine):
        assert len(databases(own_server) - before) == 2  # copies, and no template
    assert databases(own_server) == before


def test_a_database_is_dropped_whoever_uses_it(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as dsn:
        name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
        assert name in databases(postgres_server)
        connection = psycopg.connect(dsn)
    assert name not in databases(postgres_server)
    connection.close()


def test_after_a_restart_it_goes_on(own_server: OwnServer) -> None:
    with own_server.database() as dsn:
        assert tables(dsn) == {"pgqueuer"}
        own_server.restart()
        assert tables(dsn) == {"pgqueuer"}
    with own_server.database() as dsn:
        assert tables(dsn) == {"pgqueuer"}


def test_after_its_session_was_ended_it_goes_on(postgres_server: PostgresServer) -> None:
    pid = postgres_server.connection().info.backend_pid
    with psycopg.connect(postgres_server.conninfo) as connection:
        connection.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
    with postgres_server.database() as dsn:
        assert tables(dsn) == {"pgqueuer"}
