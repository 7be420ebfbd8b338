"""Crashes, stalls, partitions, lost replies, odd notifications, jumping clocks: no job is lost.

Hypothesis draws jobs and what befalls three processes, each with a connection of its own to one
queue in memory (`fault_worlds`). Each change of the queue and each run of a handler is judged by a
model (`histories`): who may run what is said there, and no example is exempt from it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import anyio
import pytest
from hypothesis import example, given, strategies as st

from pgq_trio import Job, QueueManager
from pgq_trio.testing import BACKENDS, Backend, UnreliableDriver, interleavings, simulate
from tests.property.fault_worlds import LEASE, Disaster, expected_ends
from tests.property.mishaps import Mishap, Work, plans, works
from tests.property.profiles import examples
from tests.property.queue_worlds import Fleet, Ledger

backends = pytest.mark.parametrize("backend", BACKENDS)


LONG: Work = [("plain", b"long", 0.0)]

#: Deep places that drawn plans come to only now and then; `worker=0` owns most jobs at that moment.
PINNED: list[tuple[Work, list[Mishap]]] = [
    # It goes on with what it lost until it hears so.
    (LONG, [Mishap(0.5, 0, "stall")]),
    # A lost heartbeat is sent again in time.
    (LONG, [Mishap(0.9, 0, "blip")]),
    # A rescued job keeps its seat.
    ([("limited", b"long", 0.0), ("limited", b"sleep", 0.0)], [Mishap(0.5, 0, "stall")]),
    # A shutdown spends no attempt, and leaves it to the others.
    ([*LONG, ("plain", b"sleep", 0.0)], [Mishap(0.5, 0, "shutdown")]),
    # Nobody tells of an expired lease.
    (LONG, [Mishap(0.5, 0, "crash")]),
    # Nobody can claim at first, nobody hears of what becomes due.
    (
        [("plain", b"ok", 0.2)],
        [Mishap(0.0, worker, kind, 0) for worker in range(3) for kind in ("lost request", "blip")],
    ),
    # Its own rescue is no second run, and its outcome is written under the new claim.
    (
        [("plain", b"sleep", 0.0), ("plain", b"stubborn", 0.0)],
        [Mishap(0.1, 2, "crash"), Mishap(0.15, 1, "crash"), Mishap(0.5, 0, "clock forward")]
        + [Mishap(at / 20, 0, "old notifications again") for at in range(11, 20)],
    ),
    # The same while that outcome is on its way.
    (
        [("plain", b"sleep", 0.0)],
        [Mishap(0.1, 2, "crash"), Mishap(0.15, 1, "crash"), Mishap(0.2, 0, "slow")]
        + [Mishap(1.0, 0, "lost request", 1), Mishap(1.0, 0, "clock forward")]
        + [Mishap(1.0 + at / 50, 0, "old notifications again") for at in range(1, 10)],
    ),
    # What cannot be written is kept.
    ([("plain", b"sleep", 0.0)], [Mishap(0.5, 0, "lost request", 1)]),
    # Anybody may send anything.
    (LONG, [Mishap(0.5, 0, "odd notification", which) for which in range(16)]),
    # It does not hear that it lost the job, and writes an end of its own.
    (
        [("plain", b"stubborn", 0.0)],
        [
            Mishap(0.1, 0, "crash"),
            Mishap(3.9, 0, "stall"),
            Mishap(7.5, 1, "old notifications again"),
        ],
    ),
    # Its user cancels it while the worker's connection is away.
    (LONG, [Mishap(0.5, 0, "blip"), Mishap(0.6, 0, "cancel")]),
]


def pinned(test: Callable[..., None]) -> Callable[..., None]:
    """Have a property try the pinned plans first."""
    for work, plan in PINNED:
        test = example(schedule=(), work=work, plan=plan)(test)
    return test


@backends
@pinned
@examples(60)
@given(schedule=interleavings(tasks=6), work=works, plan=plans)
def test_no_job_is_lost(
    backend: Backend, schedule: tuple[int, ...], work: Work, plan: list[Mishap]
) -> None:
    """Every job ends exactly once or is held, whatever befalls the workers.

    A worker that is well loses no lease, and no job of it runs elsewhere. The attempts of each job
    are its rescues and retries. No more limited jobs are picked, or run by their owners, than may.
    Every write is accepted if and only if its claim still owns the row, and says what the handler
    did. As long as one of three workers is there, everything is done within a bound.
    """
    world = Disaster(backend)

    async def scenario() -> list[int]:
        return await world.run_all(work, plan)

    ids = simulate(scenario, schedule=schedule, backend=backend).check()
    assert not world.history.problems
    ledger = Ledger.of(world)
    ledger.check_conservation(ids)
    cancelled = {ids[mishap.which % len(ids)] for mishap in plan if mishap.kind == "cancel"}
    for job_id, (name, payload, _) in zip(ids, work, strict=True):
        ends = ledger.ends(job_id)
        assert ends == world.history.rows[job_id].ends
        assert ends in expected_ends(name, payload, cancelled=job_id in cancelled)
        assert ledger.left.get(job_id, "failed") == "failed"


@backends
@examples(20)
@given(schedule=interleavings(tasks=5), workers=st.integers(1, 3))
def test_a_job_longer_than_its_lease(
    backend: Backend, schedule: tuple[int, ...], workers: int
) -> None:
    """While its worker lives it runs once: the lease is renewed, and nobody takes it over."""
    fleet = Fleet()
    ids: list[int] = []

    async def scenario() -> None:
        ids.extend(await fleet.queries.enqueue(["plain", "limited"], [b"long", b"long"]))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(
                partial(fleet.run, workers, mode="continuous", heartbeat_timeout=LEASE)
            )
            await anyio.sleep(20)
            tasks.cancel_scope.cancel()

    simulate(scenario, schedule=schedule, backend=backend).check()
    ledger = Ledger.of(fleet)
    assert not fleet.problems
    assert sorted(job.id for job in fleet.starts) == ids
    assert [ledger.ends(job_id) for job_id in ids] == [["successful"]] * 2


@backends
@examples(20)
@given(
    schedule=interleavings(tasks=5),
    silence=st.floats(LEASE + 1, 3 * LEASE),
    behaviour=st.sampled_from([b"long", b"again", b"fail"]),
)
def test_a_stale_owner(
    backend: Backend, schedule: tuple[int, ...], silence: float, behaviour: bytes
) -> None:
    """Back after a silence longer than its lease, a worker changes nothing that is not its own."""
    fleet = Fleet()
    ids: list[int] = []
    connection = UnreliableDriver(fleet.driver)
    slow = QueueManager(connection)

    @slow.entrypoint("plain")
    async def slow_handler(_job: Job) -> None:
        with anyio.CancelScope(shield=True):  # it does not hear that it lost the lease
            connection.cut(silence)
            await anyio.sleep(silence - 0.5)
        if behaviour != b"fail":  # the opposite of what the job does elsewhere
            raise ValueError("too late")

    async def scenario() -> None:
        ids.extend(await fleet.queries.enqueue("plain", behaviour))
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                await slow.run(handle_signals=False, heartbeat_timeout=LEASE)

            tasks.start_soon(run, name="slow worker")
            await anyio.sleep(0.2)
            second = fleet.application()

            async def run_second() -> None:
                await second.run(handle_signals=False, heartbeat_timeout=LEASE)

            tasks.start_soon(run_second, name="second worker")
            await anyio.sleep(4 * LEASE + 10)
            slow.request_shutdown(0)
            second.request_shutdown(0)

    simulate(scenario, schedule=schedule, backend=backend).check()
    ledger = Ledger.of(fleet)
    ledger.check_conservation(ids)
    assert ledger.ends(ids[0]) == ["exception" if behaviour == b"fail" else "successful"]
    assert [job.attempts for job in fleet.starts] == [1]
