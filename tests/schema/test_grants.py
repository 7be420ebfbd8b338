"""Roles with the least they need: each does its duty on a real server and is refused the rest."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import get_args
from uuid import uuid4

import anyio
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgq_trio import Job, PgQueuer, Schedule
from pgq_trio.errors import DuplicateJobError, StoreError
from pgq_trio.schema import Duty, grant_statements, install_statements, script
from pgq_trio.settings import Settings
from tests.servers import PostgresServer

#: A name that has to be quoted.
OWNER, ROLE = "pgq owner {}", 'pgq "role" {}'


@pytest.fixture(params=["jobs", ""], ids=["schema", "search path"])
def settings(request: pytest.FixtureRequest) -> Settings:
    return Settings(schema=request.param)


@pytest.fixture
def role(postgres_server: PostgresServer, dsn: str, settings: Settings) -> Iterator[str]:
    """A role that may log in and nothing else, and a queue that somebody else owns."""
    mark = uuid4().hex[:12]
    owner, name = OWNER.format(mark), ROLE.format(mark)
    for each in (owner, name):
        postgres_server.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(each)))
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            as_owner = sql.SQL("AUTHORIZATION {}").format(sql.Identifier(owner))
            connection.execute(sql.SQL("CREATE SCHEMA jobs ") + as_owner)
            connection.execute(
                sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(sql.Identifier(owner))
            )
        run_as(owner, dsn, script(install_statements(settings)))
        yield name
    finally:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for each in (name, owner):
                connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(each)))
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(each)))


def run_as(role: str, dsn: str, text: str) -> None:
    with psycopg.connect(make_conninfo(dsn, user=role), autocommit=True) as connection:
        connection.execute(text.encode())


def grant(role: str, dsn: str, settings: Settings, duty: Duty) -> None:
    """Have the owner run the grants, twice: they may be repeated."""
    owner = OWNER.format(role.rsplit(maxsplit=1)[1])
    for _ in range(2):
        run_as(owner, dsn, script(grant_statements(settings, duty, role)))


@asynccontextmanager
async def opened(dsn: str, role: str, settings: Settings) -> AsyncGenerator[PgQueuer]:
    with anyio.fail_after(60):
        async with PgQueuer.open(make_conninfo(dsn, user=role), settings=settings) as pgq:
            yield pgq


def refused(role: str, dsn: str, settings: Settings, *statements: str) -> None:
    """Have a role try what it must not do; names are the settings' in braces."""
    names = settings.sql_names()
    for statement in statements:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run_as(role, dsn, statement.format_map(names))


DDL = (
    "ALTER TABLE {queue_table} ADD COLUMN x int",
    "DROP TABLE {queue_table_log}",
    "CREATE INDEX ON {queue_table} (id)",
    "CREATE TRIGGER t AFTER INSERT ON {queue_table} EXECUTE FUNCTION {function}()",
    "ALTER TABLE {queue_table} DISABLE TRIGGER USER",
    "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
    "TRUNCATE {queue_table}",
)


async def test_worker(dsn: str, role: str, settings: Settings) -> None:
    grant(role, dsn, settings, "worker")
    async with opened(dsn, role, settings) as pgq:
        fails = True

        @pgq.entrypoint("limited", concurrency_limit=1)
        async def limited(job: Job) -> None:
            await anyio.lowlevel.checkpoint()

        @pgq.entrypoint("held", on_failure="hold")
        async def held(job: Job) -> None:
            await anyio.lowlevel.checkpoint()
            if fails:
                raise RuntimeError("held")

        fired = anyio.Event()

        @pgq.schedule("every second", "* * * * * *")
        async def every_second(schedule: Schedule) -> None:
            await anyio.lowlevel.checkpoint()
            fired.set()

        queries = pgq.queries
        await queries.enqueue(["limited"] * 5)
        [kept] = await queries.enqueue("held", dedupe_key="k")
        [gone] = await queries.enqueue("nobody's")
        await pgq.run(mode="drain")
        assert await queries.requeue_jobs(kept) == {kept}
        fails = False
        await pgq.run(mode="drain")
        assert await queries.job_status([kept]) == [(kept, "successful")]
        assert await queries.mark_job_as_cancelled(gone) == {gone}
        assert await queries.wait_for(gone) == "canceled"
        async with anyio.create_task_group() as tasks:
            await tasks.start(partial(pgq.run, handle_signals=False))
            await fired.wait()
            pgq.request_shutdown()
        assert await queries.delete_schedule(entrypoints=["every second"]) == 1
        assert await queries.log_statistics() != []
        assert await queries.delete_expired_logs(3600) == 0
        assert await queries.verify() == []
        await queries.clear_queue()
        await queries.clear_queue_log()
        await queries.clear_statistics_log()
        for change in (queries.uninstall, queries.optimize_autovacuum):
            with pytest.raises(StoreError, match="must be owner"):
                await change()
    refused(role, dsn, settings, *DDL)


