"""Cancelling at each step what a simulation cannot run, and the faults that this finds."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import anyio
import anyio.to_thread
import pytest

from pgq_trio import PgQueuer
from pgq_trio.testing import Moment, cancel_at_each_step


async def walk(checkpoints: int) -> None:
    for _ in range(checkpoints):
        await anyio.lowlevel.checkpoint()


async def test_it_counts_the_steps_before_and_those_in_flight() -> None:
    ended: list[int] = []

    async def operation() -> None:
        ended.append(0)
        for _ in range(3):
            await anyio.lowlevel.cancel_shielded_checkpoint()
        await anyio.lowlevel.checkpoint_if_cancelled()
        ended[-1] = 1

    steps = await cancel_at_each_step(operation)
    assert steps == {"before": 4, "in flight": 3}
    assert sum(ended) == 6  # three runs a moment had fewer steps, and so ended


async def test_each_run_is_cancelled_at_its_step_and_checked() -> None:
    story: list[str] = []
    again = anyio.Event()

    async def operation() -> None:
        if story:
            again.set()
        try:
            await anyio.sleep_forever()
        finally:
            story.append("operation")

    async def check() -> None:
        await anyio.lowlevel.checkpoint()
        story.append("check")

    async with anyio.create_task_group() as tasks:
        # It never comes to a second step: the second run waits until the caller is cancelled.
        tasks.start_soon(lambda: cancel_at_each_step(operation, check, moments=["in flight"]))
        await again.wait()
        tasks.cancel_scope.cancel()
    assert story == ["operation", "check", "operation"]  # that run is not checked


class Pool:
    """A pool of one, as it is often written."""

    def __init__(self) -> None:
        self.free = 1

    async def acquire(self) -> None:
        self.free -= 1
        await anyio.lowlevel.checkpoint()

    async def release(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.free += 1

    async def use_with_a_step_before_try(self) -> None:
        await self.acquire()
        try:
            await walk(1)
        finally:
            with anyio.CancelScope(shield=True):
                await self.release()

    async def use_without_a_shield(self) -> None:
        try:
            with anyio.CancelScope(shield=True):
                await self.acquire()
            await walk(1)
        finally:
            await self.release()

    async def use(self) -> None:
        try:
            with anyio.CancelScope(shield=True):
                await self.acquire()
            await walk(1)
        finally:
            with anyio.CancelScope(shield=True):
                await self.release()


def has_one(pool: Pool) -> Callable[[], Awaitable[None]]:
    async def check() -> None:
        await anyio.lowlevel.checkpoint()
        assert pool.free == 1, "it is not whole"

    return check


@pytest.mark.parametrize("moment", ["before", "in flight"])
@pytest.mark.parametrize("name", ["use_with_a_step_before_try", "use_without_a_shield"])
async def test_it_finds_what_is_left_undone(name: str, moment: Moment) -> None:
    pool = Pool()
    with pytest.raises(AssertionError, match="it is not whole") as caught:
        await cancel_at_each_step(getattr(pool, name), has_one(pool), moments=[moment])
    (note,) = caught.value.__notes__
    assert note.startswith(f"cancelled {moment} step ")


async def test_what_is_right_passes() -> None:
    pool = Pool()
    steps = await cancel_at_each_step(pool.use, has_one(pool))
    assert min(steps.values()) >= 3


async def test_what_the_operation_raises_is_told_with_its_step() -> None:
    async def operation() -> None:
        try:
            await walk(2)
        except BaseException as exc:
            raise ValueError("another error") from exc  # noqa: ASYNC104 - what the test is about

    with pytest.raises(ValueError, match="another error") as caught:
        await cancel_at_each_step(operation)
    assert caught.value.__notes__ == ["cancelled before step 1, if there was one"]


async def test_tasks_that_it_starts_are_cancelled_with_it() -> None:
    left: list[str] = []

    async def child() -> None:
        try:
            await walk(5)
        finally:
            left.append("child")

    async def operation() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
            await walk(2)
        left.append("parent")

    runs = 0

    async def check() -> None:
        nonlocal runs
        await anyio.lowlevel.checkpoint()
        runs += 1
        assert left.count("child") <= runs

    steps = await cancel_at_each_step(operation, check)
    assert runs == sum(steps.values()) + 6
    assert left.count("parent") <= 6 + 2


async def test_one_that_goes_on_and_on() -> None:
    async def operation() -> None:
        await walk(50)

    with pytest.raises(AssertionError, match="did not end within 20 steps"):
        await cancel_at_each_step(operation, limit=20)
    assert await cancel_at_each_step(operation, moments=["in flight"], limit=50)


async def test_threads_and_sockets_are_real() -> None:
    """The clock does not jump over them: what is received in a thread is there in the end."""
    received: list[bytes] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)

        async def operation() -> None:
            await anyio.lowlevel.checkpoint()
            theirs.send(b"x")
            received.append(await anyio.to_thread.run_sync(ours.recv, 1))
            await anyio.lowlevel.checkpoint()

        with anyio.fail_after(30):
            steps = await cancel_at_each_step(operation, moments=["in flight"])
    assert steps["in flight"] >= 3
    assert received
    assert set(received) == {b"x"}


async def test_an_enqueue_is_made_or_not_made(target: str) -> None:
    """In memory and on a real server."""
    async with PgQueuer.open(target) as pgq:

        async def operation() -> None:
            await pgq.queries.enqueue(["it"] * 3)

        async def check() -> None:
            assert await size() % 3 == 0

        async def size() -> int:
            return sum(entry.count for entry in await pgq.queries.queue_size())

        steps = await cancel_at_each_step(operation, check)
        assert sum(steps.values()) >= (2 if target == "memory:" else 4)
        assert await size() >= 3  # at least the runs at the end were not cancelled


async def test_two_enqueues_are_not_one(target: str) -> None:
    async with PgQueuer.open(target) as pgq:

        async def operation() -> None:
            for _ in range(2):
                await pgq.queries.enqueue("it")

        async def check() -> None:
            assert sum(entry.count for entry in await pgq.queries.queue_size()) % 2 == 0

        with pytest.raises(AssertionError) as caught:
            await cancel_at_each_step(operation, check)
        assert caught.value.__notes__[-1].startswith("cancelled ")
