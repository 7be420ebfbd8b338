"""What the queue promises, under drawn interleavings and at every step, in memory.

Each test draws which task goes next; whole workers run on a clock that jumps.
"""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import example, given, strategies as st

from pgq_trio import Schedule, ScheduleContext
from pgq_trio.errors import DuplicateJobError
from pgq_trio.testing import (
    BACKENDS,
    Backend,
    Simulation,
    cancel_everywhere,
    faults,
    interleavings,
    simulate,
)
from tests.property.profiles import examples
from tests.property.queue_worlds import BEHAVIOURS, FAR, Fleet, Ledger, Work, enqueue, far_away

backends = pytest.mark.parametrize("backend", BACKENDS)
drawn = interleavings(tasks=6, decisions=60)
work = st.lists(
    st.tuples(
        st.sampled_from(["plain", "limited"]), st.sampled_from(BEHAVIOURS), st.integers(-1, 1)
    ),
    min_size=1,
    max_size=6,
)

#: A moment of a run: so many hundredths of such an operation, then steps of the one who waits.
moments = st.tuples(st.integers(0, 500), st.integers(0, 20))
Moment = tuple[int, int]


async def reach(moment: Moment) -> None:
    """Wait until then. Where others go on meanwhile, the schedule says."""
    hundredths, steps = moment
    if hundredths:
        await anyio.sleep(hundredths * FAR / 100)
    for _ in range(steps):
        await anyio.lowlevel.checkpoint()


@backends
@examples(60)
@given(schedule=drawn, work=work, workers=st.integers(1, 3), limit=st.integers(1, 2))
def test_a_drained_queue(
    backend: Backend, schedule: tuple[int, ...], work: Work, workers: int, limit: int
) -> None:
    """Every job ends once, as its handler did; limits hold; the number of attempts is right."""
    fleet = Fleet(limit=limit)
    ids: list[int] = []

    async def scenario() -> None:
        ids.extend(await enqueue(fleet, work))
        await fleet.run(workers)
        await anyio.sleep(3)  # until the retries, which a drain does not wait for
        await fleet.run(workers)

    simulate(scenario, schedule=schedule, backend=backend).check()
    ledger = Ledger.of(fleet)
    ledger.check_conservation(ids)
    assert not ledger.left
    assert not fleet.problems
    assert fleet.most["limited"] <= limit
    runs = [job.id for job in fleet.starts]
    for job_id, (_, behaviour, _) in zip(ids, work, strict=True):
        assert ledger.ends(job_id) == ["exception" if behaviour == b"fail" else "successful"]
        assert runs.count(job_id) == (2 if behaviour == b"again" else 1)


@backends
@examples(30)
@given(schedule=drawn, maximum=st.integers(1, 3), entrypoint=st.sampled_from(["plain", "limited"]))
def test_claims_are_bounded(
    backend: Backend, schedule: tuple[int, ...], maximum: int, entrypoint: str
) -> None:
    """No more run than may; as many again are claimed ahead, but none that takes a seat."""
    fleet = Fleet(limit=10)
    ahead = maximum if entrypoint == "plain" else 0
    picked: list[int] = []

    async def watch() -> None:
        # Between the moments at which jobs end: a row is picked until its outcome is written.
        await anyio.sleep(0.05)
        for _ in range(30):
            await anyio.sleep(0.1)
            sizes = await fleet.queries.queue_size()
            picked.append(sum(size.count for size in sizes if size.status == "picked"))

    async def scenario() -> None:
        await enqueue(fleet, [(entrypoint, b"sleep", 0)] * 10)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch, name="watch")
            await fleet.run(1, max_concurrent_jobs=maximum)

    simulate(scenario, schedule=schedule, backend=backend).check()
    assert fleet.most[entrypoint] == maximum
    assert max(picked) <= maximum + ahead


@backends
@examples(60)
@given(schedule=drawn, work=work)
def test_priority_then_id(backend: Backend, schedule: tuple[int, ...], work: Work) -> None:
    """One worker that runs one job at a time takes the highest priority, then the lowest id."""
    fleet = Fleet()
    ids: list[int] = []
    plain: Work = [("plain", b"ok", priority) for _, _, priority in work]

    async def scenario() -> None:
        ids.extend(await enqueue(fleet, plain))
        await fleet.run(1, max_concurrent_jobs=1)

    simulate(scenario, schedule=schedule, backend=backend).check()
    order = [(-job.priority, job.id) for job in fleet.starts]
    assert order == sorted(order)
    assert len(order) == len(work)


