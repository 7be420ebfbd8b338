"""Waiting under a clock that jumps: no end is lost wherever it comes, and any step may be the last.

In memory and in virtual time: a wait that only the hourly look would end takes an hour.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from hypothesis import Phase, given, settings, strategies as st

from pgq_trio import CompletionWatcher, InMemoryDriver, Job, PgQueuer, Queries
from pgq_trio.client import watching
from pgq_trio.client.watching import EARLY_LOOKS
from pgq_trio.store.memory import MemoryNotifier
from pgq_trio.types import JobStatus
from tests.client.tools import NEVER, LookedAtDriver
from tests.worker.stores import slowly
from tests.worker.tools import running
from tests.worker.virtual import BACKENDS, Backend, run

#: More steps than the programs below take.
LIMIT = 3000

#: Virtual seconds by which an end is known: the last early look, and a debounce.
SOON = EARLY_LOOKS[-1] + 0.1


class ExpectedError(Exception):
    """What a handler raises."""


class Program:
    """A worker, a watcher and some waiters, on one queue."""

    def __init__(self) -> None:
        self.driver = InMemoryDriver()
        self.slow_driver = LookedAtDriver(self.driver)
        self.slow_driver.jobs.before = self.slow_driver.jobs.after = slowly
        self.ended: dict[int, float] = {}
        self.learned: list[tuple[int, JobStatus, float]] = []

    async def handler(self, job: Job) -> None:
        for _ in range(job.id % 4):
            await anyio.lowlevel.checkpoint()
        if job.payload == b"exception":
            raise ExpectedError

    async def work(self) -> None:
        """Run the jobs, noting when the outcome of each is written."""
        watched = LookedAtDriver(self.driver)

        async def note(name: str, result: object) -> None:
            await slowly(name, result)
            if name == "finish" and isinstance(result, set):
                for job_id in result:
                    self.ended[job_id] = anyio.current_time()

        watched.jobs.before, watched.jobs.after = slowly, note
        async with PgQueuer.open(watched) as pgq:
            pgq.entrypoint("it")(self.handler)
            async with running(pgq):
                await anyio.sleep_forever()

    async def wait(self, watcher: CompletionWatcher, job_id: int) -> None:
        status = await watcher.wait_for(job_id)
        self.learned.append((job_id, status, anyio.current_time()))


def lateness_when_enqueued_at(
    backend: Backend, step: int, delay: float, seed: int
) -> list[float] | None:
    """Run worker and watcher; enqueue at one of their steps; how late each end was known."""
    program = Program()
    now_or_never: list[Callable[[], None]] = []

    def on_step(number: int) -> None:
        if number == step:
            for call in now_or_never:
                call()

    async def main() -> None:
        reached = anyio.Event()
        now_or_never.append(reached.set)
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

    run(backend, main, on_step=on_step, seed=seed)
    if not program.ended:
        return None
    assert len(program.ended) == 4
    assert len(program.learned) == 8, "an end was lost"
    first = min(program.ended)
    for job_id, status, _ in program.learned:
        assert status == ("exception" if job_id == first + 1 else "successful")
    return [at - program.ended[job_id] for job_id, _, at in program.learned]


@pytest.mark.parametrize("backend", BACKENDS)
@settings(
    max_examples=150,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
@given(
    step=st.integers(1, 150),
    delay=st.sampled_from([0, 0.04, 0.3, 2, 19.99, 30]),
    seed=st.integers(0, 9),
)
def test_no_end_is_lost(backend: Backend, step: int, delay: float, seed: int) -> None:
    lateness = lateness_when_enqueued_at(backend, step, delay, seed)
    assert lateness is None or max(lateness) <= SOON


@pytest.mark.parametrize("backend", BACKENDS)
@settings(
    max_examples=100,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
@given(
    steps=st.integers(0, 12),
    lengths=st.lists(st.integers(0, 30), min_size=2, max_size=8),
    seed=st.integers(0, 9),
)
def test_what_is_told_during_a_look_is_a_reason_for_another(
    backend: Backend, steps: int, lengths: list[int], seed: int
) -> None:
    """Jobs end one after another while looks are under way, and nothing but notifications tells."""
    program = Program()

    async def take_steps(name: str, value: object) -> None:
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()

    async def handler(job: Job) -> None:
        for _ in range(lengths[job.id - 1]):
            await anyio.lowlevel.checkpoint()

    async def main() -> None:
        program.slow_driver.jobs.before = program.slow_driver.jobs.after = take_steps
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
        run(backend, main, seed=seed)
    assert len(program.learned) == len(lengths)
    assert max(at - program.ended[job_id] for job_id, _, at in program.learned) < 0.1


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_property_reaches_both(backend: Backend) -> None:
    """The steps that are drawn are steps that worker and watcher take."""
    reached = [
        lateness_when_enqueued_at(backend, step, 0, 0) is not None for step in range(1, 150, 5)
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

    run(backend, main)
    drained, known = sorted(learned)
    assert known - drained <= SOON


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_hour_of_waiting_and_an_hour_of_none(backend: Backend) -> None:
    """Waiting costs a look each 5 s and an announcement each 20 s; not waiting costs nothing."""
    watched = LookedAtDriver(InMemoryDriver())

    async def main() -> None:
        queries = Queries(watched)
        async with CompletionWatcher(queries) as watcher, anyio.create_task_group() as tasks:
            ids = await queries.enqueue(["it"] * 100)
            for job_id in ids:
                tasks.start_soon(watcher.wait_for, job_id)
            await anyio.sleep(3600)
            assert 3600 / 5 - 1 <= watched.jobs.calls["job_status"] <= 3600 / 5 + 5
            assert 3600 / 20 - 1 <= watched.jobs.calls["notify"] <= 3600 / 20 + 2
            tasks.cancel_scope.cancel()
        async with CompletionWatcher(queries):
            watched.jobs.calls.clear()
            await anyio.sleep(3600)
        assert watched.jobs.calls == {}

    run(backend, main)


class CancelAt:
    """Cancels a scope before the n-th step after `begin`."""

    def __init__(self, step: int) -> None:
        self.reached = False
        self._left = step
        self._scope: anyio.CancelScope | None = None

    def begin(self, scope: anyio.CancelScope) -> None:
        self._scope = scope

    def end(self) -> None:
        self._scope = None

    def on_step(self, _: int) -> None:
        if self._scope is not None:
            self._left -= 1
            if self._left == 0:
                self.reached = True
                self._scope.cancel()


def run_cancelled_at(backend: Backend, what: str, step: int, seed: int) -> bool:
    """Cancel a whole program, or one waiter of it, before a step; whether it had so many."""
    program = Program()
    cancel = CancelAt(step)

    async def wait_or_not(watcher: CompletionWatcher, job_id: int) -> None:
        with anyio.CancelScope() as scope:
            cancel.begin(scope)
            await watcher.wait_for(job_id)
        cancel.end()

    async def watch(queries: Queries, ids: list[int]) -> None:
        async with (
            CompletionWatcher(queries, refresh_interval=NEVER) as watcher,
            anyio.create_task_group() as tasks,
        ):
            for job_id in [*ids, *ids]:
                tasks.start_soon(program.wait, watcher, job_id)
            if what == "waiter":
                tasks.start_soon(wait_or_not, watcher, ids[0])

    async def main() -> None:
        ids = await Queries(program.driver).enqueue(["it"] * 3, execute_after=[0, 0, 0.03])
        queries = Queries(program.slow_driver)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(program.work)
            if what == "waiter":
                await watch(queries, ids)
                assert len(program.learned) == 6
            else:
                with anyio.CancelScope() as scope:
                    cancel.begin(scope)
                    await watch(queries, ids)
                cancel.end()
                # Nothing is left of it but the worker, and others learn all there is to know.
                notifier = program.slow_driver.real.notifier
                assert isinstance(notifier, MemoryNotifier)
                assert len(notifier._state._listeners) <= 1
                for job_id in ids:
                    assert await queries.wait_for(job_id) == "successful"
            tasks.cancel_scope.cancel()

    run(backend, main, on_step=cancel.on_step, seed=seed)
    return cancel.reached


@pytest.mark.parametrize("what", ["block", "waiter"])
@pytest.mark.parametrize(
    ("backend", "seed"), [("asyncio", 0), *(("trio", seed) for seed in range(3))]
)
def test_cancelled_at_every_step(backend: Backend, seed: int, what: str) -> None:
    for step in range(1, LIMIT):
        try:
            reached = run_cancelled_at(backend, what, step, seed)
        except BaseException as exc:
            exc.add_note(f"cancelled before step {step} on {backend}, seed {seed}")
            raise
        if not reached:
            assert step > 20, "the sweep covered next to nothing"
            return
    raise AssertionError(f"not over after {LIMIT} steps")
