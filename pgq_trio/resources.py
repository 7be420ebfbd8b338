"""The shared container of a program: how it is given, entered, looked up and closed.

Entering and leaving happen in one task, the one that opened the application; jobs only use what
is in the container. It knows nothing of jobs and queues.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import Self, TypeAlias, TypeVar, cast

import anyio
import anyio.lowlevel

from pgq_trio.concurrency.closing import ClosingStack
from pgq_trio.concurrency.errors import combined
from pgq_trio.errors import ResourceError
from pgq_trio.models import ResourceMapping

__all__ = ["Resources", "ResourcesSource", "opened_resources", "plain_resources"]

T = TypeVar("T")

#: A factory may return a factory, but not for ever.
MAX_CALLS = 10

#: What `open(resources=...)` takes.
ResourcesSource: TypeAlias = (
    MutableMapping[str, object]
    | AbstractAsyncContextManager[MutableMapping[str, object]]
    | Callable[[], object]
    | None
)


#: The stack of the application that is being opened in this task, if one is.
_opening: ContextVar[ClosingStack | None] = ContextVar("pgq_trio_opening", default=None)


class Resources(MutableMapping[str, object]):
    """A ready container: a mapping that also enters context managers and closes them in reverse.

    ```python
    async def make_resources():
        resources = Resources()
        await resources.enter("http", httpx.AsyncClient())
        return resources
    ```
    """

    def __init__(self, **values: object) -> None:
        self._values: dict[str, object] = dict(values)
        # Entered while an application opens, a resource is the application's to close, also when
        # the factory fails half way and this object is lost.
        opening = _opening.get()
        self._stack = ClosingStack() if opening is None else opening
        self._floor = self._stack.depth
        self._task: int | None = None
        self._is_closed_by_caller = False

    def __getitem__(self, key: str) -> object:
        return self._values[key]

    def __setitem__(self, key: str, value: object) -> None:
        self._values[key] = value

    def __delitem__(self, key: str) -> None:
        del self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<Resources {', '.join(self._values) or 'empty'}>"

    async def enter(
        self, name: str, manager: AbstractAsyncContextManager[T] | AbstractContextManager[T]
    ) -> T:
        """Enter a context manager, keep what it yields under `name`, and close it at the end.

        Raises:
            ResourceError: it is no context manager, the name is taken, or this is not the task
                that opens the application (a job cannot enter what the application closes).
        """
        self._check_task("enter")
        if name in self._values:
            raise ResourceError(f"there is a resource {name!r} already; choose another name")
        value = await self._stack.enter(_as_async(manager, name), name)
        self._values[name] = value
        return value

    def callback(self, function: Callable[..., object], *args: object) -> None:
        """Call a function, async or not, when the resources close, in reverse order."""
        self._check_task("register a callback")

        async def call(*_info: object) -> None:
            result = function(*args)
            if inspect.isawaitable(result):
                await result

        self._stack.push(getattr(function, "__qualname__", repr(function)), call)

    def get_typed(self, key: str, kind: type[T]) -> T:
        """Return the resource of this name, which must be an instance of `kind`.

        Raises:
            ResourceError: there is none of this name, or it is of another type.
        """
        if key not in self._values:
            known = ", ".join(map(repr, self._values)) or "none"
            raise ResourceError(f"there is no resource {key!r}; known: {known}")
        value = self._values[key]
        if not isinstance(value, kind):
            raise ResourceError(
                f"the resource {key!r} is of type {type(value).__qualname__}, "
                f"not {kind.__qualname__}"
            )
        return value

    def handed_over(self, opening: ClosingStack) -> ClosingStack:
        """Return what the application that is being opened has to close.

        Raises:
            ResourceError: something was entered before, in the order of scopes that are not the
                application's, and nobody else closes it.
        """
        if self._stack is opening or self._is_closed_by_caller:
            return opening
        if self._stack.is_bound:
            raise ResourceError(
                "these resources were entered before the application was opened, so it cannot "
                "close them in order: enter them in a factory given as resources=, or use "
                "`async with Resources() as resources:` around `open`"
            )
        return self._stack

    async def __aenter__(self) -> Self:
        await anyio.lowlevel.checkpoint()
        self._is_closed_by_caller = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Close all, last first, each shielded for 10 s; raise what went wrong."""
        return await self._stack.close(exc, floor=self._floor)  # noqa: ASYNC102 - each shielded

    def _check_task(self, what: str) -> None:
        task = anyio.get_current_task().id
        if self._task is None:
            self._task = task
        if self._stack.sealed or self._task != task:
            raise ResourceError(
                f"only the task that opens the application may {what}, before it is open: "
                "do it in the factory given as resources="
            )


