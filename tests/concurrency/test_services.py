"""Service groups and the deaf block: what stops when, and which error comes out."""

from __future__ import annotations

import anyio
import pytest
from anyio.abc import TaskStatus

from pgq_trio.concurrency.outside import deaf
from pgq_trio.concurrency.services import open_service_group

pytestmark = pytest.mark.anyio


class Recorder:
    """A service that notes when it starts and stops."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    async def __call__(self, *, task_status: TaskStatus[None]) -> None:
        self.events.append("service starts")
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            self.events.append("service stops")


async def test_a_service_outlives_the_cleanup_of_a_block_cancelled_from_outside() -> None:
    events: list[str] = []
    with anyio.CancelScope() as caller:
        async with open_service_group() as services:
            await services.start(Recorder(events), name="recorder")
            caller.cancel()
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.move_on_after(5, shield=True):
                    for _ in range(5):
                        await anyio.lowlevel.checkpoint()
                events.append("block cleaned up")
        events.append("never reached: the cancellation goes on outwards")
    assert caller.cancelled_caught
    assert events == ["service starts", "block cleaned up", "service stops"]


async def test_a_block_that_ends_stops_its_services() -> None:
    events: list[str] = []
    with anyio.fail_after(5):
        async with open_service_group() as services:
            await services.start(Recorder(events), name="recorder")
            events.append("block")
    assert events == ["service starts", "block", "service stops"]


async def test_a_failing_service_cancels_the_block_and_its_error_comes_out_as_itself() -> None:
    failing = anyio.Event()

    async def service(*, task_status: TaskStatus[None]) -> None:
        task_status.started()
        await failing.wait()
        raise LookupError("the service broke")

    with anyio.fail_after(5), pytest.raises(LookupError, match="broke"):
        async with open_service_group() as services:
            await services.start(service, name="service")
            failing.set()
            await anyio.sleep_forever()


async def test_what_keeps_a_service_from_starting_is_raised_where_it_is_started() -> None:
    async def service(*, task_status: TaskStatus[None]) -> None:
        await anyio.lowlevel.checkpoint()
        raise LookupError("cannot start")

    caught = False
    with anyio.fail_after(5):
        async with open_service_group() as services:
            try:
                await services.start(service, name="service")
            except LookupError:
                caught = True
    assert caught


async def test_an_error_of_the_block_comes_out_as_itself_with_its_own_cause() -> None:
    cause = KeyError("cause")
    events: list[str] = []
    with pytest.raises(ValueError, match="own") as caught:
        async with open_service_group() as services:
            await services.start(Recorder(events), name="recorder")
            raise ValueError("own") from cause
    assert caught.value.__cause__ is cause
    assert events[-1] == "service stops"


async def test_a_group_that_the_block_raises_stays_a_group() -> None:
    group = ExceptionGroup("mine", [ValueError("one")])
    with pytest.raises(ExceptionGroup) as caught:
        async with open_service_group():
            raise group
    assert caught.value is group


async def test_errors_of_block_and_service_come_out_together() -> None:
    stop = anyio.Event()

    async def service(*, task_status: TaskStatus[None]) -> None:
        task_status.started()
        try:
            await stop.wait()
        finally:
            raise LookupError("in its cleanup")

    with pytest.raises(BaseExceptionGroup) as caught:
        async with open_service_group() as services:
            await services.start(service, name="service")
            raise ValueError("block")
    assert caught.group_contains(ValueError, match="block")
    assert caught.group_contains(LookupError, match="cleanup")


async def test_deaf_raises_the_cancellation_that_came_meanwhile_and_only_then() -> None:
    steps: list[str] = []
    with anyio.CancelScope() as caller:
        async with deaf() as outside:
            caller.cancel()
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            steps.append("went on")
            assert outside.cancelled
        steps.append("not reached")
    assert steps == ["went on"]
    assert caller.cancelled_caught


async def test_deaf_without_a_cancellation_is_no_end() -> None:
    async with deaf() as outside:
        pass
    assert outside is not None
    await anyio.lowlevel.checkpoint()


async def test_scopes_are_cancelled_until_they_are_spared() -> None:
    with anyio.CancelScope() as caller:
        async with deaf() as outside:
            with anyio.CancelScope() as spared, anyio.CancelScope() as reached:
                outside.cancels(spared)
                outside.cancels(reached)
                outside.spares(spared)
                caller.cancel()
                await anyio.sleep_forever()
            assert reached.cancelled_caught
            assert not spared.cancel_called
    assert caller.cancelled_caught


async def test_a_scope_given_after_the_cancellation_is_cancelled_at_once() -> None:
    with anyio.CancelScope() as caller:
        async with deaf() as outside:
            caller.cancel()
            while not outside.cancelled:
                await anyio.lowlevel.checkpoint()
            with anyio.CancelScope() as late:
                outside.cancels(late)
                await anyio.sleep_forever()
            assert late.cancelled_caught
    assert caller.cancelled_caught
