"""Faults planted deep: each shows under few schedules only, and none under the empty one.

A fault is an async function that returns whether it struck; it does the same under the same
schedule on Trio and on asyncio. Who looks for them is `benchmarks.schedules` and `test_engine.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio
import anyio.lowlevel

__all__ = ["DEEP_FAULTS", "DeepFault"]


@dataclass(frozen=True)
class DeepFault:
    """A fault.

    Attributes:
        name: what it is.
        tasks: how many tasks there are to be put in order.
        is_soon_found: whether a few hundred schedules are enough.
        strikes: the scenario, which returns whether it struck.
    """

    name: str
    tasks: int
    is_soon_found: bool
    strikes: Callable[[], Awaitable[bool]]


DEEP_FAULTS: list[DeepFault] = []


def planted(
    name: str, tasks: int, is_soon_found: bool = False
) -> Callable[[Callable[[], Awaitable[bool]]], Callable[[], Awaitable[bool]]]:
    """Register a fault."""

    def register(strikes: Callable[[], Awaitable[bool]]) -> Callable[[], Awaitable[bool]]:
        DEEP_FAULTS.append(DeepFault(name, tasks, is_soon_found, strikes))
        return strikes

    return register


class Combination:
    """A lock that opens when steps of tasks come in one order, whatever else comes in between.

    Each task counts its own steps. A step that the combination does not expect, of a task and
    number that it has, closes the lock for good.
    """

    def __init__(self, *wanted: tuple[str, int]) -> None:
        self._wanted = wanted
        self._place = 0
        self._is_jammed = False

    @property
    def is_open(self) -> bool:
        return self._place == len(self._wanted) and not self._is_jammed

    async def walk(self, name: str, steps: int) -> None:
        """Make so many steps, a checkpoint after each."""
        for step in range(steps):
            if (name, step) in self._wanted:
                self._is_jammed |= self._wanted.index((name, step)) != self._place
                self._place += 1
            await anyio.lowlevel.checkpoint()


async def opens(combination: Combination, lengths: Sequence[int]) -> bool:
    """Let one task walk for each length; return whether the lock is open at the end."""
    async with anyio.create_task_group() as tasks:
        for name, steps in zip("abcde", lengths, strict=False):
            tasks.start_soon(combination.walk, name, steps, name=name)
    return combination.is_open


@planted("one preemption", 2, is_soon_found=True)
async def one_preemption() -> bool:
    return await opens(Combination(("a", 5), ("b", 7), ("a", 6)), (10, 10))


@planted("two preemptions", 2, is_soon_found=True)
async def two_preemptions() -> bool:
    return await opens(Combination(("a", 2), ("b", 3), ("a", 3), ("b", 4)), (8, 8))


@planted("three preemptions", 2, is_soon_found=True)
async def three_preemptions() -> bool:
    wanted = ("a", 1), ("b", 2), ("a", 2), ("b", 3), ("a", 3)
    return await opens(Combination(*wanted), (6, 6))


@planted("four preemptions", 2, is_soon_found=True)
async def four_preemptions() -> bool:
    wanted = ("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3), ("b", 3)
    return await opens(Combination(*wanted), (5, 5))


@planted("three preemptions of three tasks", 3)
async def three_preemptions_of_three_tasks() -> bool:
    return await opens(Combination(("a", 3), ("c", 2), ("b", 2), ("c", 3), ("a", 4)), (6, 6, 6))


@planted("late in the run", 2)
async def late() -> bool:
    return await opens(Combination(("a", 100), ("b", 1), ("a", 101)), (120, 3))


@planted("staggered lost update", 3, is_soon_found=True)
async def staggered_lost_update() -> bool:
    """Three writers come one after another; the second and the third have to meet."""
    total = 0

    async def add(delay: int) -> None:
        nonlocal total
        for _ in range(delay):
            await anyio.lowlevel.checkpoint()
        seen = total
        await anyio.lowlevel.checkpoint()
        total = seen + 1

    async with anyio.create_task_group() as tasks:
        for number, delay in enumerate((0, 9, 18)):
            tasks.start_soon(add, delay, name=f"writer {number}")
    return total == 1  # all three have read before anybody wrote


@planted("one task starves", 4)
async def starved_keeper() -> bool:
    """Two players throw a ball; at each throw a keeper is woken, and is passed over five times."""
    balls = [anyio.create_memory_object_stream[int](1) for _ in range(2)]
    bell, hears = anyio.create_memory_object_stream[None](100)
    missed = most = 0

    async def keep() -> None:
        nonlocal missed
        async for _ in hears:
            missed = 0

    async def play(me: int) -> None:
        nonlocal missed, most
        async for throws in balls[me][1]:
            missed += 1
            most = max(most, missed)
            if throws == 0:
                break
            bell.send_nowait(None)
            balls[1 - me][0].send_nowait(throws - 1)
        balls[1 - me][0].close()
        bell.close()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep, name="keeper")
        for number in range(2):
            tasks.start_soon(play, number, name=f"player {number}")
        await anyio.lowlevel.checkpoint()
        balls[0][0].send_nowait(12)
    for stream in (*balls[0], *balls[1], hears):
        stream.close()
    return most > 5


@planted("one order of five tasks", 5)
async def order_of_five() -> bool:
    order: list[int] = []

    async def arrive(number: int) -> None:
        await anyio.lowlevel.checkpoint()
        order.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(arrive, number, name=f"task {number}")
    return order == [3, 1, 4, 0, 2]


@planted("a stack whose top comes back", 3, is_soon_found=True)
async def stack_whose_top_comes_back() -> bool:
    """Pop by compare-and-swap, and be stopped while another pops two and pushes the first back."""
    after: dict[str, str] = {"x": "y", "y": "z", "z": ""}
    top = "x"
    taken: list[str] = []

    async def pop() -> str:
        nonlocal top
        while True:
            seen, then = top, after[top]
            await anyio.lowlevel.checkpoint()
            if top == seen:
                top = then
                taken.append(seen)
                return seen

    async def push(item: str) -> None:
        nonlocal top
        await anyio.lowlevel.checkpoint()
        taken.remove(item)
        after[item], top = top, item

    async def first() -> None:
        await pop()

    async def second() -> None:
        item = await pop()
        await pop()
        await push(item)

    async def other() -> None:
        for _ in range(6):
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other, name="other")
        tasks.start_soon(second, name="second")
        tasks.start_soon(first, name="first")
    return top in taken


@planted("a wake-up lost among consumers", 4, is_soon_found=True)
async def lost_wake_up() -> bool:
    """A consumer looks, finds nothing and clears the flag that a producer has just set."""
    items: list[int] = []
    flag = anyio.Event()
    done = 0

    async def consume() -> None:
        nonlocal flag, done
        with anyio.move_on_after(10):
            while True:
                while items:
                    items.pop()
                    done += 1
                    await anyio.lowlevel.checkpoint()
                await anyio.lowlevel.checkpoint()
                flag = anyio.Event()  # too late: it should be made before the look
                await flag.wait()

    async def produce(delay: int) -> None:
        for _ in range(delay):
            await anyio.lowlevel.checkpoint()
        items.append(delay)
        flag.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consume, name="consumer")
        for delay in (0, 4, 8):
            tasks.start_soon(produce, delay, name=f"producer {delay}")
    return done < 3
