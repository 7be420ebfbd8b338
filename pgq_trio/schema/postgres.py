"""The schema port on PostgreSQL: installs, drops and compares; knows no driver and no jobs."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

from pgq_trio.abc import SchemaStore
from pgq_trio.errors import SchemaDrift, SchemaMissing
from pgq_trio.postgres.sql_port import SqlConnection
from pgq_trio.schema.statements import install_statements, uninstall_statements
from pgq_trio.schema.verify import Found, catalog_params, differences, missing_names
from pgq_trio.settings import Settings

__all__ = ["PostgresSchema"]


@lru_cache(maxsize=1)
def _catalog() -> str:
    return files("pgq_trio.schema").joinpath("catalog.sql").read_text(encoding="utf-8")


class PostgresSchema(SchemaStore):
    """`SchemaStore` on any SQL connection."""

    def __init__(self, sql: SqlConnection, settings: Settings) -> None:
        self._sql = sql
        self._settings = settings

    async def install(self) -> None:
        try:
            await self._sql.run_script(install_statements(self._settings))
        except SchemaMissing as exc:
            # An index on a column that an older table lacks: `install` leaves tables as they are.
            raise SchemaDrift(await self.verify()) from exc

    async def uninstall(self) -> None:
        await self._sql.run_script(uninstall_statements(self._settings))

    async def verify(self) -> list[str]:
        return differences(await self._found(), self._settings)

    async def missing(self) -> list[str]:
        return missing_names(await self._found(), self._settings)

    async def _found(self) -> Found:
        rows = await self._sql.fetch(_catalog(), catalog_params(self._settings))
        return {(kind, name): definition for kind, name, definition in rows}
