"""What jobs lead to, and who is told: retries, held jobs, watchers whose connection is cut."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import example, given, strategies as st

from pgq_trio import CompletionWatcher, Job, Queries, RetryRequested
from pgq_trio.testing import BACKENDS, Backend, UnreliableDriver, interleavings, simulate
from tests.property.profiles import examples
from tests.property.queue_worlds import FAR, HEARTBEAT, Fleet, Ledger, far_away

backends = pytest.mark.parametrize("backend", BACKENDS)
drawn = interleavings(tasks=6, decisions=60)

#: What a run raises: a retry after so many seconds, another error (None), or a group of such.
Errors = Any
errors: st.SearchStrategy[Errors] = st.recursive(
    st.none() | st.integers(0, 9), lambda inner: st.lists(inner, min_size=1, max_size=3)
)


def exception_of(errors: Errors) -> Exception:
    """Make what a handler raises."""
    if errors is None:
        return ValueError("as asked")
    if isinstance(errors, int):
        return RetryRequested(delay=float(errors))
    return ExceptionGroup("as asked", [exception_of(inner) for inner in errors])


def leaves(errors: Errors) -> list[int | None]:
    """Return all that is in a group."""
    if isinstance(errors, list):
        return [leaf for inner in errors for leaf in leaves(inner)]
    return [errors]


@backends
@example(schedule=(), runs=[[1, 5]], hold=False)
@example(schedule=(), runs=[[1, [None, 5]]], hold=True)
@examples(60)
@given(schedule=drawn, runs=st.lists(errors, max_size=4), hold=st.booleans())
def test_retries_and_failures(
    backend: Backend, schedule: tuple[int, ...], runs: list[Errors], hold: bool
) -> None:
    """A group of retries alone is one, after the longest delay; each retry is one attempt.

    What holds another error fails: the job ends, or is held and runs again only when it is
    requeued, from attempt 0.
    """
    fleet = Fleet()
    seen: list[tuple[float, int]] = []
    ids: list[int] = []

    async def scenario() -> None:
        pgq = fleet.application(on_failure="hold" if hold else "delete")

        @pgq.entrypoint("errors", on_failure="hold" if hold else "delete")
        async def handler(job: Job) -> None:
            number = len(seen)
            seen.append((anyio.current_time(), job.attempts))
            await anyio.lowlevel.checkpoint()
            if number < len(runs):
                raise exception_of(runs[number])

        ids.extend(await fleet.queries.enqueue("errors"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(pgq.run, handle_signals=False), name="program")
            await anyio.sleep(60)
            if hold:
                for _ in runs:
                    await fleet.queries.requeue_jobs(ids)
                    await anyio.sleep(60)
            pgq.request_shutdown(0)

    simulate(scenario, schedule=schedule, backend=backend).check()
    expected: list[int] = [0]
    for number, run in enumerate(runs):
        found = leaves(run)
        if None in found:
            if not hold:
                break
            expected.append(0)
            continue
        delay = max(leaf for leaf in found if leaf is not None)
        assert delay - 1e-3 <= seen[number + 1][0] - seen[number][0] <= delay + 0.1
        expected.append(expected[-1] + 1)
    assert [attempts for _, attempts in seen] == expected
    ledger = Ledger.of(fleet)
    ledger.check_conservation(ids)
    fails = not hold and any(None in leaves(run) for run in runs)
    assert ledger.ends(ids[0]) == ["exception" if fails else "successful"]


#: What happens to the connection of one who waits: when, and what.
outages = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from(["cut", "drop", "hear again", "lose a look"])),
    max_size=4,
).map(sorted)


@backends
@example(schedule=(), jobs=[10], outages=[(2, "cut")], early=True)
@example(schedule=(), jobs=[10], outages=[(0, "drop")], early=True)
@examples(60)
@given(
    schedule=drawn,
    jobs=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    outages=outages,
    early=st.booleans(),
)
def test_each_end_is_told(
    backend: Backend,
    schedule: tuple[int, ...],
    jobs: list[int],
    outages: Sequence[tuple[int, str]],
    early: bool,
) -> None:
    """Who waits for a job learns how it ended, once and soon, whatever its connection goes through.

    At once where it hears, a second or so after its connection is back, and by a look after the
    refresh interval where notifications are lost. Two who wait for one job both learn it.
    """
    fleet = far_away()
    connection = UnreliableDriver(fleet.driver)
    told: list[tuple[int, str]] = []
    late: list[float] = []
    ended: dict[int, float] = {}

    async def scenario() -> None:
        pgq = fleet.application()

        @pgq.entrypoint("timed")
        async def handler(job: Job) -> None:
            await anyio.sleep(int(job.payload or b"0") / 10)
            ended[job.id] = anyio.current_time()

        async def wait(watcher: CompletionWatcher, job_id: int) -> None:
            told.append((job_id, await watcher.wait_for(job_id)))
            late.append(anyio.current_time() - ended[job_id])

        async with (
            anyio.create_task_group() as tasks,
            CompletionWatcher(Queries(connection), refresh_interval=5.0) as watcher,
        ):
            tasks.start_soon(
                partial(pgq.run, handle_signals=False, heartbeat_timeout=HEARTBEAT), name="program"
            )
            if not early:
                await anyio.sleep(1)
            payloads = [str(tenths).encode() for tenths in jobs]
            ids = await fleet.queries.enqueue(["timed"] * len(jobs), payloads)
            async with anyio.create_task_group() as waits:
                for job_id in [*ids, ids[0]]:
                    waits.start_soon(wait, watcher, job_id, name=f"wait for {job_id}")
                waits.start_soon(disturb, name="outages")
            pgq.request_shutdown(0)

    async def disturb() -> None:
        began = anyio.current_time()
        for at, what in outages:
            await anyio.sleep_until(began + at / 10)
            if what == "cut":
                connection.cut(0.5)
            elif what == "lose a look":
                connection.lose("job_status")
            else:
                connection.drops_notifications = what == "drop"

    simulate(scenario, schedule=schedule, backend=backend).check()
    assert len(told) == len(jobs) + 1
    assert {status for _, status in told} == {"successful"}
    drops = any(what == "drop" for _, what in outages)
    assert max(late) <= (6.0 if drops else 3.0 if outages else 20 * FAR), late
