"""Cancellation at every step finds what cleans up badly, on both loops."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from pgq_trio.testing import Backend, Moment, Policy, Simulation, cancel_everywhere, simulate
from tests.kit.engine_worlds import backends, walkers_of_three


class TestCancelEverywhere:
    @pytest.mark.parametrize("moment", ["before", "in flight"])
    @backends
    def test_a_checkpoint_between_acquire_and_try(self, backend: Backend, moment: Moment) -> None:
        async def scenario(held: list[str]) -> None:
            held.append("lock")
            await anyio.lowlevel.checkpoint()
            try:
                await anyio.lowlevel.checkpoint()
            finally:
                held.remove("lock")

        def is_free(held: list[str], _simulation: Simulation[None]) -> None:
            assert not held

        with pytest.raises(AssertionError) as failure:
            cancel_everywhere(scenario, make=list, check=is_free, backend=backend, moments=[moment])
        assert any("one of task 'main'" in note for note in failure.value.__notes__)

    @backends
    def test_an_await_in_finally_without_a_shield(self, backend: Backend) -> None:
        def scenario(shield: bool) -> Callable[[list[str]], Awaitable[None]]:
            async def run(done: list[str]) -> None:
                try:
                    await anyio.lowlevel.checkpoint()
                finally:
                    with anyio.CancelScope(shield=shield):
                        await anyio.lowlevel.checkpoint()
                        done.append("cleanup")

            return run

        def cleaned(done: list[str], simulation: Simulation[None]) -> None:
            assert done == ["cleanup"]

        counts = cancel_everywhere(scenario(True), make=list, check=cleaned, backend=backend)
        assert counts.keys() == {"before", "in flight"}
        assert min(counts.values()) >= 3
        with pytest.raises(AssertionError):
            cancel_everywhere(scenario(False), make=list, check=cleaned, backend=backend)

    @backends
    def test_each_step_is_reached(self, backend: Backend) -> None:
        policies: list[Policy] = ["stay", "rotate"]
        runs = [simulate(walkers_of_three, backend=backend, policy=policy) for policy in policies]
        steps = sum(run.steps for run in runs)
        counts = cancel_everywhere(walkers_of_three, backend=backend)
        assert counts == {"before": steps, "in flight": steps}

    @backends
    def test_what_shows_only_when_tasks_take_turns(self, backend: Backend) -> None:
        """The other one comes between two checkpoints of a task that never waits."""

        async def scenario(seen: list[str]) -> None:
            async def walk(name: str) -> None:
                for _ in range(3):
                    seen.append(name)
                    await anyio.lowlevel.checkpoint()

            async with anyio.create_task_group() as tasks:
                for name in "ab":
                    tasks.start_soon(walk, name, name=name)

        def in_rows(seen: list[str], _simulation: Simulation[None]) -> None:
            assert "aba" not in "".join(seen)

        cancel_everywhere(scenario, make=list, check=in_rows, backend=backend, policies=["stay"])
        with pytest.raises(AssertionError) as failure:
            cancel_everywhere(scenario, make=list, check=in_rows, backend=backend)
        assert "policy='rotate')" in failure.value.__notes__[0]

    @pytest.mark.parametrize("nothing", [{"policies": []}, {"moments": []}])
    def test_that_sweeps_over_nothing_is_refused(self, nothing: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="runs nothing"):
            cancel_everywhere(walkers_of_three, **nothing)

    @backends
    def test_a_scenario_that_never_ends(self, backend: Backend) -> None:
        async def swallows() -> None:
            for _ in range(50):
                with anyio.CancelScope(shield=True):
                    await anyio.lowlevel.checkpoint()

        with pytest.raises(AssertionError, match="did not end within 10 steps"):
            cancel_everywhere(swallows, backend=backend, limit=10)
