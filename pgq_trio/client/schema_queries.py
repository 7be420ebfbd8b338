"""The part of `Queries` that creates, changes and checks the objects in the database."""

from __future__ import annotations

from typing import Literal, cast, get_args

from pgq_trio.client.base import QueriesBase
from pgq_trio.model.migration import Migration
from pgq_trio.types import Durability

__all__ = ["SchemaQueries"]


class SchemaQueries(QueriesBase):
    """Installing, upgrading, tuning and verifying; needs the owner of the objects to change them.

    Changes take turns, from whatever process they come, and each is made wholly or not at all.
    """

    async def install(self) -> None:
        """Create the tables, types, indexes and the trigger; leaves alone what is there.

        Raises:
            SchemaDrift: a table of an older release is there; `upgrade` is for that.
        """
        await self.backend.schema.install()

    async def uninstall(self) -> None:
        """Drop all objects and the jobs, log rows and schedules in them."""
        await self.backend.schema.uninstall()

    async def plan_upgrade(self, *, widen_ids: bool = True) -> list[Migration]:
        """Return the steps `upgrade` would take now; none when all is up to date."""
        return await self.backend.schema.plan_upgrade(widen_ids=widen_ids)

    async def upgrade(self, *, widen_ids: bool = True) -> list[Migration]:
        """Bring an older installation, PgQueuer's or ours, up to this release.

        Adds what is missing, rebuilds indexes that are broken or defined otherwise, widens ids.
        No row is changed and nothing is dropped that anybody else made. Locks out the workers
        while it runs: usually for milliseconds, for as long as a table is rewritten or an index
        is built where the plan says so.

        Args:
            widen_ids: whether ids become bigint if they are not, which rewrites their tables; with
                False that is left for later, at the latest before id 2^31.

        Returns:
            the steps taken; none when all was up to date.

        Raises:
            StoreError: a step failed, with what to do about it; nothing was changed.
        """
        return await self.backend.schema.upgrade(widen_ids=widen_ids)

    async def apply_upgrade(self, *, widen_ids: bool = True) -> list[Migration]:
        """Do the same as `upgrade`, under PgQueuer's other name."""
        return await self.backend.schema.upgrade(widen_ids=widen_ids)

    async def plan_durability(self, durability: Durability | None = None) -> list[str]:
        """Return the statements `alter_durability` would run now, one for each table it changes.

        Raises:
            SchemaMissing: a table is missing.
            ValueError: there is no such durability.
        """
        return await self.backend.schema.plan_durability(self._durability(durability))

    async def alter_durability(self, durability: Durability | None = None) -> list[str]:
        """Make tables logged or unlogged; their rows stay.

        An unlogged table is faster to write to, empty after a crash of the server and absent on
        its replicas. Each table that changes is rewritten, and locked meanwhile.

        Args:
            durability: "durable" logs all, "balanced" the queue and the schedules, "volatile" none;
                None: that of the settings.

        Returns:
            the statements that were run; none when the tables were like that already.

        Raises:
            SchemaMissing: a table is missing.
            ValueError: there is no such durability.
        """
        return await self.backend.schema.alter_durability(self._durability(durability))

    async def optimize_autovacuum(self) -> None:
        """Have autovacuum come as often as a queue needs it; `install` leaves it as it is.

        Sets storage parameters of the four tables, see `pgq-trio sql autovac`.

        Raises:
            SchemaMissing: a table is missing.
        """
        await self.backend.schema.tune_autovacuum()

    async def optimize_autovacuum_rollback(self) -> None:
        """Take `optimize_autovacuum` back, PgQueuer's as well: the server's defaults apply.

        Raises:
            SchemaMissing: a table is missing.
        """
        await self.backend.schema.tune_autovacuum(rollback=True)

    async def verify(self, *, expect: Literal["present", "absent"] = "present") -> list[str]:
        """Return a line for each missing or differing object and the command that mends it.

        Args:
            expect: "absent" turns it round: a line for each object that is there.

        Raises:
            ValueError: `expect` is something else.
        """
        if expect not in {"present", "absent"}:
            raise ValueError(f"expect is 'present' or 'absent', got {expect!r}")
        schema = self.backend.schema
        return await (schema.verify() if expect == "present" else schema.verify_absent())

    def _durability(self, durability: Durability | None) -> Durability:
        value = self.settings.durability if durability is None else durability
        if value not in get_args(Durability):
            choices = ", ".join(get_args(Durability))
            raise ValueError(f"durability is one of {choices}, got {value!r}")
        return cast("Durability", value)
