"""Malformed arguments are refused in words, before anything is written; alike on all stores."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import anyio.from_thread
import pytest

from pgq_trio import InMemoryDriver, Job, PgQueuer, Queries, QueueManager, RetryRequested, Settings
from pgq_trio.errors import RegistrationError
from tests.worker.tools import Place, drain, in_table, running, until

Call = Callable[[Queries], Awaitable[object]]

ENQUEUE: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "NUL": ({"entrypoint": "a\x00"}, ValueError),
    "surrogate": ({"dedupe_key": "\udc00"}, ValueError),
    "header NUL": ({"headers": {"a": ["\x00"]}}, ValueError),
    "header key": ({"headers": {1: 2}}, TypeError),
    "header NaN": ({"headers": {"a": float("nan")}}, ValueError),
    "payload": ({"payload": "text"}, TypeError),
    "naive": ({"execute_after": datetime(2030, 1, 1)}, ValueError),  # noqa: DTZ001
    "far": ({"execute_after": datetime.max.replace(tzinfo=UTC)}, ValueError),
    "negative": ({"execute_after": timedelta(seconds=-1)}, ValueError),
    "endless": ({"execute_after": timedelta.max}, ValueError),
    "lengths": ({"entrypoint": ["a", "b"], "payload": [b"x"]}, ValueError),
    "second": ({"entrypoint": ["a", "b"], "priority": [1, 2**31]}, ValueError),
    "conflict": ({"on_conflict": "ignore"}, ValueError),
    "conflict's type": ({"on_conflict": []}, ValueError),
}


async def test_nothing_is_enqueued(place: Place) -> None:
    async with place.open() as pgq:
        for arguments, error in ENQUEUE.values():
            with pytest.raises(error):
                await pgq.queries.enqueue(**({"entrypoint": "it"} | arguments))
        assert await in_table(pgq.queries) == {}
        assert await pgq.queries.queue_log() == []


CALLS: dict[str, tuple[Call, type[Exception]]] = {
    "requeue text": (lambda q: q.requeue_jobs("1"), TypeError),  # type: ignore[arg-type]
    "requeue texts": (lambda q: q.requeue_jobs(["1"]), TypeError),  # type: ignore[list-item]
    "requeue float": (lambda q: q.requeue_jobs([1.0]), TypeError),  # type: ignore[list-item]
    "requeue bool": (lambda q: q.requeue_jobs(True), TypeError),
    "requeue none": (lambda q: q.requeue_jobs(None), TypeError),  # type: ignore[arg-type]
    "requeue large": (lambda q: q.requeue_jobs([1, 2**63]), ValueError),
    "cancel text": (lambda q: q.mark_job_as_cancelled("1"), TypeError),  # type: ignore[arg-type]
    "cancel large": (lambda q: q.mark_job_as_cancelled([1, 2**64]), ValueError),
    "cancel one bad": (lambda q: q.mark_job_as_cancelled([1, None]), TypeError),  # type: ignore[list-item]
    "status text": (lambda q: q.job_status("1"), TypeError),  # type: ignore[arg-type]
    "status large": (lambda q: q.job_status([-(2**63) - 1]), ValueError),
    "log id": (lambda q: q.queue_log(job_id="1"), TypeError),  # type: ignore[arg-type]
    "log limit": (lambda q: q.queue_log(limit=-1), ValueError),
    "failed limit": (lambda q: q.list_failed_jobs(-1), ValueError),
    "failed order": (lambda q: q.list_failed_jobs(order="up"), ValueError),  # type: ignore[arg-type]
    "clear number": (lambda q: q.clear_queue(1), TypeError),  # type: ignore[arg-type]
    "clear NUL": (lambda q: q.clear_queue(["it", "\x00"]), ValueError),
    "clear log": (lambda q: q.clear_queue_log([None]), TypeError),  # type: ignore[list-item]
}


async def test_nothing_is_changed(place: Place) -> None:
    async with place.open() as pgq:
        ids = await pgq.queries.enqueue(["it"] * 3)
        assert ids[0] == 1
        before = await pgq.queries.queue_log()
        for call, error in CALLS.values():
            with pytest.raises(error):
                await call(pgq.queries)
        assert await in_table(pgq.queries) == {"queued": 3}
        assert await pgq.queries.queue_log() == before
        # What is well-formed and unknown is no error, and clearing nothing clears nothing.
        assert await pgq.queries.requeue_jobs([10**9]) == set()
        assert await pgq.queries.job_status([10**9, 2**63 - 1]) == []
        assert await pgq.queries.clear_queue([]) == 0
        assert await pgq.queries.clear_queue("unknown") == 0
        assert await in_table(pgq.queries) == {"queued": 3}
        assert await pgq.queries.clear_queue() == 3


async def test_a_name_that_nobody_serves_is_no_error(place: Place) -> None:
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None: ...

        await pgq.queries.enqueue(["nobody", "it"])
        await drain(pgq)
        assert await in_table(pgq.queries) == {"queued": 1}


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"bogus": 1}, TypeError, r"^run\(\) got an unexpected argument 'bogus'; it takes mode, "),
        ({"handle_signals": "no"}, TypeError, "handle_signals is True or False"),
        ({"heartbeat_timeout": float("inf")}, ValueError, "heartbeat_timeout must be at most"),
        ({"max_concurrent_jobs": 0}, ValueError, "max_concurrent_jobs must be at least 1"),
        ({"mode": "forever"}, ValueError, "mode is one of"),
    ],
)
async def test_run_names_the_argument(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    async with PgQueuer.open("memory:") as pgq:
        for start in (pgq.run, pgq.start, QueueManager(InMemoryDriver()).run):
            with pytest.raises(error, match=words):
                await start(**options)


@pytest.mark.parametrize("name", ["prefix", "schema", "channel", "queue_table", "trigger"])
def test_settings_take_texts_only(name: str) -> None:
    for value in (5, None, b"x", ["x"]):
        with pytest.raises(TypeError, match=f"{name} is a string"):
            Settings(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="surrogate"):
        Settings(**{name: "\ud800"})  # type: ignore[arg-type]


async def test_registration_refuses_what_can_never_be_served() -> None:
    async with PgQueuer.open("memory:") as pgq:
        for name in ("", "\x00", "\ud800", "x" * 2501):
            with pytest.raises(RegistrationError):
                pgq.entrypoint(name)
        with pytest.raises(RegistrationError, match="at most 2147483647"):
            pgq.entrypoint("it", concurrency_limit=2**31)(print)


@pytest.mark.parametrize("delay", [float("inf"), float("nan"), -1, timedelta(seconds=-1)])
def test_a_retry_in_no_time_of_the_calendar_is_refused(delay: float) -> None:
    with pytest.raises(ValueError, match=r"."):
        RetryRequested(delay)


async def test_a_thread_that_looks_is_ended_by_its_timeout(place: Place) -> None:
    """And one that does not look goes on to its end: nobody can stop a thread."""
    go_on = threading.Event()
    async with place.open() as pgq:

        @pgq.entrypoint("looks", timeout=0.2)
        def looks(job: Job) -> None:
            while True:
                anyio.from_thread.check_cancelled()
                threading.Event().wait(0.01)

        @pgq.entrypoint("does not", timeout=0.2)
        def does_not(job: Job) -> None:
            go_on.wait(20)

        first, second = await pgq.queries.enqueue(["looks", "does not"])
        async with running(pgq):

            async def only_the_second() -> bool:
                return await in_table(pgq.queries) == {"picked": 1}

            await until(only_the_second)
            go_on.set()

            async def none() -> bool:
                return await in_table(pgq.queries) == {}

            await until(none)
        log = (await pgq.queries.queue_log(job_id=first))[-1]
        assert log.traceback is not None
        assert log.traceback.exception_type == "JobTimeout"
        assert dict(await pgq.queries.job_status([second])) == {second: "successful"}
