"""Faults in how the life of resources begins and ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import anyio
import anyio.lowlevel

from pgq_trio import app, resources
from pgq_trio.concurrency import closing, outside
from pgq_trio.errors import ResourceError
from tests.property.mutants import mutant, replace

_CONTRACT = "test_resources_contract.py::"
_LIFE = "test_resources_life.py::"


@mutant("members are closed first in, first out", _CONTRACT + "test_the_ready_container")
def first_in_first_out() -> None:
    original = closing.ClosingStack.close

    async def close(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._entries.reverse()
        return await original(self, *args, **kwargs)

    replace(closing.ClosingStack, "close", close)


@mutant("what is given as resources is entered twice", _CONTRACT + "test_life")
def entered_twice() -> None:
    original = resources.opened_resources._enter

    async def enter(self: Any, source: Any, calls: int = 0) -> Any:
        if calls == 0 and callable(source):
            await original(self, source)
        return await original(self, source, calls)

    replace(resources.opened_resources, "_enter", enter)


class _Hearing:
    """An inside that is not deaf: cancellation from outside reaches all of it at once."""

    def cancels(self, scope: object) -> None:
        """Hear nothing of scopes."""

    def spares(self, scope: object) -> None:
        """Hear nothing of scopes."""


@mutant(
    "a cancellation from outside reaches resources while jobs clean up",
    _CONTRACT + "test_order_under_cancellation",
)
def left_early() -> None:
    @asynccontextmanager
    async def hearing() -> AsyncGenerator[_Hearing]:
        yield _Hearing()

    replace(app, "deaf", hearing)


@mutant(
    "a cancellation from outside ends resources as if they were being entered",
    _CONTRACT + "test_order_under_cancellation_at_every_step",
)
def never_spared() -> None:
    replace(outside.Outside, "spares", lambda _self, _scope: None)


@mutant("an error in entering comes out as another", _CONTRACT + "test_failure_to_enter")
def renamed_failure() -> None:
    enter = resources.opened_resources.__aenter__

    async def rename(self: Any) -> Any:
        try:
            return await enter(self)
        except Exception as exc:
            raise ResourceError("the resources could not be entered") from exc

    replace(resources.opened_resources, "__aenter__", rename)


@mutant("closing a member is not shielded", _LIFE + "test_a_crash_closes_in_order")
def unshielded_closing() -> None:
    async def close(self: Any, passing: BaseException | None) -> BaseException | None:
        if self._scope is None:
            self.bind()
        kind, traceback = (type(passing), passing.__traceback__) if passing else (None, None)
        try:
            if await self._exit(kind, passing, traceback):
                passing = None
        except BaseException as exc:
            self._scope.__exit__(type(exc), exc, exc.__traceback__)
            if exc is passing:
                return passing  # noqa: ASYNC104 - passed on by the caller
            raise
        self._scope.__exit__(None, None, None)
        return passing

    replace(closing._Entry, "close", close)


@mutant("closing a member may take for ever", _LIFE + "test_closing_one_by_one")
def endless_closing() -> None:
    replace(closing, "CLOSE_LIMIT", 1e4)


@mutant("an error in closing a member skips the others", _LIFE + "test_closing_one_by_one")
def skipped_closing() -> None:
    async def close(self: Any, exc: BaseException | None, *, floor: int = 0) -> bool:
        while self.depth > floor:
            await self._entries.pop().close(exc)
        return False

    replace(closing.ClosingStack, "close", close)


@mutant("an error in closing a member is logged away", _CONTRACT + "test_failure_to_close")
def swallowed_closing_error() -> None:
    original = closing.ClosingStack.close

    async def close(self: Any, exc: BaseException | None, **options: Any) -> bool:
        try:
            return await original(self, exc, **options)
        except Exception:  # noqa: BLE001 - that is the fault
            return False

    replace(closing.ClosingStack, "close", close)


@mutant("the error of one member is counted once a nursery", _LIFE + "test_a_crash_closes_in_order")
def counted_again() -> None:
    replace(closing, "is_only", lambda exc, original: exc is original)


@mutant("a member's crash does not reach the application", _CONTRACT + "test_crash_of_a_resource")
def unheard_crash() -> None:
    def bind(self: Any) -> None:
        self._scope = anyio.CancelScope(shield=True)
        self._scope.__enter__()

    replace(closing._Entry, "bind", bind)
    enter = resources.opened_resources.__aenter__

    async def enter_behind_a_shield(self: Any) -> Any:
        container = await enter(self)
        self.shield = anyio.CancelScope(shield=True)
        self.shield.__enter__()
        return container

    leave = resources.opened_resources.__aexit__

    async def leave_the_shield(self: Any, *exc: Any) -> Any:
        self.shield.__exit__(*exc)
        return await leave(self, *exc)  # noqa: ASYNC102 - a fault more or less

    replace(resources.opened_resources, "__aenter__", enter_behind_a_shield)
    replace(resources.opened_resources, "__aexit__", leave_the_shield)


@mutant(
    "an error in entering waits until the application ends",
    _LIFE + "test_nothing_is_claimed_when_entering_fails",
)
def put_off_failure() -> None:
    enter = resources.opened_resources.__aenter__
    leave = resources.opened_resources.__aexit__

    async def go_on(self: Any) -> Any:
        self.put_off = None
        try:
            return await enter(self)
        except Exception as exc:  # noqa: BLE001 - raised late, which is the fault
            self.put_off = exc
            return {}

    async def raise_late(self: Any, *exc: Any) -> Any:
        if self.put_off is not None:
            raise self.put_off
        return await leave(self, *exc)  # noqa: ASYNC102 - as the original

    replace(resources.opened_resources, "__aenter__", go_on)
    replace(resources.opened_resources, "__aexit__", raise_late)


@mutant(
    "what was entered stays open when the next member fails",
    _CONTRACT + "test_the_ready_container",
)
def abandoned_members() -> None:
    async def abandon(_self: object, _exc: BaseException) -> None:
        await anyio.lowlevel.checkpoint()

    replace(resources.opened_resources, "_abandon", abandon)


@mutant("Ctrl-C comes out in a group", _LIFE + "test_every_end")
def grouped_interrupt() -> None:
    def raise_group(exc: BaseException, **_own: object) -> NoReturn:
        raise exc

    replace(app, "raise_as_itself", raise_group)
