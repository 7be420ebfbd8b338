"""A driver whose connection a test can cut, slow down, hold up or watch; it runs no jobs.

Each operation of a store is a request, one atomic change and a reply. What can go wrong with it is
that the request is lost, that the reply is lost after the change was made, that it is refused, and
that either takes time or never comes; all of that can be asked for here, for any driver.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import anyio
import anyio.lowlevel

from pgq_trio.abc import (
    Backend,
    Driver,
    InsightStore,
    JobStore,
    Notifier,
    ScheduleStore,
    SchemaStore,
)
from pgq_trio.errors import ConnectionLost, ListenerLost
from pgq_trio.settings import Settings
from pgq_trio.store.backend import StoreBackend
from pgq_trio.testing.calls import Call, CallHook, Hold, LostPart, Script

__all__ = ["UnreliableDriver"]


class UnreliableDriver(Driver):
    """Passes everything on to a real driver until it is told not to.

    Give each worker one of its own on a shared driver, and each has its own connection to lose.

    Args:
        driver: the real one.

    Attributes:
        delay: seconds that each operation takes, half of them before its change is made.
        drops_notifications: whether notifications get lost from now on.
        doubles_notifications: whether each comes twice from now on.
        calls: how often each operation was called, such as "claim".
        before: called at the start of each operation, before its request can be lost; None: not.
        after: called when an operation has made its change, before the reply can be lost, and so
            before the caller knows; None: not. What either raises, the caller of the operation
            gets.
    """

    def __init__(self, driver: Driver) -> None:
        self.delay: float = 0.0
        self.drops_notifications: bool = False
        self.doubles_notifications: bool = False
        self.calls: Counter[str] = Counter()
        self.before: CallHook | None = None
        self.after: CallHook | None = None
        self._driver = driver
        self._cut_until = -math.inf
        self._crashed = False
        self._script = Script()
        self._listening: set[anyio.CancelScope] = set()

    @property
    def is_cut(self) -> bool:
        """Whether there is no connection now."""
        return self._crashed or anyio.current_time() < self._cut_until

    def cut(self, seconds: float = math.inf) -> None:
        """Lose the connection: operations raise `ConnectionLost`, listeners `ListenerLost`.

        Args:
            seconds: for so long on the event loop's clock; `mend` ends it before.
        """
        self._cut_until = anyio.current_time() + seconds
        for scope in self._listening:
            scope.cancel()

    def mend(self) -> None:
        """Have the connection again, unless it has crashed."""
        self._cut_until = -math.inf

    def crash(self) -> None:
        """Lose the connection for ever, as a process does that is killed.

        Cancel the worker after this, not before, so that none of its cleanup reaches the store.
        """
        self._crashed = True
        self.cut()

    def lose(self, operation: str, part: LostPart = "reply", *, times: int = 1) -> None:
        """Lose a part of the next calls of an operation, which raise `ConnectionLost`.

        Args:
            operation: its name in the ports, such as "claim", "finish" or "heartbeat".
            part: "request" or "reply".
            times: how often.

        Raises:
            ValueError: an unknown operation or part, or a number below zero.
        """
        error = ConnectionLost(f"the {part} of {operation!r} was lost on purpose")
        self._script.fail(operation, error, part, times=times)

    def fail(
        self,
        operation: str,
        error: Exception,
        part: LostPart = "request",
        *,
        times: int = 1,
        skip: int = 0,
    ) -> None:
        """Have the next calls of an operation raise an error of the test's choice.

        Args:
            operation: as for `lose`.
            error: what they raise.
            part: "request": instead of changing anything; "reply": after the change.
            times: how often.
            skip: calls that pass before; with 2 it is the third one that fails.

        Raises:
            ValueError: an unknown operation or part, or a number below zero.
        """
        self._script.fail(operation, error, part, times=times, skip=skip)

    def hold(self, operation: str, part: LostPart = "request", *, times: int = 1) -> Hold:
        """Have the next calls of an operation wait until the test releases them, or for ever.

        Args:
            operation: as for `lose`.
            part: "request": before the change; "reply": after it.
            times: how many calls.

        Returns:
            what releases them, and tells how many have come to wait.

        Raises:
            ValueError: an unknown operation or part, or a number below one.
        """
        return self._script.hold(operation, part, times=times)

    def backend(self, settings: Settings) -> Backend:
        """Return the stores of the real driver behind this one's connection."""
        real = self._driver.backend(settings)
        return StoreBackend(
            settings=settings,
            jobs=cast("JobStore", _Behind(self._call, "jobs", real.jobs)),
            schedules=cast("ScheduleStore", _Behind(self._call, "schedules", real.schedules)),
            insights=cast("InsightStore", _Behind(self._call, "insights", real.insights)),
            schema=cast("SchemaStore", _Behind(self._call, "schema", real.schema)),
            notifier=cast("Notifier", _NotifierBehind(self._call, real.notifier, self._listen)),
        )

    def using(self, connection: object) -> Driver:
        """Return the real driver's, on a connection of the caller's."""
        return self._driver.using(connection)

    async def _call(self, call: Call) -> Any:
        await self._ask(call)
        result = await cast("Callable[..., Awaitable[Any]]", call.operation)(
            *call.args, **call.kwargs
        )
        await self._answer(replace(call, result=result))
        return result

    async def _ask(self, call: Call) -> None:
        self.calls[call.name] += 1
        if self.before is not None:
            await self.before(call)
        await self._travel(call.name, "request")

    async def _answer(self, call: Call) -> None:
        if self.after is not None:
            await self.after(call)
        await self._travel(call.name, "reply")

    async def _travel(self, name: str, part: LostPart) -> None:
        if self.delay:
            await anyio.sleep(self.delay / 2)
        else:
            await anyio.lowlevel.checkpoint()
        await self._script.play(name, part)
        if self.is_cut:
            raise ConnectionLost(f"the {part} of {name!r} was lost on purpose")

    @asynccontextmanager
    async def _listen(
        self, listen: Callable[..., AbstractAsyncContextManager[AsyncIterator[str]]], *channels: Any
    ) -> AsyncGenerator[AsyncIterator[str]]:
        call = Call("notifier", "listen", listen, channels, {})
        await self._ask(call)
        async with listen(*channels) as payloads:
            await self._answer(call)
            yield _Payloads(self, payloads)

    async def receive(self, payloads: AsyncIterator[str]) -> str:
        """Return the next notification that is not dropped; raises `ListenerLost` when cut."""
        with anyio.CancelScope() as scope:
            self._listening.add(scope)
            try:
                while not self.is_cut:
                    payload = await payloads.__anext__()
                    if not self.drops_notifications:
                        return payload
            finally:
                self._listening.discard(scope)
        raise ListenerLost("it was cut on purpose")


