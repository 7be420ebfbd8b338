"""What an upgrade mends and what it does not, all or nothing, whoever else is at it."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from pgqueuer.adapters.persistence.schema_plan import advisory_key
from pgqueuer.domain.settings import DBSettings

from pgq_trio.errors import SchemaDrift, StoreError
from pgq_trio.models import Migration
from pgq_trio.postgres import ConnectionPool, open_pool
from pgq_trio.schema import install_statements, script, upgrade_statements
from pgq_trio.schema.statements import turns_with_pgqueuer
from pgq_trio.settings import Settings
from tests.schema import pgqueuers
from tests.schema.older import fill, take_back
from tests.schema.test_catalog import LABELS
from tests.schema.test_install import CHANGES
from tests.schema.tools import UPGRADE, catalog, install, queries_of


class TestMending:
    @pytest.mark.parametrize("change", CHANGES)
    async def test_verify_names_upgrade_where_it_mends(
        self, installed_dsn: str, change: str
    ) -> None:
        pgqueuers.fetch(installed_dsn, change)
        async with open_pool(installed_dsn) as pool:
            queries = queries_of(pool)
            mendable = [line for line in await queries.verify() if UPGRADE in line]
            assert bool(await queries.upgrade()) == bool(mendable)
            left = await queries.verify()
            assert not set(left) & set(mendable)
            assert not any(UPGRADE in line for line in left)
            assert await queries.plan_upgrade() == []
            if "priority TYPE bigint" in change:
                assert "mend it by hand with ALTER TABLE" in left[0]
            elif "SET UNLOGGED" in change:
                assert "`pgq-trio durability durable`" in left[0]
            elif "ADD VALUE" in change or "RENAME VALUE" in change:
                assert "PostgreSQL cannot take labels away" in left[0]
            else:
                assert left == []

    async def test_labels_that_indexes_use_are_for_hands(
        self, pool: ConnectionPool[Any], dsn: str
    ) -> None:
        install(dsn)
        pgqueuers.fetch(dsn, "ALTER TYPE pgqueuer_status RENAME VALUE 'picked' TO 'taken'")
        [line, *_] = await queries_of(pool).verify()
        assert "by hand with ALTER TYPE" in line

    async def test_states_are_added_in_order(self, pool: ConnectionPool[Any], dsn: str) -> None:
        for statement in install_statements(Settings()):
            pgqueuers.fetch(
                dsn, statement.replace(", ''failed''", "").replace(" ''canceled'',", "")
            )
        assert len(pgqueuers.fetch(dsn, LABELS)) == 5
        [step] = await queries_of(pool).upgrade()
        assert [text.split("'")[1] for text in step.statements] == ["canceled", "failed"]
        assert await queries_of(pool).verify() == []

    async def test_a_half_built_index_is_built_again(
        self, pool: ConnectionPool[Any], dsn: str
    ) -> None:
        install(dsn)
        fill(dsn)
        pgqueuers.fetch(dsn, "DROP INDEX pgqueuer_unique_dedupe_key")
        pgqueuers.fetch(dsn, "UPDATE pgqueuer SET dedupe_key = 'k' WHERE priority <= 2")
        with pytest.raises(Exception, match="could not create unique index"):
            pgqueuers.fetch(
                dsn,
                "CREATE UNIQUE INDEX CONCURRENTLY pgqueuer_unique_dedupe_key ON pgqueuer"
                " (dedupe_key) WHERE status IN ('queued', 'picked') AND dedupe_key IS NOT NULL",
            )
        pgqueuers.fetch(dsn, "UPDATE pgqueuer SET dedupe_key = NULL WHERE priority = 2")
        queries = queries_of(pool)
        [line] = await queries.verify()
        assert "INVALID" in line
        assert UPGRADE in line
        await queries.upgrade()
        assert await queries.verify() == []

    async def test_an_index_of_another_kind(self, pool: ConnectionPool[Any], dsn: str) -> None:
        install(dsn)
        pgqueuers.fetch(dsn, "DROP INDEX pgqueuer_ep_ea_idx")
        pgqueuers.fetch(dsn, "CREATE INDEX pgqueuer_ep_ea_idx ON pgqueuer USING hash (entrypoint)")
        assert len(await queries_of(pool).verify()) == 1
        await queries_of(pool).upgrade()
        assert await queries_of(pool).verify() == []

    async def test_another_primary_key_is_for_hands(
        self, pool: ConnectionPool[Any], dsn: str
    ) -> None:
        install(dsn)
        pgqueuers.fetch(dsn, "ALTER TABLE pgqueuer_log DROP CONSTRAINT pgqueuer_log_pkey")
        pgqueuers.fetch(dsn, "ALTER TABLE pgqueuer_log ADD PRIMARY KEY (id, created)")
        assert await queries_of(pool).upgrade() == []
        [line] = await queries_of(pool).verify()
        assert "drop that by hand, then `pgq-trio upgrade`" in line

    @pytest.mark.parametrize("installed_by", ["pgqueuer", "pgq-trio"])
    async def test_the_function_changes_only_for_another_channel(
        self, pool: ConnectionPool[Any], dsn: str, installed_by: str
    ) -> None:
        if installed_by == "pgqueuer":
            await anyio.to_thread.run_sync(pgqueuers.install, dsn)
        else:
            install(dsn)
        source = "SELECT prosrc FROM pg_proc WHERE proname = 'fn_pgqueuer_changed'"
        before = pgqueuers.fetch(dsn, source)
        assert await queries_of(pool).upgrade() == []
        assert pgqueuers.fetch(dsn, source) == before
        other = queries_of(pool, Settings(channel="other"))
        [step] = await other.upgrade()
        assert len(step.statements) == 1
        assert await other.verify() == []
        assert pgqueuers.fetch(dsn, source) != before

    async def test_ids_may_stay_narrow(self, pool: ConnectionPool[Any], dsn: str) -> None:
        install(dsn)
        take_back(dsn, "ancient")
        queries = queries_of(pool)
        plan = await queries.plan_upgrade(widen_ids=False)
        assert 4 not in [step.number for step in plan]
        assert await queries.apply_upgrade(widen_ids=False) == plan
        narrow = await queries.verify()
        assert len(narrow) == 5
        assert all("integer" in line and UPGRADE in line for line in narrow)
        pgqueuers.fetch(dsn, script(upgrade_statements(Settings(), widen_ids=False)))
        assert await queries.verify() == narrow
        assert [step.number for step in await queries.upgrade()] == [4]
        assert await queries.verify() == []

    async def test_durability_is_left_alone(self, pool: ConnectionPool[Any], dsn: str) -> None:
        install(dsn, Settings(durability="volatile"))
        take_back(dsn, "1.3")
        queries = queries_of(pool)
        await queries.upgrade()
        assert all("`pgq-trio durability durable`" in line for line in await queries.verify())
        pgqueuers.fetch(dsn, script(upgrade_statements(Settings())))
        assert await queries_of(pool, Settings(durability="volatile")).verify() == []


class TestAllOrNothing:
    @pytest.mark.parametrize(
        ("harm", "step", "detail"),
        [
            (
                (
                    "DROP INDEX pgqueuer_unique_dedupe_key;"
                    "UPDATE pgqueuer SET dedupe_key = 'taken' WHERE priority < 3"
                ),
                "step 7 of the upgrade",
                "(dedupe_key)=(taken) is duplicated",
            ),
            (
                (
                    "ALTER TABLE pgqueuer ALTER updated DROP NOT NULL;"
                    "UPDATE pgqueuer SET updated = NULL WHERE priority = 3"
                ),
                "step 5 of the upgrade",
                "contains null values",
            ),
            (
                "ALTER TABLE pgqueuer DROP COLUMN priority",
                "step 3 of the upgrade",
                "contains null values",
            ),
        ],
    )
    async def test_rows_in_the_way_are_named_and_nothing_changes(
        self, pool: ConnectionPool[Any], dsn: str, harm: str, step: str, detail: str
    ) -> None:
        install(dsn)
        fill(dsn)
        take_back(dsn, "1.3")
        pgqueuers.fetch(dsn, harm)
        before = catalog(dsn)
        with pytest.raises(StoreError) as caught:
            await queries_of(pool).upgrade()
        for text in (step, detail, "nothing was changed", UPGRADE):
            assert text in str(caught.value)
        assert catalog(dsn) == before

    async def test_install_on_older_tables_says_upgrade(
        self, pool: ConnectionPool[Any], dsn: str
    ) -> None:
        install(dsn)
        take_back(dsn, "1.3")
        with pytest.raises(SchemaDrift, match=UPGRADE):
            await queries_of(pool).install()

    async def test_cancelled_it_is_done_or_not_done(
        self, pool: ConnectionPool[Any], dsn: str
    ) -> None:
        install(dsn)
        take_back(dsn, "1.3")
        before = catalog(dsn)
        async with pool.connection() as other, other.transaction():
            await other.execute("LOCK TABLE pgqueuer IN ACCESS SHARE MODE")
            with anyio.move_on_after(0.2) as scope:
                await queries_of(pool).upgrade()
        assert scope.cancelled_caught
        assert catalog(dsn) == before
        await queries_of(pool).upgrade()
        assert await queries_of(pool).verify() == []


class TestAtTheSameTime:
    async def test_one_does_it_and_the_others_find_it_done(
        self, pool: ConnectionPool[Any], dsn: str
    ) -> None:
        install(dsn)
        take_back(dsn, "1.3")
        results: list[list[Migration]] = []

        async def upgrade() -> None:
            results.append(await queries_of(pool).upgrade())

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(upgrade)
        assert sorted(bool(result) for result in results) == [False] * 7 + [True]
        assert await queries_of(pool).verify() == []

    async def test_a_worker_and_an_upgrade_never_wait_for_each_other(
        self, pool: ConnectionPool[Any], dsn: str
    ) -> None:
        install(dsn)
        pgqueuers.fetch(dsn, "ALTER TABLE pgqueuer_log DROP COLUMN aggregated")  # mended first
        pgqueuers.fetch(dsn, "DROP INDEX pgqueuer_ep_ea_idx")
        waiting = "SELECT FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks, pool.connection() as worker:
                await worker.execute("LOCK TABLE pgqueuer IN ROW EXCLUSIVE MODE")
                tasks.start_soon(queries_of(pool).upgrade)
                async with pool.connection() as watcher:
                    while (await watcher.execute(waiting)).rowcount == 0:
                        await anyio.lowlevel.checkpoint()
                await worker.execute("LOCK TABLE pgqueuer_log IN ROW EXCLUSIVE MODE")
                await worker.commit()
        assert await queries_of(pool).verify() == []

    async def test_beside_installs(self, pool: ConnectionPool[Any]) -> None:
        queries = queries_of(pool, Settings(schema="s"))
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(queries.upgrade)
                tasks.start_soon(queries.install)
        assert await queries.verify() == []

    @pytest.mark.parametrize(
        "names", [{}, {"prefix": "p_"}, {"schema": "s", "prefix": "p_"}, {"queue_table": "own"}]
    )
    def test_the_lock_is_pgqueuers_too(self, names: dict[str, str]) -> None:
        theirs = {"db_schema" if key == "schema" else key: names[key] for key in names}
        key = advisory_key(DBSettings(**theirs))  # type: ignore[arg-type]
        assert turns_with_pgqueuer(Settings(**names)).endswith(f"({key})")  # type: ignore[arg-type]