@backends
@examples(80)
@given(schedule=drawn, work=work, cancelled=faults(steps=150))
def test_cancelled_anywhere(
    backend: Backend, schedule: tuple[int, ...], work: Work, cancelled: list[Any]
) -> None:
    """Cancelling the fleet leaves every job done once or queued, with no attempt spent."""
    fleet = Fleet()
    ids: list[int] = []

    async def scenario() -> None:
        ids.extend(await enqueue(fleet, work))
        await fleet.run(2)

    simulate(scenario, schedule=schedule, backend=backend, faults=cancelled).check()
    ledger = Ledger.of(fleet)
    ledger.check_conservation(ids)
    assert set(ledger.left.values()) <= {"queued"}
    assert not fleet.problems
    assert not any("canceled" in ledger.ends(job_id) for job_id in ids)


@backends
def test_cancelled_at_every_step(backend: Backend) -> None:
    """The same, at each step of one run, before it and in flight."""

    async def scenario(fleet: Fleet) -> None:
        await enqueue(fleet, [("plain", b"ok", 0), ("limited", b"again", 0), ("plain", b"fail", 1)])
        await fleet.run(1)

    def check(fleet: Fleet, _simulation: Simulation[None]) -> None:
        ledger = Ledger.of(fleet)
        ledger.check_conservation(sorted({entry.job_id for entry in ledger.log}))
        assert set(ledger.left.values()) <= {"queued"}
        assert not fleet.problems

    counts = cancel_everywhere(scenario, make=far_away, check=check, backend=backend)
    assert min(counts.values()) > 60


@backends
@examples(60)
@given(
    schedule=drawn,
    grace=st.sampled_from([0.0, 0.5, 5.0]),
    moment=moments,
    work=work,
)
def test_a_requested_shutdown(
    backend: Backend, schedule: tuple[int, ...], grace: float, moment: Moment, work: Work
) -> None:
    """Whenever it comes, every job is done once or queued, and `run` ends within the grace."""
    fleet = far_away()
    ids: list[int] = []

    async def scenario() -> None:
        ids.extend(await enqueue(fleet, [*work, ("plain", b"forever", 0)]))
        pgq = fleet.application()
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                await pgq.run(handle_signals=False)

            tasks.start_soon(run, name="program")
            await reach(moment)
            pgq.request_shutdown(grace)
            asked = anyio.current_time()
        assert anyio.current_time() - asked <= grace + 10 * FAR

    simulate(scenario, schedule=schedule, backend=backend).check()
    ledger = Ledger.of(fleet)
    ledger.check_conservation(ids)
    assert set(ledger.left.values()) <= {"queued"}
    assert ids[-1] in ledger.left
    assert not any("canceled" in ledger.ends(job_id) for job_id in ids)


@backends
# The worker hears of the cancellation before it hears that it has claimed the job.
@example(schedule=(), moment=(205, 0), behaviour=b"forever")
@examples(60)
@given(schedule=drawn, moment=moments, behaviour=st.sampled_from([b"ok", b"forever"]))
def test_cancelling_one_job(
    backend: Backend, schedule: tuple[int, ...], moment: Moment, behaviour: bytes
) -> None:
    """Before, during or after its run: it ends exactly once, and it ends at once."""
    fleet = far_away()
    ids: list[int] = []

    async def scenario() -> None:
        ids.extend(await enqueue(fleet, [("plain", behaviour, 0)]))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fleet.run, 1, name="fleet")
            await reach(moment)
            await fleet.queries.mark_job_as_cancelled(ids)
            cancelled_at = anyio.current_time()
        assert anyio.current_time() - cancelled_at <= 20 * FAR

    simulate(scenario, schedule=schedule, backend=backend).check()
    ledger = Ledger.of(fleet)
    ledger.check_conservation(ids)
    assert not ledger.left
    (end,) = ledger.ends(ids[0])
    assert end == "canceled" or (end == "successful" and behaviour == b"ok")


