"""Installing, verifying and dropping, with whatever names there are."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from pgq_trio.abc import SchemaStore
from pgq_trio.db import PsycopgDriver
from pgq_trio.errors import PgqError, StoreError
from pgq_trio.postgres import ConnectionPool, open_pool
from pgq_trio.settings import Settings
from tests.schema import pgqueuers

OBJECTS = """
    SELECT relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE nspname !~ '^(pg_|information_schema)'
    UNION ALL
    SELECT proname::text FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
    WHERE nspname !~ '^(pg_|information_schema)'
    UNION ALL
    SELECT typname::text FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace
    WHERE nspname !~ '^(pg_|information_schema)'
    ORDER BY 1"""

NAMES = [
    Settings(),
    Settings(prefix="p_"),
    Settings(schema="jobs"),
    Settings(schema="Jobs", prefix="UP_"),
    Settings(schema="with space-dash", prefix="a-b c."[:5]),
    Settings(schema='x"; DROP TABLE y; --', prefix="'; DROP --"),
    Settings(schema="$do$ END; $$ \\ %s", prefix="{x}$$\\'\""),
    Settings(queue_table="Jobs 'q'", channel='Ch "x" \'\\', trigger='t"g', function="f'n"),
    Settings(schema=" USING btree ", queue_table="t USING btree (x)"),
]


def schema_of(pool: ConnectionPool[Any], settings: Settings) -> SchemaStore:
    return PsycopgDriver(pool).backend(settings).schema


@pytest.mark.parametrize("settings", NAMES, ids=lambda s: f"{s.schema}.{s.queue_table}")
async def test_from_nothing_to_nothing(
    pool: ConnectionPool[Any], dsn: str, settings: Settings
) -> None:
    pgqueuers.fetch(dsn, "CREATE TABLE y ()")
    before = pgqueuers.fetch(dsn, OBJECTS)
    schema = schema_of(pool, settings)
    assert await schema.verify_absent() == []
    missing = await schema.missing()
    assert f"table {settings.queue_table}" in missing
    lines = await schema.verify()
    assert len(lines) > len(missing)
    assert all(line.endswith(" is missing; mend it with `pgq-trio install`") for line in lines)
    await schema.install()
    assert await schema.missing() == []
    assert await schema.verify() == []
    assert await schema.plan_upgrade() == []
    lines = await schema.verify_absent()
    assert len(lines) == 6  # four tables, the type, the function
    assert all(line.endswith(" is there; drop it with `pgq-trio uninstall`") for line in lines)
    installed = pgqueuers.fetch(dsn, OBJECTS)
    await schema.install()
    assert pgqueuers.fetch(dsn, OBJECTS) == installed
    await schema.uninstall()
    assert pgqueuers.fetch(dsn, OBJECTS) == before
    assert await schema.missing() == missing
    await schema.uninstall()


async def test_two_queues_in_one_database(pool: ConnectionPool[Any]) -> None:
    first, second = schema_of(pool, Settings(prefix="a_")), schema_of(pool, Settings(schema="b"))
    await first.install()
    assert await second.missing() != []
    await second.install()
    await first.uninstall()
    assert await first.missing() != []
    assert await second.verify() == []


async def test_all_at_once(pool: ConnectionPool[Any]) -> None:
    schema = schema_of(pool, Settings(schema="s"))
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(schema.install)
    assert await schema.verify() == []


async def test_all_or_nothing(pool: ConnectionPool[Any], dsn: str) -> None:
    pgqueuers.fetch(dsn, "CREATE TABLE pgqueuer_schedules ()")
    pgqueuers.fetch(dsn, "CREATE TABLE pgqueuer_log ()")
    before = pgqueuers.fetch(dsn, OBJECTS)
    schema = schema_of(pool, Settings())
    with pytest.raises(PgqError):
        await schema.install()  # the index of the log finds no column
    assert pgqueuers.fetch(dsn, OBJECTS) == before


async def test_uninstall_spares_what_others_built(pool: ConnectionPool[Any], dsn: str) -> None:
    schema = schema_of(pool, Settings())
    await schema.install()
    pgqueuers.fetch(dsn, "CREATE VIEW v AS SELECT * FROM pgqueuer_log")
    with pytest.raises(StoreError, match="v depends on"):
        await schema.uninstall()
    assert await schema.verify() == []


#: A change of the catalog; what the lines on it begin with; how many of them `run` needs mended.
CHANGES: dict[str, tuple[list[str], int]] = {
    "DROP TABLE pgqueuer_statistics": (
        ["table pgqueuer_statistics", "index pgqueuer_statistics_unique_count"],
        0,
    ),
    "DROP TABLE pgqueuer_log": (
        ["table pgqueuer_log", "index pgqueuer_log_job_id_status"],
        1,
    ),
    "ALTER TABLE pgqueuer DROP COLUMN headers": (["column pgqueuer.headers"], 1),
    "ALTER TABLE pgqueuer ALTER priority TYPE bigint": (["column pgqueuer.priority"], 0),
    "ALTER TABLE pgqueuer ALTER attempts DROP NOT NULL": (["column pgqueuer.attempts"], 0),
    "ALTER TABLE pgqueuer ALTER created DROP DEFAULT": (["column pgqueuer.created"], 0),
    "ALTER TABLE pgqueuer_log SET UNLOGGED": (["table pgqueuer_log"], 0),
    "DROP INDEX pgqueuer_ep_ea_idx": (["index pgqueuer_ep_ea_idx"], 0),
    "DROP INDEX pgqueuer_picked_slot_idx": (["index pgqueuer_picked_slot_idx"], 1),
    "DROP INDEX pgqueuer_unique_dedupe_key;"
    "CREATE INDEX pgqueuer_unique_dedupe_key ON pgqueuer (dedupe_key)": (
        ["index pgqueuer_unique_dedupe_key"],
        0,
    ),
    "DROP TRIGGER tg_pgqueuer_changed ON pgqueuer": (["trigger tg_pgqueuer_changed"], 0),
    "ALTER TABLE pgqueuer DISABLE TRIGGER USER": (["trigger tg_pgqueuer_changed"], 0),
    "DROP FUNCTION fn_pgqueuer_changed() CASCADE": (
        ["function fn_pgqueuer_changed", "trigger tg_pgqueuer_changed"],
        0,
    ),
    "ALTER TYPE pgqueuer_status ADD VALUE 'x' BEFORE 'picked'": (["type pgqueuer_status"], 0),
    "ALTER TYPE pgqueuer_status RENAME VALUE 'failed' TO 'x'": (["type pgqueuer_status"], 1),
    "ALTER TABLE pgqueuer DROP CONSTRAINT pgqueuer_pkey": (
        ["PRIMARY KEY (id) of table pgqueuer"],
        1,
    ),
    "ALTER TABLE pgqueuer_schedules DROP CONSTRAINT pgqueuer_schedules_expression_entrypoint_key": (
        ["UNIQUE (expression, entrypoint) of table pgqueuer_schedules"],
        1,
    ),
    "CREATE INDEX more ON pgqueuer (id); ALTER TABLE pgqueuer ADD COLUMN extra int": ([], 0),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_each_difference_is_one_line(
    pool: ConnectionPool[Any], dsn: str, change: str
) -> None:
    lines, needed = CHANGES[change]
    schema = schema_of(pool, Settings())
    await schema.install()
    pgqueuers.fetch(dsn, change)
    found = await schema.verify()
    assert len(found) == len(lines)
    for line, name in zip(found, lines, strict=True):
        assert line.startswith(f"{name} ")
        assert "`pgq-trio install`" not in line  # what is there in part is to be upgraded
    assert len(await schema.missing()) == needed


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE pgqueuer_schedules",
        "DROP INDEX pgqueuer_ep_ea_idx",
        "DROP TRIGGER tg_pgqueuer_changed ON pgqueuer",
        "DROP FUNCTION fn_pgqueuer_changed() CASCADE",
    ],
)
async def test_install_creates_what_is_missing_altogether(
    pool: ConnectionPool[Any], dsn: str, change: str
) -> None:
    schema = schema_of(pool, Settings())
    await schema.install()
    pgqueuers.fetch(dsn, change)
    assert all("`pgq-trio upgrade`" in line for line in await schema.verify())
    await schema.install()
    assert await schema.verify() == []


async def test_another_channel_is_a_difference(pool: ConnectionPool[Any]) -> None:
    await schema_of(pool, Settings()).install()
    [line] = await schema_of(pool, Settings(channel="other")).verify()
    assert line.startswith("function fn_pgqueuer_changed does not notify on channel 'other'")


async def test_without_the_right_to_create_schemas(pool: ConnectionPool[Any], dsn: str) -> None:
    settings = Settings(schema="own")
    async with pool.connection() as connection:
        await connection.execute("CREATE SCHEMA own")
        await connection.execute("DROP ROLE IF EXISTS pgq_test_nobody")
        await connection.execute("CREATE ROLE pgq_test_nobody LOGIN")
        await connection.execute("GRANT ALL ON SCHEMA own TO pgq_test_nobody")
    async with open_pool(dsn, user="pgq_test_nobody") as theirs:
        await schema_of(theirs, settings).install()
    assert await schema_of(pool, settings).verify() == []
    async with pool.connection() as connection:
        await connection.execute("DROP OWNED BY pgq_test_nobody")
        await connection.execute("DROP ROLE pgq_test_nobody")


async def test_missing_is_one_statement(pool: ConnectionPool[Any]) -> None:
    requests: int = pool.get_stats()["requests_num"]
    schema = schema_of(pool, Settings())
    await schema.missing()
    assert pool.get_stats()["requests_num"] == requests + 1
