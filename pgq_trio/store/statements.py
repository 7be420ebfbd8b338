"""Reads the statements of `sql/` and fills in the names of one set of settings; runs nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from pgq_trio.model.names import quote_literal
from pgq_trio.settings import Settings

__all__ = ["Statements"]

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)


@cache
def _template(name: str) -> str:
    text = files("pgq_trio.store").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
    # The server would parse and keep the reasons with every statement.
    return _COMMENT.sub("", text).strip()


class Statements:
    """The statements with the names of one `Settings`, each rendered once.

    `{word}` in a file is one of `Settings.sql_names()`, or one of the fragments below; a brace
    with anything else in it is left as it stands.
    """

    def __init__(self, settings: Settings) -> None:
        self._names = dict(settings.sql_names()) | _fragments(settings)
        self._rendered: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        rendered = self._rendered.get(name)
        if rendered is None:
            rendered = self._rendered[name] = _render(_template(name), self._names)
        return rendered


def _render(template: str, names: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: names[match[1]], template)


def _fragments(settings: Settings) -> dict[str, str]:
    channel = quote_literal(settings.channel)
    return {
        # The notification after which workers look for work, as the trigger sends it on INSERT.
        "wake": _changed(settings, settings.queue_table),
        # The same of the schedules, after which schedulers look. PgQueuer's workers look for work.
        "wake_schedulers": _changed(settings, settings.schedules_table),
        "channel": f"{channel}::text",
        # The queue table as a text that pg_get_serial_sequence takes.
        "queue_table_text": f"{quote_literal(settings.qualified(settings.queue_table))}::text",
        # A day within what Python's datetime holds, whatever the time zone of the session.
        "first_time": "timestamptz '0001-01-02 00:00:00+00'",
        "last_time": "timestamptz '9999-12-30 00:00:00+00'",
    }


def _changed(settings: Settings, table: str) -> str:
    channel = quote_literal(settings.channel)
    return (
        f"pg_catalog.pg_notify({channel}, pg_catalog.json_build_object("
        f"'channel', {channel}::text, 'operation', 'update', 'sent_at', now(), "
        f"'table', {quote_literal(table)}::text, 'type', 'table_changed_event')::text)"
    )
