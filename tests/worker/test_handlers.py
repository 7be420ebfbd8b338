"""Every kind of handler is called as registered, sees its job, and leaves nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import pytest

from pgq_trio import Context, Job, PgQueuer
from pgq_trio.errors import UnknownJob
from tests.worker.tools import Gate, Place, drain, outcome, running

Seen = dict[str, tuple[Job, Context | None, bool]]

VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="pristine")


class Kinds:
    """Handlers of every kind; each notes what it was called with and on which thread."""

    def __init__(self) -> None:
        self.seen: Seen = {}

    def note(self, job: Job, context: Context | None = None) -> None:
        in_loop = threading.current_thread() is threading.main_thread()
        self.seen[job.entrypoint] = (job, context, in_loop)

    async def bound_async(self, job: Job) -> None:
        await anyio.lowlevel.checkpoint()
        self.note(job)

    def bound_def(self, job: Job) -> None:
        self.note(job)

    async def bound_async_ctx(self, job: Job, ctx: Context) -> None:
        await anyio.lowlevel.checkpoint()
        self.note(job, ctx)

    def bound_def_ctx(self, job: Job, ctx: Context) -> None:
        self.note(job, ctx)

    def all(self) -> dict[str, Callable[..., object]]:
        note = self.note

        async def plain_async(job: Job) -> None:
            note(job)

        def plain_def(job: Job) -> None:
            note(job)

        async def plain_async_ctx(job: Job, ctx: Context) -> None:
            note(job, ctx)

        def plain_def_ctx(job: Job, ctx: Context) -> None:
            note(job, ctx)

        async def extra_async(extra: int, job: Job) -> None:
            assert extra == 1
            note(job)

        def extra_def_ctx(job: Job, ctx: Context, *, extra: int) -> None:
            assert extra == 1
            note(job, ctx)

        class Async:
            async def __call__(self, job: Job) -> None:
                note(job)

        class DefCtx:
            def __call__(self, job: Job, context: Context) -> None:
                note(job, context)

        return {
            "async": plain_async,
            "def": plain_def,
            "async+ctx": plain_async_ctx,
            "def+ctx": plain_def_ctx,
            "bound async": self.bound_async,
            "bound def": self.bound_def,
            "bound async+ctx": self.bound_async_ctx,
            "bound def+ctx": self.bound_def_ctx,
            "partial async": partial(extra_async, 1),
            "partial def+ctx": partial(extra_def_ctx, extra=1),
            "object async": Async(),
            "object def+ctx": DefCtx(),
        }


async def test_every_kind_is_called_as_it_was_registered(place: Place) -> None:
    kinds = Kinds()
    handlers = kinds.all()
    async with place.open() as pgq:
        for name, handler in handlers.items():
            pgq.entrypoint(name)(handler)
        ids = await pgq.queries.enqueue(
            list(handlers), [name.encode() for name in handlers], headers={"a": [1]}
        )
        await drain(pgq)
        resources = pgq.resources
        for job_id in ids:
            assert await outcome(pgq.queries, job_id) == "successful"
    assert kinds.seen.keys() == handlers.keys()
    for job_id, name in zip(ids, handlers, strict=True):
        job, context, in_loop = kinds.seen[name]
        assert (job.id, job.entrypoint, job.payload) == (job_id, name, name.encode())
        assert (job.status, job.attempts, job.headers) == ("picked", 0, {"a": [1]})
        assert job.queue_manager_id is not None
        assert (context is not None) == name.endswith("+ctx"), name
        if context is not None:
            assert context.resources is resources
        assert in_loop == ("async" in name), name


async def test_accepts_context_overrules_the_signature(place: Place) -> None:
    got: list[tuple[object, ...]] = []
    async with place.open() as pgq:

        @pgq.entrypoint("with", accepts_context=True)
        async def with_context(*args: object) -> None:
            got.append(args)

        @pgq.entrypoint("without", accepts_context=False)
        async def without_context(job: Job, ctx: Context | None = None) -> None:
            got.append((job, ctx))

        await pgq.queries.enqueue(["with", "without"])
        await drain(pgq, max_concurrent_jobs=1)
    assert [type(x) for x in got[0]] == [Job, Context]
    assert got[1][1] is None


@pytest.mark.parametrize("kind", ["async", "def"])
async def test_get_context_while_the_job_runs_and_not_after(place: Place, kind: str) -> None:
    found: list[tuple[Context, object]] = []
    ids: list[int] = []
    async with place.open() as pgq:

        async def on_loop(job: Job, ctx: Context) -> None:
            ids.append(job.id)
            found.append((ctx, pgq.qm.get_context(job.id)))

        def in_thread(job: Job, ctx: Context) -> None:
            ids.append(job.id)
            found.append((ctx, pgq.qm.get_context(job.id)))

        pgq.entrypoint("look")(on_loop if kind == "async" else in_thread)
        with pytest.raises(UnknownJob):
            pgq.qm.get_context(1)
        await pgq.queries.enqueue("look")
        await drain(pgq)
        assert found[0][0] is found[0][1]
        with pytest.raises(UnknownJob) as caught:
            pgq.qm.get_context(ids[0])
        assert isinstance(caught.value, KeyError)


async def test_a_sync_handler_reaches_async_resources(place: Place) -> None:
    async with place.open(resources={"answer": 42}) as pgq:

        async def ask(ctx: Context) -> object:
            await anyio.lowlevel.checkpoint()
            return ctx.resources["answer"]

        @pgq.entrypoint("ask")
        def handler(job: Job, ctx: Context) -> None:
            ctx.resources["got"] = anyio.from_thread.run(ask, ctx)

        await pgq.queries.enqueue("ask")
        await drain(pgq)
        assert pgq.resources["got"] == 42


async def test_a_sync_handler_that_forgot_to_await_fails_and_is_told(place: Place) -> None:
    async def work() -> None:
        raise AssertionError("never awaited")

    async with place.open() as pgq:

        @pgq.entrypoint("forgot")
        def handler(job: Job) -> Any:
            return work()

        (job_id,) = await pgq.queries.enqueue("forgot")
        await drain(pgq)
        log = await pgq.queries.queue_log(job_id=job_id)
    assert log[-1].status == "exception"
    assert log[-1].traceback is not None
    assert "anyio.from_thread.run" in log[-1].traceback.exception_message


async def test_context_variables_never_leak_to_another_job(place: Place) -> None:
    seen: list[str] = []
    async with place.open() as pgq:

        async def set_it(job: Job) -> None:
            seen.append(VARIABLE.get())
            VARIABLE.set(f"set by {job.id}")
            if job.id % 2:
                await anyio.lowlevel.checkpoint()
            seen.append(VARIABLE.get())

        def set_it_in_a_thread(job: Job) -> None:
            anyio.from_thread.run_sync(seen.append, VARIABLE.get())
            VARIABLE.set(f"set by {job.id}")
            anyio.from_thread.run_sync(seen.append, VARIABLE.get())

        pgq.entrypoint("async")(set_it)
        pgq.entrypoint("def")(set_it_in_a_thread)
        ids = await pgq.queries.enqueue(["async", "def"] * 5)
        await drain(pgq, max_concurrent_jobs=1)
    assert VARIABLE.get() == "pristine"
    assert seen == [text for job_id in ids for text in ("pristine", f"set by {job_id}")]


async def test_a_blocked_handler_does_not_stop_others(place: Place) -> None:
    gate = Gate()
    async with place.open() as pgq:

        @pgq.entrypoint("blocked")
        async def blocked(job: Job) -> None:
            await gate.pass_through(job.id)

        quick = Gate()
        quick.open()

        @pgq.entrypoint("quick")
        async def run_quick(job: Job) -> None:
            await quick.pass_through(job.id)

        async with running(pgq, max_concurrent_jobs=2):
            await pgq.queries.enqueue("blocked")
            await gate.entered.until(1)
            ids = await pgq.queries.enqueue(["quick"] * 20)
            assert sorted(await quick.left.until(20)) == ids
            assert gate.inside == 1
            gate.open()


async def test_one_executor_limits_its_threads_by_the_worker(place: Place) -> None:
    """More sync jobs than AnyIO's 40 threads run at once when `max_concurrent_jobs` says so."""
    inside = threading.Barrier(50, timeout=8)
    async with place.open() as pgq:

        @pgq.entrypoint("meet")
        def meet(job: Job) -> None:
            inside.wait()

        await pgq.queries.enqueue(["meet"] * 50)
        await drain(pgq, max_concurrent_jobs=50)
        assert {entry.status for entry in await pgq.queries.queue_log()} == {
            "queued",
            "picked",
            "successful",
        }


async def register_and_run(pgq: PgQueuer, handler: Callable[..., object]) -> int:
    pgq.entrypoint("it")(handler)
    (job_id,) = await pgq.queries.enqueue("it")
    await drain(pgq)
    return job_id


async def test_what_a_handler_returns_is_ignored(place: Place) -> None:
    async def handler(job: Job) -> object:
        return {"anything": job}

    async with place.open() as pgq:
        job_id = await register_and_run(pgq, handler)
        assert await outcome(pgq.queries, job_id) == "successful"


#: Awaiting a future that somebody else cancelled; Trio has nothing like it.
ONLY_ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"], scope="module")


@ONLY_ON_ASYNCIO
async def test_awaiting_a_cancelled_future_is_a_failure_like_any_other(place: Place) -> None:
    import asyncio

    async def handler(job: Job) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with place.open() as pgq:
        job_id = await register_and_run(pgq, handler)
        assert await outcome(pgq.queries, job_id) == "exception"
        other = await pgq.queries.enqueue("it")
        await drain(pgq)  # the worker lives on
        assert await outcome(pgq.queries, other[0]) == "exception"
