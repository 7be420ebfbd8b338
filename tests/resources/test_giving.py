"""Giving resources: a mapping, an async context manager, a callable that returns either."""

from __future__ import annotations

import functools
import types
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Generator,
    Iterator,
    MutableMapping,
)
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self

import anyio
import pytest

from pgq_trio import (
    Context,
    InMemoryDriver,
    Job,
    PgQueuer,
    QueueManager,
    Resources,
    ScheduleContext,
    SchedulerManager,
)
from pgq_trio.errors import PgqError, ResourceError
from pgq_trio.models import Schedule
from pgq_trio.resources import opened_resources
from tests.resources.tools import RARE, Registry, Story, make_due
from tests.worker.tools import drain


async def container_of(source: Any) -> object:
    """Give resources to `open`; return what a job sees, which is what `pgq.resources` is."""
    seen: list[object] = []
    async with PgQueuer.open("memory:", resources=source) as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job, ctx: Context) -> None:
            seen.append(ctx.resources)

        await pgq.queries.enqueue("it")
        await drain(pgq)
        (one,) = seen
        assert one is pgq.resources
    return one


def same(one: object, other: object) -> bool:
    """Whether two are one, whatever type checkers hold of it."""
    return one is other


# Mappings


@pytest.mark.parametrize(
    "container",
    [
        pytest.param({"a": 1}, id="dict"),
        pytest.param({}, id="empty dict"),
        pytest.param(types.MappingProxyType({"a": 1}), id="read-only mapping"),
        pytest.param(Registry(a=1), id="registry that is false and equal to everything"),
        pytest.param(Resources(a=1), id="Resources"),
        pytest.param(Resources(), id="empty Resources"),
    ],
)
async def test_a_mapping_arrives_as_itself(container: object) -> None:
    assert await container_of(container) is container


async def test_an_object_with_nothing_but_getitem_is_a_container() -> None:
    class Lookup:
        def __getitem__(self, key: str) -> str:
            return key.upper()

    lookup = Lookup()
    assert await container_of(lookup) is lookup


async def test_a_mapping_that_can_be_called_is_not_called() -> None:
    class Callable_(dict[str, object]):  # noqa: N801
        def __call__(self) -> dict[str, object]:
            raise AssertionError("it has __getitem__, so it is the container")

    container = Callable_(a=1)
    assert await container_of(container) is container


async def test_none_is_a_fresh_resources_each_time() -> None:
    one, two = await container_of(None), await container_of(None)
    assert type(one) is type(two) is Resources
    assert one is not two
    assert dict(one) == {}


async def test_nothing_given_is_a_fresh_resources() -> None:
    async with PgQueuer.open("memory:") as pgq:
        assert type(pgq.resources) is Resources
        pgq.resources["a"] = 1
        assert dict(pgq.resources) == {"a": 1}


# Async context managers, and callables that return what counts


class Manager:
    """An async context manager that yields a container and knows whether it is open."""

    def __init__(self) -> None:
        self.container = Registry(manager=self)
        self.calls: list[str] = []

    async def __aenter__(self) -> Registry:
        await anyio.lowlevel.checkpoint()
        self.calls.append("enter")
        return self.container

    async def __aexit__(self, *exc: object) -> None:
        await anyio.lowlevel.checkpoint()  # noqa: ASYNC102
        self.calls.append("exit")


def direct(value: object) -> object:
    return value


def by_function(value: object) -> Callable[[], object]:
    return lambda: value


def by_async_function(value: object) -> Callable[[], object]:
    async def make() -> object:
        await anyio.lowlevel.checkpoint()
        return value

    return make


def by_partial(value: object) -> Callable[[], object]:
    return functools.partial(direct, value)


def by_async_partial(value: object) -> Callable[[], object]:
    async def make(value: object) -> object:
        await anyio.lowlevel.checkpoint()
        return value

    return functools.partial(make, value)


class Factory:
    """A callable object, and one whose methods make resources."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __call__(self) -> object:
        return self.value

    async def make(self) -> object:
        await anyio.lowlevel.checkpoint()
        return self.value


class Later:
    """Awaitable, but no coroutine."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, None, object]:
        yield from anyio.lowlevel.checkpoint().__await__()
        return self.value


WAYS = [
    direct,
    by_function,
    by_async_function,
    by_partial,
    by_async_partial,
    pytest.param(Factory, id="callable object"),
    pytest.param(lambda value: Factory(value).make, id="bound async method"),
    pytest.param(lambda value: lambda: Later(value), id="function that returns an awaitable"),
]


@pytest.mark.parametrize("way", WAYS)
async def test_a_container_by_each_way(way: Callable[[object], object]) -> None:
    container = Registry()
    assert await container_of(way(container)) is container


@pytest.mark.parametrize("way", WAYS)
async def test_a_context_manager_by_each_way(way: Callable[[object], object]) -> None:
    manager = Manager()
    async with PgQueuer.open("memory:", resources=way(manager)) as pgq:  # type: ignore[arg-type]
        assert same(pgq.resources, manager.container)
        assert manager.calls == ["enter"]
    assert manager.calls == ["enter", "exit"]


