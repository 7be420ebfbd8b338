"""Waiting under a clock that jumps: no end is lost wherever it comes, and any step may be the last.

In memory and in virtual time: a wait that only the hourly look would end takes an hour.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from itertools import count

import anyio
import pytest
from hypothesis import given, strategies as st

from pgq_trio import CompletionWatcher, InMemoryDriver, Job, PgQueuer, Queries, Settings
from pgq_trio.client import watching
from pgq_trio.client.watching import EARLY_LOOKS
from pgq_trio.store.memory import MemoryNotifier
from pgq_trio.testing import (
    BACKENDS,
    Backend,
    Call,
    CallHook,
    Fault,
    Moment,
    Simulation,
    UnreliableDriver,
    interleavings,
    simulate,
)
from pgq_trio.types import JobStatus
from tests.client.tools import NEVER
from tests.property.profiles import examples
from tests.worker.tools import running, slowly

MOMENTS: tuple[Moment, ...] = ("before", "in flight")

#: About as many as the programs below make until the last job has ended.
STEPS = 240

#: Virtual seconds by which an end is known: the last early look, and a debounce.
SOON = EARLY_LOOKS[-1] + 0.1


class ExpectedError(Exception):
    """What a handler raises."""


async def promptly(_: Call) -> None:
    """A hook that does nothing."""


class Program:
    """A worker, a watcher and some waiters, on one queue."""

    def __init__(self, pause: CallHook = slowly) -> None:
        self.driver = InMemoryDriver()
        self.slow_driver = UnreliableDriver(self.driver)
        self.slow_driver.before = self.slow_driver.after = self.pause = pause
        self.ended: dict[int, float] = {}
        self.learned: list[tuple[int, JobStatus, float]] = []
        self.reached: anyio.Event | None = None

    def reach(self, _: Simulation[None]) -> None:
        """Set the event that the program waits for, once there is one."""
        if self.reached is not None:
            self.reached.set()

    async def handler(self, job: Job) -> None:
        for _ in range(job.id % 4):
            await anyio.lowlevel.checkpoint()
        if job.payload == b"exception":
            raise ExpectedError

    async def work(self) -> None:
        """Run the jobs, noting when the outcome of each is written."""
        watched = UnreliableDriver(self.driver)

        async def note(call: Call) -> None:
            await self.pause(call)
            if call.name == "finish" and isinstance(call.result, set):
                for job_id in call.result:
                    self.ended[job_id] = anyio.current_time()

        watched.before, watched.after = self.pause, note
        async with PgQueuer.open(watched) as pgq:
            pgq.entrypoint("it")(self.handler)
            async with running(pgq):
                await anyio.sleep_forever()

    async def wait(self, watcher: CompletionWatcher, job_id: int) -> None:
        status = await watcher.wait_for(job_id)
        self.learned.append((job_id, status, anyio.current_time()))


def taking_turns(
    main: Callable[[], Awaitable[None]],
    backend: Backend,
    schedule: tuple[int, ...] = (),
    faults: Sequence[Fault] = (),
) -> Simulation[None]:
    """Simulate; tasks take turns, so that they come between the steps of each other's looks."""
    return simulate(main, backend=backend, schedule=schedule, policy="rotate", faults=faults)


def lateness_when_enqueued_at(
    backend: Backend, step: int, delay: float, schedule: tuple[int, ...]
) -> list[float] | None:
    """Run worker and watcher; enqueue at one of their steps; how late each end was known."""
    program = Program()

    async def main() -> None:
        program.reached = reached = anyio.Event()
        queries = Queries(program.driver)

        async def enqueue_and_wait(watcher: CompletionWatcher) -> None:
            await reached.wait()
            ids = await queries.enqueue(
                ["it"] * 4, [None, b"exception", None, None], execute_after=[0, 0, delay, delay]
            )
            async with anyio.create_task_group() as waits:
                for job_id in [*ids, *ids]:
                    waits.start_soon(program.wait, watcher, job_id)
                with anyio.CancelScope(shield=True) as given_up:
                    given_up.cancel()
                    await watcher.wait_for(ids[0])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(program.work)
            async with CompletionWatcher(
                Queries(program.slow_driver), refresh_interval=NEVER
            ) as watcher:
                with anyio.move_on_after(NEVER / 2):
                    await enqueue_and_wait(watcher)
            tasks.cancel_scope.cancel()

    fault = Fault(step, "before", program.reach)
    taking_turns(main, backend, schedule, [fault]).check()
    if not program.ended:
        return None
    assert len(program.ended) == 4
    assert len(program.learned) == 8, "an end was lost"
    first = min(program.ended)
    for job_id, status, _ in program.learned:
        assert status == ("exception" if job_id == first + 1 else "successful")
    return [at - program.ended[job_id] for job_id, _, at in program.learned]


