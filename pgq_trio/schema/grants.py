"""What a role needs to work with the queue, and nothing more; texts of SQL, run elsewhere.

Creating, changing and dropping objects stays with their owner.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from pgq_trio.model.names import check_identifier, quote_identifier, quote_literal
from pgq_trio.schema.declaration import TABLES
from pgq_trio.schema.objects import do_block, regclass, table_name
from pgq_trio.settings import Settings, Table

__all__ = ["Duty", "grant_statements"]

#: What a role is for.
Duty: TypeAlias = Literal["worker", "producer", "monitor"]

_ALL = "SELECT, INSERT, UPDATE, DELETE"

#: The privileges of each duty on each table. A producer sees what decides on duplicates and on the
#: state of a job, but no payload, and of a job that is there it may only raise the priority.
_PRIVILEGES: dict[Duty, dict[Table, str]] = {
    "worker": {
        "queue_table": _ALL,
        "queue_table_log": _ALL,
        "statistics_table": _ALL,
        "schedules_table": _ALL,
    },
    "producer": {
        "queue_table": (
            "INSERT, SELECT (id, priority, status, entrypoint, dedupe_key), UPDATE (priority)"
        ),
        "queue_table_log": "INSERT, SELECT (id, job_id, status)",
    },
    "monitor": {
        "queue_table": "SELECT",
        "queue_table_log": "SELECT",
        "statistics_table": "SELECT",
        "schedules_table": "SELECT",
    },
}

_INSERTERS: frozenset[Duty] = frozenset({"worker", "producer"})


def grant_statements(settings: Settings, duty: Duty, role: str) -> list[str]:
    """Return the grants that a role needs for its duty; the owner runs them after `install`.

    Args:
        settings: the names of the objects.
        duty: "worker" runs jobs and schedules and does all that Queries and the command offer but
            for the schema; "producer" enqueues and asks for the state of its jobs; "monitor" reads.
        role: the name of the role, taken as it is.

    Raises:
        ValueError: an unknown duty, or a name that PostgreSQL cannot use.
    """
    if duty not in get_args(Duty):
        raise ValueError(f"the duty is one of {', '.join(get_args(Duty))}, got {duty!r}")
    name = quote_identifier(check_identifier(role, "role"))
    privileges = _PRIVILEGES[duty]
    statements = [_schema_usage(settings, name)]
    for table in TABLES:
        if table.key in privileges:
            on = f"ON {table_name(table, settings)} TO {name}"
            statements.append(f"GRANT {privileges[table.key]} {on}")
            if duty in _INSERTERS:
                statements.append(_sequence_usage(table_name(table, settings), name))
    return statements


def _schema_usage(settings: Settings, role: str) -> str:
    if settings.schema:
        return f"GRANT USAGE ON SCHEMA {quote_identifier(settings.schema)} TO {role}"
    queue = regclass(settings.qualified(settings.queue_table))
    return do_block(
        "EXECUTE 'GRANT USAGE ON SCHEMA ' || relnamespace::regnamespace::text"
        f" || {_to(role)} FROM pg_catalog.pg_class WHERE oid = {queue}"
    )


def _sequence_usage(table: str, role: str) -> str:
    name = quote_literal(table).strip()
    return do_block(
        "EXECUTE 'GRANT USAGE ON SEQUENCE ' ||"
        f" pg_catalog.pg_get_serial_sequence({name}, 'id') || {_to(role)}"
    )


def _to(role: str) -> str:
    return quote_literal(f" TO {role}").strip()