async def test_a_function_made_by_asynccontextmanager_and_what_it_returns() -> None:
    story = Story()
    async with PgQueuer.open("memory:", resources=story.container) as pgq:
        assert pgq.resources["story"] is story
    async with PgQueuer.open("memory:", resources=story.container()) as pgq:
        assert pgq.resources["story"] is story
    assert story.lines == ["enter it", "close it"] * 2


async def test_a_context_manager_that_is_a_mapping_is_entered_first() -> None:
    class Both(Registry):
        async def __aenter__(self) -> dict[str, object]:
            return {"yielded": True}

        async def __aexit__(self, *exc: object) -> None:
            pass

    assert await container_of(Both(yielded=False)) == {"yielded": True}


async def test_a_context_manager_that_yields_itself() -> None:
    class Own(Registry):
        entered = 0

        async def __aenter__(self) -> Self:
            self.entered += 1
            return self

        async def __aexit__(self, *exc: object) -> None:
            self.entered -= 10

    own = Own()
    assert await container_of(own) is own
    assert own.entered == 1 - 10


class Typed(dict[str, object]):
    """A container class, to be given as a class."""


@pytest.mark.parametrize("cls", [Typed, Registry, Resources, dict])
async def test_the_class_of_a_container_is_called(cls: type[object]) -> None:
    assert type(await container_of(cls)) is cls


async def test_the_class_of_a_context_manager_is_called() -> None:
    one = await container_of(Manager)
    assert isinstance(one, Registry)
    manager = one["manager"]
    assert isinstance(manager, Manager)
    assert manager.calls == ["enter", "exit"]


async def test_what_a_callable_returns_is_decided_by_the_same_rules_callables_included() -> None:
    """api.md: "a callable is called without arguments … and decided by the same rules"."""
    container = Registry()
    assert await container_of(lambda: lambda: container) is container


async def test_what_a_callable_returns_is_decided_by_the_same_rules_none_included() -> None:
    """api.md: "… and decided by the same rules; None gives a fresh `Resources()`"."""
    assert type(await container_of(lambda: None)) is Resources


# What is none of these


@asynccontextmanager
async def yields_nothing() -> AsyncGenerator[None, None]:
    yield


