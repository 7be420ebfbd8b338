"""What the tests of upgrades share: installing, asking, and looking at the catalog."""

from __future__ import annotations

from typing import Any

from pgq_trio.client.queries import Queries
from pgq_trio.db import PsycopgDriver
from pgq_trio.postgres import ConnectionPool
from pgq_trio.schema import install_statements, script
from pgq_trio.settings import Settings
from tests.schema import pgqueuers
from tests.schema.test_catalog import COLUMNS, CONSTRAINTS, INDEXES, LABELS, SEQUENCES, TRIGGERS

#: What `verify` says where an upgrade mends.
UPGRADE = "`pgq-trio upgrade`"


def install(dsn: str, settings: Settings | None = None) -> None:
    pgqueuers.fetch(dsn, script(install_statements(settings or Settings())))


def queries_of(pool: ConnectionPool[Any], settings: Settings | None = None) -> Queries:
    return Queries(PsycopgDriver(pool), settings=settings)


def catalog(dsn: str) -> list[list[Any]]:
    """All that an upgrade may change, in no certain order."""
    asked = (COLUMNS, LABELS, CONSTRAINTS, SEQUENCES, INDEXES, TRIGGERS)
    return [pgqueuers.fetch(dsn, query) for query in asked]


def oids(dsn: str) -> list[tuple[Any, ...]]:
    """What would be new if an index or a trigger were made again."""
    return [
        *pgqueuers.fetch(dsn, "SELECT indexrelid FROM pg_index ORDER BY 1"),
        *pgqueuers.fetch(dsn, "SELECT oid FROM pg_trigger ORDER BY 1"),
    ]
