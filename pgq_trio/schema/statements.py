"""The statements that create and drop all objects; they are text, nobody runs them here.

Every statement may be repeated: what is there already is left alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection

from pgq_trio.schema.declaration import INDEXES, TABLES, TableObject
from pgq_trio.schema.objects import (
    create_function,
    create_index,
    create_table,
    create_trigger,
    function_exists,
    guarded_schema,
    guarded_type,
    status_type,
    table_name,
    trigger_exists,
    unless,
)
from pgq_trio.settings import Settings

__all__ = [
    "TAKE_TURNS",
    "install_statements",
    "lock_tables",
    "turns_with_pgqueuer",
    "uninstall_statements",
]

#: Two installations at the same time create the same objects and one of them would fail, whatever
#: IF NOT EXISTS says; so they take turns until the end of their transactions.
TAKE_TURNS = "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('pgq-trio schema'))"


def turns_with_pgqueuer(settings: Settings) -> str:
    """Wait for the end of an upgrade by PgQueuer, and have it wait for ours.

    Its lock is the CRC-32 of the queue table's name as its SQL has it, without quotes.
    """
    queue = settings.queue_table
    name = f"{settings.schema}.{queue}" if settings.schema else queue
    return f"SELECT pg_catalog.pg_advisory_xact_lock({zlib.crc32(name.encode())})"


#: As the statements of workers lock tables: the queue before the rest, and the folding of the log
#: starts with the statistics. Taken in another order, each could wait for the other (a deadlock).
_LOCK_ORDER = ("queue_table", "statistics_table", "queue_table_log", "schedules_table")


def lock_tables(present: Collection[TableObject], settings: Settings) -> str | None:
    """Keep everybody out of the tables that are there before the first of them is changed."""
    tables = sorted(present, key=lambda table: _LOCK_ORDER.index(table.key))
    names = ", ".join(table_name(table, settings) for table in tables)
    return f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE" if names else None


def install_statements(settings: Settings) -> list[str]:
    """Return the statements that create every object; run them in one transaction."""
    return [
        TAKE_TURNS,
        *([guarded_schema(settings)] if settings.schema else []),
        guarded_type(settings),
        *(create_table(table, settings, guard="IF NOT EXISTS ") for table in TABLES),
        *(create_index(index, settings, guard="IF NOT EXISTS ") for index in INDEXES),
        unless(function_exists(settings), create_function(settings)),
        unless(trigger_exists(settings), create_trigger(settings)),
    ]


def uninstall_statements(settings: Settings) -> list[str]:
    """Return the statements that drop every object and its data; run them in one transaction.

    What others built on the objects, such as a view, makes the drop fail instead of going with
    them. The PostgreSQL schema stays: it may hold objects of others.
    """
    return [
        TAKE_TURNS,
        *(f"DROP TABLE IF EXISTS {table_name(table, settings)}" for table in TABLES),
        f"DROP FUNCTION IF EXISTS {settings.qualified(settings.function)}()",
        f"DROP TYPE IF EXISTS {status_type(settings)}",
    ]
