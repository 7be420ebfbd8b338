"""A driver whose connection a test can cut, slow down or stop for good; it runs no jobs.

Each operation of a store is a request, one atomic change and a reply. What can go wrong with it is
that the request is lost, that the reply is lost after the change was made, and that either takes
time; all of that can be asked for here, for any driver.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal, TypeAlias, cast, get_args

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

__all__ = ["LostPart", "UnreliableDriver"]

#: What of an operation is lost: its request, so that nothing happens, or the reply to what did.
LostPart: TypeAlias = Literal["request", "reply"]


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
    """

    def __init__(self, driver: Driver) -> None:
        self.delay: float = 0.0
        self.drops_notifications: bool = False
        self.doubles_notifications: bool = False
        self.calls: Counter[str] = Counter()
        self._driver = driver
        self._cut_until = -math.inf
        self._crashed = False
        self._lost: dict[tuple[str, LostPart], int] = {}
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
            ValueError: an unknown part.
        """
        if part not in get_args(LostPart):
            raise ValueError(f"part is 'request' or 'reply', got {part!r}")
        self._lost[operation, part] = self._lost.get((operation, part), 0) + times

    def backend(self, settings: Settings) -> Backend:
        """Return the stores of the real driver behind this one's connection."""
        real = self._driver.backend(settings)
        return StoreBackend(
            settings=settings,
            jobs=cast("JobStore", _Behind(self._call, real.jobs)),
            schedules=cast("ScheduleStore", _Behind(self._call, real.schedules)),
            insights=cast("InsightStore", _Behind(self._call, real.insights)),
            schema=cast("SchemaStore", _Behind(self._call, real.schema)),
            notifier=cast("Notifier", _NotifierBehind(self._call, real.notifier, self._listen)),
        )

    def using(self, connection: object) -> Driver:
        """Return the real driver's, on a connection of the caller's."""
        return self._driver.using(connection)

    async def _call(self, name: str, operation: Callable[..., Any], *args: Any, **kw: Any) -> Any:
        self.calls[name] += 1
        await self._travel(name, "request")
        result = await operation(*args, **kw)
        await self._travel(name, "reply")
        return result

    async def _travel(self, name: str, part: LostPart) -> None:
        if self.delay:
            await anyio.sleep(self.delay / 2)
        else:
            await anyio.lowlevel.checkpoint()
        left = self._lost.get((name, part), 0)
        if left:
            self._lost[name, part] = left - 1
        if left or self.is_cut:
            raise ConnectionLost(f"the {part} of {name!r} was lost on purpose")

    @asynccontextmanager
    async def _listen(
        self, listening: AbstractAsyncContextManager[AsyncIterator[str]]
    ) -> AsyncGenerator[AsyncIterator[str]]:
        await self._travel("listen", "request")
        async with listening as payloads:
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

    def __init__(self, call: Callable[..., Any], store: object) -> None:
        self._call = call
        self._store = store

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._store, name)
        if not inspect.iscoroutinefunction(operation):
            return operation

        async def through(*args: Any, **kwargs: Any) -> Any:
            return await self._call(name, operation, *args, **kwargs)

        return through


class _NotifierBehind(_Behind):
    """A notifier whose listeners go through the connection as well."""

    def __init__(
        self, call: Callable[..., Any], notifier: Notifier, listen: Callable[..., Any]
    ) -> None:
        super().__init__(call, notifier)
        self._listen = listen
        self._notifier = notifier

    def listen(self, *channels: Any) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Listen until the connection is cut."""
        listening = self._notifier.listen(*channels)
        return cast("AbstractAsyncContextManager[AsyncIterator[str]]", self._listen(listening))
