"""How handlers come by the resources: `(job, ctx)`, `(job)` and `get_context`, executors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from pgq_trio import Context, InMemoryDriver, Job, PgqError, PgQueuer, QueueManager, Schedule
from pgq_trio.errors import UnknownJob
from tests.resources import checkers_only, plain_annotations as handlers
from tests.resources.tools import RARE, make_due
from tests.worker.tools import Gate, Notes, Place, drain, outcome, running, statuses, until


@pytest.fixture(autouse=True)
def nothing_seen_yet() -> None:
    handlers.seen.clear()


async def what_it_saw(handler: Any, accepts_context: bool | None = None) -> tuple[object, object]:
    """Run a handler once; what it noted, and the resources."""
    async with PgQueuer.open("memory:", resources={"a": 1}) as pgq:
        pgq.entrypoint("it", accepts_context=accepts_context)(handler)
        (job_id,) = await pgq.queries.enqueue("it")
        assert job_id is not None
        await drain(pgq)
        assert await outcome(pgq.queries, job_id) == "successful"
        (seen,) = handlers.seen
        return seen, pgq.resources


@pytest.mark.parametrize(
    "handler",
    [
        handlers.by_object,
        handlers.by_string,
        handlers.by_dotted_string,
        handlers.by_string_beside_an_unknown_name,
        handlers.in_a_thread,
        pytest.param(handlers.Methods().method, id="bound method"),
        pytest.param(handlers.Methods(), id="callable object"),
        pytest.param(partial(handlers.with_a_number, 3), id="partial"),
        pytest.param(checkers_only.handler, id="names imported for type checkers only"),
    ],
)
async def test_annotated_handlers_get_the_context(handler: Any) -> None:
    seen, resources = await what_it_saw(handler)
    assert seen is resources


async def test_this_module_has_string_annotations_throughout() -> None:
    seen: list[object] = []

    async def handler(job: Job, ctx: Context) -> None:
        seen.append(ctx.resources)

    assert handler.__annotations__["ctx"] == "Context"
    async with PgQueuer.open("memory:") as pgq:
        pgq.entrypoint("it")(handler)
        await pgq.queries.enqueue("it")
        await drain(pgq)
        assert seen == [pgq.resources]
        assert seen[0] is pgq.resources


async def test_accepts_context_gives_it_without_an_annotation() -> None:
    seen, resources = await what_it_saw(handlers.unannotated, accepts_context=True)
    assert seen is resources


async def test_otherwise_the_job_alone() -> None:
    seen, _ = await what_it_saw(handlers.job_only)
    assert isinstance(seen, Job)


async def test_accepts_context_false_wins_over_the_annotation() -> None:
    seen, _ = await what_it_saw(handlers.optional_context, accepts_context=False)
    assert seen is None


async def test_the_decorator_leaves_the_handler_as_it_is() -> None:
    pgq = PgQueuer.in_memory()
    assert pgq.entrypoint("it")(handlers.by_object) is handlers.by_object
    assert pgq.schedule("it", RARE)(handlers.tick) is handlers.tick


# Schedules


@pytest.mark.parametrize(
    ("handler", "accepts_context"),
    [
        (handlers.tick, None),
        (handlers.tick_by_string, None),
        (handlers.tick_unannotated, True),
    ],
)
async def test_schedules_get_the_context(handler: Any, accepts_context: bool | None) -> None:
    resources: dict[str, object] = {"a": 1}
    async with PgQueuer.open("memory:", resources=resources) as pgq:
        pgq.schedule("it", RARE, accepts_context=accepts_context)(handler)
        await make_due(pgq, "it")
        async with running(pgq):
            await until(seen_something)
    assert handlers.seen == [resources]
    assert handlers.seen[0] is resources


async def test_schedules_without_a_context_get_the_schedule_alone() -> None:
    async with PgQueuer.open("memory:") as pgq:
        pgq.schedule("it", RARE)(handlers.tick_only)
        await make_due(pgq, "it")
        async with running(pgq):
            await until(seen_something)
    (seen,) = handlers.seen
    assert isinstance(seen, Schedule)
    assert seen.entrypoint == "it"


async def seen_something() -> bool:
    await anyio.lowlevel.checkpoint()
    return bool(handlers.seen)


# get_context


async def test_get_context_while_the_job_runs_and_not_afterwards(place: Place) -> None:
    async with place.open(resources={"a": 1}) as pgq:
        gate, inside = Gate(), Notes[Context]()

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            inside.add(pgq.qm.get_context(job.id))
            await gate.pass_through(job.id)
            inside.add(pgq.qm.get_context(job.id))

        (job_id,) = await pgq.queries.enqueue("it")
        assert job_id is not None
        with pytest.raises(UnknownJob):
            pgq.qm.get_context(job_id)  # queued, but it does not run
        async with running(pgq):
            await gate.entered.until(1)
            context = pgq.qm.get_context(job_id)  # whoever asks
            assert context.resources is pgq.resources
            assert not context.cancellation.cancel_called
            assert context.deadline is None
            gate.open()
            await gate.left.until(1)
        assert [one.resources is pgq.resources for one in inside.entries] == [True, True]
        for asker in (pgq.qm.get_context, pgq.get_context):
            with pytest.raises(UnknownJob) as caught:
                asker(job_id)
            assert isinstance(caught.value, PgqError)
            assert isinstance(caught.value, KeyError)
            assert str(job_id) in str(caught.value)


@pytest.mark.parametrize("end", ["returns", "raises", "is cancelled"])
async def test_get_context_is_over_however_the_job_ends(place: Place, end: str) -> None:
    async with place.open() as pgq:
        known: list[bool] = []

        @pgq.entrypoint("it")
        async def handler(job: Job, ctx: Context) -> None:
            try:
                if end == "raises":
                    raise ValueError("as asked")
                if end == "is cancelled":
                    ctx.cancellation.cancel()
                    await anyio.sleep_forever()
            finally:
                known.append(pgq.qm.get_context(job.id).resources is pgq.resources)

        (job_id,) = await pgq.queries.enqueue("it")
        assert job_id is not None
        await drain(pgq)
        assert known == [True]  # in its cleanup too
        with pytest.raises(UnknownJob):
            pgq.qm.get_context(job_id)


async def test_get_context_of_jobs_nobody_knows() -> None:
    pgq = PgQueuer.in_memory()
    with pytest.raises(UnknownJob, match="123"):
        pgq.qm.get_context(123)


async def test_get_context_from_the_worker_thread(place: Place) -> None:
    async with place.open() as pgq:
        same: list[bool] = []

        @pgq.entrypoint("it")
        def handler(job: Job) -> None:
            same.append(pgq.qm.get_context(job.id).resources is pgq.resources)

        (job_id,) = await pgq.queries.enqueue("it")
        assert job_id is not None
        await drain(pgq)
        assert same == [True]
        assert await outcome(pgq.queries, job_id) == "successful"
        with pytest.raises(UnknownJob):
            await anyio.to_thread.run_sync(pgq.qm.get_context, job_id)


async def test_get_context_of_a_stand_alone_queue_manager() -> None:
    resources: dict[str, object] = {}
    manager = QueueManager(InMemoryDriver(), resources=resources)
    same: list[bool] = []

    @manager.entrypoint("it")
    async def handler(job: Job) -> None:
        same.append(manager.get_context(job.id).resources is resources)

    await manager.queries.enqueue(["it"] * 2)
    await manager.run(mode="drain", handle_signals=False)
    assert same == [True, True]


async def test_each_job_has_a_context_of_its_own_around_one_container(place: Place) -> None:
    async with place.open() as pgq:
        gate, contexts = Gate(), dict[int, Context]()

        @pgq.entrypoint("it", timeout=60)
        async def handler(job: Job, ctx: Context) -> None:
            contexts[job.id] = ctx
            await gate.pass_through(job.id)

        await pgq.queries.enqueue(["it"] * 3)
        async with running(pgq):
            await gate.entered.until(3)
            one, two, three = contexts.values()
            assert one.resources is two.resources is three.resources
            assert len({id(ctx.cancellation) for ctx in contexts.values()}) == 3
            now = anyio.current_time()
            assert all(
                ctx.deadline is not None and now < ctx.deadline <= now + 60
                for ctx in contexts.values()
            )
            gate.open()


# What cannot work is refused at registration


@pytest.mark.parametrize("register", [PgQueuer.entrypoint, QueueManager.entrypoint])
async def test_a_handler_that_cannot_take_a_context_is_refused(
    register: Callable[..., Any],
) -> None:
    kind = PgQueuer if register is PgQueuer.entrypoint else QueueManager
    manager = kind(InMemoryDriver())
    with pytest.raises(PgqError):
        register(manager, "it", accepts_context=True)(handlers.job_only)


async def test_a_job_that_fails_says_nothing_about_the_others(place: Place) -> None:
    """One that mistakes the container fails alone; the container is whole."""
    async with place.open(resources={"a": 1}) as pgq:

        @pgq.entrypoint("mistaken")
        async def mistaken(job: Job, ctx: Context) -> None:
            ctx.resources["no such thing"]

        @pgq.entrypoint("right")
        async def right(job: Job, ctx: Context) -> None:
            ctx.resources["a"] = 2

        wrong, fine = await pgq.queries.enqueue(["mistaken", "right"])
        assert wrong is not None
        assert fine is not None
        await drain(pgq)
        assert (await statuses(pgq.queries, wrong))[-1] == "exception"
        assert (await statuses(pgq.queries, fine))[-1] == "successful"
        assert pgq.resources == {"a": 2}
