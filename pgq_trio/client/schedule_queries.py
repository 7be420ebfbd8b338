"""The part of `Queries` that reads and changes schedules."""

from __future__ import annotations

from collections.abc import Collection

from pgq_trio.client.base import QueriesBase
from pgq_trio.models import Schedule

__all__ = ["ScheduleQueries"]


class ScheduleQueries(QueriesBase):
    """Reading, pausing, triggering and deleting schedules."""

    async def peek_schedule(self) -> list[Schedule]:
        """Return all schedules."""
        return (await self.backend.schedules.snapshot()).schedules

    async def delete_schedule(
        self, ids: Collection[int] = (), entrypoints: Collection[str] = ()
    ) -> int:
        """Delete schedules by id or by name. Returns how many went."""
        return await self.backend.schedules.delete(ids=ids, entrypoints=entrypoints)

    async def clear_schedule(self) -> int:
        """Delete all schedules. Returns how many went."""
        return await self.backend.schedules.clear()

    async def pause_schedule(
        self, ids: Collection[int] = (), entrypoints: Collection[str] = ()
    ) -> set[int]:
        """Keep schedules from firing, in the whole fleet, until they are resumed.

        One that runs goes on to its end. PgQueuer's schedulers keep to it as well, except that one
        which runs a fire when its schedule is paused resumes it at the end of that fire.

        Returns the ids of the schedules found, paused ones among them.
        """
        return await self.backend.schedules.pause(ids=ids, entrypoints=entrypoints)

    async def resume_schedule(
        self, ids: Collection[int] = (), entrypoints: Collection[str] = ()
    ) -> set[int]:
        """Have paused schedules fire again; what was missed is up to their misfire policies.

        Returns the ids of the schedules that were paused.
        """
        return await self.backend.schedules.resume(ids=ids, entrypoints=entrypoints)

    async def trigger_schedule(
        self, ids: Collection[int] = (), entrypoints: Collection[str] = ()
    ) -> set[int]:
        """Fire schedules now, once, by any scheduler of the fleet; the next fire time stays.

        One that runs now fires again when it has ended; a paused one does not fire.

        Returns the ids of the schedules that fire.
        """
        return await self.backend.schedules.trigger(ids=ids, entrypoints=entrypoints)
