"""A connection that a test watches, holds up and has fail, in memory and on a real server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio
import pytest

from pgq_trio import InMemoryDriver, Queries, Settings
from pgq_trio.abc import NewSchedule
from pgq_trio.errors import ConnectionLost, StoreError
from pgq_trio.testing import BACKENDS, Backend, Call, LostPart, UnreliableDriver, simulate
from tests.worker.places import place
from tests.worker.tools import SOON, Place

__all__ = ["place"]


@asynccontextmanager
async def unreliable(place: Place) -> AsyncGenerator[tuple[UnreliableDriver, Queries, Queries]]:
    """A driver, the queue behind it, and the same queue without anything in between."""
    async with place.driver() as driver:
        connection = UnreliableDriver(driver)
        yield connection, Queries(connection), Queries(driver)


async def size(queries: Queries) -> int:
    return sum(entry.count for entry in await queries.queue_size())


class TestHooks:
    async def test_they_see_arguments_and_results(self, place: Place) -> None:
        seen: list[tuple[str, str, str, object]] = []
        async with unreliable(place) as (connection, queries, _):

            async def before(call: Call) -> None:
                await anyio.lowlevel.checkpoint()
                (name, _), *_ = call.arguments.items()
                seen.append(("before", call.store, call.name, name))
                assert call.result is None

            async def after(call: Call) -> None:
                await anyio.lowlevel.checkpoint()
                seen.append(("after", call.store, call.name, call.result))

            connection.before, connection.after = before, after
            ids = await queries.enqueue("it")
            at = datetime(2099, 1, 1, tzinfo=UTC)
            await queries.backend.schedules.add([NewSchedule("s", "1 1 1 1 *", at)])
            await queries.backend.schedules.heartbeat([])
            connection.before = connection.after = None
            await queries.enqueue("it")
        assert seen == [
            ("before", "jobs", "enqueue", "jobs"),
            ("after", "jobs", "enqueue", ids),
            ("before", "schedules", "add", "schedules"),
            ("after", "schedules", "add", None),
            ("before", "schedules", "heartbeat", "schedules"),
            ("after", "schedules", "heartbeat", set()),
        ]
        assert connection.calls == {"enqueue": 2, "add": 1, "heartbeat": 1}

    async def test_arguments_have_their_names(self) -> None:
        seen: list[dict[str, object]] = []
        connection = UnreliableDriver(InMemoryDriver())

        async def before(call: Call) -> None:
            await anyio.lowlevel.checkpoint()
            seen.append(dict(call.arguments))

        connection.before = before
        jobs = connection.backend(Settings()).jobs
        await jobs.cancel([1])
        await jobs.failed_jobs(limit=3, order="ASC")
        assert seen == [{"ids": [1]}, {"limit": 3, "order": "ASC"}]

    @pytest.mark.parametrize("when", ["before", "after"])
    async def test_what_they_raise_the_caller_gets(self, place: Place, when: str) -> None:
        async with unreliable(place) as (connection, queries, real):

            async def refuse(call: Call) -> None:
                await anyio.lowlevel.checkpoint()
                raise StoreError(f"{when} {call.name}")

            setattr(connection, when, refuse)
            with pytest.raises(StoreError, match=f"{when} enqueue"):
                await queries.enqueue("it")
            assert await size(real) == (0 if when == "before" else 1)

    async def test_a_hook_before_may_cut_the_connection(self, place: Place) -> None:
        async with unreliable(place) as (connection, queries, real):

            async def cut(call: Call) -> None:
                await anyio.lowlevel.checkpoint()
                connection.cut()

            connection.before = cut
            with pytest.raises(ConnectionLost, match="request of 'enqueue'"):
                await queries.enqueue("it")
            connection.before = None
            connection.mend()
            connection.after = cut
            with pytest.raises(ConnectionLost, match="reply of 'enqueue'"):
                await queries.enqueue("it")
            assert await size(real) == 1

    async def test_listening_and_notifying_are_operations(self, place: Place) -> None:
        seen: list[str] = []
        async with unreliable(place) as (connection, queries, _):

            async def note(call: Call) -> None:
                await anyio.lowlevel.checkpoint()
                seen.append(f"{call.store} {call.name}")

            connection.after = note
            notifier = queries.backend.notifier
            async with notifier.listen("work") as payloads:
                await notifier.notify("work", ["hello"])
                with anyio.fail_after(SOON):
                    assert await payloads.__anext__() == "hello"
        assert seen == ["notifier listen", "notifier notify"]
        assert connection.calls == {"listen": 1, "notify": 1}


class TestFailures:
    @pytest.mark.parametrize("part", ["request", "reply"])
    async def test_the_nth_call_fails(self, place: Place, part: LostPart) -> None:
        async with unreliable(place) as (connection, queries, real):
            connection.fail("enqueue", StoreError("full"), part, skip=2, times=2)
            told: list[str] = []
            for _ in range(6):
                try:
                    await queries.enqueue("it")
                    told.append("done")
                except StoreError as exc:
                    told.append(str(exc))
            assert told == ["done", "done", "full", "full", "done", "done"]
            assert await size(real) == (4 if part == "request" else 6)

    async def test_other_operations_go_on(self, place: Place) -> None:
        async with unreliable(place) as (connection, queries, _):
            connection.fail("claim", StoreError("refused"))
            connection.lose("cancel")
            ids = await queries.enqueue("it")
            with pytest.raises(ConnectionLost, match="the reply of 'cancel' was lost"):
                await queries.mark_job_as_cancelled(ids)
            assert await size(queries) == 0

    async def test_they_come_in_the_order_in_which_they_were_asked_for(self) -> None:
        connection = UnreliableDriver(InMemoryDriver())
        connection.lose("queue_size", "request")
        connection.fail("queue_size", StoreError("one"), skip=1)
        connection.fail("queue_size", StoreError("two"))
        told: list[str] = []
        for _ in range(5):
            try:
                told.append(str(await size(Queries(connection))))
            except StoreError as exc:
                told.append(str(exc))
        lost, *others = told
        assert "the request of 'queue_size' was lost on purpose" in lost
        assert others == ["0", "one", "two", "0"]

    @pytest.mark.parametrize("part", ["request", "reply"])
    async def test_listening_fails_as_well(self, place: Place, part: LostPart) -> None:
        async with unreliable(place) as (connection, queries, _):
            connection.lose("listen", part)
            with pytest.raises(ConnectionLost):
                async with queries.backend.notifier.listen("work"):
                    raise AssertionError("it does not come to this")
            async with queries.backend.notifier.listen("work"):
                pass

    @pytest.mark.parametrize(
        "ask",
        [
            lambda x: x.lose("claim", "middle"),
            lambda x: x.fail("claim", StoreError("no"), "middle"),
            lambda x: x.hold("claim", "middle"),
            lambda x: x.lose("claim", times=-1),
            lambda x: x.fail("claim", StoreError("no"), skip=-1),
            lambda x: x.hold("claim", times=0),
            lambda x: x.lose("clame"),
            lambda x: x.fail("enqeue", StoreError("no")),
            lambda x: x.hold("no such thing"),
        ],
    )
    async def test_what_cannot_be_is_refused(
        self, ask: Callable[[UnreliableDriver], object]
    ) -> None:
        await anyio.lowlevel.checkpoint()
        with pytest.raises(ValueError, match=r"'request' or 'reply'|numbers? from|no store has"):
            ask(UnreliableDriver(InMemoryDriver()))


class TestHolds:
    @pytest.mark.parametrize("part", ["request", "reply"])
    async def test_a_call_waits_until_it_is_released(self, place: Place, part: LostPart) -> None:
        async with unreliable(place) as (connection, queries, real):
            hold = connection.hold("enqueue", part)
            with anyio.fail_after(SOON):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(queries.enqueue, "it")
                    await hold.until_arrived()
                    assert await size(real) == (0 if part == "request" else 1)
                    hold.release()
                assert await size(real) == 1
                await queries.enqueue("it")  # the next one is not held
            assert hold.arrived == 1

    async def test_so_many_are_held_and_released_together(self, place: Place) -> None:
        async with unreliable(place) as (connection, queries, real):
            hold = connection.hold("enqueue", times=2)
            with anyio.fail_after(SOON):
                async with anyio.create_task_group() as tasks:
                    for _ in range(3):
                        tasks.start_soon(queries.enqueue, "it")
                    await hold.until_arrived(2)
                    while not await size(real):
                        await anyio.lowlevel.checkpoint()
                    assert await size(real) == 1
                    hold.release()
            assert await size(real) == 3
            assert hold.arrived == 2

    async def test_after_a_release_none_is_held(self, place: Place) -> None:
        async with unreliable(place) as (connection, queries, _):
            hold = connection.hold("enqueue", times=5)
            hold.release()
            with anyio.fail_after(SOON):
                await queries.enqueue("it")
            assert not hold.arrived

    async def test_a_caller_that_gives_up_has_changed_nothing(self, place: Place) -> None:
        async with unreliable(place) as (connection, queries, real):
            hold = connection.hold("enqueue")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(queries.enqueue, "it")
                with anyio.fail_after(SOON):
                    await hold.until_arrived()
                tasks.cancel_scope.cancel()
            assert await size(real) == 0

    async def test_what_fails_meanwhile_is_told_when_it_is_released(self, place: Place) -> None:
        errors: list[str] = []
        async with unreliable(place) as (connection, queries, real):
            hold = connection.hold("enqueue")

            async def enqueue() -> None:
                try:
                    await queries.enqueue("it")
                except ConnectionLost as exc:
                    errors.append(str(exc))

            with anyio.fail_after(SOON):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(enqueue)
                    await hold.until_arrived()
                    connection.cut()
                    hold.release()
            assert await size(real) == 0
        (error,) = errors
        assert "the request of 'enqueue' was lost on purpose" in error


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_delay_is_half_before_the_change_and_half_after_it(backend: Backend) -> None:
    times: list[float] = []
    connection = UnreliableDriver(InMemoryDriver())
    connection.delay = 3.0

    async def after(_: Call) -> None:
        await anyio.lowlevel.checkpoint()
        times.append(anyio.current_time())

    async def scenario() -> None:
        began = anyio.current_time()
        connection.after = after
        await Queries(connection).enqueue("it")
        times.append(anyio.current_time())
        times[:] = [time - began for time in times]

    simulate(scenario, backend=backend).check()
    assert times == [1.5, 3.0]
