"""Commands on schedules, and who plays them on a store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from hypothesis import strategies as st

from pgq_trio.abc import NewSchedule
from pgq_trio.models import Schedule
from tests.property.agreement_worlds import LEASE, START, Player, programs

#: Which of the rows seen so far; 0 is what was seen last.
_pick = st.integers(0, 2) | st.integers(0, 9)
_names = st.sets(st.sampled_from("ab")).map(sorted)
#: Seconds from the start of the test; fire times are whole ones.
_time = st.integers(-5, 20)

_places = st.tuples(st.lists(_pick, max_size=2), _names)
_added = st.tuples(st.sampled_from("ab"), st.sampled_from(["* * * * *", "@hourly"]), _time)
_claims = st.tuples(st.just("claim"), _pick, _time)
_ends = st.tuples(st.just("finish"), _pick, st.none() | _time, st.booleans())

_news = st.tuples(st.just("add"), st.lists(_added, min_size=1, max_size=2))
_all: tuple[list[int], list[str]] = ([], ["a", "b"])

#: Something is done to a schedule that runs.
_fires = st.tuples(
    _news,
    _claims,
    st.tuples(st.sampled_from(["pause", "resume", "trigger"]), _places),
    _ends,
    _claims,
)
#: Claims by what was seen before and after something was done to it.
_old_looks = st.tuples(
    _news,
    st.tuples(st.just("trigger"), st.just(_all)),
    st.tuples(st.just("claim"), st.integers(0, 3), _time),
    st.tuples(st.just("claim"), st.integers(0, 3), _time),
)

programs_of_schedules = programs(
    [st.tuples(st.just("add"), st.lists(_added, max_size=3)), _claims, _claims, _ends, _ends],
    [
        st.tuples(st.just("heartbeat"), st.lists(_pick, min_size=1, max_size=3)),
        st.tuples(st.just("pause"), _places),
        st.tuples(st.just("resume"), _places),
        st.tuples(st.just("trigger"), _places),
        st.tuples(st.just("delete"), _places),
        st.tuples(st.just("clear")),
        st.tuples(st.just("wait"), st.integers(1, 6)),
    ],
    _fires | _old_looks,
)


@dataclass
class SchedulePlayer(Player):
    """Plays commands on schedules, which are called by the order of their making as well."""

    #: The rows as somebody saw them, and as somebody claimed them.
    seen: list[Schedule] = field(default_factory=list[Schedule])
    claimed: list[Schedule] = field(default_factory=list[Schedule])

    async def look(self) -> dict[str, object]:
        """Read the table and the clock."""
        snapshot = await self.backend.schedules.snapshot()
        for row in snapshot.schedules:
            if row.id not in self.ids:
                self.ids.append(row.id)
            if row not in self.seen:
                self.seen.append(row)
        return {"now": snapshot.now, "schedules": [*map(self._plain, snapshot.schedules)]}

    def _plain(self, schedule: Schedule | None) -> Schedule | None:
        return None if schedule is None else replace(schedule, id=self.name(schedule.id))

    def _called(self, picks: Iterable[int]) -> list[int]:
        return [self.ids[-1 - n] if n < len(self.ids) else 999_999 for n in picks]

    def _claimed(self, picks: Iterable[int]) -> list[Schedule]:
        return [self.claimed[-1 - n] for n in dict.fromkeys(picks) if n < len(self.claimed)]

    async def play_wait(self, _seconds: int) -> None:
        """Do nothing."""

    async def play_add(self, given: Sequence[tuple[str, str, int]]) -> None:
        """Make schedules known."""
        await self.backend.schedules.add(
            [
                NewSchedule(name, expression, START + timedelta(seconds=due))
                for name, expression, due in given
            ]
        )

    async def play_claim(self, pick: int, next_run: int) -> object:
        """Claim a fire, by what was seen of the schedule some time."""
        if pick >= len(self.seen):
            return None
        claimed = await self.backend.schedules.claim(
            self.seen[-1 - pick],
            next_run=START + timedelta(seconds=next_run),
            heartbeat_timeout=LEASE,
        )
        if claimed is not None:
            self.claimed.append(claimed)
        return self._plain(claimed)

    async def play_finish(self, pick: int, next_run: int | None, ran: bool) -> object:
        """End a fire."""
        return [
            self._plain(
                await self.backend.schedules.finish(
                    claimed,
                    next_run=None if next_run is None else START + timedelta(seconds=next_run),
                    ran=ran,
                )
            )
            for claimed in self._claimed([pick])
        ]

    async def play_heartbeat(self, picks: list[int]) -> object:
        """Renew leases."""
        return self.names(await self.backend.schedules.heartbeat(self._claimed(picks)))

    async def play_pause(self, places: tuple[list[int], list[str]]) -> object:
        """Pause schedules."""
        ids, names = self._called(places[0]), places[1]
        return self.names(await self.backend.schedules.pause(ids=ids, entrypoints=names))

    async def play_resume(self, places: tuple[list[int], list[str]]) -> object:
        """Have them fire again."""
        ids, names = self._called(places[0]), places[1]
        return self.names(await self.backend.schedules.resume(ids=ids, entrypoints=names))

    async def play_trigger(self, places: tuple[list[int], list[str]]) -> object:
        """Make them due now."""
        ids, names = self._called(places[0]), places[1]
        return self.names(await self.backend.schedules.trigger(ids=ids, entrypoints=names))

    async def play_delete(self, places: tuple[list[int], list[str]]) -> object:
        """Delete some."""
        ids, names = self._called(places[0]), places[1]
        return await self.backend.schedules.delete(ids=ids, entrypoints=names)

    async def play_clear(self) -> object:
        """Delete all."""
        return await self.backend.schedules.clear()
