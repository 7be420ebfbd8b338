"""What both packages tell about one queue is the same, whoever counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.interop.sides import Pair

pytestmark = [
    pytest.mark.parametrize("direction", ["ours-first"]),
    pytest.mark.parametrize("shared_dsn", ["installed-by-us"], indirect=True),
]

WEEK = timedelta(days=7)


def plain(record: object) -> dict[str, Any]:
    """The fields of a record of either package that do not depend on the moment of asking."""
    names = getattr(type(record), "model_fields", None) or type(record).__dataclass_fields__  # type: ignore[attr-defined]
    fields = {name: getattr(record, name) for name in names if "seconds" not in name}
    return {
        name: value
        for name, value in fields.items()
        # Ours tells the dedupe key of a job as well; how often the log is folded is no matter.
        if name not in {"dedupe_key", "aggregated", "traceback"}
    }


def same(ours: Iterable[object], theirs: Iterable[object]) -> list[dict[str, Any]]:
    """Check that both tell the same, in the same order, and return it."""
    told = [plain(record) for record in ours]
    assert told == [plain(record) for record in theirs]
    return told


@pytest.fixture
async def busy(pair: Pair) -> AsyncGenerator[Pair]:
    """A queue with jobs in every state, of workers of both kinds."""
    for priority, side in enumerate((pair.one, pair.other)):
        await pair.one.enqueue(name="h", priority=priority)
        async with side.work("raise", name="h", on_failure="hold") as worker:
            await worker.jobs(1)
    for side in (pair.one, pair.other):
        await side.enqueue_all([None, b"x"], priorities=[0, 7])
        await side.drain()
        await side.enqueue()
        await side.run_one("raise")
        await side.cancel(await pair.one.enqueue())
    async with pair.one.work("wait", name="w") as one, pair.other.work("wait", name="v") as other:
        for name in "wvv":
            await pair.one.enqueue(name=name)
        await one.jobs(1)
        await other.jobs(2)
        await pair.other.enqueue_all([b"1", b"2"], priorities=[1, 2])
        await pair.one.enqueue(name="b", after=WEEK)
        await pair.quiet()
        yield pair


async def test_the_queue(busy: Pair) -> None:
    ours, peer = busy.ours.queries, busy.theirs.peer
    theirs = peer.queries

    def in_order(records: Iterable[Any]) -> list[Any]:
        return sorted(records, key=lambda r: (r.entrypoint, r.priority, r.status))

    sizes = same(in_order(await ours.queue_size()), in_order(await peer.run(theirs.queue_size())))
    assert {size["status"] for size in sizes} == {"queued", "picked", "failed"}
    ages = same(await ours.queue_age(), await peer.run(theirs.queue_age()))
    assert [(age["entrypoint"], age["queued_count"]) for age in ages] == [("a", 2), ("b", 1)]
    jobs = same(await ours.browse_queue(), await peer.run(theirs.browse_queue()))
    assert len(jobs) == 8


async def test_the_workers(busy: Pair) -> None:
    ours, peer = busy.ours.queries, busy.theirs.peer
    theirs = peer.queries
    workers = [
        sorted(found, key=lambda worker: worker.active_jobs)
        for found in (await ours.active_workers(), await peer.run(theirs.active_workers()))
    ]
    assert [worker["active_jobs"] for worker in same(*workers)] == [1, 2]
    busy.fetch("UPDATE pgqueuer SET heartbeat = now() - interval '1 hour' WHERE status = 'picked'")
    threshold = timedelta(minutes=30)
    stale = [
        sorted(found, key=lambda job: job.id)
        for found in (
            await ours.stale_jobs(threshold),
            await peer.run(theirs.stale_jobs(threshold)),
        )
    ]
    assert len(same(*stale)) == 3


@pytest.mark.parametrize("folder", ["one", "other"])
async def test_the_statistics(busy: Pair, folder: str) -> None:
    """Whoever folds the log, the other counts nothing twice."""
    ours, peer = busy.ours.queries, busy.theirs.peer
    theirs = peer.queries
    if (busy.one if folder == "one" else busy.other) is busy.ours:
        await ours.aggregate_logs()
    else:
        await peer.run(theirs.aggregate_logs())
    logged = Counter(
        (entry.entrypoint, entry.priority, entry.status) for entry in await ours.queue_log()
    )
    for statistics in (
        await peer.run(theirs.log_statistics(None)),
        await ours.log_statistics(None),
        await peer.run(theirs.log_statistics(None)),
    ):
        counted: Counter[tuple[str, int, str]] = Counter()
        for entry in statistics:
            counted[entry.entrypoint, entry.priority, entry.status] += entry.count
        outcomes = {"successful", "exception", "canceled", "failed", "deleted"}
        assert {key: n for key, n in counted.items() if key[2] in outcomes} == {
            key: n for key, n in logged.items() if key[2] in outcomes
        }
    assert await ours.unaggregated_log_count() == 0
    assert await peer.run(theirs.unaggregated_log_count()) == 0


async def test_the_log(busy: Pair) -> None:
    ours, peer = busy.ours.queries, busy.theirs.peer
    theirs = peer.queries

    def in_order(records: Iterable[Any]) -> list[Any]:
        return sorted(records, key=lambda entry: (entry.created, entry.job_id, entry.status))

    log = same(in_order(await ours.queue_log()), in_order(await peer.run(theirs.queue_log())))
    assert isinstance(log[0]["created"], datetime)
    first = log[0]["job_id"]
    same(await ours.job_log_history(first), await peer.run(theirs.job_log_history(first)))
    # Ours has the held jobs' failures as well.
    failures = [entry for entry in await ours.exception_logs() if entry.status != "failed"]
    assert len(same(failures, await peer.run(theirs.exception_logs()))) == 2
