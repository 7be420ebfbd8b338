"""Every object of both installations, side by side: what differs is listed here, by name.

`tests/schema/test_catalog.py` compares columns, keys and indexes under default names; this looks at
the rest of the catalog, at other names, and at what is there after either side has upgraded.
"""

from __future__ import annotations

import asyncio
from typing import TypeAlias

import pytest
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment
from pgqueuer.domain.settings import DBSettings

from pgq_trio import PsycopgDriver, Queries, Settings
from pgq_trio.postgres import open_pool
from pgq_trio.schema import install_statements
from tests.interop.peer import open_peer
from tests.interop.test_installation import objects
from tests.schema import pgqueuers
from tests.schema.test_catalog import LEFT_OUT
from tests.servers import MakeDsn

#: Kind and name of an object, and all that the catalog says about it.
Catalog: TypeAlias = dict[tuple[str, str], str]

#: Our function says the same in other words, and our trigger is silent on what makes no work
#: runnable: DELETE, and UPDATE, on which PgQueuer's is silent as well but is called.
WORDED_OTHERWISE = {
    ("function", "fn_pgqueuer_changed"),
    ("trigger", "tg_pgqueuer_changed"),
}

OBJECTS = """
    SELECT 'column', c.relname || '.' || a.attname, concat_ws(
        ' ', a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
        a.attgenerated, a.attstorage, a.attcollation::regcollation,
        pg_get_expr(d.adbin, d.adrelid))
    FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
    UNION ALL
    SELECT 'relation', relname,
        concat_ws(' ', relkind, relpersistence, relhastriggers, relrowsecurity, reloptions, relacl)
    FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'index', i.indexrelid::regclass::text, concat_ws(
        ' ', pg_get_indexdef(i.indexrelid), i.indisunique, i.indisprimary, i.indisvalid)
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE c.relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'constraint', concat(conrelid::regclass, '.', conname), pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'sequence', sequencename, concat_ws(
        ' ', data_type, start_value, min_value, max_value, increment_by, cycle, cache_size,
        (SELECT refobjid::regclass::text FROM pg_depend
         WHERE objid = format('%I.%I', schemaname, sequencename)::regclass
             AND deptype IN ('a', 'i')))
    FROM pg_sequences WHERE schemaname = 'public'
    UNION ALL
    SELECT 'type', t.typname, string_agg(e.enumlabel, ' ' ORDER BY e.enumsortorder)
    FROM pg_type t JOIN pg_enum e ON e.enumtypid = t.oid GROUP BY t.typname
    UNION ALL
    SELECT 'function', proname, concat_ws(
        ' ', prorettype::regtype, prolang, provolatile, prosecdef, proconfig, prosrc)
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'trigger', tgname, concat_ws(' ', pg_get_triggerdef(oid), tgenabled)
    FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL
    SELECT 'extension', extname, extversion FROM pg_extension
    UNION ALL
    SELECT 'schema', nspname, nspacl::text FROM pg_namespace"""


def catalog(dsn: str) -> Catalog:
    """Everything in a database."""
    return {(kind, name): text for kind, name, text in pgqueuers.fetch(dsn, OBJECTS)}


def with_settings(dsn: str, ours: Settings) -> None:
    """Install ours."""
    for statement in install_statements(ours):
        pgqueuers.fetch(dsn, statement)


def differing(ours: Catalog, theirs: Catalog) -> tuple[set[str], set[tuple[str, str]]]:
    """Names of the objects that one of both lacks, and of those that differ."""
    return (
        {name for _, name in ours.keys() ^ theirs.keys()},
        {key for key in ours.keys() & theirs.keys() if ours[key] != theirs[key]},
    )


def test_all_objects(installed_dsn: str, their_dsn: str) -> None:
    ours, theirs = catalog(installed_dsn), catalog(their_dsn)
    assert ours.keys() < theirs.keys()
    assert differing(ours, theirs) == (LEFT_OUT, WORDED_OTHERWISE)


def test_all_operations_our_trigger_hears_are_theirs(installed_dsn: str, their_dsn: str) -> None:
    operations = {
        name: pgqueuers.fetch(dsn, "SELECT pg_get_triggerdef(oid) FROM pg_trigger")[0][0]
        for name, dsn in (("ours", installed_dsn), ("theirs", their_dsn))
    }
    assert "AFTER INSERT OR TRUNCATE ON" in operations["ours"]
    assert "AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE ON" in operations["theirs"]
    tails = {name: text.split(" ON ")[1] for name, text in operations.items()}
    assert tails["ours"] == tails["theirs"]


def test_other_names(make_dsn: MakeDsn) -> None:
    names = {
        "prefix": "pre_",
        "queue_table": "work",
        "queue_status_type": "state",
        "trigger": "tell",
        "function": "telling",
    }
    ours, theirs = make_dsn(), make_dsn()
    with_settings(ours, Settings(**names))  # type: ignore[arg-type]
    their_settings = DBSettings(**names)  # type: ignore[arg-type]
    pgqueuers.fetch(theirs, QueryBuilderEnvironment(their_settings).build_install_query())
    lacking, different = differing(catalog(ours), catalog(theirs))
    assert lacking == {
        name.replace("pgqueuer_log", "pre_pgqueuer_log")
        if name.startswith("pgqueuer_log")
        else name.replace("pgqueuer", "work")
        for name in LEFT_OUT
    }
    assert different == {("function", "telling"), ("trigger", "tell")}


def upgrade_theirs(dsn: str) -> None:
    """PgQueuer's upgrade."""
    asyncio.run(pgqueuers.with_queries(dsn, lambda queries: queries.apply_upgrade()))


def test_upgraded_by_them_ours_is_theirs_but_for_the_trigger(
    installed_dsn: str, their_dsn: str
) -> None:
    upgrade_theirs(installed_dsn)
    assert differing(catalog(installed_dsn), catalog(their_dsn)) == (
        set(),
        {("trigger", "tg_pgqueuer_changed")},
    )


@pytest.mark.parametrize("anyio_backend", ["trio"])
class TestUpgradedByUs:
    @pytest.fixture(params=["theirs", "ours", "ours, upgraded by them"])
    def database(
        self,
        request: pytest.FixtureRequest,
        installed_dsn: str,
        their_dsn: str,
    ) -> str:
        """An installation of some origin."""
        if request.param == "theirs":
            return their_dsn
        if request.param != "ours":
            upgrade_theirs(installed_dsn)
        return installed_dsn

    async def test_nothing_of_theirs_changes(self, database: str) -> None:
        before = catalog(database)
        async with open_pool(database) as pool:
            await Queries(PsycopgDriver(pool)).upgrade()
        after = catalog(database)
        lost = {key for key in before if before[key] != after.get(key)}
        # What we add is ours: they do not declare it, and their plan leaves it alone.
        assert lost - WORDED_OTHERWISE == set()
        plan = await _plan(database)
        assert set(plan) <= LEFT_OUT | {"fn_pgqueuer_changed"}


async def _plan(dsn: str) -> list[str]:
    """What PgQueuer would create."""
    async with open_peer(dsn) as peer:
        plan = await peer.run(peer.queries.plan_upgrade())
    return sorted(objects("\n".join(plan.statements)))
