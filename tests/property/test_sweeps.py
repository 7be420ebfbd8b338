"""Something that is asked for at each step of a run: a shutdown, the end of one job.

Each test runs a scenario again and again: what is asked for comes before its first step, its
second, and so on, and while what that step began is in flight.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import anyio
import pytest
import trio

from pgq_trio import PgQueuer
from pgq_trio.testing import BACKENDS, Backend, Fault, Moment, Simulation, simulate
from tests.property.queue_worlds import FAR, Fleet, Ledger, ask, enqueue, far_away

backends = pytest.mark.parametrize("backend", BACKENDS)
moments = pytest.mark.parametrize("moment", ["before", "in flight"])


class World:
    """A fleet of one worker, and when something was asked of it."""

    def __init__(self) -> None:
        self.fleet: Fleet = far_away()
        self.pgq: PgQueuer = self.fleet.application()
        self.ids: list[int] = []
        self.asked_at: float | None = None
        self.ended_at: float = 0.0
        self.cancelled: set[int] = set()
        self.asked: anyio.Event | None = None

    async def drain(self) -> None:
        """Run until nothing is left that is due, or it is stopped."""
        await self.pgq.run(mode="drain", handle_signals=False)
        self.ended_at = anyio.current_time()


def sweep(
    scenario: Callable[[World], Awaitable[None]],
    act: Callable[[World], None],
    check: Callable[[World], None],
    *,
    backend: Backend,
    moment: Moment,
) -> int:
    """Run a scenario once for each of its steps; return how many there were."""
    for step in count(1):
        world = World()

        def action(_: Simulation[Any], world: World = world) -> None:
            # No task of AnyIO's runs at this moment, which it would ask for the time.
            loop_time = asyncio.get_running_loop().time if backend == "asyncio" else None
            world.asked_at = (loop_time or trio.current_time)()
            act(world)

        fault = Fault(step, moment, action)
        run = simulate(scenario, world, backend=backend, faults=[fault])
        try:
            run.check()
            if world.ids:
                check(world)
        except BaseException as exc:
            exc.add_note(f"{moment} step {step}\n{run.replay()}")
            raise
        if run.steps < step:
            return step - 1
    raise AssertionError("a run has an end")


@backends
@moments
def test_a_shutdown_at_every_step(backend: Backend, moment: Moment) -> None:
    """It leaves every job done once or queued, spends no attempt, and comes to an end at once."""

    async def scenario(world: World) -> None:
        work = [("limited", b"again", 0), ("plain", b"sleep", 0)]
        world.ids = await enqueue(world.fleet, work)
        await world.drain()

    def check(world: World) -> None:
        ledger = Ledger.of(world.fleet)
        ledger.check_conservation(world.ids)
        assert set(ledger.left.values()) <= {"queued"}
        assert not world.fleet.problems
        assert all(ledger.ends(job_id) in ([], ["successful"]) for job_id in world.ids)
        again = world.ids[0]
        left = ask(lambda: world.fleet.queries.browse_queue(limit=10))
        retried = [x for x in ledger.log if x.job_id == again and x.traceback is not None]
        assert {job.id: job.attempts for job in left} == {
            job.id: len(retried) if job.id == again else 0 for job in left
        }
        if world.asked_at is not None:
            assert world.ended_at - world.asked_at <= 10 * FAR

    def shut_down(world: World) -> None:
        world.pgq.request_shutdown(0)

    assert sweep(scenario, shut_down, check, backend=backend, moment=moment) > 30


@backends
@moments
def test_a_job_cancelled_at_every_step(backend: Backend, moment: Moment) -> None:
    """Before its claim, on the way, while it runs, while its outcome is written: one outcome."""

    async def scenario(world: World) -> None:
        world.ids = await enqueue(world.fleet, [("plain", b"sleep", 0)])
        world.asked = anyio.Event()

        async def client() -> None:
            assert world.asked is not None
            await world.asked.wait()
            world.cancelled = await world.fleet.queries.mark_job_as_cancelled(world.ids)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client, name="client")
            tasks.start_soon(world.drain, name="worker")
            with anyio.move_on_after(20):
                while not world.ended_at:
                    await anyio.sleep(0.5)
            world.asked.set()

    def check(world: World) -> None:
        assert world.ended_at, "the worker is stuck"
        ledger = Ledger.of(world.fleet)
        (job_id,) = world.ids
        assert not ledger.left
        assert ledger.ends(job_id) == (["canceled"] if world.cancelled else ["successful"])
        if world.cancelled and world.asked_at is not None:
            assert world.ended_at - world.asked_at <= 20 * FAR

    def cancel(world: World) -> None:
        if world.asked is not None:
            world.asked.set()

    assert sweep(scenario, cancel, check, backend=backend, moment=moment) > 30
