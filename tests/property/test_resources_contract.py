"""The contract of shared resources, row by row, under drawn interleavings and at every step.

Each test draws which task goes next; the application runs whole, in memory, on a clock that jumps.
"""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from hypothesis import given, strategies as st

from pgq_trio import InMemoryDriver, PgQueuer, Resources
from pgq_trio.errors import ResourceError, UnknownJob
from pgq_trio.testing import (
    BACKENDS,
    Backend,
    Simulation,
    cancel_everywhere,
    explore,
    faults,
    interleavings,
    simulate,
)
from tests.property.profiles import examples
from tests.property.resource_worlds import Crash, Shared, World, register_counters

backends = pytest.mark.parametrize("backend", BACKENDS)
drawn = interleavings(tasks=5)
jobs = st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple)

KINDS = ("async", "closure", "sync", "executor")


@backends
@examples(100)
@given(schedule=drawn, kinds=st.lists(st.sampled_from(KINDS), max_size=6), fires=st.integers(0, 3))
def test_identity_and_mutation(
    backend: Backend, schedule: tuple[int, ...], kinds: list[str], fires: int
) -> None:
    """Every kind of handler gets the very object; no read-modify-write of any of them is lost."""
    shared = Shared(count=0)
    seen: list[object] = []

    async def scenario() -> None:
        async with PgQueuer.open(InMemoryDriver(), resources=shared) as pgq:
            register_counters(pgq, seen)
            await pgq.queries.enqueue([*kinds])
            await pgq.start()
            await anyio.sleep(10 * fires + 5)

    simulate(scenario, schedule=schedule, backend=backend, threads="inline").check()
    expected = {10 * fires // 10, (10 * fires + 5) // 10, (10 * fires + 5) // 10 + 1}
    fired = len(seen) - sum(kind != "executor" for kind in kinds)
    assert fired in expected
    assert all(resources is shared for resources in seen)
    assert shared["count"] == 2 * (len(kinds) + fired)


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
@examples(60)
@given(schedule=drawn, checkpoints=jobs, cancelled=faults(steps=80))
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


@backends
@examples(40)
@given(schedule=drawn, names=st.lists(st.sampled_from("abc"), unique=True, max_size=3))
def test_the_ready_container(backend: Backend, schedule: tuple[int, ...], names: list[str]) -> None:
    """`Resources` enters members on request and closes them last in first out, after all jobs."""
    world = World(members=tuple(names))
    closed: list[str] = []

    async def enter_them() -> Resources:
        resources = Resources()
        for name in names:
            resources.callback(closed.append, name)
            await resources.enter(name, world._member(name))
        with pytest.raises(ResourceError):
            resources.get_typed("missing", int)
        return resources

    async def scenario() -> None:
        async with PgQueuer.open(InMemoryDriver(), resources=enter_them) as pgq:
            assert isinstance(pgq.resources, Resources)
            assert list(pgq.resources) == names

    simulate(scenario, schedule=schedule, backend=backend).check()
    world.check_life()
    assert closed == names[::-1]