@backends
@examples(60)
@given(schedule=drawn, moment=moments, how=st.sampled_from(["enqueue", "requeue"]))
def test_no_wake_up_is_lost(
    backend: Backend, schedule: tuple[int, ...], moment: Moment, how: str
) -> None:
    """Whenever work comes, also between a look and the wait after it, it is taken at once."""
    fleet = far_away()

    async def scenario() -> float:
        held: list[int] = []
        if how == "requeue":
            held = await enqueue(fleet, [("plain", b"fail", 0)])
            pgq = fleet.application(on_failure="hold")
            await pgq.run(mode="drain", handle_signals=False)
        pgq = fleet.application()
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                await pgq.run(handle_signals=False)

            tasks.start_soon(run, name="program")
            await reach(moment)
            ids = held or await enqueue(fleet, [("plain", b"ok", 0)])
            if held:
                assert await fleet.queries.requeue_jobs(held) == set(held)
            asked = anyio.current_time()
            fleet.started.clear()
            await anyio.sleep(5)
            pgq.request_shutdown(0)
        return fleet.started[ids[0]] - asked

    assert simulate(scenario, schedule=schedule, backend=backend).check() < 5 * FAR


@backends
@examples(60)
@given(schedule=drawn, delays=st.lists(st.floats(0, 50), min_size=1, max_size=4))
def test_deferred_never_early_and_hardly_late(
    backend: Backend, schedule: tuple[int, ...], delays: list[float]
) -> None:
    """A deferred job starts after it is due, and within 50 ms of that."""
    fleet = Fleet()

    async def scenario() -> list[float]:
        began = anyio.current_time()
        ids = await fleet.queries.enqueue(["plain"] * len(delays), execute_after=[*delays])
        pgq = fleet.application()
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                await pgq.run(handle_signals=False)

            tasks.start_soon(run, name="program")
            await anyio.sleep(60)
            pgq.request_shutdown(0)
        return [fleet.started[job_id] - began for job_id in ids]

    started = simulate(scenario, schedule=schedule, backend=backend).check()
    for at, delay in zip(started, delays, strict=True):
        assert delay - 1e-6 <= at <= delay + 0.05


@backends
@examples(60)
@given(schedule=drawn, producers=st.integers(2, 4))
def test_one_job_a_key(backend: Backend, schedule: tuple[int, ...], producers: int) -> None:
    """Of producers that race for one dedupe key one wins at a time; a freed key is free."""
    fleet = Fleet()
    won: list[int] = []

    async def produce() -> None:
        try:
            won.extend(await fleet.queries.enqueue("plain", dedupe_key="key"))
        except DuplicateJobError:
            await anyio.lowlevel.checkpoint()

    async def scenario() -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(producers):
                tasks.start_soon(produce, name=f"producer {number}")
        assert len(won) == 1
        await fleet.run(1)
        await produce()
        assert len(won) == 2

    simulate(scenario, schedule=schedule, backend=backend).check()


@backends
@examples(40)
@given(schedule=drawn, schedulers=st.integers(1, 3), minutes=st.integers(1, 3))
def test_a_schedule_fires_once_for_all(
    backend: Backend, schedule: tuple[int, ...], schedulers: int, minutes: int
) -> None:
    """However many schedulers there are, each fire time is answered once, and on time."""
    fleet = Fleet()
    fired: list[float] = []

    async def scenario() -> None:
        async with anyio.create_task_group() as tasks:
            applications = [fleet.application() for _ in range(schedulers)]
            for number, pgq in enumerate(applications):

                @pgq.schedule("every half minute", "* * * * * 0,30")
                async def tick(_schedule: Schedule, context: ScheduleContext) -> None:
                    fired.append(context.fire_time.timestamp())
                    await anyio.lowlevel.checkpoint()

                async def run(pgq: Any = pgq) -> None:
                    await pgq.run(handle_signals=False)

                tasks.start_soon(run, name=f"scheduler {number}")
            await anyio.sleep(60 * minutes)
            for pgq in applications:
                pgq.request_shutdown(0)

    simulate(scenario, schedule=schedule, backend=backend).check()
    assert len(set(fired)) == len(fired)
    assert 2 * minutes - 1 <= len(fired) <= 2 * minutes + 1
