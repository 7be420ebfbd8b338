"""Closing what was entered: last in, first out, each under a shielded deadline, none skipped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar, cast

import anyio

from pgq_trio.concurrency.errors import combined, is_only
from pgq_trio.errors import ResourceError

T = TypeVar("T")

#: How long one resource may take to close, in seconds, before the next one has its turn.
CLOSE_LIMIT = 10.0


class _Entry:
    """Something to be closed, within `CLOSE_LIMIT`.

    A resource may hold scopes and task groups of its own, so the scope that bounds its closing
    has to be entered before it and left after it. Until it closes this scope does nothing: a
    failing outer resource must be able to cancel everything inside.
    """

    def __init__(self, name: str, exit_: Callable[..., Awaitable[object]]) -> None:
        self._name = name
        self._exit = exit_
        self._scope: anyio.CancelScope | None = None

    @property
    def is_bound(self) -> bool:
        """Whether it has to be left in the order of the scopes around it."""
        return self._scope is not None

    def bind(self) -> None:
        """Enter the scope around a resource that is about to be entered."""
        self._scope = anyio.CancelScope()
        self._scope.__enter__()

    def abandon(self, exc: BaseException) -> bool:
        """Leave the scope of a resource that could not be entered."""
        return self._scope is not None and bool(
            self._scope.__exit__(type(exc), exc, exc.__traceback__)
        )

    async def close(self, passing: BaseException | None) -> BaseException | None:
        """Close the resource with the exception that passes by, and return what passes on.

        Raises:
            Exception: what went wrong in closing.
        """
        if self._scope is None:
            self.bind()
        scope = cast("anyio.CancelScope", self._scope)
        scope.shield = True
        scope.deadline = anyio.current_time() + CLOSE_LIMIT
        kind, traceback = (type(passing), passing.__traceback__) if passing else (None, None)
        try:
            if await self._exit(kind, passing, traceback):
                passing = None
        except BaseException as exc:  # noqa: ASYNC103 - the scope tells its own cancellation
            # Where a scope around this one is cancelled as well, asyncio does not say whose it was.
            timed_out = anyio.current_time() >= scope.deadline and exc is not passing
            timed_out = timed_out and isinstance(exc, anyio.get_cancelled_exc_class())
            if not scope.__exit__(type(exc), exc, exc.__traceback__) and not timed_out:
                if is_only(exc, passing):  # a task group wraps what it passes on
                    return passing  # noqa: ASYNC104 - passed on by the caller
                raise
        else:
            timed_out = False
            scope.__exit__(None, None, None)
        if timed_out or scope.cancelled_caught:
            raise ResourceError(
                f"closing the resource {self._name!r} took longer than {CLOSE_LIMIT:g} s; "
                "it was cancelled there"
            )
        return passing


class ClosingStack:
    """Entered context managers, closed in reverse, each whatever the others did.

    Attributes:
        sealed: whether nothing may be added any more; for its users to keep.
    """

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self.sealed: bool = False

    @property
    def depth(self) -> int:
        """How many are to be closed."""
        return len(self._entries)

    @property
    def is_bound(self) -> bool:
        """Whether some have to be closed in the order of the scopes around them."""
        return any(entry.is_bound for entry in self._entries)

    async def enter(self, manager: AbstractAsyncContextManager[T], name: str) -> T:
        """Enter a context manager in this task, which has to be the one that closes.

        Raises:
            ResourceError: the manager cancelled what it was entered in.
            Whatever entering raises; what it entered itself is closed then.
        """
        entry = _Entry(name, manager.__aexit__)
        entry.bind()
        position = self.depth
        # On the stack already while it is entered: what it enters itself lies above it.
        self._entries.append(entry)
        try:
            return await manager.__aenter__()
        except BaseException as exc:
            try:
                await self.close(exc, floor=position + 1)  # noqa: ASYNC102 - shielded, one by one
            finally:
                self._entries.remove(entry)
                is_own = entry.abandon(exc)
            if is_own:
                raise ResourceError(  # noqa: ASYNC104 - it was its own scope's
                    f"entering the resource {name!r} cancelled itself"
                ) from exc
            raise

    def push(self, name: str, exit_: Callable[..., Awaitable[object]]) -> None:
        """Have something called at its turn, as `__aexit__` is."""
        self._entries.append(_Entry(name, exit_))

    async def close(self, exc: BaseException | None, *, floor: int = 0) -> bool:
        """Close all above the floor, last first, and raise what went wrong.

        Returns whether a resource has swallowed a cancellation that was its own.
        """
        errors: list[Exception] = []
        passing = exc
        while self.depth > floor:
            entry = self._entries.pop()
            try:
                passing = await entry.close(passing)
            except Exception as error:  # noqa: BLE001 - collected, and raised when all are closed
                errors.append(error)
                # At a good end the others close as at a good end; else outwards goes what nested
                # `async with` blocks would pass on.
                passing = None if passing is None else error
            except BaseException as error:  # noqa: BLE001, ASYNC103 - raised below, all closed
                passing = error
        if errors:
            if isinstance(exc, Exception):
                errors.insert(0, exc)
            raise combined("resources failed to close", errors)
        if passing is not None and passing is not exc:
            raise passing
        return exc is not None and passing is None and not isinstance(exc, Exception)
