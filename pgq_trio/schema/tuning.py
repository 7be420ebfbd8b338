"""How the tables are kept: logged or not, and when autovacuum comes; texts of SQL, run elsewhere.

The storage parameters are PostgreSQL's own, see "Storage Parameters" of its CREATE TABLE.
"""

from __future__ import annotations

from collections.abc import Mapping

from pgq_trio.schema.declaration import TABLES
from pgq_trio.schema.found import Found
from pgq_trio.schema.objects import table_name
from pgq_trio.settings import Settings, Table

__all__ = ["autovacuum_statements", "durability_statements"]

#: Rows that come and go: a job costs one insert, at least two updates and a delete, and none of
#: the updates stays on its page (HOT), since status and heartbeat are indexed.
_QUEUE: Mapping[str, str] = {
    # By default a fifth of the table has to be dead. With a backlog of a million jobs claims would
    # wade through the dead entries of 200 000 jobs at the head of their index.
    "autovacuum_vacuum_scale_factor": "0.01",
    "autovacuum_vacuum_threshold": "1000",
    # A queue of ten rows is one of a hundred thousand a minute later; plans follow the statistics.
    "autovacuum_analyze_scale_factor": "0.02",
    "autovacuum_analyze_threshold": "500",
    # The table is small and mostly cached: being done soon matters more than being gentle.
    "autovacuum_vacuum_cost_delay": "0",
    # The space is needed again at once; giving it back takes an ACCESS EXCLUSIVE lock.
    "vacuum_truncate": "off",
}

#: Few rows that are updated for ever, in columns that no index has: with room on the page the
#: updates stay there (HOT) and the index does not grow.
_SCHEDULES: Mapping[str, str] = {
    "autovacuum_vacuum_scale_factor": "0",
    "autovacuum_vacuum_threshold": "500",
    "autovacuum_analyze_scale_factor": "0",
    "autovacuum_analyze_threshold": "500",
    "autovacuum_vacuum_cost_delay": "0",
    "fillfactor": "50",
}

#: Rows that are appended, touched once by the folding and deleted by age. A fifth of a table that
#: grows for ever is more each time; smaller and more frequent rounds at the usual gentle pace.
_HISTORY: Mapping[str, str] = {
    "autovacuum_vacuum_scale_factor": "0.05",
    "autovacuum_vacuum_threshold": "10000",
    "autovacuum_analyze_scale_factor": "0.02",
    "autovacuum_analyze_threshold": "10000",
}

_PARAMETERS: Mapping[Table, Mapping[str, str]] = {
    "queue_table": _QUEUE,
    "queue_table_log": _HISTORY,
    "statistics_table": _HISTORY,
    "schedules_table": _SCHEDULES,
}

#: What PgQueuer's own tuning sets beside these; taking back means both.
_PGQUEUERS = ("autovacuum_vacuum_cost_limit", "fillfactor")


def autovacuum_statements(settings: Settings, *, rollback: bool = False) -> list[str]:
    """Return the statements that tune autovacuum, or that take it back, PgQueuer's tuning too."""
    statements: list[str] = []
    for table in TABLES:
        parameters = _PARAMETERS[table.key]
        if rollback:
            names = sorted({*parameters, *_PGQUEUERS})
            action = f"RESET ({', '.join(names)})"
        else:
            action = f"SET ({', '.join(f'{name} = {value}' for name, value in parameters.items())})"
        statements.append(f"ALTER TABLE {table_name(table, settings)} {action}")
    return statements


def durability_statements(settings: Settings, found: Found | None = None) -> list[str]:
    """Return the statements that log the tables as the settings say; rows stay.

    Args:
        settings: names and durability.
        found: what is there; then only tables that differ are named. None: all.
    """
    statements: list[str] = []
    for place, table in enumerate(TABLES, 1):
        wanted = "UNLOGGED" if settings.is_unlogged(table.key) else "LOGGED"
        if found is None or found.get(("table", str(place)), wanted) != wanted:
            statements.append(f"ALTER TABLE {table_name(table, settings)} SET {wanted}")
    return statements
