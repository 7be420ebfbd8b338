"""Executors of the user's own run jobs in their own way, under the same rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from pgq_trio import (
    AbstractEntrypointExecutor,
    Context,
    DatabaseRetryEntrypointExecutor,
    EntrypointExecutor,
    Job,
    RetryRequested,
)
from pgq_trio.errors import RegistrationError
from pgq_trio.executors import EntrypointExecutorParameters
from tests.worker.tools import Place, drain, outcome, statuses


@dataclass(eq=False)
class Noting(EntrypointExecutor):
    """Notes around the ordinary call."""

    async def execute(self, job: Job, context: Context) -> None:
        log = context.resources["log"]
        assert isinstance(log, list)
        log.append("before")
        await super().execute(job, context)
        log.append("after")


@dataclass(eq=False)
class Own(AbstractEntrypointExecutor):
    """Calls no handler at all."""

    got: list[tuple[Job, Context]] = field(default_factory=list)

    async def execute(self, job: Job, context: Context) -> None:
        self.got.append((job, context))
        await anyio.lowlevel.checkpoint()
        if job.payload == b"retry" and job.attempts == 0:
            raise RetryRequested(0)
        if job.payload == b"fail":
            raise ValueError("as asked")
        if job.payload == b"cancel":
            context.cancellation.cancel()
            await anyio.sleep_forever()


async def no_handler(job: Job) -> None:
    raise AssertionError("an executor of its own kind calls no handler")


async def test_executor_factory_gets_the_parameters(place: Place) -> None:
    made: list[EntrypointExecutorParameters] = []

    def make(parameters: EntrypointExecutorParameters) -> AbstractEntrypointExecutor:
        made.append(parameters)
        return Noting(parameters)

    async with place.open(resources={"log": []}) as pgq:

        @pgq.entrypoint("it", executor_factory=make, concurrency_limit=3, timeout=7)
        async def handler(job: Job, ctx: Context) -> None:
            log = ctx.resources["log"]
            assert isinstance(log, list)
            log.append("during")

        await pgq.queries.enqueue("it")
        await drain(pgq)
        assert pgq.resources["log"] == ["before", "during", "after"]
    (parameters,) = made
    assert parameters.func is handler
    assert (parameters.concurrency_limit, parameters.timeout_seconds) == (3, 7.0)
    assert parameters.accepts_context


async def test_register_executor_and_its_outcomes(place: Place) -> None:
    own = Own(EntrypointExecutorParameters(func=no_handler))
    async with place.open() as pgq:
        pgq.qm.register_executor("own", own)
        payloads = [b"", b"retry", b"fail", b"cancel"]
        ids = await pgq.queries.enqueue(["own"] * 4, payloads)
        await drain(pgq)
        ends = [await outcome(pgq.queries, job_id) for job_id in ids]
        assert ends == ["successful", "successful", "exception", "canceled"]
        assert await statuses(pgq.queries, ids[1]) == [
            "queued", "picked", "queued", "picked", "successful",
        ]  # fmt: skip
        assert all(context.resources is pgq.resources for _, context in own.got)
    assert len(own.got) == 5


async def test_what_is_no_executor_is_refused(place: Place) -> None:
    async with place.open() as pgq:
        with pytest.raises(RegistrationError):
            pgq.qm.register_executor("it", object())  # type: ignore[arg-type]
        own = Own(EntrypointExecutorParameters(func=no_handler))
        pgq.qm.register_executor("it", own)
        with pytest.raises(RegistrationError):
            pgq.qm.register_executor("it", own)
        with pytest.raises(RegistrationError):
            pgq.entrypoint("it")(no_handler)


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        (3, "executor_factory is an executor class, or a function of .* got 3"),
        (lambda _: None, "what an executor_factory returns, derives from .* got None"),
    ],
)
async def test_a_factory_that_makes_no_executor_is_refused(
    place: Place, factory: Any, says: str
) -> None:
    async with place.open() as pgq:
        with pytest.raises(RegistrationError, match=says):
            pgq.entrypoint("it", executor_factory=factory)(no_handler)
        pgq.entrypoint("it")(no_handler)  # the name is still free


async def test_the_retrying_executor_counts_retries(place: Place) -> None:
    attempts: list[int] = []

    def make(parameters: EntrypointExecutorParameters) -> AbstractEntrypointExecutor:
        return DatabaseRetryEntrypointExecutor(parameters, max_attempts=2, initial_delay=0.0)

    async with place.open() as pgq:

        @pgq.entrypoint("it", executor_factory=make)
        async def handler(job: Job) -> None:
            attempts.append(job.attempts)
            raise ValueError("always")

        (job_id,) = await pgq.queries.enqueue("it")
        await drain(pgq)
        assert await outcome(pgq.queries, job_id) == "exception"
    assert attempts == [0, 1, 2]
