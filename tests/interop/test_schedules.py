"""Schedules that workers of both kinds share: each fire time runs once in total."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime

import anyio
import pgqueuer
import pytest
from pgqueuer.models import Schedule as TheirSchedule

from pgq_trio import PgQueuer, Schedule
from tests.interop.sides import Pair, Side
from tests.worker.tools import SOON, running

#: Far from now, whenever that is, so that nothing fires but what a test makes due.
YEARLY = "0 0 29 2 *"


def yearly(*names: str) -> dict[str, str]:
    """Schedules that fire when a test makes them due."""
    return dict.fromkeys(names, YEARLY)


#: Made due: a fire time of the past.
DUE = "UPDATE pgqueuer_schedules SET next_run = date_trunc('second', now()) - interval '1 second'"


class Fires:
    """What fired, anywhere: who ran it, its name and its next fire time."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, datetime]] = []
        self._running: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.overlapped = False

    async def play(self, side: Side, schedule: Schedule | TheirSchedule) -> None:
        """Be the handler's body."""
        with self._lock:
            self.entries.append((side.name, schedule.entrypoint, schedule.next_run))
            self._running[schedule.entrypoint] += 1
            self.overlapped |= self._running[schedule.entrypoint] > 1
        await anyio.sleep(0.01)  # so that runs of one schedule would overlap
        with self._lock:
            self._running[schedule.entrypoint] -= 1

    async def until(self, count: int) -> None:
        """Wait until so many have fired; threads of two event loops write here."""
        with anyio.fail_after(SOON):
            while len(self.entries) < count:
                await anyio.sleep(0.01)


@asynccontextmanager
async def scheduling(
    pair: Pair, side: Side, fires: Fires, schedules: Mapping[str, str]
) -> AsyncGenerator[None]:
    """Have a scheduler of one side run during a block."""
    if side is pair.theirs:

        def register(pgq: pgqueuer.PgQueuer) -> None:
            @pgq.entrypoint("none")
            async def unused(job: pgqueuer.Job) -> None: ...

            for name, expression in schedules.items():

                @pgq.schedule(name, expression)
                async def theirs(schedule: TheirSchedule) -> None:
                    await fires.play(side, schedule)

        async with pair.theirs.peer.working(register):
            yield
        return
    async with PgQueuer.open(pair.dsn) as pgq:
        for name, expression in schedules.items():

            @pgq.schedule(name, expression)
            async def ours(schedule: Schedule) -> None:
                await fires.play(side, schedule)

        async with running(pgq):
            yield


async def announce(pair: Pair, schedules: Mapping[str, str]) -> None:
    """Have `one` write the rows of the schedules."""
    async with scheduling(pair, pair.one, Fires(), schedules):
        pass  # it writes the rows before anything else


async def test_an_expression_is_one_row_whoever_registers_it(pair: Pair) -> None:
    expressions = [
        *("@yearly", "@monthly", "@weekly", "@daily", "@hourly"),
        *("0 0 * * 7", "*/5 4-8 1,15 jan-jun mon", "15 10 L * *", "30 6 * * mon#2"),
        *("0 9 1 1 * 30", " 5   4  *\t*   * "),
    ]
    schedules = {f"s{n}": expression for n, expression in enumerate(expressions)}
    await announce(pair, schedules)
    stored = "SELECT entrypoint, expression, next_run FROM pgqueuer_schedules ORDER BY id"
    rows = pair.fetch(stored)
    assert [name for name, *_ in rows] == list(schedules)
    async with scheduling(pair, pair.other, Fires(), schedules):
        pass  # it writes the rows that are missing before anything else
    assert pair.fetch(stored) == rows
    # And both mean the same by them.
    pair.fetch("DELETE FROM pgqueuer_schedules")
    async with scheduling(pair, pair.other, Fires(), schedules):
        pass
    again = pair.fetch(stored)
    assert [row[:2] for row in again] == [row[:2] for row in rows]
    # Less than all, because a minute or an hour may have begun between the two.
    assert sum(old == new for old, new in zip(rows, again, strict=True)) >= len(rows) - 2


