"""Frozen settings, and the only reader of environment variables.

What is not given as an argument is read from PgQueuer's variables, then falls back to PgQueuer's
default, so that both packages pointed at one database find the same objects.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal, Self, cast, get_args

from pgq_trio.model.durations import Duration
from pgq_trio.model.enqueue import checked_text
from pgq_trio.model.names import check_identifier, fold, quote_identifier
from pgq_trio.model.retention import FOREVER, Retention, as_retention
from pgq_trio.types import Durability, History

__all__ = ["FOREVER", "Retention", "Settings", "default_dsn", "environment"]

_ENVIRONMENT_PREFIX = "PGQUEUER_"

Table = Literal["queue_table", "queue_table_log", "statistics_table", "schedules_table"]

#: Tables that each durability leaves UNLOGGED: fast, and empty after a crash of the server.
UNLOGGED: dict[Durability, frozenset[Table]] = {
    "durable": frozenset(),
    "balanced": frozenset({"queue_table_log", "statistics_table"}),
    "volatile": frozenset(get_args(Table)),
}


def default_dsn() -> str:
    """Return PGQUEUER_DSN, else PGDSN, else "", which means libpq's own PG* variables."""
    return os.environ.get("PGQUEUER_DSN") or os.environ.get("PGDSN") or ""


def environment(**options: str | None) -> dict[str, str]:
    """Return the variables that hand connection options on to a program or a factory.

    Args:
        **options: dsn, prefix, schema; those that are None are left out.
    """
    return {_ENVIRONMENT_PREFIX + k.upper(): v for k, v in options.items() if v is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where the objects of the queue are and how they are kept.

    An empty string means "not given": the variable of the same name with PGQUEUER_ in front,
    then the default behind the prefix. Plain names are folded to lower case as PostgreSQL folds
    PgQueuer's unquoted names; any other name is taken as it is and quoted.

    Attributes:
        prefix: stands in front of every name that is not given.
        schema: PostgreSQL schema of all objects; empty means the connection's search path.
        channel: the channel of notifications, never schema-qualified.
        durability: which tables are logged: "durable" all, "balanced" the queue and the
            schedules, "volatile" none.
        history: "full" writes queued, picked and outcome rows; "outcomes" only the last.
        listen_dsn: where to LISTEN when the main target is a pooler that cannot; None: the target.
        retention: how long log rows are kept, a `timedelta` (or seconds) for all or a `Retention`
            by state; workers delete what is older. None: for ever.

    Raises:
        ValueError: a name PostgreSQL cannot use, an unknown durability or history, or a negative
            retention.
        TypeError: a retention that is neither a duration nor a `Retention`.
    """

    prefix: str = ""
    schema: str = ""
    channel: str = ""
    function: str = ""
    trigger: str = ""
    queue_status_type: str = ""
    queue_table: str = ""
    queue_table_log: str = ""
    statistics_table: str = ""
    schedules_table: str = ""
    durability: Durability | Literal[""] = ""
    history: History = "full"
    listen_dsn: str | None = None
    retention: Retention | Duration | None = None

    _DEFAULT_NAMES: ClassVar[dict[str, str]] = {
        "channel": "ch_pgqueuer",
        "function": "fn_pgqueuer_changed",
        "trigger": "tg_pgqueuer_changed",
        "queue_status_type": "pgqueuer_status",
        "queue_table": "pgqueuer",
        "queue_table_log": "pgqueuer_log",
        "statistics_table": "pgqueuer_statistics",
        "schedules_table": "pgqueuer_schedules",
    }

    def __post_init__(self) -> None:
        for name in ("prefix", "schema", *self._DEFAULT_NAMES):
            checked_text(name, getattr(self, name))
        prefix = self.prefix or _read("prefix")
        object.__setattr__(self, "prefix", prefix)
        object.__setattr__(self, "schema", fold(self.schema or _read("schema")))
        if self.schema:
            check_identifier(self.schema, "schema")
        for name, default in self._DEFAULT_NAMES.items():
            value = cast("str", getattr(self, name)) or _read(name) or prefix + default
            if name != "channel":  # a channel is compared as a text, never folded
                value = fold(value)
            object.__setattr__(self, name, _check_name(name, value))
        durability = self.durability or _read("durability") or "durable"
        object.__setattr__(self, "durability", _check_choice("durability", durability, Durability))
        _check_choice("history", self.history, History)
        as_retention(self.retention)

    def with_changes(self, **changes: object) -> Self:
        """Return settings that differ in some fields; names derived from a prefix follow it."""
        if "prefix" in changes:
            changes = dict.fromkeys(self._DEFAULT_NAMES, "") | changes
        return replace(self, **changes)  # type: ignore[arg-type]

    def qualified(self, name: str) -> str:
        """Return a name as SQL text: quoted, behind the schema when there is one."""
        return quote_identifier(self.schema, name) if self.schema else quote_identifier(name)

    def index(self, table: Table, suffix: str) -> str:
        """Return the bare name of one of a table's indexes."""
        return f"{getattr(self, table)}_{suffix}"

    def is_unlogged(self, table: Table) -> bool:
        """Whether this durability keeps the table out of the write-ahead log."""
        return table in UNLOGGED[cast("Durability", self.durability)]

    def sql_names(self) -> dict[str, str]:
        """Return every name that statements refer to, as SQL text."""
        names = {f.name for f in fields(self)} & self._DEFAULT_NAMES.keys() - {"channel", "trigger"}
        return {name: self.qualified(cast("str", getattr(self, name))) for name in names}


#: The longest name that is derived from each table's: that of an index, ours or PgQueuer's.
_LONGEST_SUFFIX: dict[str, str] = {
    "queue_table": "_queue_manager_id_idx",
    "queue_table_log": "_not_aggregated",
    "statistics_table": "_unique_count",
    "schedules_table": "",  # PostgreSQL makes and shortens the name of its key
}


def _read(name: str) -> str:
    return os.environ.get(_ENVIRONMENT_PREFIX + name.upper(), "")


def _check_name(field: str, value: str) -> str:
    if "." in value and field != "channel":
        raise ValueError(
            f"{field} {value!r} holds a dot; give the PostgreSQL schema as schema= "
            "or PGQUEUER_SCHEMA"
        )
    check_identifier(value, field)
    if field in _LONGEST_SUFFIX:
        check_identifier(value + _LONGEST_SUFFIX[field], f"longest index name of {field}")
    return value


def _check_choice(field: str, value: str, choices: object) -> str:
    allowed = get_args(choices)
    if value not in allowed:
        raise ValueError(f"{field} is one of {', '.join(allowed)}, got {value!r}")
    return value