async def test_producer(dsn: str, role: str, settings: Settings) -> None:
    grant(role, dsn, settings, "producer")
    async with opened(dsn, role, settings) as pgq:
        queries = pgq.queries
        [job_id] = await queries.enqueue("e", b"secret", dedupe_key="k", headers={"h": 1})
        with pytest.raises(DuplicateJobError):
            await queries.enqueue("e", dedupe_key="k")
        assert await queries.enqueue("e", dedupe_key="k", on_conflict="skip") == [None]
        assert await queries.enqueue(
            "e", priority=5, dedupe_key="k", on_conflict="update_priority"
        ) == [job_id]
        assert await queries.job_status([job_id]) == [(job_id, "queued")]
        owner = OWNER.format(role.rsplit(maxsplit=1)[1])
        async with opened(dsn, owner, settings) as somebody, anyio.create_task_group() as tasks:

            async def wait() -> None:
                assert await queries.wait_for(ended) == "canceled"

            [ended] = await queries.enqueue("e")
            tasks.start_soon(wait)
            await somebody.queries.mark_job_as_cancelled(ended)
        for forbidden in (
            queries.clear_queue,
            queries.clear_queue_log,
            queries.browse_queue,
            queries.queue_log,
            queries.clear_schedule,
            partial(queries.mark_job_as_cancelled, job_id),
            partial(queries.requeue_jobs, job_id),
        ):
            with pytest.raises(StoreError, match="permission denied"):
                await forbidden()

        @pgq.entrypoint("e")
        async def never(job: Job) -> None:
            raise AssertionError

        with pytest.raises(StoreError, match="permission denied"):
            await pgq.run(mode="drain")
    refused(
        role,
        dsn,
        settings,
        *DDL,
        "SELECT payload FROM {queue_table}",
        "SELECT headers FROM {queue_table}",
        "SELECT traceback FROM {queue_table_log}",
        "UPDATE {queue_table} SET status = 'picked'",
        "UPDATE {queue_table_log} SET aggregated = true",
        "DELETE FROM {queue_table}",
        "DELETE FROM {queue_table_log}",
        "SELECT FROM {schedules_table}",
        "INSERT INTO {schedules_table} (expression, entrypoint) VALUES ('* * * * *', 'x')",
        "SELECT FROM {statistics_table}",
    )


async def test_monitor(dsn: str, role: str, settings: Settings) -> None:
    owner = OWNER.format(role.rsplit(maxsplit=1)[1])
    grant(role, dsn, settings, "monitor")
    async with opened(dsn, owner, settings) as pgq:
        [job_id] = await pgq.queries.enqueue("e")
    async with opened(dsn, role, settings) as pgq:
        queries = pgq.queries
        assert [row.count for row in await queries.queue_size()] == [1]
        assert len(await queries.queue_log()) == 1
        assert await queries.job_status([job_id]) == [(job_id, "queued")]
        assert [job.id for job in await queries.browse_queue()] == [job_id]
        assert len(await queries.queue_age()) == 1
        assert await queries.list_failed_jobs() == []
        assert await queries.peek_schedule() == []
        assert await queries.active_workers() == []
        assert await queries.stale_jobs(30) == []
        assert await queries.job_duration_percentiles(60) == []
        assert len(await queries.schema_info()) == 4
        assert await queries.verify() == []
        for forbidden in (
            partial(queries.enqueue, "e"),
            queries.clear_queue,
            queries.clear_schedule,
            queries.aggregate_logs,
            partial(queries.mark_job_as_cancelled, job_id),
        ):
            with pytest.raises(StoreError, match="permission denied"):
                await forbidden()
    refused(
        role,
        dsn,
        settings,
        *DDL,
        "INSERT INTO {queue_table} (priority, status, entrypoint) VALUES (0, 'queued', 'e')",
        "UPDATE {queue_table} SET priority = 1",
        "DELETE FROM {queue_table_log}",
        "UPDATE {schedules_table} SET next_run = now()",
        "DELETE FROM {statistics_table}",
    )


async def test_without_grants_there_is_nothing(dsn: str, role: str, settings: Settings) -> None:
    async with opened(dsn, role, settings) as pgq:
        with pytest.raises(StoreError, match="permission denied"):
            await pgq.queries.queue_size()


@pytest.mark.parametrize("duty", get_args(Duty))
def test_the_documentation_has_the_exact_grants(duty: Duty) -> None:
    page = Path(__file__).parents[2].joinpath("docs", "how-to", "schema.md").read_text("utf-8")
    statements = grant_statements(Settings(schema="jobs"), duty, f"app_{duty}")
    assert "```sql\n" + "".join(f"{text};\n" for text in statements) + "```\n" in page


@pytest.mark.parametrize("role", ["", "nul\x00", "x" * 64])
def test_names_that_no_role_can_have(role: str) -> None:
    with pytest.raises(ValueError, match="role"):
        grant_statements(Settings(), "worker", role)


def test_an_unknown_duty() -> None:
    with pytest.raises(ValueError, match="one of worker, producer, monitor, got 'boss'"):
        grant_statements(Settings(), "boss", "x")  # type: ignore[arg-type]
