"""An upgrade for whoever applies SQL themselves: safe on any version, it looks as it goes.

The numbered steps look at the catalog first and name only what differs; this text is written
without a catalog, so every statement is one that may be repeated. Both do the same in the end.
"""

from __future__ import annotations

from collections.abc import Iterator

from pgq_trio.model.names import quote_literal
from pgq_trio.schema.declaration import INDEXES, STATUS_LABELS, TABLES, IndexObject, TableObject
from pgq_trio.schema.objects import (
    USED_LABELS,
    add_label,
    alter_table,
    column_text,
    create_function,
    create_index,
    create_table,
    create_trigger,
    default_action,
    drop_index,
    drop_trigger,
    function_exists,
    guarded_schema,
    guarded_type,
    keys_of,
    null_action,
    regclass,
    status_type,
    table_name,
    trigger_exists,
    unless,
    widen_sequence,
)
from pgq_trio.schema.statements import TAKE_TURNS, turns_with_pgqueuer
from pgq_trio.schema.verify import channel_text
from pgq_trio.settings import Settings

__all__ = ["upgrade_statements"]

#: Bits of pg_trigger.tgtype: 1 for each row, 4 on INSERT.
_WAKES = "tgenabled <> 'D' AND tgtype & 1 = 0 AND tgtype & 4 = 4"


def upgrade_statements(settings: Settings, *, widen_ids: bool = True) -> list[str]:
    """Return statements that bring any older installation up to this release, in order.

    They run in one transaction or each in its own. Tables keep their durability; those that are
    missing get that of the settings.

    Args:
        settings: names, and the durability of new tables.
        widen_ids: whether ids become bigint if they are not, which rewrites their tables.
    """
    widened = (text for table in TABLES for text in _widen(table, settings))
    return [
        TAKE_TURNS,
        turns_with_pgqueuer(settings),
        *([guarded_schema(settings)] if settings.schema else []),
        guarded_type(settings),
        *(
            add_label(label, STATUS_LABELS[place - 1], settings)
            for place, label in enumerate(STATUS_LABELS)
            if label not in USED_LABELS
        ),
        *(statement for table in TABLES for statement in _table(table, settings)),
        *(widened if widen_ids else ()),
        *(statement for index in INDEXES for statement in _index(index, settings)),
        *_trigger(settings),
    ]


def _table(table: TableObject, settings: Settings) -> Iterator[str]:
    yield create_table(table, settings, guard="IF NOT EXISTS ")
    plain = [column for column in table.columns if column.kind == "plain"]
    yield alter_table(
        table,
        [f"ADD COLUMN IF NOT EXISTS {column_text(column, settings)}" for column in plain],
        settings,
    )
    yield alter_table(
        table,
        [
            action
            for column in plain
            for action in (default_action(column, settings), null_action(column))
        ],
        settings,
    )
    for key in keys_of(table):
        yield unless(
            "SELECT FROM pg_catalog.pg_constraint"
            f" WHERE conrelid = {regclass(table_name(table, settings))}"
            f" AND pg_catalog.pg_get_constraintdef(oid) = '{key}'",
            alter_table(table, [f"ADD {key}"], settings),
        )


def _widen(table: TableObject, settings: Settings) -> Iterator[str]:
    for column in table.columns:
        if column.type == "bigint":
            yield _widened(table, column.name, settings)
    yield unless(_is_wide(table, settings), _inner(widen_sequence(table, settings)))


def _inner(block: str) -> str:
    """Return a statement as a block inside of another one."""
    return f"EXECUTE {quote_literal(block).strip()}"


def _widened(table: TableObject, column: str, settings: Settings) -> str:
    return unless(
        "SELECT FROM pg_catalog.pg_attribute"
        f" WHERE attrelid = {regclass(table_name(table, settings))} AND attname = '{column}'"
        " AND atttypid NOT IN ('int4'::regtype, 'int2'::regtype)",
        alter_table(table, [f"ALTER COLUMN {column} TYPE bigint"], settings),
    )


def _is_wide(table: TableObject, settings: Settings) -> str:
    """Return the query that finds that no narrow sequence is behind the ids."""
    name = quote_literal(table_name(table, settings)).strip()
    narrow = (
        "SELECT FROM pg_catalog.pg_sequence"
        f" WHERE seqrelid = pg_catalog.pg_get_serial_sequence({name}, 'id')::regclass"
        " AND seqtypid <> 'bigint'::regtype"
    )
    return _none(narrow)


def _none(query: str) -> str:
    """Return a query that finds something if another one finds nothing."""
    return f"SELECT WHERE NOT EXISTS ({query})"


def _index(index: IndexObject, settings: Settings) -> Iterator[str]:
    # As catalog.sql spells a definition, so that the two agree on what differs.
    status = f"'::' || {quote_literal(status_type(settings)).strip()}::regtype::text"
    text = f"replace(pg_catalog.pg_get_indexdef(x.indexrelid), {status}, '::{{status}}')"
    pattern = quote_literal("%" + _like(index.body)).strip()
    different = (
        "SELECT FROM pg_catalog.pg_index x"
        " JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid"
        f" WHERE x.indrelid = {regclass(table_name(index, settings))}"
        f" AND i.relname = {quote_literal(index.name(settings))}"
        f" AND NOT (x.indisvalid AND x.indisunique = {str(index.unique).lower()}"
        f" AND {text} LIKE {pattern})"
    )
    yield unless(_none(different), drop_index(index, settings))
    yield create_index(index, settings, guard="IF NOT EXISTS ")


def _like(text: str) -> str:
    """Return a pattern of LIKE that only the text itself matches."""
    return text.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%")


def _trigger(settings: Settings) -> Iterator[str]:
    channel = quote_literal(channel_text(settings)).strip()
    yield unless(
        f"{function_exists(settings)} AND position({channel} IN p.prosrc) > 0",
        create_function(settings, replace=True),
    )
    function = quote_literal(f"{settings.qualified(settings.function)}()").strip()
    works = f"{trigger_exists(settings)} AND {_WAKES} AND tgfoid = {function}::regprocedure"
    yield unless(works, f"{drop_trigger(settings)}; {create_trigger(settings)}")