async def test_what_is_due_fires_once_with_all_schedulers_after_it(pair: Pair) -> None:
    names = yearly(*(f"s{n}" for n in range(40)))
    await announce(pair, names)
    pair.fetch(DUE)
    fires = Fires()
    async with (
        scheduling(pair, pair.other, fires, names),
        scheduling(pair, pair.one, fires, names),
    ):
        await fires.until(len(names))
    async with scheduling(pair, pair.other, fires, names):
        pass
    assert Counter(name for _, name, _ in fires.entries) == Counter(list(names))
    assert {next_run for *_, next_run in fires.entries} == {
        next_run for (next_run,) in pair.fetch("SELECT next_run FROM pgqueuer_schedules")
    }
    state = "SELECT DISTINCT status::text, last_run IS NULL FROM pgqueuer_schedules"
    assert pair.fetch(state) == [("queued", False)]


@pytest.mark.parametrize("direction", ["ours-first"])
@pytest.mark.parametrize("shared_dsn", ["installed-by-us"], indirect=True)
async def test_every_second_once(pair: Pair) -> None:
    # Or once for two: a machine that was busy for a second has missed it.
    fires = Fires()
    names = dict.fromkeys(["tick", "tock"], "* * * * * *")
    async with (
        scheduling(pair, pair.theirs, fires, names),
        scheduling(pair, pair.ours, fires, names),
    ):
        await fires.until(6)
    fired = [(name, next_run) for _, name, next_run in fires.entries]
    assert len(set(fired)) == len(fired)
    assert not fires.overlapped


async def test_a_fire_of_a_dead_scheduler_is_run_by_the_other(pair: Pair) -> None:
    await announce(pair, yearly("lost", "held"))
    pair.fetch(
        "UPDATE pgqueuer_schedules SET status = 'picked', heartbeat = now() - CASE entrypoint"
        " WHEN 'lost' THEN interval '31 seconds' ELSE interval '1 second' END"
    )
    fires = Fires()
    async with scheduling(pair, pair.other, fires, yearly("lost", "held")):
        await fires.until(1)
    assert [name for _, name, _ in fires.entries] == ["lost"]
    state = "SELECT entrypoint, status::text FROM pgqueuer_schedules ORDER BY 1"
    assert pair.fetch(state) == [("held", "picked"), ("lost", "queued")]


async def test_deleted_by_the_other(pair: Pair) -> None:
    await announce(pair, yearly("s"))
    if pair.other is pair.ours:
        assert await pair.ours.queries.delete_schedule(entrypoints=["s"]) == 1
    else:
        await pair.theirs.peer.run(pair.theirs.peer.queries.delete_schedule(set(), {"s"}))  # type: ignore[arg-type]
    assert pair.fetch("SELECT id FROM pgqueuer_schedules") == []


@pytest.mark.parametrize("direction", ["theirs-first"])
async def test_paused_by_us_it_does_not_fire_at_theirs(pair: Pair) -> None:
    names = yearly("paused", "goes on")
    await announce(pair, names)
    assert len(await pair.ours.queries.pause_schedule(entrypoints=["paused"])) == 1
    pair.fetch(DUE)
    fires = Fires()
    async with scheduling(pair, pair.theirs, fires, names):
        await fires.until(1)
    assert [name for _, name, _ in fires.entries] == ["goes on"]
    assert len(await pair.ours.queries.resume_schedule(entrypoints=["paused"])) == 1
    async with scheduling(pair, pair.theirs, fires, names):
        await fires.until(2)
    assert [name for _, name, _ in fires.entries] == ["goes on", "paused"]


@pytest.mark.parametrize("direction", ["theirs-first"])
async def test_triggered_by_us_it_fires_at_theirs(pair: Pair) -> None:
    await announce(pair, yearly("s"))
    assert len(await pair.ours.queries.trigger_schedule(entrypoints=["s"])) == 1
    fires = Fires()
    async with scheduling(pair, pair.theirs, fires, yearly("s")):
        await fires.until(1)
    async with scheduling(pair, pair.ours, fires, yearly("s")):
        pass
    assert len(fires.entries) == 1
