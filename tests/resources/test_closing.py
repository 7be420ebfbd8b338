"""Closing: last in first out, each shielded and bounded, no error lost and nothing skipped."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import pytest

from pgq_trio import Context, Job, PgQueuer, Resources
from pgq_trio.errors import PgqError
from pgq_trio.resources import opened_resources
from tests.resources.tools import Boom, Story, all_errors, fail, leaves
from tests.worker.tools import SOON, Notes

#: Opens what the tests below look at: the whole application, or its resources alone.
Opens = Callable[[Callable[[], Awaitable[object]]], AbstractAsyncContextManager[object]]


def whole_application(
    make: Callable[[], Awaitable[object]],
) -> AbstractAsyncContextManager[object]:
    return PgQueuer.open("memory:", resources=make)


def resources_alone(make: Callable[[], Awaitable[object]]) -> AbstractAsyncContextManager[object]:
    return opened_resources(make)


pytestmark = pytest.mark.parametrize("opened", [whole_application, resources_alone])


def chain(
    story: Story, **closing: Callable[[], Awaitable[None]] | None
) -> Callable[[], Awaitable[object]]:
    """A factory of members in this order that do that when they close."""

    async def make() -> Resources:
        resources = Resources()
        for name, function in closing.items():
            await resources.enter(name, story.member(name, closing=function))
        return resources

    return make


def raises(error: Exception) -> Callable[[], Awaitable[None]]:
    return lambda: fail(error)


def closed(story: Story) -> list[str]:
    """The names of the closed members, in order."""
    return [line.removeprefix("close ") for line in story.lines if line.startswith("close ")]


async def test_last_in_first_out(opened: Opens) -> None:
    story = Story()
    async with opened(chain(story, one=None, two=None, three=None)):
        assert story.lines == ["enter one", "enter two", "enter three"]
    assert closed(story) == ["three", "two", "one"]


async def test_nested_by_hand_in_one_context_manager(opened: Opens) -> None:
    story = Story()

    @asynccontextmanager
    async def nested() -> AsyncGenerator[dict[str, object], None]:
        async with story.member("one"), story.member("two") as two:
            yield {"two": two}

    async def make() -> object:
        await anyio.lowlevel.checkpoint()
        return nested()

    async with opened(make):
        pass
    assert closed(story) == ["two", "one"]


async def test_an_error_in_closing_is_raised_and_skips_nothing(
    opened: Opens, caplog: pytest.LogCaptureFixture
) -> None:
    story, error = Story(), Boom("two")
    with pytest.raises((Boom, ExceptionGroup)) as caught:
        async with opened(chain(story, one=None, two=raises(error), three=None)):
            pass
    assert leaves(caught.value) == [error]
    assert closed(story) == ["three", "two", "one"]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_all_errors_in_closing_are_raised(opened: Opens) -> None:
    story = Story()
    errors = [Boom("one"), ValueError("two"), OSError("three")]
    one, two, three = map(raises, errors)
    with pytest.raises(ExceptionGroup) as caught:
        async with opened(chain(story, one=one, zero=None, two=two, three=three)):
            pass
    assert sorted(map(str, leaves(caught.value))) == ["one", "three", "two"]
    assert set(map(id, leaves(caught.value))) == set(map(id, errors))
    assert closed(story) == ["three", "two", "zero", "one"]


async def test_an_error_in_closing_does_not_hide_that_of_the_program(opened: Opens) -> None:
    story, body, closing = Story(), Boom("body"), ValueError("closing")
    with pytest.raises((Boom, ValueError, ExceptionGroup)) as caught:
        async with opened(chain(story, one=None, two=raises(closing), three=None)):
            raise body
    shown = all_errors(caught.value)
    assert any(one is body for one in shown)
    assert any(one is closing for one in leaves(caught.value))
    assert closed(story) == ["three", "two", "one"]


async def test_an_error_in_closing_comes_out_of_a_cancelled_program(opened: Opens) -> None:
    story, errors = Story(), [Boom("one"), Boom("two")]
    one, two = map(raises, errors)
    with pytest.raises((Boom, ExceptionGroup)) as caught, anyio.CancelScope() as scope:
        async with opened(chain(story, one=one, zero=None, two=two)):
            scope.cancel()
            await anyio.sleep_forever()
    assert set(map(id, leaves(caught.value))) == set(map(id, errors))
    assert closed(story) == ["two", "zero", "one"]


async def test_closing_is_shielded_from_a_cancelled_program(opened: Opens) -> None:
    story = Story()
    done: list[str] = []

    def slowly(name: str) -> Callable[[], Awaitable[None]]:
        async def close() -> None:
            for _ in range(3):
                await anyio.sleep(0.01)
            done.append(name)

        return close

    with anyio.CancelScope() as scope:
        async with opened(chain(story, one=slowly("one"), two=slowly("two"))):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert done == ["two", "one"]


async def test_a_cancellation_that_comes_while_closing_waits_for_it(opened: Opens) -> None:
    story = Story()
    begun, done = anyio.Event(), []

    async def slowly() -> None:
        begun.set()
        await anyio.wait_all_tasks_blocked()  # by then the cancellation is under way
        await anyio.sleep(0.01)
        done.append(True)

    async with anyio.create_task_group() as tasks:

        async def program() -> None:
            with scope:
                async with opened(chain(story, one=None, two=slowly)):
                    pass

        scope = anyio.CancelScope()
        tasks.start_soon(program)
        await begun.wait()
        scope.cancel()
    assert done == [True]
    assert closed(story) == ["two", "one"]


async def too_slow() -> None:
    """Hang, but not for ever: nothing else could end a test whose close has no deadline."""
    await anyio.sleep(3)


@pytest.mark.parametrize("ended", ["normally", "by error", "cancelled"])
async def test_a_close_that_hangs_is_bounded_and_skips_nothing(
    opened: Opens, monkeypatch: pytest.MonkeyPatch, ended: str
) -> None:
    monkeypatch.setattr("pgq_trio.concurrency.closing.CLOSE_LIMIT", 0.05)
    story, body = Story(), Boom("body")
    began = anyio.current_time()
    with pytest.raises((PgqError, TimeoutError, ExceptionGroup, Boom)) as caught:
        with anyio.CancelScope() as scope:
            async with opened(chain(story, one=None, stuck=too_slow, also=too_slow)):
                if ended == "by error":
                    raise body
                if ended == "cancelled":
                    scope.cancel()
                    await anyio.sleep_forever()
    # Each has its own deadline.
    assert 0.1 <= anyio.current_time() - began < 2
    assert closed(story) == ["also", "stuck", "one"]
    # Not closed is an error too, one for each, and it says which resource it was.
    named = [str(error) for error in leaves(caught.value) if error is not body]
    assert len(named) == 2
    assert any("'stuck'" in text for text in named)
    assert any("'also'" in text for text in named)
    if ended == "by error":
        assert any(one is body for one in all_errors(caught.value))


async def test_the_limit_is_for_closing_not_for_living(
    opened: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgq_trio.concurrency.closing.CLOSE_LIMIT", 0.05)
    story = Story()
    async with opened(chain(story, one=None, two=None)):
        await anyio.sleep(0.15)
    assert closed(story) == ["two", "one"]


async def test_callbacks_close_in_turn_and_their_errors_count(opened: Opens) -> None:
    story, error = Story(), Boom("callback")

    async def slow(line: str) -> None:
        await anyio.sleep(0.01)
        story.add(line)

    async def make() -> Resources:
        resources = Resources()
        resources.callback(story.add, "close first")
        await resources.enter("two", story.member("two"))
        resources.callback(slow, "close third")
        resources.callback(fail, error)
        resources.callback(story.add, "close fifth")
        return resources

    with pytest.raises((Boom, ExceptionGroup)) as caught:
        async with opened(make):
            pass
    assert leaves(caught.value) == [error]
    assert closed(story) == ["fifth", "third", "two", "first"]


async def test_a_job_may_not_close_and_a_resource_may_be_closed_only_once(opened: Opens) -> None:
    story = Story()
    kept: list[Resources] = []

    async def make() -> Resources:
        resources = Resources()
        await resources.enter("one", story.member("one"))
        kept.append(resources)
        return resources

    async with opened(make):
        pass
    async with kept[0]:
        pass
    assert closed(story) == ["one"]


async def test_jobs_end_before_anything_closes(opened: Opens) -> None:
    if opened is resources_alone:
        return  # no jobs there
    story, running = Story(), Notes[int]()
    with anyio.CancelScope() as scope:
        async with PgQueuer.open("memory:", resources=chain(story, one=None, two=None)) as pgq:

            @pgq.entrypoint("it")
            async def handler(job: Job, ctx: Context) -> None:
                try:
                    running.add(job.id)
                    await anyio.sleep_forever()
                finally:
                    with anyio.move_on_after(SOON, shield=True):
                        await anyio.sleep(0.02)
                    story.add("cleanup")

            await pgq.queries.enqueue(["it"] * 2)
            await pgq.start()
            await running.until(2)
            scope.cancel()
    assert story.lines[2:] == ["cleanup", "cleanup", "close two", "close one"]
