"""The part of `Queries` that reads and changes schedules."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeAlias, cast

from pgq_trio.client.base import QueriesBase
from pgq_trio.model.asked import checked_ids
from pgq_trio.model.enqueue import checked_text
from pgq_trio.models import Schedule

__all__ = ["ScheduleQueries"]

#: One id or several; no ids are nothing.
_Ids: TypeAlias = int | Collection[int]
_Names: TypeAlias = str | Collection[str]


class ScheduleQueries(QueriesBase):
    """Reading, pausing, triggering and deleting schedules.

    A schedule is named by the id of its row, or by the name it was registered with, which stands
    for all rows of that name. Without ids and names nothing is changed. Malformed ones raise
    `TypeError` or `ValueError` before anything is sent; unknown ones are no error.
    """

    async def peek_schedule(self) -> list[Schedule]:
        """Return all schedules, ordered by id; paused ones have the status `canceled`."""
        return (await self.backend.schedules.snapshot()).schedules

    async def delete_schedule(self, ids: _Ids = (), entrypoints: _Names = ()) -> int:
        """Delete schedules by id or by name. Returns how many went.

        One that runs is cancelled by its worker's next heartbeat. A worker that has one
        registered puts it back when it starts.
        """
        return await self.backend.schedules.delete(
            ids=checked_ids(ids, "schedule"), entrypoints=_names(entrypoints)
        )

    async def clear_schedule(self) -> int:
        """Delete all schedules. Returns how many went."""
        return await self.backend.schedules.clear()

    async def pause_schedule(self, ids: _Ids = (), entrypoints: _Names = ()) -> set[int]:
        """Keep schedules from firing, in the whole fleet, until they are resumed.

        One that runs goes on to its end. PgQueuer's schedulers keep to it as well, except that one
        which runs a fire when its schedule is paused resumes it at the end of that fire.

        Returns the ids of the schedules found, paused ones among them.
        """
        return await self.backend.schedules.pause(
            ids=checked_ids(ids, "schedule"), entrypoints=_names(entrypoints)
        )

    async def resume_schedule(self, ids: _Ids = (), entrypoints: _Names = ()) -> set[int]:
        """Have paused schedules fire again; what was missed is up to their misfire policies.

        Returns the ids of the schedules that were paused.
        """
        return await self.backend.schedules.resume(
            ids=checked_ids(ids, "schedule"), entrypoints=_names(entrypoints)
        )

    async def trigger_schedule(self, ids: _Ids = (), entrypoints: _Names = ()) -> set[int]:
        """Fire schedules now, once, by any scheduler of the fleet, whatever their misfire policies.

        The regular fire times follow as ever. One that runs now fires again when it has ended; a
        paused one does not fire. Several calls before a fire begins make one fire. A scheduler of
        PgQueuer notices it at the next fire time of a schedule of its own.

        Returns the ids of the schedules that fire.
        """
        return await self.backend.schedules.trigger(
            ids=checked_ids(ids, "schedule"), entrypoints=_names(entrypoints)
        )


def _names(value: object) -> list[str]:
    """Return names as a list.

    Raises:
        TypeError: neither a string nor a collection of strings.
        ValueError: a text that PostgreSQL cannot store.
    """
    if isinstance(value, str):
        return [checked_text("the name of a schedule", value)]
    if isinstance(value, bytes) or not isinstance(value, Collection):
        raise TypeError(f"entrypoints is a name or a collection of names, got {value!r}")
    return [checked_text("the name of a schedule", x) for x in cast("Collection[object]", value)]
