"""Upgrading from every older release, by steps and by the text of `sql upgrade`."""

from __future__ import annotations

from typing import Any

import anyio
import psycopg
import pytest

from pgq_trio import PgQueuer
from pgq_trio.client.queries import Queries
from pgq_trio.db import AsyncpgDriver, InMemoryDriver
from pgq_trio.errors import StoreError
from pgq_trio.models import Job
from pgq_trio.postgres import ConnectionPool, open_pool
from pgq_trio.schema import script, upgrade_statements
from pgq_trio.settings import Settings
from tests.schema import pgqueuers
from tests.schema.older import VERSIONS, fill, rows, take_back
from tests.schema.test_install import NAMES
from tests.schema.tools import UPGRADE, catalog, install, oids, queries_of


@pytest.fixture(params=["pgqueuer", "pgq-trio"])
def older_dsn(request: pytest.FixtureRequest, dsn: str) -> str:
    """A database with an installation of today, to be taken back."""
    if request.param == "pgqueuer":
        pgqueuers.install(dsn)
    else:
        install(dsn)
    return dsn


class TestFromOlderReleases:
    @pytest.mark.parametrize("version", VERSIONS)
    async def test_by_steps(self, older_dsn: str, pool: ConnectionPool[Any], version: str) -> None:
        take_back(older_dsn, version)
        fill(older_dsn)
        before = rows(older_dsn)
        queries = queries_of(pool)
        lines = await queries.verify()
        assert all(UPGRADE in line for line in lines)
        assert bool(lines) == (version != "1.6")
        plan = await queries.plan_upgrade()
        applied = await queries.upgrade()
        assert plan == applied
        assert bool(applied) == bool(lines)
        numbers = [step.number for step in applied]
        assert numbers == sorted(set(numbers))
        assert await queries.verify() == []
        assert await queries.upgrade() == await queries.plan_upgrade() == []
        assert rows(older_dsn) == before

    @pytest.mark.parametrize("one_transaction", [True, False])
    @pytest.mark.parametrize("version", VERSIONS)
    async def test_by_text(
        self, older_dsn: str, pool: ConnectionPool[Any], version: str, one_transaction: bool
    ) -> None:
        take_back(older_dsn, version)
        fill(older_dsn)
        before = rows(older_dsn)
        statements = upgrade_statements(Settings())
        # Sent at once, statements are one transaction.
        texts = [script(statements, "a remark")] if one_transaction else statements
        made: list[Any] = []
        for _ in range(2):
            with psycopg.connect(older_dsn, autocommit=True) as connection:
                for text in texts:
                    connection.execute(text.encode())
            assert await queries_of(pool).verify() == []
            assert await queries_of(pool).plan_upgrade() == []
            made.append(oids(older_dsn))
        assert made[0] == made[1]
        assert rows(older_dsn) == before

    @pytest.mark.parametrize("version", VERSIONS)
    async def test_both_ways_lead_to_what_install_makes(
        self, installed_dsn: str, version: str
    ) -> None:
        async with open_pool(installed_dsn) as pool:
            queries = queries_of(pool)
            # New columns come last, so the place of a column in its table may differ.
            wanted = sorted(column[:2] + column[3:] for column in catalog(installed_dsn)[0])
            others = [sorted(part) for part in catalog(installed_dsn)[1:]]
            for by_text in (False, True):
                take_back(installed_dsn, version)
                if by_text:
                    pgqueuers.fetch(installed_dsn, script(upgrade_statements(Settings())))
                else:
                    await queries.upgrade()
                found = catalog(installed_dsn)
                assert sorted(column[:2] + column[3:] for column in found[0]) == wanted
                assert [sorted(part) for part in found[1:]] == others

    @pytest.mark.parametrize("version", VERSIONS)
    async def test_a_worker_runs_what_was_queued_before(self, older_dsn: str, version: str) -> None:
        take_back(older_dsn, version)
        fill(older_dsn)
        done: list[bytes | None] = []
        async with PgQueuer.open(older_dsn) as pgq:
            await pgq.queries.upgrade()

            @pgq.entrypoint("e", concurrency_limit=3)
            async def handler(job: Job) -> None:
                await anyio.lowlevel.checkpoint()
                done.append(job.payload)

            with anyio.fail_after(60):
                await pgq.run(mode="drain")
        assert sorted(done, key=lambda text: int(text or 0)) == [b"%d" % n for n in range(1, 21)]

    @pytest.mark.parametrize("version", [v for v in VERSIONS if v != "ancient"])
    async def test_pgqueuer_has_nothing_left_to_do(
        self, dsn: str, pool: ConnectionPool[Any], version: str
    ) -> None:
        await anyio.to_thread.run_sync(pgqueuers.install, dsn)
        take_back(dsn, version)
        await queries_of(pool).upgrade()
        plan = await anyio.to_thread.run_sync(pgqueuers.plan_upgrade, dsn)
        assert plan == ()

    async def test_from_nothing(self, dsn: str, pool: ConnectionPool[Any]) -> None:
        queries = queries_of(pool)
        await queries.upgrade()
        upgraded = [sorted(part) for part in catalog(dsn)]
        assert await queries.verify() == []
        await queries.uninstall()
        install(dsn)
        assert [sorted(part) for part in catalog(dsn)] == upgraded

    @pytest.mark.parametrize("settings", NAMES, ids=lambda s: f"{s.schema}.{s.queue_table}")
    @pytest.mark.parametrize("by_text", [False, True])
    async def test_whatever_the_names_are(
        self, pool: ConnectionPool[Any], dsn: str, settings: Settings, by_text: bool
    ) -> None:
        queries = queries_of(pool, settings)

        async def upgrade() -> None:
            if by_text:
                await anyio.to_thread.run_sync(
                    pgqueuers.fetch, dsn, script(upgrade_statements(settings))
                )
            else:
                assert await queries.upgrade() != []
            assert await queries.verify() == []
            assert await queries.plan_upgrade() == []

        await upgrade()
        queue = settings.qualified(settings.queue_table)
        index = settings.qualified(settings.index("statistics_table", "unique_count"))
        pgqueuers.fetch(dsn, f"ALTER TABLE {queue} DROP COLUMN slot")
        pgqueuers.fetch(dsn, f"ALTER TABLE {queue} ALTER id TYPE integer")
        pgqueuers.fetch(dsn, f"ALTER TABLE {queue} DISABLE TRIGGER USER")
        pgqueuers.fetch(dsn, f"DROP INDEX {index}")
        await upgrade()
        made = oids(dsn)
        pgqueuers.fetch(dsn, script(upgrade_statements(settings)))
        assert oids(dsn) == made


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_on_asyncpg(dsn: str) -> None:
    install(dsn)
    take_back(dsn, "ancient")
    connection = await pgqueuers.asyncpg_connect(dsn)
    try:
        queries = Queries(AsyncpgDriver(connection))
        assert await queries.plan_upgrade() == await queries.upgrade() != []
        assert await queries.verify() == []
        assert await queries.upgrade() == []
        assert len(await queries.alter_durability("volatile")) == 4
        pgqueuers.fetch(dsn, "INSERT INTO pgqueuer_schedules VALUES (1, 'a', 'b'), (2, 'a', 'c')")
        pgqueuers.fetch(
            dsn, "ALTER TABLE pgqueuer_schedules DROP CONSTRAINT pgqueuer_schedules_pkey"
        )
        pgqueuers.fetch(dsn, "UPDATE pgqueuer_schedules SET id = 1")
        with pytest.raises(StoreError, match=r"step 6 of the upgrade .* is duplicated"):
            await queries.upgrade()
    finally:
        await connection.close()


async def test_in_memory_there_is_nothing_to_do() -> None:
    queries = Queries(InMemoryDriver())
    assert await queries.plan_upgrade() == await queries.apply_upgrade() == []
    assert await queries.plan_durability("volatile") == await queries.alter_durability() == []
    await queries.optimize_autovacuum()
    await queries.optimize_autovacuum_rollback()
    assert await queries.verify() == await queries.verify(expect="absent") == []
