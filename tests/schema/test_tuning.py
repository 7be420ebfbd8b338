"""Durability and autovacuum: what is set, what is kept, and that workers run either way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from pgq_trio import Job, PgQueuer
from pgq_trio.client.queries import Queries
from pgq_trio.db import PsycopgDriver
from pgq_trio.errors import SchemaMissing
from pgq_trio.postgres import ConnectionPool, open_pool
from pgq_trio.schema import durability_statements, script
from pgq_trio.settings import Settings
from pgq_trio.types import Durability
from tests.schema import pgqueuers
from tests.schema.older import fill, rows

KEPT = (
    "SELECT relname::text, relpersistence::text FROM pg_class"
    " WHERE relname ~ '^pgqueuer' AND relkind = 'r' ORDER BY 1"
)
OPTIONS = (
    "SELECT relname::text, reloptions FROM pg_class"
    " WHERE relname ~ '^pgqueuer' AND relkind = 'r' ORDER BY 1"
)
#: The letters of pg_class.relpersistence for queue, log, schedules and statistics.
LETTERS: dict[Durability, str] = {"durable": "pppp", "balanced": "pupu", "volatile": "uuuu"}


@pytest.fixture
async def pool(installed_dsn: str) -> AsyncIterator[ConnectionPool[Any]]:
    async with open_pool(installed_dsn, max_size=8) as pool:
        yield pool


def letters(dsn: str) -> str:
    return "".join(letter for _, letter in pgqueuers.fetch(dsn, KEPT))


def queries_of(pool: ConnectionPool[Any], settings: Settings | None = None) -> Queries:
    return Queries(PsycopgDriver(pool), settings=settings)


class TestDurability:
    async def test_back_and_forth_without_a_loss(
        self, pool: ConnectionPool[Any], installed_dsn: str
    ) -> None:
        fill(installed_dsn)
        before = rows(installed_dsn)
        queries = queries_of(pool)
        ways: list[Durability] = ["balanced", "volatile", "durable", "volatile", "balanced"]
        for durability in ways:
            plan = await queries.plan_durability(durability)
            assert plan
            assert await queries.alter_durability(durability) == plan
            assert letters(installed_dsn) == LETTERS[durability]
            assert rows(installed_dsn) == before
            assert await queries.alter_durability(durability) == []
            assert await queries_of(pool, Settings(durability=durability)).verify() == []
        # The sequence goes on where it was.
        [job_id] = await queries.enqueue("e")
        assert job_id == 21

    async def test_that_of_the_settings(
        self, pool: ConnectionPool[Any], installed_dsn: str
    ) -> None:
        await queries_of(pool, Settings(durability="volatile")).alter_durability()
        assert letters(installed_dsn) == "uuuu"
        await queries_of(pool).alter_durability()
        assert letters(installed_dsn) == "pppp"

    @pytest.mark.parametrize("durability", LETTERS)
    async def test_the_text_does_the_same(self, installed_dsn: str, durability: Durability) -> None:
        for _ in range(2):
            text = script(durability_statements(Settings(durability=durability)))
            pgqueuers.fetch(installed_dsn, text)
            assert letters(installed_dsn) == LETTERS[durability]

    @pytest.mark.parametrize("durability", LETTERS)
    async def test_a_worker_runs_whatever_its_settings_say(
        self, pool: ConnectionPool[Any], installed_dsn: str, durability: Durability
    ) -> None:
        await queries_of(pool).alter_durability("balanced")
        done: list[int] = []
        settings = Settings(durability=durability)
        async with PgQueuer.open(installed_dsn, settings=settings) as pgq:

            @pgq.entrypoint("e")
            async def handler(job: Job) -> None:
                await anyio.lowlevel.checkpoint()
                done.append(job.id)

            ids = await pgq.queries.enqueue(["e"] * 3)
            with anyio.fail_after(60):
                await pgq.run(mode="drain")
        assert sorted(done) == ids
        assert letters(installed_dsn) == "pupu"

    async def test_at_the_same_time(self, pool: ConnectionPool[Any], installed_dsn: str) -> None:
        results: list[list[str]] = []

        async def alter() -> None:
            results.append(await queries_of(pool).alter_durability("volatile"))

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(alter)
        assert sorted(map(len, results)) == [0, 0, 0, 0, 4]

    async def test_bad_arguments(self, pool: ConnectionPool[Any], installed_dsn: str) -> None:
        with pytest.raises(ValueError, match="volatile, balanced, durable, got 'eternal'"):
            await queries_of(pool).alter_durability("eternal")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="'present' or 'absent'"):
            await queries_of(pool).verify(expect="perhaps")  # type: ignore[arg-type]
        pgqueuers.fetch(installed_dsn, "DROP TABLE pgqueuer_statistics")
        with pytest.raises(SchemaMissing, match="table pgqueuer_statistics"):
            await queries_of(pool).alter_durability("volatile")
        assert letters(installed_dsn) == "ppp"


class TestAutovacuum:
    async def test_set_and_taken_back(self, pool: ConnectionPool[Any], installed_dsn: str) -> None:
        queries = queries_of(pool)
        bare = pgqueuers.fetch(installed_dsn, OPTIONS)
        assert all(options is None for _, options in bare)  # `install` leaves it off
        for _ in range(2):
            await queries.optimize_autovacuum()
            found = {
                name: dict(option.split("=") for option in options)
                for name, options in pgqueuers.fetch(installed_dsn, OPTIONS)
            }
            # Dead rows come with jobs, not with the size of the backlog ...
            assert float(found["pgqueuer"]["autovacuum_vacuum_scale_factor"]) <= 0.01
            assert found["pgqueuer"]["autovacuum_vacuum_cost_delay"] == "0"
            assert found["pgqueuer"]["vacuum_truncate"] == "off"
            # ... and the log comes more often than by default, where it is a fifth.
            assert float(found["pgqueuer_log"]["autovacuum_vacuum_scale_factor"]) < 0.2
            assert len(found) == 4
            assert await queries.verify() == []
        await queries.optimize_autovacuum_rollback()
        assert pgqueuers.fetch(installed_dsn, OPTIONS) == bare

    async def test_pgqueuers_tuning_is_taken_back_too(
        self, pool: ConnectionPool[Any], installed_dsn: str
    ) -> None:
        bare = pgqueuers.fetch(installed_dsn, OPTIONS)
        await anyio.to_thread.run_sync(pgqueuers.optimize_autovacuum, installed_dsn)
        assert pgqueuers.fetch(installed_dsn, OPTIONS) != bare
        await queries_of(pool).optimize_autovacuum_rollback()
        assert pgqueuers.fetch(installed_dsn, OPTIONS) == bare

    async def test_without_tables(self, dsn: str) -> None:
        async with open_pool(dsn) as pool:
            with pytest.raises(SchemaMissing):
                await queries_of(pool).optimize_autovacuum()
