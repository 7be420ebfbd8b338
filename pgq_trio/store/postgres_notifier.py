"""Notifications from PostgreSQL: the settings' channel, on the port; knows no payloads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from pgq_trio.abc import Notifier
from pgq_trio.postgres.sql_port import SqlConnection
from pgq_trio.settings import Settings

__all__ = ["PostgresNotifier"]


class PostgresNotifier(Notifier):
    """`Notifier` on a connection of its own, made by the port."""

    def __init__(self, sql: SqlConnection, settings: Settings) -> None:
        self._sql = sql
        self._channel = settings.channel

    def listen(self) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        return self._sql.listen(self._channel)
