"""The port of the objects in the database."""

from __future__ import annotations

from typing import Protocol

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

    async def verify(self) -> list[str]:
        """Return one line for each missing or differing object, with the command that mends it."""
        ...

    async def missing(self) -> list[str]:
        """Return the names of objects `run` cannot do without that are missing; one statement."""
        ...
