"""The objects of the queue as data, in PostgreSQL's own spelling; knows no connection.

The spelling is `pg_catalog`'s (`timestamp with time zone`, parenthesised predicates), so that the
same text creates an object and compares with the installed one. `{status}` stands for the enum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pgq_trio.settings import Settings, Table as TableKey

#: Labels of the status enum, in PgQueuer's order: it is the order in which they sort.
STATUS_LABELS = ("queued", "picked", "successful", "exception", "canceled", "deleted", "failed")

_TIME = "timestamp with time zone"
_QUEUED = "WHERE (status = 'queued'::{status})"
_PICKED = "WHERE (status = 'picked'::{status})"

#: What a bigserial column needs a sequence for, and an identity column brings along.
ColumnKind = Literal["plain", "serial", "identity"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column; `run` cannot do without the `required` ones of a table it uses."""

    name: str
    type: str
    not_null: bool = True
    default: str | None = None
    kind: ColumnKind = "plain"


@dataclass(frozen=True, slots=True)
class TableObject:
    """A table with its primary key `id`; `key` is the settings' field that names it."""

    key: TableKey
    columns: tuple[Column, ...]
    unique: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IndexObject:
    """An index named after its table; `run` cannot do without the `required` ones."""

    table: TableKey
    suffix: str
    body: str
    unique: bool = False
    required: bool = False

    def name(self, settings: Settings) -> str:
        """Return the bare name of the index."""
        return settings.index(self.table, self.suffix)


_ID = Column("id", "bigint", kind="serial")
_STATUS = Column("status", "{status}")
_ENTRYPOINT = Column("entrypoint", "text")
_PRIORITY = Column("priority", "integer")


def _time(name: str) -> Column:
    return Column(name, _TIME, default="now()")


TABLES: tuple[TableObject, ...] = (
    TableObject(
        "queue_table",
        (
            _ID,
            _PRIORITY,
            Column("queue_manager_id", "uuid", not_null=False),
            _time("created"),
            _time("updated"),
            _time("heartbeat"),
            _time("execute_after"),
            _STATUS,
            _ENTRYPOINT,
            Column("dedupe_key", "text", not_null=False),
            Column("payload", "bytea", not_null=False),
            Column("headers", "jsonb", not_null=False),
            Column("attempts", "integer", default="0"),
            Column("slot", "bigint", not_null=False),
        ),
    ),
    TableObject(
        "queue_table_log",
        (
            Column("id", "bigint", kind="identity"),
            _time("created"),
            Column("job_id", "bigint"),
            _STATUS,
            _PRIORITY,
            _ENTRYPOINT,
            Column("traceback", "jsonb", not_null=False),
            Column("aggregated", "boolean", not_null=False, default="false"),
        ),
    ),
    TableObject(
        "statistics_table",
        (
            _ID,
            Column("created", _TIME, default="date_trunc('sec'::text, now())"),
            Column("count", "bigint"),
            _PRIORITY,
            _STATUS,
            _ENTRYPOINT,
        ),
    ),
    TableObject(
        "schedules_table",
        (
            _ID,
            Column("expression", "text"),
            _ENTRYPOINT,
            _time("heartbeat"),
            _time("created"),
            _time("updated"),
            _time("next_run"),
            Column("last_run", _TIME, not_null=False),
            Column("status", "{status}", not_null=False, default="'queued'::{status}"),
        ),
        unique=("expression", "entrypoint"),
    ),
)

#: PgQueuer declares five more, which no statement of this package uses; without them a job costs
#: 10-15 % less (measured), and PgQueuer's own check of the structure still passes.
INDEXES: tuple[IndexObject, ...] = (
    IndexObject(
        "queue_table",
        "ep_prio_id_idx",
        f"USING btree (entrypoint, priority DESC, id) {_QUEUED}",
    ),
    IndexObject("queue_table", "ep_ea_idx", f"USING btree (entrypoint, execute_after) {_QUEUED}"),
    IndexObject("queue_table", "picked_heartbeat_idx", f"USING btree (heartbeat) {_PICKED}"),
    IndexObject(
        "queue_table",
        "queue_manager_id_idx",
        "USING btree (queue_manager_id) WHERE (queue_manager_id IS NOT NULL)",
    ),
    IndexObject(
        "queue_table",
        "unique_dedupe_key",
        "USING btree (dedupe_key) WHERE ((status = ANY (ARRAY['queued'::{status},"
        " 'picked'::{status}])) AND (dedupe_key IS NOT NULL))",
        unique=True,
        required=True,
    ),
    IndexObject(
        "queue_table",
        "picked_slot_idx",
        "USING btree (entrypoint, slot)"
        " WHERE ((status = 'picked'::{status}) AND (slot IS NOT NULL))",
        unique=True,
        required=True,
    ),
    # PgQueuer's workers refuse to run without it, and the state of a job is looked up by it.
    IndexObject("queue_table_log", "job_id_status", "USING btree (job_id, created DESC)"),
    IndexObject(
        "statistics_table",
        "unique_count",
        "USING btree (priority, date_trunc('sec'::text, timezone('UTC'::text, created)),"
        " status, entrypoint)",
        unique=True,
    ),
)
