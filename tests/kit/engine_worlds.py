"""Small scenarios for the engine's tests: counters, walkers, somebody who wants a thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from pgq_trio.testing import BACKENDS, Simulation

backends = pytest.mark.parametrize("backend", BACKENDS)


class Counter:
    """What two tasks add to."""

    def __init__(self) -> None:
        self.value = 0

    async def add_with_a_gap(self) -> None:
        value = self.value
        await anyio.lowlevel.checkpoint()
        self.value = value + 1

    async def add(self) -> None:
        self.value += 1
        await anyio.lowlevel.checkpoint()


def twice(method: str) -> Callable[[Counter], Awaitable[None]]:
    async def scenario(counter: Counter) -> None:
        async with anyio.create_task_group() as tasks:
            for name in ("a", "b"):
                tasks.start_soon(getattr(counter, method), name=name)

    return scenario


async def add_with_a_gap_twice(counter: Counter) -> None:
    await twice("add_with_a_gap")(counter)


def both_counted(counter: Counter, _simulation: Simulation[None]) -> None:
    assert counter.value == 2


async def walkers(*lengths: int) -> None:
    async def walk(length: int) -> None:
        for _ in range(length):
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        for place, length in enumerate(lengths):
            tasks.start_soon(walk, length, name="abc"[place])


async def walkers_of_three() -> None:
    await walkers(3, 3)


async def staggered(counter: Counter) -> None:
    """Lose an update only if the second task comes late enough to meet the first."""

    async def second() -> None:
        await anyio.sleep(1.5)
        await counter.add_with_a_gap()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(counter.add_with_a_gap, name="first")
        tasks.start_soon(second, name="second")


async def in_a_thread() -> int:
    return await anyio.to_thread.run_sync(lambda: 42)
