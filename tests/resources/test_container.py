"""`Resources`, the ready container: a mapping that enters, closes and looks up by type."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import AsyncExitStack, contextmanager

import anyio
import pytest

from pgq_trio import Context, Job, PgqError, PgQueuer, Resources
from pgq_trio.errors import ResourceError
from tests.resources.tools import Boom, Server, Story, fail
from tests.worker.tools import drain, outcome


async def test_it_is_a_mapping_like_any_other() -> None:
    resources = Resources(a=1)
    assert isinstance(resources, MutableMapping)
    resources["b"] = 2
    assert dict(resources) == {"a": 1, "b": 2}
    assert (len(resources), list(resources), "a" in resources) == (2, ["a", "b"], True)
    del resources["a"]
    with pytest.raises(KeyError):
        resources["a"]
    assert resources.get("a") is None
    assert resources.setdefault("c", 3) == 3
    assert resources.pop("c") == 3
    assert "b" in repr(resources)


async def test_enter_returns_and_keeps_what_an_async_context_manager_yields() -> None:
    async with Resources() as resources:
        server = await resources.enter("server", Server.open())
        assert isinstance(server, Server)
        assert resources["server"] is server
        assert await server.ask(21) == 42


class File:
    """A sync context manager."""

    def __init__(self) -> None:
        self.left_with: list[BaseException | None] = []

    def __enter__(self) -> str:
        return "contents"

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        self.left_with.append(exc)


async def test_enter_takes_sync_context_managers() -> None:
    file = File()
    async with Resources() as resources:
        assert await resources.enter("file", file) == "contents"
        assert resources["file"] == "contents"
        assert file.left_with == []
    assert file.left_with == [None]


async def test_enter_takes_what_contextlib_makes() -> None:
    story: list[str] = []

    @contextmanager
    def member() -> Iterator[int]:
        story.append("enter")
        yield 3
        story.append("close")

    async with Resources() as resources:
        assert await resources.enter("it", member()) == 3
    assert story == ["enter", "close"]


async def test_members_get_the_error_that_ends_the_block() -> None:
    file, error = File(), Boom()
    with pytest.raises(Boom) as caught:
        async with Resources() as resources:
            await resources.enter("file", file)
            raise error
    assert caught.value is error
    assert file.left_with == [error]


async def test_everything_closes_last_in_first_out() -> None:
    story = Story()

    async def later() -> None:
        await anyio.lowlevel.checkpoint()
        story.add("async callback")

    async with Resources() as resources:
        resources.callback(story.add, "callback")
        await resources.enter("one", story.member("one"))
        resources.callback(later)
        await resources.enter("two", story.member("two"))
    assert story.lines[2:] == ["close two", "async callback", "close one", "callback"]


async def test_in_an_application_it_closes_with_it_and_once() -> None:
    story = Story()
    resources = Resources()
    resources.callback(story.add, "closed")
    async with PgQueuer.open("memory:", resources=resources) as pgq:
        assert pgq.resources is resources
        assert story.lines == []
    assert story.lines == ["closed"]


async def test_what_nobody_could_close_in_order_is_refused() -> None:
    story = Story()
    async with AsyncExitStack() as stack:
        resources = Resources()
        await resources.enter("one", story.member("one"))
        stack.push_async_exit(resources)
        with pytest.raises(ResourceError, match="factory"):
            async with PgQueuer.open("memory:", resources=resources):
                story.add("never")
        assert story.lines == ["enter one"]
    assert story.lines == ["enter one", "close one"]


async def test_what_the_caller_closes_outlives_the_application() -> None:
    story = Story()
    async with Resources() as resources:
        await resources.enter("one", story.member("one"))
        async with PgQueuer.open("memory:", resources=resources) as pgq:
            assert pgq.resources is resources
        story.add("closed")
    assert story.lines == ["enter one", "closed", "close one"]


async def test_deleting_a_name_does_not_keep_it_from_being_closed() -> None:
    story = Story()
    async with Resources() as resources:
        await resources.enter("one", story.member("one"))
        del resources["one"]
    assert story.lines == ["enter one", "close one"]


async def test_a_name_is_taken_once_and_the_second_is_not_even_entered() -> None:
    story = Story()
    async with Resources(value=1) as resources:
        await resources.enter("one", story.member("one"))
        for name in ("one", "value"):
            with pytest.raises(ResourceError, match=name):
                await resources.enter(name, story.member("two"))
        assert (resources["one"], resources["value"]) == ("one", 1)
    assert story.lines == ["enter one", "close one"]


@pytest.mark.parametrize(
    "wrong", [3, object(), None, Server.open], ids=["number", "object", "None", "method"]
)
async def test_enter_refuses_what_is_no_context_manager(wrong: object) -> None:
    async with Resources() as resources:
        with pytest.raises(ResourceError, match="context manager"):
            await resources.enter("it", wrong)  # type: ignore[call-overload, arg-type, unused-ignore]
        assert "it" not in resources


async def test_one_that_cannot_be_entered_leaves_no_trace() -> None:
    story, error = Story(), Boom()
    async with Resources() as resources:
        await resources.enter("one", story.member("one"))
        with pytest.raises(Boom) as caught:
            await resources.enter("two", story.member("two", entering=lambda: fail(error)))
        assert caught.value is error
        assert list(resources) == ["one"]
        # Who can do without it goes on.
        await resources.enter("two", story.member("another two"))
    assert story.lines == [
        "enter one",
        "enter two",
        "enter another two",
        "close another two",
        "close one",
    ]


async def test_a_factory_may_do_without_a_member_that_fails() -> None:
    story = Story()

    async def make() -> Resources:
        resources = Resources()
        await resources.enter("one", story.member("one"))
        with pytest.raises(Boom):
            await resources.enter("two", story.member("two", entering=lambda: fail(Boom())))
        await resources.enter("three", story.member("three"))
        return resources

    async with PgQueuer.open("memory:", resources=make) as pgq:
        assert list(pgq.resources) == ["one", "three"]
    assert story.lines[3:] == ["close three", "close one"]


# Typed lookup


async def test_get_typed() -> None:
    resources = Resources(number=3, flag=True)
    number: int = resources.get_typed("number", int)
    assert number == 3
    assert resources.get_typed("flag", int) is True  # a subclass will do
    assert resources.get_typed("number", object) == 3


async def test_get_typed_of_another_type_names_both() -> None:
    resources = Resources(number=3)
    with pytest.raises(ResourceError) as caught:
        resources.get_typed("number", str)
    text = str(caught.value)
    assert all(word in text for word in ("number", "int", "str"))
    assert isinstance(caught.value, PgqError)


async def test_get_typed_of_no_such_name_says_what_there_is() -> None:
    resources = Resources(http=3, cache=4)
    with pytest.raises(ResourceError) as caught:
        resources.get_typed("htpp", int)
    text = str(caught.value)
    assert all(word in text for word in ("htpp", "http", "cache"))


# Jobs may use it, and may not enter what the application would have to close


async def test_a_job_changes_values_but_cannot_enter() -> None:
    story, texts = Story(), list[str]()
    async with PgQueuer.open("memory:") as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job, ctx: Context) -> None:
            resources = ctx.resources
            assert isinstance(resources, Resources)
            with pytest.raises(ResourceError) as caught:
                await resources.enter("late", story.member("late"))
            texts.append(str(caught.value))
            with pytest.raises(ResourceError) as caught:
                resources.callback(story.add, "late callback")
            texts.append(str(caught.value))
            resources["plain"] = "value"

        (job_id,) = await pgq.queries.enqueue("it")
        assert job_id is not None
        await drain(pgq)
        assert await outcome(pgq.queries, job_id) == "successful"
        assert dict(pgq.resources) == {"plain": "value"}
    assert story.lines == []
    assert len(texts) == 2
    assert all("open" in text for text in texts)


async def test_another_task_cannot_enter_into_it() -> None:
    story = Story()
    async with Resources() as resources:
        await resources.enter("one", story.member("one"))

        async def other() -> None:
            with pytest.raises(ResourceError):
                await resources.enter("two", story.member("two"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            tasks.start_soon(other)
    assert story.lines == ["enter one", "close one"]
