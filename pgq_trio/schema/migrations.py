"""The numbered steps of an upgrade, each with what a catalog needs of it; pure, no connection.

PgQueuer keeps no record of its version, so what applies is decided by what is there. A step looks
at the catalog and returns its statements, none where there is nothing to do: a database that is up
to date, PgQueuer's included, gets an empty plan.

Numbers are never used twice and steps never change places: what comes later may build on what came
before, columns before their indexes. Nothing here deletes, fills in or converts a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from pgq_trio.model.migration import Migration
from pgq_trio.schema.declaration import INDEXES, STATUS_LABELS, TABLES, Column, TableObject
from pgq_trio.schema.found import (
    Found,
    FoundColumn,
    absent_places,
    index_text,
    missing_labels,
)
from pgq_trio.schema.objects import (
    add_label,
    alter_table,
    column_text,
    create_function,
    create_index,
    create_table,
    create_trigger,
    create_type,
    default_action,
    drop_index,
    drop_trigger,
    guarded_schema,
    keys_of,
    null_action,
    type_action,
    widen_sequence,
)
from pgq_trio.schema.verify import TRIGGER, channel_text
from pgq_trio.settings import Settings

__all__ = ["migrations"]

_Step: TypeAlias = Callable[[Found, Settings], Iterator[str]]


def migrations(found: Found, settings: Settings, *, widen_ids: bool = True) -> list[Migration]:
    """Return the steps that this catalog needs, in order; none when it is up to date.

    Args:
        found: what `catalog.sql` has found.
        settings: the names of the objects.
        widen_ids: whether to take the step that rewrites tables.
    """
    plan: list[Migration] = []
    for number, (name, step) in enumerate(_STEPS, 1):
        if step is _widen and not widen_ids:
            continue
        statements = tuple(step(found, settings))
        if statements:
            plan.append(Migration(number=number, name=name, statements=statements))
    return plan


def _create(found: Found, settings: Settings) -> Iterator[str]:
    if ("type", "") not in found:
        if settings.schema:
            yield guarded_schema(settings)
        yield create_type(settings)
    absent = absent_places(found)
    for place, table in enumerate(TABLES, 1):
        if str(place) in absent:
            yield create_table(table, settings)


def _add_labels(found: Found, settings: Settings) -> Iterator[str]:
    if ("type", "") not in found:
        return
    present = set(found["type", ""].split(", "))
    for label in missing_labels(found):
        before = STATUS_LABELS[STATUS_LABELS.index(label) - 1]
        yield add_label(label, before if before in present else None, settings)
        present.add(label)


def _installed(found: Found) -> Iterator[tuple[str, TableObject]]:
    absent = absent_places(found)
    for place, table in enumerate(TABLES, 1):
        if str(place) not in absent:
            yield str(place), table


def _columns(
    found: Found, place: str, table: TableObject
) -> Iterator[tuple[Column, FoundColumn | None]]:
    for column in table.columns:
        definition = found.get(("column", f"{place}.{column.name}"))
        yield column, None if definition is None else FoundColumn.parse(definition)


def _add_columns(found: Found, settings: Settings) -> Iterator[str]:
    for place, table in _installed(found):
        actions = [
            f"ADD COLUMN {column_text(column, settings)}"
            for column, actual in _columns(found, place, table)
            if actual is None
        ]
        if actions:
            yield alter_table(table, actions, settings)


def _widen(found: Found, settings: Settings) -> Iterator[str]:
    for place, table in _installed(found):
        columns = [
            (column, actual)
            for column, actual in _columns(found, place, table)
            if actual is not None and actual.can_become(column)
        ]
        actions = [type_action(column) for column, actual in columns if actual.is_narrow(column)]
        if actions:
            yield alter_table(table, actions, settings)
        if any(actual.sequence not in {None, "bigint"} for _, actual in columns):
            yield widen_sequence(table, settings)


def _restore_columns(found: Found, settings: Settings) -> Iterator[str]:
    for place, table in _installed(found):
        actions: list[str] = []
        for column, actual in _columns(found, place, table):
            if actual is None or not actual.can_become(column):
                continue
            if column.kind == "plain" and actual.default != column.default:
                actions.append(default_action(column, settings))
            if actual.not_null != column.not_null:
                actions.append(null_action(column))
        if actions:
            yield alter_table(table, actions, settings)


def _restore_keys(found: Found, settings: Settings) -> Iterator[str]:
    for place, table in _installed(found):
        actions = [f"ADD {key}" for key in keys_of(table) if is_addable(found, place, key)]
        if actions:
            yield alter_table(table, actions, settings)


def is_addable(found: Found, place: str, key: str) -> bool:
    """Whether a table lacks a key and can take it: it has no other primary key."""
    if ("constraint", f"{place} {key}") in found:
        return False
    primary = f"{place} PRIMARY KEY"
    return not key.startswith("PRIMARY") or not any(
        kind == "constraint" and name.startswith(primary) for kind, name in found
    )


def _build_indexes(found: Found, settings: Settings) -> Iterator[str]:
    for index in INDEXES:
        actual = found.get(("index", index.name(settings)))
        if actual == index_text(index):
            continue
        if actual is not None:
            # Other sessions see the old one or the new one: both happen in one transaction.
            yield drop_index(index, settings)
        yield create_index(index, settings)


def _restore_trigger(found: Found, settings: Settings) -> Iterator[str]:
    body = found.get(("function", ""))
    if body is None or channel_text(settings) not in body:
        yield create_function(settings, replace=body is not None)
    trigger = found.get(("trigger", ""))
    if trigger != TRIGGER:
        if trigger is not None:
            yield drop_trigger(settings)
        yield create_trigger(settings)


#: Name and condition of each step; its number is its place.
_STEPS: tuple[tuple[str, _Step], ...] = (
    ("create the type and the tables that are missing", _create),
    ("add the states that the type lacks", _add_labels),
    ("add the columns that tables lack", _add_columns),
    ("widen ids to bigint", _widen),
    ("restore defaults and NOT NULL", _restore_columns),
    ("restore keys", _restore_keys),
    ("build the indexes that are missing, invalid or different", _build_indexes),
    ("restore the trigger and its function", _restore_trigger),
)
