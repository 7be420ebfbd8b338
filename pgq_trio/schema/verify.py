"""Compares the declared objects with what the catalog holds; pure, knows no connection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pgq_trio.model.names import quote_literal
from pgq_trio.schema.declaration import INDEXES, STATUS_LABELS, TABLES, Column, TableObject
from pgq_trio.schema.found import (
    Found,
    FoundColumn,
    Key,
    absent_places,
    index_text,
    missing_labels,
)
from pgq_trio.schema.objects import keys_of
from pgq_trio.settings import Settings

__all__ = [
    "TRIGGER",
    "catalog_params",
    "channel_text",
    "differences",
    "leftovers",
    "missing_names",
]

#: The definition of a trigger that wakes workers, as `catalog.sql` gives it.
TRIGGER = "AFTER INSERT"

_INSTALL = "mend it with `pgq-trio install`"
_UPGRADE = "mend it with `pgq-trio upgrade`"
_UNINSTALL = "drop it with `pgq-trio uninstall`"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An object that should be there; `run` cannot do without the `required` ones."""

    key: Key
    name: str
    definition: str
    required: bool
    column: Column | None = None


def catalog_params(settings: Settings) -> list[object]:
    """Return the parameters of `catalog.sql`."""
    return [
        settings.qualified(settings.queue_status_type),
        [settings.qualified(_table_name(table, settings)) for table in TABLES],
        settings.qualified(settings.function),
        settings.trigger,
    ]


def channel_text(settings: Settings) -> str:
    """Return what the trigger's function holds if it notifies on the channel in use."""
    return quote_literal(settings.channel).strip()


def differences(found: Found, settings: Settings) -> list[str]:
    """Return one line for each missing or differing object, with the command that mends it.

    Objects that only PgQueuer has are none of our business.
    """
    lines: list[str] = []
    absent = absent_places(found)
    # `install` leaves a table that exists as it is, and cannot index a column that is missing.
    create = _INSTALL if len(absent) == len(TABLES) else _UPGRADE
    for wanted in _declared(settings):
        if wanted.key[0] in {"column", "constraint"} and _place(wanted.key) in absent:
            continue  # the line on the table says it
        actual = found.get(wanted.key)
        if actual is None:
            lines.append(f"{wanted.name} is missing; {_cure_of_missing(wanted, found) or create}")
        elif (problem := _problem(wanted, actual, settings)) is not None:
            lines.append(f"{wanted.name} {problem}; {_cure(wanted, actual, found, settings)}")
    return lines


def missing_names(found: Found, settings: Settings) -> list[str]:
    """Return what `run` cannot do without and that is not there."""
    absent = absent_places(found)
    names: list[str] = []
    for wanted in _declared(settings):
        if not wanted.required or (wanted.key[0] != "table" and _place(wanted.key) in absent):
            continue
        actual = found.get(wanted.key)
        if actual is None:
            names.append(wanted.name)
        elif wanted.key[0] == "type":
            labels = actual.split(", ")
            names += [f"{wanted.name} {x!r}" for x in STATUS_LABELS if x not in labels]
    return names


def leftovers(found: Found, settings: Settings) -> list[str]:
    """Return one line for each table, type and function that is there, with what drops it."""
    kinds = {"table", "type", "function"}
    return [
        f"{wanted.name} is there; {_UNINSTALL}"
        for wanted in _declared(settings)
        if wanted.key[0] in kinds and wanted.key in found
    ]


def _problem(wanted: _Wanted, actual: str, settings: Settings) -> str | None:
    if wanted.key[0] == "function":
        # PgQueuer's own function will do, if it sends on the channel we listen on.
        if wanted.definition in actual:
            return None
        return f"does not notify on channel {settings.channel!r}"
    if actual == wanted.definition:
        return None
    return f"is {actual.strip()!r} instead of {wanted.definition.strip()!r}"


def _cure_of_missing(wanted: _Wanted, found: Found) -> str | None:
    kind, name = wanted.key
    if kind == "constraint" and name.endswith("PRIMARY KEY (id)"):
        primary = f"{_place(wanted.key)} PRIMARY KEY"
        if any(other == kind and key.startswith(primary) for other, key in found):
            return "another primary key is in its place: drop that by hand, then `pgq-trio upgrade`"
    return None


def _cure(wanted: _Wanted, actual: str, found: Found, settings: Settings) -> str:
    kind = wanted.key[0]
    if kind == "type":
        return _cure_of_type(actual, found)
    if kind == "table":
        return (
            f"switch it with `pgq-trio durability {settings.durability}`, "
            "or set PGQUEUER_DURABILITY to what it is"
        )
    if wanted.column is not None and not FoundColumn.parse(actual).can_become(wanted.column):
        return "no upgrade changes what rows hold: mend it by hand with ALTER TABLE"
    return _UPGRADE


def _cure_of_type(actual: str, found: Found) -> str:
    if missing_labels(found):
        return _UPGRADE
    if not set(STATUS_LABELS) <= set(actual.split(", ")):
        return "mend it by hand with ALTER TYPE ... RENAME VALUE or ADD VALUE"
    return (
        "PostgreSQL cannot take labels away or change their order, and none does harm as long as "
        "no row has it; else uninstall and install again"
    )


def _place(key: Key) -> str:
    kind, name = key
    if kind == "index":
        return ""
    return name.replace(".", " ").split(" ")[0]


def _table_name(table: TableObject, settings: Settings) -> str:
    return str(getattr(settings, table.key))


def _declared(settings: Settings) -> Iterable[_Wanted]:
    status = settings.queue_status_type
    yield _Wanted(("type", ""), f"type {status}", ", ".join(STATUS_LABELS), required=True)
    for place, table in enumerate(TABLES, 1):
        yield from _declared_table(str(place), table, settings)
    for index in INDEXES:
        name = index.name(settings)
        yield _Wanted(("index", name), f"index {name}", index_text(index), index.required)
    channel = channel_text(settings)
    yield _Wanted(("function", ""), f"function {settings.function}", channel, required=False)
    yield _Wanted(("trigger", ""), f"trigger {settings.trigger}", TRIGGER, required=False)


def _declared_table(place: str, table: TableObject, settings: Settings) -> Iterator[_Wanted]:
    name = _table_name(table, settings)
    # The statistics are folded from the log, which a worker can do without.
    required = table.key != "statistics_table"
    kept = "UNLOGGED" if settings.is_unlogged(table.key) else "LOGGED"
    yield _Wanted(("table", place), f"table {name}", kept, required)
    for column in table.columns:
        key = ("column", f"{place}.{column.name}")
        yield _Wanted(key, f"column {name}.{column.name}", _column(column), required, column)
    for text in keys_of(table):
        yield _Wanted(("constraint", f"{place} {text}"), f"{text} of table {name}", "", required)


def _column(column: Column) -> str:
    definition = column.type + (" NOT NULL" if column.not_null else "")
    if column.kind != "plain":
        return definition + " GENERATED"
    return definition if column.default is None else f"{definition} DEFAULT {column.default}"
