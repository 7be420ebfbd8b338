"""The port of the objects in the database."""

from __future__ import annotations

from typing import Protocol

from pgq_trio.model.migration import Migration
from pgq_trio.types import Durability

__all__ = ["SchemaStore"]


class SchemaStore(Protocol):
    """The objects in the database."""

    async def install(self) -> None:
        """Create every object, all or none; objects that are there already are left alone.

        Raises:
            SchemaDrift: a table that is there lacks a column that an object to be created needs.
        """
        ...

    async def uninstall(self) -> None:
        """Drop every object and all data in them, all or none; missing ones are no error."""
        ...

    async def plan_upgrade(self, *, widen_ids: bool = True) -> list[Migration]:
        """Return the steps that `upgrade` would take now; none when there is nothing to do."""
        ...

    async def upgrade(self, *, widen_ids: bool = True) -> list[Migration]:
        """Bring what is there up to this release, all or nothing; return the steps taken.

        Two at the same time take turns, and the second finds nothing to do. Rows are left alone;
        what is missing altogether is created. With `widen_ids=False` narrow ids stay narrow.

        Raises:
            StoreError: a step failed, with what to do about it; nothing was changed.
        """
        ...

    async def plan_durability(self, durability: Durability) -> list[str]:
        """Return the statements that `alter_durability` would run now.

        Raises:
            SchemaMissing: a table is missing.
        """
        ...

    async def alter_durability(self, durability: Durability) -> list[str]:
        """Make tables logged or unlogged, all or none, and keep their rows.

        Returns the statements that were run, one for each table that differed.

        Raises:
            SchemaMissing: a table is missing.
        """
        ...

    async def tune_autovacuum(self, *, rollback: bool = False) -> None:
        """Set the storage parameters that suit a queue, or take them back.

        Raises:
            SchemaMissing: a table is missing.
        """
        ...

    async def verify(self) -> list[str]:
        """Return one line for each missing or differing object, with the command that mends it."""
        ...

    async def verify_absent(self) -> list[str]:
        """Return one line for each object that is there, with the command that drops it."""
        ...

    async def missing(self) -> list[str]:
        """Return the names of objects `run` cannot do without that are missing; one statement."""
        ...
