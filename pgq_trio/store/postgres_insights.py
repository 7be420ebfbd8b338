"""What can be learned about a queue on PostgreSQL; knows statements and records."""

from __future__ import annotations

from pgq_trio.abc import InsightStore
from pgq_trio.postgres.sql_port import SqlConnection
from pgq_trio.settings import Settings
from pgq_trio.store.statements import Statements

__all__ = ["PostgresInsights"]


class PostgresInsights(InsightStore):
    """`InsightStore` with one statement for each operation, see `sql/`."""

    def __init__(self, sql: SqlConnection, settings: Settings) -> None:
        self._sql = sql
        self._settings = settings
        self._statements = Statements(settings)