@pytest.mark.parametrize("backend", BACKENDS)
@examples(100)
@given(
    step=st.integers(1, STEPS),
    delay=st.sampled_from([0, 0.04, 0.3, 2, 19.99, 30]),
    schedule=interleavings(tasks=6, decisions=80),
)
def test_no_end_is_lost(
    backend: Backend, step: int, delay: float, schedule: tuple[int, ...]
) -> None:
    lateness = lateness_when_enqueued_at(backend, step, delay, schedule)
    assert lateness is None or max(lateness) <= SOON


@pytest.mark.parametrize("backend", BACKENDS)
@examples(100)
@given(
    steps=st.integers(0, 12),
    lengths=st.lists(st.integers(0, 30), min_size=2, max_size=8),
    schedule=interleavings(tasks=8, decisions=80),
)
def test_what_is_told_during_a_look_is_a_reason_for_another(
    backend: Backend, steps: int, lengths: list[int], schedule: tuple[int, ...]
) -> None:
    """Jobs end one after another while looks are under way, and nothing but notifications tells."""
    program = Program()

    async def take_steps(call: Call) -> None:
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()

    async def handler(job: Job) -> None:
        for _ in range(lengths[job.id - 1]):
            await anyio.lowlevel.checkpoint()

    async def main() -> None:
        program.slow_driver.before = program.slow_driver.after = take_steps
        program.handler = handler  # type: ignore[method-assign]
        queries = Queries(program.slow_driver)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(program.work)
            async with (
                CompletionWatcher(queries, refresh_interval=NEVER, debounce=0) as watcher,
                anyio.create_task_group() as waits,
            ):
                ids = await queries.enqueue(["it"] * len(lengths), execute_after=2)
                for job_id in ids:
                    waits.start_soon(program.wait, watcher, job_id)
            tasks.cancel_scope.cancel()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watching, "EARLY_LOOKS", ())
        taking_turns(main, backend, schedule).check()
    assert len(program.learned) == len(lengths)
    assert max(at - program.ended[job_id] for job_id, _, at in program.learned) < 0.1


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_property_reaches_both(backend: Backend) -> None:
    """The steps that are drawn are steps that worker and watcher take."""
    reached = [
        lateness_when_enqueued_at(backend, step, 0, ()) is not None for step in range(1, STEPS, 5)
    ]
    assert sum(reached) >= 10


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_worker_that_starts_late_and_is_gone_at_once(backend: Backend) -> None:
    """What was announced before it came it has not heard; what it says makes watchers look."""
    learned: list[float] = []

    async def main() -> None:
        driver = InMemoryDriver()
        queries = Queries(driver)
        async with (
            CompletionWatcher(queries, refresh_interval=NEVER) as watcher,
            anyio.create_task_group() as tasks,
        ):
            (job_id,) = await queries.enqueue("it")

            async def wait() -> None:
                await watcher.wait_for(job_id)
                learned.append(anyio.current_time())

            tasks.start_soon(wait)
            await anyio.sleep(50)
            async with PgQueuer.open(driver) as pgq:

                @pgq.entrypoint("it")
                async def handler(job: Job) -> None: ...

                await pgq.run(mode="drain", handle_signals=False)
            learned.append(anyio.current_time())

    taking_turns(main, backend).check()
    drained, known = sorted(learned)
    assert known - drained <= SOON


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_hour_of_waiting_and_an_hour_of_none(backend: Backend) -> None:
    """Waiting costs a look each 5 s and an announcement each 20 s; not waiting costs nothing."""
    watched = UnreliableDriver(InMemoryDriver())

    async def main() -> None:
        queries = Queries(watched)
        async with CompletionWatcher(queries) as watcher, anyio.create_task_group() as tasks:
            ids = await queries.enqueue(["it"] * 100)
            for job_id in ids:
                tasks.start_soon(watcher.wait_for, job_id)
            await anyio.sleep(3600)
            assert 3600 / 5 - 1 <= watched.calls["job_status"] <= 3600 / 5 + 5
            assert 3600 / 20 - 1 <= watched.calls["notify"] <= 3600 / 20 + 2
            tasks.cancel_scope.cancel()
        async with CompletionWatcher(queries):
            watched.calls.clear()
            await anyio.sleep(3600)
        assert watched.calls == {}

    simulate(main, backend=backend, max_steps=1_000_000).check()


