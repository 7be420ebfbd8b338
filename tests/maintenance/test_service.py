"""The rhythm of the housekeeping over hours and days on a virtual clock, on both event loops."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import anyio
import pytest

from pgq_trio import InMemoryDriver
from pgq_trio.abc import Backend as Stores
from pgq_trio.errors import ConnectionLost, StoreError
from pgq_trio.maintenance.service import INTERVAL, Maintenance
from pgq_trio.model.retention import Retention
from pgq_trio.settings import Settings
from pgq_trio.testing import (
    BACKENDS,
    Backend,
    Call,
    Policy,
    Simulation,
    UnreliableDriver,
    cancel_everywhere,
    simulate,
)
from tests.maintenance.stores import counted, occupied, some_history

HOUR = 3600.0
DAY = 24 * HOUR

#: A day of the housekeeping takes many steps.
MAX_STEPS = 10_000_000

backends = pytest.mark.parametrize("backend", BACKENDS)


@dataclass(slots=True)
class Scene:
    """A service on a queue in memory, and what it reported."""

    connection: UnreliableDriver
    real: Stores
    problems: list[str | None] = field(default_factory=list)
    times: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def make(cls) -> Scene:
        driver = InMemoryDriver()
        return cls(UnreliableDriver(driver), driver.backend(Settings()))

    def service(
        self, retention: Retention, uniform: Callable[[float, float], float] | None = None
    ) -> Maintenance:
        given = {} if uniform is None else {"uniform": uniform}
        insights = self.connection.backend(Settings()).insights
        return Maintenance(insights, retention, on_problem=self.note_problem, **given)

    def note_problem(self, problem: str | None) -> None:
        if not self.problems or self.problems[-1] != problem:
            self.problems.append(problem)

    async def note_time(self, call: Call) -> None:
        await anyio.lowlevel.checkpoint()
        self.times.setdefault(call.name, []).append(anyio.current_time())

    async def run_for(self, seconds: float, service: Maintenance) -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(partial(service.run))
            await anyio.sleep(seconds)
            tasks.cancel_scope.cancel()


@backends
def test_an_idle_queue_costs_one_look_a_minute(backend: Backend) -> None:
    async def main() -> None:
        scene = Scene.make()
        scene.connection.before = scene.note_time
        began = anyio.current_time()
        await scene.run_for(10 * HOUR, scene.service(Retention(default=DAY)))
        assert set(scene.connection.calls) == {"chores"}
        assert 550 <= scene.connection.calls["chores"] <= 650
        times = scene.times["chores"]
        assert times[0] - began <= INTERVAL
        pauses = [b - a for a, b in itertools.pairwise(times)]
        assert 47 <= min(pauses) < 52
        assert 68 < max(pauses) <= 73
        assert scene.problems == [None]

    simulate(main, backend=backend, max_steps=MAX_STEPS).check()


@backends
def test_old_rows_go_and_stay_counted(backend: Backend) -> None:
    async def main() -> None:
        scene = Scene.make()
        await some_history(scene.real, 100)
        service = scene.service(Retention(default=2 * HOUR, statistics=3 * DAY))
        await scene.run_for(HOUR, service)
        assert await scene.real.insights.unfolded() == 0  # within the first minutes
        assert len(await scene.real.jobs.log()) == 200
        await some_history(scene.real, 1)
        await scene.run_for(1.5 * HOUR, service)
        assert len(await scene.real.jobs.log()) == 2
        await scene.run_for(DAY, service)
        assert await scene.real.jobs.log() == []
        assert await counted(scene.real) == 202
        await scene.run_for(3 * DAY, service)
        assert await counted(scene.real) == 0
        # Two passes did everything, and a third one the statistics.
        assert scene.connection.calls["expire"] <= 10

    simulate(main, backend=backend, max_steps=MAX_STEPS).check()


@backends
def test_it_rests_between_batches(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        scene = Scene.make()
        await some_history(scene.real, 50)
        await anyio.sleep(DAY)
        real, slow = scene.real.insights.expire, 0.5

        async def expire(retention: Retention, *, limit: int = 10) -> object:
            await anyio.sleep(slow)
            return await real(retention, limit=10)

        monkeypatch.setattr(scene.real.insights, "expire", expire)
        scene.connection.before = scene.note_time
        await scene.run_for(2 * INTERVAL, scene.service(Retention(default=HOUR)))
        times = scene.times["expire"]
        assert len(times) >= 10
        pauses = [b - a for a, b in itertools.pairwise(times[:10])]
        assert all(pause == pytest.approx(2 * slow) for pause in pauses)
        assert await scene.real.jobs.log() == []

    simulate(main, backend=backend, max_steps=MAX_STEPS).check()


@backends
def test_a_lost_connection_is_waited_out(backend: Backend) -> None:
    async def main() -> None:
        scene = Scene.make()
        ends = anyio.current_time() + 2 * HOUR

        async def before(call: Call) -> None:
            await scene.note_time(call)
            if anyio.current_time() < ends:
                raise ConnectionLost("the cable")

        scene.connection.before = before
        await some_history(scene.real, 1)
        await scene.run_for(3 * HOUR, scene.service(Retention(default=60)))
        lost, well = scene.problems
        assert lost is not None
        assert "the cable" in lost
        assert well is None
        assert await scene.real.jobs.log() == []
        tries = [at for at in scene.times["chores"] if at < ends]
        pauses = [b - a for a, b in itertools.pairwise(tries)]
        assert max(pauses) <= INTERVAL
        assert pauses[0] <= 1
        assert len(tries) < 300

    simulate(main, backend=backend, max_steps=MAX_STEPS).check()


@backends
@pytest.mark.parametrize("operation", ["chores", "fold", "expire"])
def test_what_the_store_refuses_is_reported_and_tried_again(
    backend: Backend, operation: str
) -> None:
    async def main() -> None:
        scene = Scene.make()
        scene.connection.fail(operation, StoreError("permission denied"), times=3)
        await some_history(scene.real, 1)
        await scene.run_for(HOUR, scene.service(Retention(default=0)))
        assert scene.problems == ["permission denied", None]
        assert await scene.real.jobs.log() == []

    simulate(main, backend=backend, max_steps=MAX_STEPS).check()


@backends
def test_a_store_that_is_silent_is_noticed(backend: Backend) -> None:
    async def main() -> None:
        scene = Scene.make()
        scene.connection.hold("chores")
        await scene.run_for(HOUR, scene.service(Retention(default=0)))
        lost, well = scene.problems
        assert lost is not None
        assert "no answer" in lost
        assert well is None

    simulate(main, backend=backend, max_steps=MAX_STEPS).check()


@backends
@pytest.mark.parametrize("busy", ["fold", "expire"])
def test_another_process_at_it_has_the_pass(backend: Backend, busy: str) -> None:
    async def main() -> None:
        scene = Scene.make()
        await some_history(scene.real, 1)
        with pytest.MonkeyPatch.context() as patch:
            occupied(patch, scene.real, busy)
            await scene.run_for(10 * INTERVAL, scene.service(Retention(default=0)))
        passes = scene.connection.calls["chores"]
        assert passes >= 8
        assert scene.connection.calls[busy] == passes
        assert scene.connection.calls["expire"] == (0 if busy == "fold" else passes)
        assert scene.problems == [None]
        await scene.run_for(3 * INTERVAL, scene.service(Retention(default=0)))
        assert await scene.real.jobs.log() == []

    simulate(main, backend=backend, max_steps=MAX_STEPS).check()


@backends
def test_a_fleet_that_starts_together_does_not_act_together(backend: Backend) -> None:
    async def main() -> None:
        scene = Scene.make()
        scene.connection.before = scene.note_time
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                await tasks.start(scene.service(Retention(default=DAY)).run)
            await anyio.sleep(INTERVAL)
            tasks.cancel_scope.cancel()
        seconds = {int(at) for at in scene.times["chores"]}
        assert len(seconds) >= 10

    simulate(main, backend=backend, max_steps=MAX_STEPS).check()


def with_history() -> Scene:
    scene = Scene.make()
    simulate(some_history, scene.real, 10).check()
    return scene


async def work(scene: Scene) -> None:
    with anyio.move_on_after(INTERVAL * 3):
        await scene.service(Retention(default=0)).run(task_status=anyio.TASK_STATUS_IGNORED)


def check(scene: Scene, simulation: Simulation[None]) -> None:
    async def look() -> None:
        assert await counted(scene.real) + await scene.real.insights.unfolded() == 20
        await work(scene)
        assert await counted(scene.real) == 20
        assert await scene.real.jobs.log() == []

    simulate(look, backend=simulation.backend).check()


@pytest.mark.parametrize("policy", ["stay", "rotate"])
@backends
def test_cancelled_at_any_step_each_row_is_counted_once(backend: Backend, policy: Policy) -> None:
    steps = cancel_everywhere(
        work, make=with_history, check=check, backend=backend, policies=[policy]
    )
    assert min(steps.values()) > 10
