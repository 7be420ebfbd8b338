"""The part of `Queries` that creates, changes and checks the objects in the database."""

from __future__ import annotations

from pgq_trio.client.base import QueriesBase

__all__ = ["SchemaQueries"]


class SchemaQueries(QueriesBase):
    """Installing, upgrading and verifying."""

    async def install(self) -> None:
        """Create the tables, types, indexes and the trigger; leaves alone what is there."""
        await self.backend.schema.install()

    async def uninstall(self) -> None:
        """Drop all objects and the jobs, log rows and schedules in them."""
        await self.backend.schema.uninstall()

    async def verify(self) -> list[str]:
        """Return a line for each missing or differing object and the command that mends it."""
        return await self.backend.schema.verify()