class Cancellable(Program):
    """A program in which a whole watcher, or one that waits on it, is cancelled on its own."""

    def __init__(self, what: str) -> None:
        super().__init__(promptly)
        self.what = what
        self.scope: anyio.CancelScope | None = None
        self.cancelled = False

    def cancel(self, _: Simulation[None]) -> None:
        """Cancel it if it runs now."""
        if self.scope is not None:
            self.scope.cancel()
            self.cancelled = True

    @contextmanager
    def cancellable(self) -> Generator[None]:
        """A block that `cancel` cancels."""
        with anyio.CancelScope() as self.scope:
            yield
        self.scope = None

    async def wait_or_not(self, watcher: CompletionWatcher, job_id: int) -> None:
        with self.cancellable():
            await watcher.wait_for(job_id)

    async def watch(self, queries: Queries, ids: list[int]) -> None:
        async with (
            CompletionWatcher(queries, refresh_interval=NEVER) as watcher,
            anyio.create_task_group() as tasks,
        ):
            for job_id in [*ids, *ids]:
                tasks.start_soon(self.wait, watcher, job_id)
            if self.what == "waiter":
                tasks.start_soon(self.wait_or_not, watcher, ids[0])

    async def run(self) -> None:
        ids = await Queries(self.driver).enqueue(["it"] * 3, execute_after=[0, 0, 0.03])
        queries = Queries(self.slow_driver)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.work)
            if self.what == "waiter":
                await self.watch(queries, ids)
                assert len(self.learned) == 6
            else:
                with self.cancellable():
                    await self.watch(queries, ids)
                # Nothing is left of it but the worker, and others learn all there is to know.
                notifier = self.driver.backend(Settings()).notifier
                assert isinstance(notifier, MemoryNotifier)
                assert len(notifier._state._listeners) <= 1
                for job_id in ids:
                    assert await queries.wait_for(job_id) == "successful"
            tasks.cancel_scope.cancel()

    def cancelled_at(
        self, backend: Backend, step: int, moment: Moment, schedule: tuple[int, ...] = ()
    ) -> Simulation[None]:
        """Run it, cancelled at a step of any of its tasks."""
        fault = Fault(step, moment, self.cancel)
        simulation = taking_turns(self.run, backend, schedule, [fault])
        simulation.check()
        return simulation


@pytest.mark.parametrize("what", ["block", "waiter"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_cancelled_at_every_step(backend: Backend, what: str) -> None:
    for moment in MOMENTS:
        cancelled = 0
        for step in count(1):
            program = Cancellable(what)
            if program.cancelled_at(backend, step, moment).steps < step:
                break
            cancelled += program.cancelled
        assert cancelled > 20, "the sweep covered next to nothing"


@pytest.mark.parametrize("what", ["block", "waiter"])
@pytest.mark.parametrize("backend", BACKENDS)
@examples(40)
@given(
    step=st.integers(1, STEPS),
    moment=st.sampled_from(MOMENTS),
    schedule=interleavings(tasks=8, decisions=80),
)
def test_cancelled_in_any_order(
    backend: Backend, what: str, step: int, moment: Moment, schedule: tuple[int, ...]
) -> None:
    Cancellable(what).cancelled_at(backend, step, moment, schedule)
