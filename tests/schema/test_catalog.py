"""Our installation and PgQueuer's, side by side in two databases."""

from __future__ import annotations

import pytest
from pgqueuer.qm import QueueManager as PgQueuersManager
from pgqueuer.queries import Queries

from pgq_trio.db import PsycopgDriver
from pgq_trio.postgres import open_pool
from pgq_trio.schema import install_statements
from pgq_trio.settings import Settings
from pgq_trio.types import Durability
from tests.schema import pgqueuers
from tests.servers import MakeDsn

COLUMNS = """
    SELECT c.relname, c.relpersistence, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod),
        a.attnotnull, a.attidentity, pg_get_expr(d.adbin, d.adrelid)
    FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
    ORDER BY c.relname, a.attnum"""
LABELS = """
    SELECT t.typname, e.enumlabel FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid
    ORDER BY t.typname, e.enumsortorder"""
CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND contype IN ('p', 'u') ORDER BY 1, 2"""
INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
SEQUENCES = "SELECT sequencename, data_type::text FROM pg_sequences ORDER BY 1"
TRIGGERS = "SELECT tgname, tgrelid::regclass::text, tgfoid::regproc::text FROM pg_trigger"

#: PgQueuer's indexes that no statement of ours uses.
LEFT_OUT = {
    "pgqueuer_priority_id_id1_idx",
    "pgqueuer_updated_id_id1_idx",
    "pgqueuer_log_not_aggregated",
    "pgqueuer_log_created",
    "pgqueuer_log_status",
}


@pytest.fixture
def theirs(make_dsn: MakeDsn) -> str:
    dsn = make_dsn()
    pgqueuers.install(dsn)
    return dsn


class TestSideBySide:
    @pytest.mark.parametrize("query", [COLUMNS, LABELS, CONSTRAINTS, SEQUENCES, TRIGGERS])
    def test_the_same(self, installed_dsn: str, theirs: str, query: str) -> None:
        ours = pgqueuers.fetch(installed_dsn, query)
        assert ours == pgqueuers.fetch(theirs, query)
        assert ours

    def test_the_indexes_are_the_same_but_for_those_left_out(
        self, installed_dsn: str, theirs: str
    ) -> None:
        ours = dict(pgqueuers.fetch(installed_dsn, INDEXES))
        expected = dict(pgqueuers.fetch(theirs, INDEXES))
        assert expected.keys() >= LEFT_OUT
        assert ours == {name: text for name, text in expected.items() if name not in LEFT_OUT}

    @pytest.mark.parametrize("durability", ["volatile", "balanced", "durable"])
    def test_durability(self, make_dsn: MakeDsn, durability: Durability) -> None:
        ours, theirs = make_dsn(), make_dsn()
        for statement in install_statements(Settings(durability=durability)):
            pgqueuers.fetch(ours, statement)
        pgqueuers.install(theirs, durability)
        assert pgqueuers.fetch(ours, COLUMNS) == pgqueuers.fetch(theirs, COLUMNS)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestPgQueuerOnOurs:
    async def test_its_check_of_the_structure_passes(self, installed_dsn: str) -> None:
        async def check(queries: Queries) -> None:
            manager = PgQueuersManager(queries)
            await manager.verify_structure()

        await pgqueuers.with_queries(installed_dsn, check)

    async def test_its_upgrade_leaves_us_working(self, installed_dsn: str) -> None:
        await pgqueuers.with_queries(installed_dsn, lambda queries: queries.upgrade())
        async with open_pool(installed_dsn) as pool:
            schema = PsycopgDriver(pool).backend(Settings()).schema
            assert await schema.missing() == []
            assert await schema.verify() == []


async def test_a_pgqueuer_install_will_do(theirs: str) -> None:
    async with open_pool(theirs) as pool:
        schema = PsycopgDriver(pool).backend(Settings()).schema
        assert await schema.missing() == []
        assert await schema.verify() == []
        before = pgqueuers.fetch(theirs, INDEXES)
        await schema.install()  # nothing to add
        assert pgqueuers.fetch(theirs, INDEXES) == before
        await schema.uninstall()
        assert pgqueuers.fetch(theirs, COLUMNS) == []
        assert pgqueuers.fetch(theirs, LABELS) == []