class _Payloads(AsyncIterator[str]):
    """Notifications behind a connection that can be cut."""

    def __init__(self, driver: UnreliableDriver, payloads: AsyncIterator[str]) -> None:
        self._driver = driver
        self._payloads = payloads
        self._again: str | None = None

    async def __anext__(self) -> str:
        again, self._again = self._again, None
        if again is not None:
            await anyio.lowlevel.checkpoint()
            return again
        payload = await self._driver.receive(self._payloads)
        if self._driver.doubles_notifications:
            self._again = payload
        return payload


class _Behind:
    """A store whose async operations go through the connection."""

    def __init__(self, call: Callable[..., Any], name: str, store: object) -> None:
        self._call = call
        self._name = name
        self._store = store

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._store, name)
        if not inspect.iscoroutinefunction(operation):
            return operation

        async def through(*args: Any, **kwargs: Any) -> Any:
            return await self._call(Call(self._name, name, operation, args, kwargs))

        return through


class _NotifierBehind(_Behind):
    """A notifier whose listeners go through the connection as well."""

    def __init__(
        self, call: Callable[..., Any], notifier: Notifier, listen: Callable[..., Any]
    ) -> None:
        super().__init__(call, "notifier", notifier)
        self._listen = listen
        self._notifier = notifier

    def listen(self, *channels: Any) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Listen until the connection is cut."""
        listening = self._listen(self._notifier.listen, *channels)
        return cast("AbstractAsyncContextManager[AsyncIterator[str]]", listening)
