"""Compares the declared objects with what the catalog holds; pure, knows no connection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pgq_trio.model.names import quote_literal
from pgq_trio.schema.declaration import INDEXES, STATUS_LABELS, TABLES, Column, TableObject
from pgq_trio.settings import Settings

__all__ = ["Found", "catalog_params", "differences", "missing_names"]

#: Kind and name of an object as `catalog.sql` gives them, and its definition.
Key: TypeAlias = tuple[str, str]
Found: TypeAlias = Mapping[Key, str]

_INSTALL = "mend it with `pgq-trio install`"
_BY_HAND = "mend it with PgQueuer's `pgq upgrade`, or by hand if that refuses"
_UPGRADE = "mend it with PgQueuer's `pgq upgrade`"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An object that should be there; `run` cannot do without the `required` ones."""

    key: Key
    name: str
    definition: str
    required: bool


def catalog_params(settings: Settings) -> list[object]:
    """Return the parameters of `catalog.sql`."""
    return [
        settings.qualified(settings.queue_status_type),
        [settings.qualified(_table_name(table, settings)) for table in TABLES],
        settings.qualified(settings.function),
        settings.trigger,
    ]


def differences(found: Found, settings: Settings) -> list[str]:
    """Return one line for each missing or differing object, with the command that mends it.

    Objects that only PgQueuer has are none of our business.
    """
    lines: list[str] = []
    absent = _absent_tables(found)
    for wanted in _declared(settings):
        if wanted.key[0] in {"column", "constraint"} and _place(wanted.key) in absent:
            continue  # the line on the table says it
        actual = found.get(wanted.key)
        if actual is None:
            # `install` leaves a table that exists as it is; a new column is `upgrade`'s.
            cure = _UPGRADE if wanted.key[0] in {"column", "constraint"} else _INSTALL
            lines.append(f"{wanted.name} is missing; {cure}")
        elif (problem := _problem(wanted, actual, settings)) is not None:
            cure = _BY_HAND if wanted.key[0] == "column" else _UPGRADE
            lines.append(f"{wanted.name} {problem}; {cure}")
    return lines


def missing_names(found: Found, settings: Settings) -> list[str]:
    """Return what `run` cannot do without and that is not there."""
    absent = _absent_tables(found)
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


def _problem(wanted: _Wanted, actual: str, settings: Settings) -> str | None:
    if wanted.key[0] == "function":
        # PgQueuer's own function will do, if it sends on the channel we listen on.
        if wanted.definition in actual:
            return None
        return f"does not notify on channel {settings.channel!r}"
    if actual == wanted.definition:
        return None
    return f"is {actual.strip()!r} instead of {wanted.definition.strip()!r}"


def _absent_tables(found: Found) -> set[str]:
    places = {str(place) for place in range(1, len(TABLES) + 1)}
    return places - {name for kind, name in found if kind == "table"}


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
        definition = f"{'UNIQUE ' if index.unique else ''} {index.body}"
        yield _Wanted(("index", name), f"index {name}", definition, index.required)
    channel = quote_literal(settings.channel).strip()
    yield _Wanted(("function", ""), f"function {settings.function}", channel, required=False)
    yield _Wanted(("trigger", ""), f"trigger {settings.trigger}", "AFTER INSERT", required=False)


def _declared_table(place: str, table: TableObject, settings: Settings) -> Iterator[_Wanted]:
    name = _table_name(table, settings)
    # The statistics are folded from the log, which a worker can do without.
    required = table.key != "statistics_table"
    kept = "UNLOGGED" if settings.is_unlogged(table.key) else "LOGGED"
    yield _Wanted(("table", place), f"table {name}", kept, required)
    for column in table.columns:
        key = ("column", f"{place}.{column.name}")
        yield _Wanted(key, f"column {name}.{column.name}", _column(column), required)
    keys = ["PRIMARY KEY (id)", *([f"UNIQUE ({', '.join(table.unique)})"] if table.unique else [])]
    for text in keys:
        yield _Wanted(("constraint", f"{place} {text}"), f"{text} of table {name}", "", required)


def _column(column: Column) -> str:
    definition = column.type + (" NOT NULL" if column.not_null else "")
    if column.kind != "plain":
        return definition + " GENERATED"
    return definition if column.default is None else f"{definition} DEFAULT {column.default}"
