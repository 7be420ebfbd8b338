"""Notifications through PostgreSQL: the settings' channels, on the port; knows no payloads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

from pgq_trio.abc import Notifier
from pgq_trio.model.wire import Channel, channel_name
from pgq_trio.postgres.sql_port import SqlConnection
from pgq_trio.settings import Settings
from pgq_trio.store.statements import Statements

__all__ = ["PostgresNotifier"]


class PostgresNotifier(Notifier):
    """`Notifier` on the port: it listens on a connection of its own and sends on any."""

    def __init__(self, sql: SqlConnection, settings: Settings) -> None:
        self._sql = sql
        self._work = settings.channel
        self._statements = Statements(settings)

    def listen(self, *channels: Channel) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        names = [channel_name(self._work, channel) for channel in channels or ("work",)]
        return self._sql.listen(*names)

    async def notify(self, channel: Channel, payloads: Sequence[str]) -> None:
        params = [channel_name(self._work, channel), list(payloads)]
        await self._sql.fetch(self._statements["notify_on"], params)
