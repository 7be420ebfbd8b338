"""Assertions about what is queued: they see it, and say what is there instead."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgq_trio import Job, PgQueuer
from pgq_trio.testing import assert_enqueued, assert_not_enqueued, drain

TOMORROW = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)

#: What each of these jobs is enqueued with, and what it is not.
LIKE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"payload": b"a"}, {"payload": b"b"}),
    ({"payload": None}, {"payload": b""}),
    ({"payload": b""}, {"payload": None}),
    ({"priority": 3}, {"priority": 4}),
    ({"headers": {"to": ["x"]}}, {"headers": {"to": ["y"]}}),
    ({"headers": None}, {"headers": {"a": 1}}),
    ({"dedupe_key": "k"}, {"dedupe_key": None}),
    ({"execute_after": 90}, {"execute_after": 91}),
    ({"execute_after": timedelta(hours=1.5)}, {"execute_after": 0}),
    ({"execute_after": TOMORROW}, {"execute_after": TOMORROW + timedelta(seconds=1)}),
]


async def test_everything_that_enqueue_takes_can_be_compared(target: str) -> None:
    async with PgQueuer.open(target) as pgq:
        for like, unlike in LIKE:
            await pgq.queries.enqueue("mail", **like)
            (job,) = await assert_enqueued(pgq, "mail", count=1, **like)
            assert isinstance(job, Job)
            await assert_not_enqueued(pgq, "mail", **unlike)
            with pytest.raises(AssertionError, match="none wanted, 1 queued"):
                await assert_not_enqueued(pgq, "mail", **like)
            with pytest.raises(AssertionError, match="at least one wanted, none queued"):
                await assert_enqueued(pgq, "mail", **unlike)
            await pgq.queries.clear_queue()


async def test_counting(target: str) -> None:
    async with PgQueuer.open(target) as pgq:
        await pgq.queries.enqueue(["mail"] * 3, [b"a", b"a", b"b"])
        assert len(await assert_enqueued(pgq.queries, "mail")) == 3
        assert len(await assert_enqueued(pgq.qm, "mail", payload=b"a", count=2)) == 2
        for count in (1, 3):
            with pytest.raises(
                AssertionError, match=f"{count} wanted, 2 queued: entrypoint='mail'"
            ):
                await assert_enqueued(pgq, "mail", payload=b"a", count=count)


async def test_what_has_run_is_not_queued(target: str) -> None:
    async with PgQueuer.open(target) as pgq:

        @pgq.entrypoint("mail")
        async def mail(_job: Job) -> None:
            await assert_not_enqueued(pgq, "mail")

        await pgq.queries.enqueue("mail")
        await assert_enqueued(pgq, "mail")
        (await drain(pgq)).check()
        await assert_not_enqueued(pgq, "mail")


async def test_more_jobs_than_a_page() -> None:
    pgq = PgQueuer.in_memory()
    await pgq.queries.enqueue(["mail"] * 1001)
    await assert_enqueued(pgq, "mail", count=1001)


async def test_the_message_shows_what_is_queued_the_nearest_first() -> None:
    pgq = PgQueuer.in_memory()
    await pgq.queries.enqueue("sms", b"a", 9)
    await pgq.queries.enqueue("mail", b"x" * 100, headers={"to": "me"})
    await pgq.queries.enqueue("mail", b"a", execute_after=60, dedupe_key="k")
    with pytest.raises(AssertionError) as failure:
        await assert_enqueued(pgq, "mail", payload=b"a", priority=9)
    assert str(failure.value).splitlines() == [
        "at least one wanted, none queued: entrypoint='mail', payload=b'a', priority=9",
        "- job 3 of 'mail': payload=b'a', priority=0, dedupe_key='k', execute_after=0:01:00",
        "    priority: 0, not 9",
        f"- job 2 of 'mail': payload=b'{'x' * 57}…, priority=0, headers={{'to': 'me'}}",
        f"    payload: b'{'x' * 57}…, not b'a'",
        "    priority: 0, not 9",
        "- job 1 of 'sms': payload=b'a', priority=9",
    ]


async def test_the_message_marks_what_matches() -> None:
    pgq = PgQueuer.in_memory()
    await pgq.queries.enqueue("mail", b"a")
    with pytest.raises(AssertionError) as failure:
        await assert_not_enqueued(pgq, "mail")
    assert str(failure.value).splitlines() == [
        "none wanted, 1 queued: entrypoint='mail'",
        "= job 1 of 'mail': payload=b'a', priority=0",
    ]


async def test_the_message_of_an_empty_and_of_a_long_queue() -> None:
    pgq = PgQueuer.in_memory()
    with pytest.raises(AssertionError, match=r"\n  nothing is queued$"):
        await assert_enqueued(pgq, "mail")
    await pgq.queries.enqueue(["sms"] * 30)
    with pytest.raises(AssertionError, match=r"\n  and 20 more$"):
        await assert_enqueued(pgq, "mail")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"count": 0}, ValueError, "assert_not_enqueued for none"),
        ({"paylaod": b""}, TypeError, "no 'paylaod' to compare; it has entrypoint, payload"),
        ({"execute_after": "soon"}, TypeError, "execute_after must be a timedelta or seconds"),
    ],
)
async def test_arguments_that_cannot_be(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await assert_enqueued(PgQueuer.in_memory(), "mail", **arguments)
