"""The rhythm of the housekeeping over hours and days on a virtual clock, on both event loops."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import anyio
import pytest

from pgq_trio.abc import Backend
from pgq_trio.errors import ConnectionLost, StoreError
from pgq_trio.maintenance.service import INTERVAL, Maintenance
from pgq_trio.model.retention import Retention
from pgq_trio.settings import Settings
from tests.maintenance.stores import WatchedDriver, WatchedInsights, counted, some_history
from tests.worker import virtual

HOUR = 3600.0
DAY = 24 * HOUR

BACKENDS = pytest.mark.parametrize("loop", virtual.BACKENDS)


@dataclass(slots=True)
class Scene:
    """A service on a queue in memory, and what it reported."""

    backend: Backend
    store: WatchedInsights
    problems: list[str | None] = field(default_factory=list)
    times: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def make(cls) -> Scene:
        driver = WatchedDriver(Settings())
        return cls(driver.backend(Settings()), driver.insights)

    def service(
        self, retention: Retention, uniform: Callable[[float, float], float] | None = None
    ) -> Maintenance:
        given = {} if uniform is None else {"uniform": uniform}
        return Maintenance(self.store, retention, on_problem=self.note_problem, **given)

    def note_problem(self, problem: str | None) -> None:
        if not self.problems or self.problems[-1] != problem:
            self.problems.append(problem)

    async def note_time(self, operation: str) -> None:
        self.times.setdefault(operation, []).append(anyio.current_time())

    async def run_for(self, seconds: float, service: Maintenance) -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(partial(service.run))
            await anyio.sleep(seconds)
            tasks.cancel_scope.cancel()


@BACKENDS
def test_an_idle_queue_costs_one_look_a_minute(loop: virtual.Backend) -> None:
    async def main() -> None:
        scene = Scene.make()
        scene.store.before = scene.note_time
        began = anyio.current_time()
        await scene.run_for(10 * HOUR, scene.service(Retention(default=DAY)))
        assert set(scene.store.calls) == {"chores"}
        assert 550 <= scene.store.calls["chores"] <= 650
        times = scene.times["chores"]
        assert times[0] - began <= INTERVAL
        pauses = [b - a for a, b in itertools.pairwise(times)]
        assert 47 <= min(pauses) < 52
        assert 68 < max(pauses) <= 73
        assert scene.problems == [None]

    virtual.run(loop, main)


@BACKENDS
def test_old_rows_go_and_stay_counted(loop: virtual.Backend) -> None:
    async def main() -> None:
        scene = Scene.make()
        await some_history(scene.backend, 100)
        service = scene.service(Retention(default=2 * HOUR, statistics=3 * DAY))
        await scene.run_for(HOUR, service)
        assert await scene.store.unfolded() == 0  # within the first minutes
        assert len(await scene.backend.jobs.log()) == 200
        await some_history(scene.backend, 1)
        await scene.run_for(1.5 * HOUR, service)
        assert len(await scene.backend.jobs.log()) == 2
        await scene.run_for(DAY, service)
        assert await scene.backend.jobs.log() == []
        assert await counted(scene.backend) == 202
        await scene.run_for(3 * DAY, service)
        assert await counted(scene.backend) == 0
        # Two passes did everything, and a third one the statistics.
        assert scene.store.calls["expire"] <= 10

    virtual.run(loop, main)


@BACKENDS
def test_it_rests_between_batches(loop: virtual.Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        scene = Scene.make()
        await some_history(scene.backend, 50)
        await anyio.sleep(DAY)
        real, slow = scene.store.expire, 0.5

        async def expire(retention: Retention, *, limit: int = 10) -> object:
            await anyio.sleep(slow)
            return await real(retention, limit=10)

        monkeypatch.setattr(scene.store, "expire", expire)
        scene.store.before = scene.note_time
        await scene.run_for(2 * INTERVAL, scene.service(Retention(default=HOUR)))
        times = scene.times["expire"]
        assert len(times) >= 10
        pauses = [b - a for a, b in itertools.pairwise(times[:10])]
        assert all(pause == pytest.approx(2 * slow) for pause in pauses)
        assert await scene.backend.jobs.log() == []

    virtual.run(loop, main)


@BACKENDS
def test_a_lost_connection_is_waited_out(loop: virtual.Backend) -> None:
    async def main() -> None:
        scene = Scene.make()
        ends = anyio.current_time() + 2 * HOUR

        async def before(operation: str) -> None:
            await scene.note_time(operation)
            if anyio.current_time() < ends:
                raise ConnectionLost("the cable")

        scene.store.before = before
        await some_history(scene.backend, 1)
        await scene.run_for(3 * HOUR, scene.service(Retention(default=60)))
        lost, well = scene.problems
        assert lost is not None
        assert "the cable" in lost
        assert well is None
        assert await scene.backend.jobs.log() == []
        tries = [at for at in scene.times["chores"] if at < ends]
        pauses = [b - a for a, b in itertools.pairwise(tries)]
        assert max(pauses) <= INTERVAL
        assert pauses[0] <= 1
        assert len(tries) < 300

    virtual.run(loop, main)


@BACKENDS
@pytest.mark.parametrize("operation", ["chores", "fold", "expire"])
def test_what_the_store_refuses_is_reported_and_tried_again(
    loop: virtual.Backend, operation: str
) -> None:
    async def main() -> None:
        scene = Scene.make()
        refusals = itertools.count(1)

        async def before(name: str) -> None:
            if name == operation and next(refusals) <= 3:
                raise StoreError("permission denied")

        scene.store.before = before
        await some_history(scene.backend, 1)
        await scene.run_for(HOUR, scene.service(Retention(default=0)))
        assert scene.problems == ["permission denied", None]
        assert await scene.backend.jobs.log() == []

    virtual.run(loop, main)


@BACKENDS
def test_a_store_that_is_silent_is_noticed(loop: virtual.Backend) -> None:
    async def main() -> None:
        scene = Scene.make()
        silences = itertools.count(1)

        async def before(operation: str) -> None:
            if next(silences) == 1:
                await anyio.sleep_forever()

        scene.store.before = before
        await scene.run_for(HOUR, scene.service(Retention(default=0)))
        lost, well = scene.problems
        assert lost is not None
        assert "no answer" in lost
        assert well is None

    virtual.run(loop, main)


@BACKENDS
@pytest.mark.parametrize("busy", ["fold", "expire"])
def test_another_process_at_it_has_the_pass(loop: virtual.Backend, busy: str) -> None:
    async def main() -> None:
        scene = Scene.make()
        await some_history(scene.backend, 1)
        scene.store.busy = {busy}
        await scene.run_for(10 * INTERVAL, scene.service(Retention(default=0)))
        passes = scene.store.calls["chores"]
        assert passes >= 8
        assert scene.store.calls[busy] == passes
        assert scene.store.calls["expire"] == (0 if busy == "fold" else passes)
        assert scene.problems == [None]
        scene.store.busy = set()
        await scene.run_for(3 * INTERVAL, scene.service(Retention(default=0)))
        assert await scene.backend.jobs.log() == []

    virtual.run(loop, main)


@BACKENDS
def test_a_fleet_that_starts_together_does_not_act_together(loop: virtual.Backend) -> None:
    async def main() -> None:
        scene = Scene.make()
        scene.store.before = scene.note_time
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                await tasks.start(scene.service(Retention(default=DAY)).run)
            await anyio.sleep(INTERVAL)
            tasks.cancel_scope.cancel()
        seconds = {int(at) for at in scene.times["chores"]}
        assert len(seconds) >= 10

    virtual.run(loop, main)


@BACKENDS
def test_cancelled_at_any_step_each_row_is_counted_once(loop: virtual.Backend) -> None:
    def cancelled_at(step: int) -> bool:
        """Run a service that is cancelled at a step; return whether it came that far."""
        scope: anyio.CancelScope | None = None
        cancelled = False

        def on_step(number: int) -> None:
            nonlocal cancelled
            if scope is not None and number >= step and not cancelled:
                cancelled = True
                scope.cancel()

        async def main() -> None:
            nonlocal scope
            scene = Scene.make()
            await some_history(scene.backend, 10)
            with anyio.move_on_after(INTERVAL * 3) as scope:
                service = scene.service(Retention(default=0))
                await service.run(task_status=anyio.TASK_STATUS_IGNORED)
            scope = None
            assert await counted(scene.backend) + await scene.store.unfolded() == 20
            await scene.run_for(INTERVAL * 3, scene.service(Retention(default=0)))
            assert await counted(scene.backend) == 20
            assert await scene.backend.jobs.log() == []

        virtual.run(loop, main, on_step=on_step, seed=step)
        return cancelled

    for step in range(1, 200):
        if not cancelled_at(step):
            break
    assert step > 10