class Nothing:
    """Iterates over nothing."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> dict[str, object]:
        raise StopAsyncIteration


def forgot_the_decorator() -> AsyncIterator[dict[str, object]]:
    """What an `async def` with a `yield` returns when `@asynccontextmanager` is missing."""
    return (one async for one in Nothing())


@contextmanager
def only_sync() -> Iterator[dict[str, object]]:
    yield {}


class OnlySync:
    def __enter__(self) -> dict[str, object]:
        return {}

    def __exit__(self, *exc: object) -> None: ...


async def returns_number() -> int:
    return 3


@pytest.mark.parametrize(
    ("source", "culprit"),
    [
        pytest.param(3, "3", id="number"),
        pytest.param(object(), "object", id="object"),
        pytest.param(lambda: 3, "3", id="function that returns a number"),
        pytest.param(returns_number, "3", id="async function that returns a number"),
        pytest.param(object, "object", id="class"),
        pytest.param(yields_nothing, "None", id="context manager that yields nothing"),
        pytest.param(yields_nothing(), "None", id="entered context manager that yields nothing"),
        pytest.param(forgot_the_decorator, "async_generator", id="undecorated generator"),
        pytest.param(OnlySync(), "OnlySync", id="sync context manager"),
        pytest.param(only_sync, "_GeneratorContextManager", id="sync context manager function"),
    ],
)
async def test_anything_else_is_a_resource_error_that_helps(source: Any, culprit: str) -> None:
    if isinstance(source, type(yields_nothing())):
        source = yields_nothing()  # a fresh one for each event loop
    with pytest.raises(ResourceError) as caught:
        async with PgQueuer.open("memory:", resources=source):
            raise AssertionError("not reached")
    text = str(caught.value)
    assert isinstance(caught.value, PgqError)
    assert culprit in text  # what was given
    assert "mapping" in text  # what to give
    assert "async context manager" in text


async def test_a_sync_context_manager_that_contextlib_made_is_refused_in_words_that_help() -> None:
    """It is callable, as a decorator, which must not turn into a TypeError about `func`."""
    with pytest.raises(ResourceError, match="_GeneratorContextManager"):
        async with PgQueuer.open("memory:", resources=only_sync()):  # type: ignore[arg-type]
            raise AssertionError("not reached")


async def test_a_coroutine_is_refused_and_not_left_unawaited() -> None:
    coroutine = returns_number()
    with pytest.raises(ResourceError, match="coroutine"):
        async with PgQueuer.open("memory:", resources=coroutine):  # type: ignore[arg-type]
            raise AssertionError("not reached")
    coroutine.close()


async def test_what_was_entered_for_nothing_is_left_again() -> None:
    calls: list[str] = []

    class Wrong:
        async def __aenter__(self) -> int:
            calls.append("enter")
            return 3

        async def __aexit__(self, *exc: object) -> None:
            calls.append("exit")

    with pytest.raises(ResourceError):
        async with PgQueuer.open("memory:", resources=Wrong()):  # type: ignore[arg-type]
            raise AssertionError("not reached")
    assert calls == ["enter", "exit"]


async def test_the_error_of_a_callable_comes_out_as_itself() -> None:
    error = ValueError("no settings")

    def make() -> dict[str, object]:
        raise error

    with pytest.raises(ValueError, match="no settings") as caught:
        async with PgQueuer.open("memory:", resources=make):
            raise AssertionError("not reached")
    assert caught.value is error


async def test_a_callable_is_called_once_and_in_the_callers_task() -> None:
    tasks: list[int] = []

    async def make() -> dict[str, object]:
        await anyio.lowlevel.checkpoint()
        tasks.append(anyio.get_current_task().id)
        return {}

    await container_of(make)
    assert tasks == [anyio.get_current_task().id]


# Without `open`


def as_pgqueuer(resources: MutableMapping[str, object] | None) -> PgQueuer:
    return PgQueuer(InMemoryDriver(), resources=resources)


def as_in_memory(resources: MutableMapping[str, object] | None) -> PgQueuer:
    return PgQueuer.in_memory(resources=resources)


def as_queue_manager(resources: MutableMapping[str, object] | None) -> QueueManager:
    return QueueManager(InMemoryDriver(), resources=resources)


def as_queue_manager_on_queries(resources: MutableMapping[str, object] | None) -> QueueManager:
    return QueueManager(PgQueuer.in_memory().queries, resources=resources)


def as_scheduler_manager(resources: MutableMapping[str, object] | None) -> SchedulerManager:
    return SchedulerManager(InMemoryDriver(), resources=resources)


QUEUES = [as_pgqueuer, as_in_memory, as_queue_manager, as_queue_manager_on_queries]


@pytest.mark.parametrize("make", QUEUES)
async def test_a_constructor_takes_a_mapping_and_never_closes_it(
    make: Callable[[Any], PgQueuer | QueueManager],
) -> None:
    seen: list[object] = []
    closed: list[str] = []
    resources = Resources()
    resources.callback(closed.append, "closed")
    manager = make(resources)
    assert manager.resources is resources

    @manager.entrypoint("it")
    async def handler(job: Job, ctx: Context) -> None:
        seen.append(ctx.resources)

    for _ in range(2):
        await manager.queries.enqueue("it")
        await manager.run(mode="drain", handle_signals=False)
    assert len(seen) == 2
    assert all(one is resources for one in seen)
    assert closed == []  # its life is the caller's
    async with resources:
        pass
    assert closed == ["closed"]


async def test_a_scheduler_manager_takes_a_mapping() -> None:
    registry: Any = Registry()
    manager = as_scheduler_manager(registry)
    assert same(manager.resources, registry)
    seen: list[object] = []

    @manager.schedule("tick", RARE)
    async def tick(schedule: Schedule, ctx: ScheduleContext) -> None:
        seen.append(ctx.resources)
        manager.request_shutdown()

    await make_due(manager, "tick")
    await manager.run(handle_signals=False)
    (one,) = seen
    assert one is registry


@pytest.mark.parametrize("make", [*QUEUES, as_scheduler_manager])
@pytest.mark.parametrize(
    "container",
    [{}, Registry(), types.MappingProxyType({})],
    ids=lambda container: type(container).__name__,
)
async def test_a_constructor_keeps_any_container_as_it_is(
    make: Callable[[Any], PgQueuer], container: object
) -> None:
    assert make(container).resources is container


@pytest.mark.parametrize("make", [*QUEUES, as_scheduler_manager])
async def test_a_constructor_without_resources_makes_a_container(
    make: Callable[[Any], PgQueuer],
) -> None:
    manager = make(None)
    manager.resources["a"] = 1
    assert manager.resources["a"] == 1


@pytest.mark.parametrize("make", [*QUEUES, as_scheduler_manager])
@pytest.mark.parametrize(
    "source",
    [
        pytest.param(Manager(), id="context manager"),
        pytest.param(Manager, id="class"),
        pytest.param(dict, id="dict itself"),
        pytest.param(dict, id="function"),
        pytest.param(3, id="number"),
    ],
)
async def test_a_constructor_refuses_what_has_to_be_entered(
    make: Callable[[Any], PgQueuer], source: Any
) -> None:
    with pytest.raises(ResourceError, match=r"PgQueuer\.open"):
        make(source)
    if isinstance(source, Manager):
        assert source.calls == []


# `opened_resources` alone, as `open` uses it


@pytest.mark.parametrize("way", WAYS)
async def test_opened_resources_alone(way: Callable[[object], object]) -> None:
    manager = Manager()
    async with opened_resources(way(manager)) as container:  # type: ignore[arg-type]
        assert same(container, manager.container)
        assert manager.calls == ["enter"]
    assert manager.calls == ["enter", "exit"]
