"""The history from the side of `Queries`: what it refuses, and how a long deletion is watched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import anyio
import pytest

from pgq_trio.abc.insights import Step
from pgq_trio.client.queries import Queries
from pgq_trio.db import InMemoryDriver
from pgq_trio.settings import Retention, Settings
from pgq_trio.testing import BACKENDS, Backend, Call, UnreliableDriver, simulate
from tests.maintenance.stores import occupied

DAY = timedelta(days=1)

CALLS: list[tuple[Callable[[Queries, Any], Awaitable[object]], object]] = [
    (lambda q, x: q.log_statistics(x), [-1, 1.5, True, "1", 2**63]),
    (lambda q, x: q.log_statistics(last=x), [-1, "1h", True, float("nan")]),
    (lambda q, x: q.throughput_summary(x), [-1, "1h", datetime(2030, 1, 1)]),  # noqa: DTZ001
    (lambda q, x: q.throughput_timeseries(x), [-1, None]),
    (lambda q, x: q.job_duration_percentiles(x), [-1, None]),
    (lambda q, x: q.stale_jobs(x), [-1, None]),
    (lambda q, x: q.stale_jobs(1, x), [-1, True, None]),
    (lambda q, x: q.browse_queue(x), [-1, True, None]),
    (lambda q, x: q.browse_queue(offset=x), [-1, True, None]),
    (lambda q, x: q.browse_queue(statuses=x), ["queued", ["running"], [1]]),
    (lambda q, x: q.browse_queue(entrypoints=x), ["a", [1], ["\x00"]]),
    (lambda q, x: q.clear_statistics_log(x), [["\x00"], [1], 1]),
    (lambda q, x: q.queue_job_by_id(x), ["1", True, 2**63, None]),
    (lambda q, x: q.job_log_history(x), ["1", True, 2**63]),
    (lambda q, x: q.job_log_history(1, x), [-1, True]),
    (lambda q, x: q.exception_logs(x), [-1, True]),
    (lambda q, x: q.delete_expired_logs(x), [-1, "1d", True, None]),
    (lambda q, x: q.estimate_expired_logs(x), [-1, "1d", True, None]),
]


@pytest.mark.parametrize("call", range(len(CALLS)))
async def test_wrong_arguments_are_refused_before_anything_is_sent(call: int) -> None:
    driver = UnreliableDriver(InMemoryDriver())
    queries = Queries(driver)
    function, wrong = CALLS[call]
    assert isinstance(wrong, list)
    for value in wrong:
        with pytest.raises((TypeError, ValueError)) as caught:
            await function(queries, value)
        assert str(caught.value)
    assert not driver.calls


async def test_spans_longer_than_any_date_are_ever() -> None:
    queries = Queries(InMemoryDriver())
    await queries.enqueue("a")
    for ever in (timedelta.max, float("inf"), 1e300):
        assert len(await queries.log_statistics(last=ever)) == 1
        assert len(await queries.throughput_summary(ever)) == 1
        assert len(await queries.throughput_timeseries(ever)) == 1
        assert await queries.job_duration_percentiles(ever) == []
        assert await queries.stale_jobs(ever) == []


async def test_an_empty_list_shows_and_deletes_nothing() -> None:
    queries = Queries(InMemoryDriver())
    await queries.enqueue("a")
    assert await queries.browse_queue(statuses=[]) == []
    assert await queries.browse_queue(entrypoints=[]) == []
    assert len(await queries.browse_queue(statuses=None, entrypoints=None)) == 1
    await queries.aggregate_logs()
    assert await queries.clear_statistics_log([]) == 0
    assert await queries.clear_statistics_log("a") == 1


async def test_without_an_age_it_says_where_to_give_one() -> None:
    queries = Queries(InMemoryDriver())
    with pytest.raises(ValueError, match=r"retention=.*Settings\(retention="):
        await queries.delete_expired_logs()


async def test_the_settings_say_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(retention=0)
    queries = Queries(InMemoryDriver(), settings=settings)
    await queries.enqueue(["a"] * 25)
    real, told = queries.backend.insights.expire, list[int]()

    async def expire(retention: Retention, *, from_start: bool) -> Step:
        return await real(retention, limit=10)

    monkeypatch.setattr(queries.backend.insights, "expire", expire)
    assert await queries.estimate_expired_logs() == 25
    assert await queries.delete_expired_logs(DAY) == 0
    assert await queries.delete_expired_logs(on_progress=told.append) == 25
    assert told == [10, 20, 25]
    assert await queries.estimate_expired_logs() == 0
    assert await queries.unaggregated_log_count() == 0
    [row] = await queries.log_statistics()
    assert row.count == 25


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_deletion_waits_while_another_process_is_at_it(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        driver = InMemoryDriver()
        connection = UnreliableDriver(driver)
        queries = Queries(connection)
        await queries.enqueue("a")
        occupied(monkeypatch, driver.backend(Settings()), "expire")

        async def before(call: Call) -> None:
            await anyio.lowlevel.checkpoint()
            if connection.calls["expire"] == 20:
                monkeypatch.undo()

        connection.before = before
        began = anyio.current_time()
        assert await queries.delete_expired_logs(0) == 1
        assert 1 < anyio.current_time() - began < 20
        assert connection.calls["expire"] >= 20

    simulate(main, backend=backend).check()
