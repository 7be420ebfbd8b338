"""Draining a queue: what became of its jobs, in memory and on PostgreSQL."""

from __future__ import annotations

import pytest

from pgq_trio import Job, PgQueuer, QueueManager, RetryRequested
from pgq_trio.errors import PgqError, RegistrationError
from pgq_trio.testing import JobFailed, drain


async def handle(job: Job) -> None:
    if job.payload == b"fail":
        raise ValueError("no such address")
    if job.payload == b"again":
        raise RetryRequested(delay=3600, reason="busy")


async def test_each_job_and_its_end(target: str) -> None:
    async with PgQueuer.open(target) as pgq:
        pgq.entrypoint("mail")(handle)
        pgq.entrypoint("kept", on_failure="hold")(handle)
        good, bad = await pgq.queries.enqueue(["mail"] * 2, [b"ok", b"fail"])
        held, again = await pgq.queries.enqueue(["kept", "mail"], [b"fail", b"again"])
        (later,) = await pgq.queries.enqueue("mail", execute_after=3600)
        (foreign,) = await pgq.queries.enqueue("nobody serves this")
        outcomes = await drain(pgq)

    assert {job_id: log.status for job_id, log in outcomes.items()} == {
        good: "successful",
        bad: "exception",
        held: "failed",
    }
    assert outcomes[good].traceback is None
    assert {log.job_id for log in outcomes.failures} == {bad, held}
    traceback = outcomes[bad].traceback
    assert traceback is not None
    assert traceback.exception_message == "no such address"
    assert outcomes.retried.keys() == {again}
    with pytest.raises(KeyError, match=f"job {again} did not end: it is queued again"):
        outcomes[again]
    for absent in (later, foreign):
        with pytest.raises(KeyError, match=f"job {absent} did not end in this run"):
            outcomes[absent]


async def test_the_first_failure_is_raised_with_its_traceback(target: str) -> None:
    async with PgQueuer.open(target) as pgq:
        pgq.entrypoint("mail")(handle)
        (bad,) = await pgq.queries.enqueue("mail", b"fail")
        outcomes = await drain(pgq)
    with pytest.raises(JobFailed) as failure:
        outcomes.check()
    text = str(failure.value)
    assert text.startswith(f"job {bad} of 'mail' failed: ValueError: no such address\n")
    assert 'raise ValueError("no such address")' in text
    assert failure.value.log.job_id == bad


async def test_only_what_ended_in_this_run(target: str) -> None:
    async with PgQueuer.open(target) as pgq:

        @pgq.entrypoint("parent")
        async def parent(_job: Job) -> None:
            children.extend(await pgq.queries.enqueue("child"))

        children: list[int] = []
        pgq.entrypoint("child")(handle)
        (first,) = await pgq.queries.enqueue("parent")
        assert (await drain(pgq)).check().keys() == {first, *children}
        (second,) = await pgq.queries.enqueue("child")
        assert list((await drain(pgq)).check()) == [second]
        assert await drain(pgq) == {}


async def test_a_retry_that_ends_is_an_end_and_no_retry(target: str) -> None:
    async with PgQueuer.open(target) as pgq:

        @pgq.entrypoint("once more")
        async def once_more(job: Job) -> None:
            if not job.attempts:
                raise RetryRequested(delay=0)

        (job_id,) = await pgq.queries.enqueue("once more")
        outcomes = await drain(pgq)
    assert {key: log.status for key, log in outcomes.items()} == {job_id: "successful"}
    assert not outcomes.retried


async def test_the_order_is_that_of_the_ends() -> None:
    pgq = PgQueuer.in_memory()
    pgq.entrypoint("mail")(handle)
    ids = await pgq.queries.enqueue(["mail"] * 3, [b"fail"] * 3, priority=[1, 3, 2])
    outcomes = await drain(pgq, max_concurrent_jobs=1)
    assert [log.job_id for log in outcomes.failures] == [ids[1], ids[2], ids[0]]


async def test_a_job_stands_where_it_ended_and_not_where_it_was_retried() -> None:
    pgq = PgQueuer.in_memory()

    @pgq.entrypoint("mail")
    async def mail(job: Job) -> None:
        if job.payload == b"twice" and not job.attempts:
            raise RetryRequested(delay=0)

    twice, once = await pgq.queries.enqueue(["mail"] * 2, [b"twice", b"once"])
    outcomes = await drain(pgq, max_concurrent_jobs=1)  # both are claimed at once
    assert list(outcomes) == [once, twice]


async def test_a_queue_manager_will_do() -> None:
    qm = QueueManager(PgQueuer.in_memory().queries)
    qm.entrypoint("mail")(handle)
    (job_id,) = await qm.queries.enqueue("mail")
    assert (await drain(qm)).check().keys() == {job_id}


async def test_what_cannot_be_drained() -> None:
    pgq = PgQueuer.in_memory()
    with pytest.raises(RegistrationError):
        await drain(pgq)
    with pytest.raises(TypeError, match="a mode of its own"):
        await drain(pgq, mode="continuous")
    async with PgQueuer.open("memory:") as running:
        running.entrypoint("mail")(handle)
        await running.start()
        with pytest.raises(PgqError, match="runs already"):
            await drain(running)
