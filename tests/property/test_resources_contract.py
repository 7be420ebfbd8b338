"""The contract of shared resources, row by row, under drawn interleavings and at every step.

Each test draws which task goes next; the application runs whole, in memory, on a clock that jumps.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, strategies as st

from pgq_trio import Context, InMemoryDriver, Job, PgQueuer, Resources
from pgq_trio.errors import ResourceError, UnknownJob
from pgq_trio.testing import (
    BACKENDS,
    Backend,
    Outcomes,
    Simulation,
    cancel_everywhere,
    drain,
    explore,
    faults,
    interleavings,
    simulate,
)
from tests.property.profiles import examples
from tests.property.resource_worlds import (
    FIRES,
    STEPS,
    Crash,
    Shared,
    Tally,
    World,
)

backends = pytest.mark.parametrize("backend", BACKENDS)
drawn = interleavings(tasks=5)
jobs = st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple)
#: So long that most cancellations come while they run.
busy = st.lists(st.integers(5, 15), min_size=2, max_size=4).map(tuple)


@backends
@examples(100)
@given(
    schedule=drawn, kinds=st.lists(st.sampled_from([*STEPS]), max_size=6), fires=st.integers(0, 3)
)
def test_identity_and_mutation(
    backend: Backend, schedule: tuple[int, ...], kinds: list[str], fires: int
) -> None:
    """Every kind of handler gets the very object, up to date; no read-modify-write is lost."""
    shared = Shared(count=0)
    tally = Tally()

    async def scenario() -> None:
        async with PgQueuer.open(InMemoryDriver(), resources=shared) as pgq:
            tally.register(pgq)
            await pgq.queries.enqueue([*kinds])
            await pgq.start()
            await anyio.sleep(10 * fires + 5)

    simulate(scenario, schedule=schedule, backend=backend, threads="inline").check()
    assert all(resources is shared for resources in tally.seen)
    assert not tally.stale
    assert shared["count"] == tally.count
    fired = tally.count - sum(STEPS[kind] for kind in kinds)
    assert fired in {FIRES * fires, FIRES * (fires + 1)}


@backends
@examples(60)
@given(schedule=drawn, checkpoints=jobs)
def test_life(backend: Backend, schedule: tuple[int, ...], checkpoints: tuple[int, ...]) -> None:
    """Entered once before the first job, left once after the last, last in first out."""
    world = World(checkpoints=checkpoints)
    simulate(world.serve, schedule=schedule, backend=backend).check()
    world.check_life()
    assert len(world.events) == 2 * len(world.members) + 1 + 2 * len(checkpoints)
    assert not world.left()


@backends
@examples(80)
@given(schedule=drawn, checkpoints=busy, cancelled=faults(steps=80, count=2))
def test_order_under_cancellation(
    backend: Backend, schedule: tuple[int, ...], checkpoints: tuple[int, ...], cancelled: list[Any]
) -> None:
    """However it is cancelled, a resource and its tasks live until the last job has cleaned up."""
    world = World(checkpoints=checkpoints)
    simulate(world.serve, schedule=schedule, backend=backend, faults=cancelled).check()
    world.check_life()
    assert world.left().keys() <= {"queued"}


@backends
def test_order_under_cancellation_at_every_step(backend: Backend) -> None:
    """The same, at each step of one run, before it and in flight."""

    def check(world: World, _simulation: Simulation[None]) -> None:
        world.check_life()
        assert world.left().keys() <= {"queued"}

    counts = cancel_everywhere(World.serve, make=World, check=check, backend=backend)
    assert min(counts.values()) > 40


@backends
@pytest.mark.parametrize("member", ["outer", "inner"])
def test_failure_to_enter(backend: Backend, member: str) -> None:
    """Nothing is claimed, what was entered is closed, the caller gets the error: at every order."""

    def check(world: World, simulation: Simulation[None]) -> None:
        world.check_life()
        assert not any(who.startswith("job") or who == "application" for who, _ in world.events)

    async def scenario(world: World) -> None:
        with pytest.raises(Crash, match=member):
            await world.serve()

    explore(
        scenario,
        make=lambda: World(fails_to_enter=member),
        check=check,
        backend=backend,
        preemptions=1,
    )


@backends
@examples(40)
@given(schedule=drawn, failing=st.sets(st.sampled_from(["outer", "inner"]), min_size=1))
def test_failure_to_close(backend: Backend, schedule: tuple[int, ...], failing: set[str]) -> None:
    """An error in closing one resource skips no other, and the caller gets it."""
    world = World(fails_to_close=frozenset(failing))

    async def scenario() -> None:
        with pytest.raises((Crash, ExceptionGroup)):
            await world.serve()

    simulate(scenario, schedule=schedule, backend=backend).check()
    world.check_life()
    assert not world.left()


@backends
@examples(60)
@given(schedule=drawn, member=st.sampled_from(["outer", "inner"]))
def test_crash_of_a_resource(backend: Backend, schedule: tuple[int, ...], member: str) -> None:
    """The application is cancelled, running jobs are queued again, the caller gets that error."""
    world = CrashingWorld(crashes=member)

    async def scenario() -> None:
        with pytest.raises(Crash, match=member):
            await world.serve()

    simulate(scenario, schedule=schedule, backend=backend).check()
    closed = [who for who, what in world.events if what == "closed"]
    assert closed == list(world.members)[::-1]
    assert world.left() == {"queued": len(world.checkpoints)}
    assert [what for who, what in world.events if who.startswith("job")].count(
        "has cleaned up"
    ) == len(world.checkpoints)


class CrashingWorld(World):
    """Its jobs run until they are cancelled."""

    async def job(self, number: int, context: Any) -> None:
        who = f"job {number}"
        self.note(who, "starts")
        try:
            await anyio.sleep_forever()
        finally:
            self.note(who, "has cleaned up")


@backends
@examples(60)
@given(schedule=drawn)
def test_access_ends_with_the_job(backend: Backend, schedule: tuple[int, ...]) -> None:
    """`get_context` knows a job while it runs, and never before or afterwards."""
    known: list[bool] = []

    async def scenario() -> None:
        pgq = PgQueuer.in_memory(resources={})

        def is_known(job_id: int) -> bool:
            try:
                return pgq.qm.get_context(job_id).resources is pgq.resources
            except UnknownJob:
                return False

        @pgq.entrypoint("work")
        async def work(job: Any) -> None:
            known.append(is_known(job.id))
            await anyio.lowlevel.checkpoint()
            known.append(is_known(job.id))

        ids = await pgq.queries.enqueue(["work"] * 3)
        assert not any(is_known(job_id) for job_id in ids)
        await pgq.run(mode="drain", handle_signals=False)
        assert not any(is_known(job_id) for job_id in ids)

    simulate(scenario, schedule=schedule, backend=backend).check()
    assert known == [True] * 6


@backends
@pytest.mark.parametrize("way", ["plain", "function", "async function"])
@pytest.mark.parametrize("managed", [False, True], ids=["mapping", "manager"])
def test_giving_them(backend: Backend, way: str, managed: bool) -> None:
    """However they are given, what arrives is the object itself, under every interleaving."""

    async def scenario() -> None:
        world = World()
        given_ = world.resources() if managed else world.shared

        def give() -> object:
            return given_

        async def give_later() -> object:
            await anyio.lowlevel.checkpoint()
            return given_

        source: Any = {"plain": given_, "function": give, "async function": give_later}[way]
        async with PgQueuer.open(InMemoryDriver(), resources=source) as pgq:
            assert pgq.resources is world.shared

    explore(scenario, backend=backend, preemptions=1)


#: What can be put into a `Resources` to be closed.
ENTRIES = ("async", "sync", "callback", "async callback")


@dataclass
class Entries:
    """Puts things into a `Resources` and notes in which order they are closed."""

    kinds: list[str]
    fails_at: int | None
    closed: list[int] = field(default_factory=list[int])

    async def make(self) -> Resources:
        resources = Resources(given="as it is")
        for number, kind in enumerate(self.kinds):
            if number == self.fails_at:
                raise Crash(kind)
            await self._add(resources, number, kind)
        with pytest.raises(ResourceError):
            resources.get_typed("given", int)
        return resources

    async def _add(self, resources: Resources, number: int, kind: str) -> None:
        match kind:
            case "async":
                assert await resources.enter(f"{number}", self._async(number)) == number
            case "sync":
                assert await resources.enter(f"{number}", self._sync(number)) == number
            case "callback":
                resources.callback(self.closed.append, number)
            case _:
                resources.callback(self._close_slowly, number)

    @asynccontextmanager
    async def _async(self, number: int) -> AsyncGenerator[int]:
        await anyio.lowlevel.checkpoint()
        try:
            yield number
        finally:
            await self._close_slowly(number)

    @contextmanager
    def _sync(self, number: int) -> Iterator[int]:
        try:
            yield number
        finally:
            self.closed.append(number)

    async def _close_slowly(self, number: int) -> None:
        await anyio.sleep(1)  # cancelled unless it is shielded
        self.closed.append(number)


@backends
@examples(60)
@given(
    schedule=drawn,
    kinds=st.lists(st.sampled_from(ENTRIES), max_size=4),
    fails_at=st.none() | st.integers(0, 4),
    cancelled=st.booleans(),
)
def test_the_ready_container(
    backend: Backend,
    schedule: tuple[int, ...],
    kinds: list[str],
    fails_at: int | None,
    cancelled: bool,
) -> None:
    """`Resources` closes what it was given, all of it, last first, also when filling it fails."""
    entries = Entries(kinds, fails_at)
    fails = fails_at is not None and fails_at < len(kinds)

    async def scenario() -> None:
        with anyio.CancelScope() as outside:
            async with PgQueuer.open(InMemoryDriver(), resources=entries.make) as pgq:
                assert isinstance(pgq.resources, Resources)
                assert pgq.resources.get_typed("given", str) == "as it is"
                for number, kind in enumerate(kinds):
                    named = kind in {"async", "sync"}
                    assert pgq.resources.get(f"{number}") == (number if named else None)
                if cancelled:
                    outside.cancel()
                    await anyio.sleep_forever()

    async def expected() -> None:
        if fails:
            with pytest.raises(Crash):
                await scenario()
        else:
            await scenario()

    simulate(expected, schedule=schedule, backend=backend).check()
    entered = fails_at if fails_at is not None and fails else len(kinds)
    assert entries.closed == [*range(entered)][::-1]


@backends
@examples(40)
@given(schedule=drawn, forgets=st.lists(st.booleans(), min_size=1, max_size=4))
def test_a_forgotten_await(
    backend: Backend, schedule: tuple[int, ...], forgets: list[bool]
) -> None:
    """A sync handler that calls an async resource and forgets it fails; the message says why."""
    calls: list[bytes | None] = []

    async def fetch(payload: bytes | None) -> None:
        calls.append(payload)  # never comes to that: nobody awaits it

    async def scenario() -> Outcomes:
        pgq = PgQueuer.in_memory(resources={"fetch": fetch})

        @pgq.entrypoint("forgets")
        def forgetting(job: Job, context: Context) -> object:
            call: Any = context.resources["fetch"]
            return call(job.payload)

        @pgq.entrypoint("remembers")
        def remembering(_job: Job, context: Context) -> None:
            assert context.resources["fetch"] is fetch

        names = ["forgets" if forgotten else "remembers" for forgotten in forgets]
        await pgq.queries.enqueue(names, [b"x"] * len(names))
        return await drain(pgq)

    outcomes = simulate(scenario, schedule=schedule, backend=backend, threads="inline").check()
    assert [log.status == "exception" for _, log in sorted(outcomes.items())] == forgets
    for log in outcomes.failures:
        assert log.traceback is not None
        assert "from_thread.run" in log.traceback.exception_message
    assert not calls
