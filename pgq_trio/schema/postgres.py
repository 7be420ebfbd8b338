"""The schema port on PostgreSQL: installs, upgrades, drops, compares; knows no driver, no jobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import lru_cache
from importlib.resources import files

from pgq_trio.abc import SchemaStore
from pgq_trio.errors import ConnectionLost, PgqError, SchemaDrift, SchemaMissing, StoreError
from pgq_trio.model.migration import Migration
from pgq_trio.postgres.sql_port import SqlConnection, SqlSession
from pgq_trio.schema.declaration import TABLES
from pgq_trio.schema.found import Found, absent_places
from pgq_trio.schema.migrations import migrations
from pgq_trio.schema.statements import (
    TAKE_TURNS,
    install_statements,
    lock_tables,
    turns_with_pgqueuer,
    uninstall_statements,
)
from pgq_trio.schema.tuning import autovacuum_statements, durability_statements
from pgq_trio.schema.verify import catalog_params, differences, leftovers, missing_names
from pgq_trio.settings import Settings
from pgq_trio.types import Durability

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

    async def plan_upgrade(self, *, widen_ids: bool = True) -> list[Migration]:
        found = await self._found(self._sql)
        return migrations(found, self._settings, widen_ids=widen_ids)

    async def upgrade(self, *, widen_ids: bool = True) -> list[Migration]:
        current: Migration | None = None
        try:
            async with self._in_turn() as session:
                # Planned in its turn: what another one has done meanwhile is not done again.
                found = await self._found(session)
                plan = migrations(found, self._settings, widen_ids=widen_ids)
                if plan:
                    await self._lock(session, found)
                for current in plan:
                    for statement in current.statements:
                        await session.fetch(statement)
        except PgqError as exc:
            if current is None or isinstance(exc, ConnectionLost):
                raise
            raise _step_failed(current, exc) from exc
        return plan

    async def plan_durability(self, durability: Durability) -> list[str]:
        return self._durability(await self._found(self._sql), durability)

    async def alter_durability(self, durability: Durability) -> list[str]:
        async with self._in_turn() as session:
            found = await self._found(session)
            statements = self._durability(found, durability)
            if statements:
                await self._lock(session, found)
            for statement in statements:
                await session.fetch(statement)
        return statements

    def _durability(self, found: Found, durability: Durability) -> list[str]:
        if absent := absent_places(found):
            names = [str(getattr(self._settings, TABLES[int(x) - 1].key)) for x in sorted(absent)]
            raise SchemaMissing([f"table {name}" for name in names])
        return durability_statements(self._settings.with_changes(durability=durability), found)

    async def tune_autovacuum(self, *, rollback: bool = False) -> None:
        statements = autovacuum_statements(self._settings, rollback=rollback)
        await self._sql.run_script([TAKE_TURNS, *statements])

    async def verify(self) -> list[str]:
        return differences(await self._found(self._sql), self._settings)

    async def verify_absent(self) -> list[str]:
        return leftovers(await self._found(self._sql), self._settings)

    async def missing(self) -> list[str]:
        return missing_names(await self._found(self._sql), self._settings)

    @asynccontextmanager
    async def _in_turn(self) -> AsyncGenerator[SqlSession]:
        """A transaction that no other change of a schema, PgQueuer's included, runs beside."""
        async with self._sql.transaction() as session:
            await session.fetch(TAKE_TURNS)
            await session.fetch(turns_with_pgqueuer(self._settings))
            yield session

    async def _lock(self, session: SqlSession, found: Found) -> None:
        absent = absent_places(found)
        present = [table for place, table in enumerate(TABLES, 1) if str(place) not in absent]
        if (statement := lock_tables(present, self._settings)) is not None:
            await session.fetch(statement)

    async def _found(self, session: SqlSession) -> Found:
        rows = await session.fetch(_catalog(), catalog_params(self._settings))
        return {(kind, name): definition for kind, name, definition in rows}


def _step_failed(step: Migration, exc: PgqError) -> StoreError:
    return StoreError(
        f"step {step.number} of the upgrade ({step.name}) failed, so nothing was changed: {exc} "
        "An upgrade leaves rows as they are and needs the owner of the tables: correct what "
        "stands in its way, then run `pgq-trio upgrade` again.",
        retryable=isinstance(exc, StoreError) and exc.retryable,
    )
