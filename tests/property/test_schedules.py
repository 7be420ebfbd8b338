"""Schedules under crashes, lost replies, jumping clocks and their users' commands.

Up to three schedulers, each with a connection of its own to one queue in memory, and a schedule
that fires every ten seconds. A fire's lease lasts 30 s.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from typing import Any, Literal

import anyio
import anyio.lowlevel
import pytest
from hypothesis import example, given, strategies as st

from pgq_trio import InMemoryDriver, Queries, Schedule, ScheduleContext, SchedulerManager
from pgq_trio.testing import BACKENDS, Backend, UnreliableDriver, interleavings, simulate
from tests.property.fault_worlds import ShiftedClock
from tests.property.profiles import examples

backends = pytest.mark.parametrize("backend", BACKENDS)

INTERVAL = 10

#: Seconds; the lease of a fire that nobody runs, or that nobody knows to be claimed.
LEASE = 30

KINDS = (
    "crash",
    "cut",
    "lost claim request",
    "lost claim reply",
    "lost finish reply",
    "clock forward",
    "clock far forward",
    "clock back",
    "pause and resume",
    "trigger",
)

#: What may have a fire run twice: who ran it first is gone, or could not say that it had.
REPEATING = {"crash", "cut"}

#: What may have a fire time come while earlier ones are run or made up: it is skipped then.
SKIPPING = {"cut", "clock forward", "clock far forward", "pause and resume"}

Misfire = Literal["last", "all", "skip"]
Plan = list[tuple[int, str]]
plans: st.SearchStrategy[Plan] = st.lists(
    st.tuples(st.integers(0, 60), st.sampled_from(KINDS)), max_size=4
).map(sorted)


@dataclass(eq=False)
class Schedulers:
    """Schedulers and what they fired."""

    misfire: Misfire
    length: float
    clock: ShiftedClock = field(default_factory=ShiftedClock)
    begun: list[float] = field(default_factory=list[float])
    running: int = 0
    overlaps: int = 0
    last: float = 0.0

    def __post_init__(self) -> None:
        self.driver = InMemoryDriver(self.clock)
        self.queries = Queries(self.driver)
        self.connections: list[UnreliableDriver] = []
        self.scopes: list[anyio.CancelScope] = []
        self.tasks: Any = None

    def start(self) -> None:
        """Start one more."""
        connection = UnreliableDriver(self.driver)
        manager = SchedulerManager(connection)

        @manager.schedule("tick", f"* * * * * */{INTERVAL}", misfire=self.misfire)
        async def tick(_schedule: Schedule, context: ScheduleContext) -> None:
            self.begun.append(context.fire_time.timestamp())
            self.last = anyio.current_time()
            self.running += 1
            self.overlaps += self.running > 1
            try:
                await anyio.sleep(self.length)
            finally:
                self.running -= 1

        scope = anyio.CancelScope()

        async def run() -> None:
            with scope:
                await manager.run(handle_signals=False)

        self.connections.append(connection)
        self.scopes.append(scope)
        self.tasks.start_soon(run, name=f"scheduler {len(self.scopes)}")

    async def run_all(self, count: int, plan: Plan) -> None:
        """Run so many through the plan, and until all should be well again."""
        async with anyio.create_task_group() as self.tasks:
            for _ in range(count):
                self.start()
            began = anyio.current_time()
            for number, (at, kind) in enumerate(plan):
                await anyio.sleep_until(began + 1 + at)
                await self.befall(number % count, kind)
            # Leases may have to expire, one after another, and the clock to catch up.
            await anyio.sleep(LEASE * (1 + len(plan)) + INTERVAL * 5)
            self.tasks.cancel_scope.cancel()

    async def befall(self, number: int, kind: str) -> None:
        """Have something happen to a scheduler, to the clock or by a user."""
        connection = self.connections[number]
        match kind:
            case "crash":
                connection.crash()
                self.scopes[number].cancel()
                self.start()  # another process takes its place
                self.connections[number], self.scopes[number] = (
                    self.connections.pop(),
                    self.scopes.pop(),
                )
            case "cut":
                connection.cut(15)
            case "clock forward":
                self.clock.shift += timedelta(seconds=4)
            case "clock far forward" if not self.running:
                self.clock.shift += timedelta(hours=1)
            case "clock back":
                self.clock.shift -= timedelta(seconds=INTERVAL)
            case "pause and resume":
                await self.queries.pause_schedule(entrypoints="tick")
                await anyio.sleep(INTERVAL)
                await self.queries.resume_schedule(entrypoints="tick")
            case "trigger":
                await self.queries.trigger_schedule(entrypoints="tick")
            case lost if lost.startswith("lost"):
                _, operation, part = lost.split()
                connection.lose(operation, "request" if part == "request" else "reply")
            case _:
                pass


@backends
@example(schedule=(), count=2, misfire="last", length=3.0, plan=[(9, "crash")])
@example(schedule=(), count=1, misfire="all", length=0.0, plan=[(0, "clock far forward")])
@example(schedule=(), count=2, misfire="all", length=0.0, plan=[(8, "lost claim reply")])
@example(schedule=(), count=1, misfire="last", length=3.0, plan=[(8, "lost finish reply")])
@example(
    schedule=(),
    count=1,
    misfire="all",
    length=0.0,
    plan=[(10, "lost claim reply"), (10, "trigger")],
)
@example(schedule=(), count=1, misfire="all", length=0.0, plan=[(29, "trigger")])
@examples(60)
@given(
    schedule=interleavings(tasks=5),
    count=st.integers(1, 3),
    misfire=st.sampled_from(["last", "all", "skip"]),
    length=st.sampled_from([0.0, 3.0]),
    plan=plans,
)
def test_each_fire_time_is_answered_once(
    backend: Backend,
    schedule: tuple[int, ...],
    count: int,
    misfire: Misfire,
    length: float,
    plan: Plan,
) -> None:
    """By however many schedulers, whichever way the clock jumps; after each outage it goes on.

    Only what died or could not speak while it ran may run again, once for each such mishap. Where
    all missed fires are to be made up none is left out. No two runs go on at the same time, unless
    the lease of the first was lost.
    """
    world = Schedulers(misfire, length)

    async def scenario() -> float:
        await world.run_all(count, plan)
        return anyio.current_time() - world.last

    since = simulate(scenario, schedule=schedule, backend=backend).check()
    kinds = Counter(kind for _, kind in plan)
    again = sum(kinds[kind] for kind in REPEATING)
    if kinds["lost claim reply"]:  # the lost run of a trigger is made up as one of the fire before
        again += kinds["trigger"]
    assert all(times <= 1 + again for times in Counter(world.begun).values()), world.begun
    assert len(world.begun) - len(set(world.begun)) <= again
    assert world.overlaps <= again
    assert since <= INTERVAL * (1 + 2 * kinds["clock back"])
    if misfire == "all" and not length and not kinds.keys() & SKIPPING:
        # Triggered in the very moment at which it is due, one run is both.
        regular = sorted({int(time) for time in world.begun if int(time) % INTERVAL == 0})
        steps = {after - before for before, after in pairwise(regular)}
        assert steps <= {INTERVAL}, steps