def plain_resources(source: ResourcesSource) -> ResourceMapping:
    """Return the container given to a constructor, whose life is the caller's.

    Raises:
        ResourceError: it has to be entered, which only `open` does.
    """
    if source is None:
        return {}
    if _is_container(source):
        return cast("ResourceMapping", source)
    raise ResourceError(
        f"resources must be a mapping here, got {type(source).__name__}. What has to be entered "
        "or called goes to `PgQueuer.open(..., resources=...)`."
    )


class opened_resources:  # noqa: N801 - used like a function, as contextlib's are
    """Decide what was given as resources, enter it, and close it when the block is over.

    In this order: an async context manager is entered and yields the container; an object with
    `__getitem__` is the container; a callable is called without arguments, its result awaited if
    it has to be, and decided by the same rules; None is a fresh `Resources()`.

    Raises:
        ResourceError: it is none of these, or what it yields is no container.
    """

    def __init__(self, source: ResourcesSource) -> None:
        self._source = source
        self._stack = ClosingStack()

    async def __aenter__(self) -> ResourceMapping:
        await anyio.lowlevel.checkpoint()
        token = _opening.set(self._stack)
        try:
            container = await self._enter(Resources() if self._source is None else self._source)
        except BaseException as exc:
            await self._abandon(exc)  # noqa: ASYNC102 - shielded, one by one
            raise
        finally:
            _opening.reset(token)
        self._stack.sealed = True
        return container

    async def _enter(self, source: object, calls: int = 0) -> ResourceMapping:
        if isinstance(source, Resources):
            self._stack = source.handed_over(self._stack)
            return source
        if isinstance(source, AbstractAsyncContextManager):
            manager = cast("AbstractAsyncContextManager[object]", source)
            name = type(manager).__name__
            source = await self._stack.enter(manager, name)
            what = f"the context manager given as resources yielded {source!r}"
        elif _is_factory(source) and calls < MAX_CALLS:
            result = cast("Callable[[], object]", source)()
            if inspect.isawaitable(result):
                result = await result
            return await self._enter(Resources() if result is None else result, calls + 1)
        else:
            what = f"a callable returned {source!r}" if calls else f"resources is {source!r}"
        if not _is_container(source):
            raise ResourceError(
                f"{what}, which is no mapping. Give a mapping, an async context manager that "
                "yields one, or a function that returns either; a synchronous context manager is "
                "entered in such a function: `await resources.enter(name, manager)`."
            )
        return cast("ResourceMapping", source)

    async def _abandon(self, exc: BaseException) -> None:
        """Close what was entered before entering failed."""
        try:
            await self._stack.close(exc)
        except Exception as closing:
            if isinstance(exc, Exception):
                raise combined("entering resources failed, and closing them", [exc, closing])  # noqa: B904
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        return await self._stack.close(exc)  # noqa: ASYNC102 - shielded, one by one


def _is_factory(value: object) -> bool:
    """Whether to call it; a context manager of contextlib is callable as a decorator only."""
    if _is_container(value) or not callable(value):
        return False
    return isinstance(value, type) or not isinstance(value, AbstractContextManager)


def _is_container(value: object) -> bool:
    return hasattr(type(value), "__getitem__") and not isinstance(value, type)


def _as_async(
    manager: AbstractAsyncContextManager[T] | AbstractContextManager[T], name: str
) -> AbstractAsyncContextManager[T]:
    if isinstance(manager, AbstractAsyncContextManager):
        return manager
    if isinstance(cast("object", manager), AbstractContextManager):
        return _Async(manager)
    raise ResourceError(
        f"the resource {name!r} is no context manager: {manager!r}. Plain values are stored with "
        f"resources[{name!r}] = value."
    )


class _Async(AbstractAsyncContextManager[T]):
    """A sync context manager behind the async interface; it runs on the event loop's thread."""

    def __init__(self, manager: AbstractContextManager[T]) -> None:
        self._manager = manager

    async def __aenter__(self) -> T:
        await anyio.lowlevel.checkpoint()
        return self._manager.__enter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return self._manager.__exit__(exc_type, exc, traceback)
