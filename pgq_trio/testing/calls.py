"""What a test wants to happen at which call of a store's operation; it knows the ports only."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, TypeAlias, get_args

import anyio
import anyio.lowlevel

from pgq_trio.abc import InsightStore, JobStore, Notifier, ScheduleStore, SchemaStore

__all__ = ["Call", "CallHook", "Hold", "LostPart", "Script"]

#: What can be asked for: the async operations of the ports, and LISTEN.
OPERATIONS: frozenset[str] = frozenset(
    name
    for port in (JobStore, ScheduleStore, InsightStore, SchemaStore, Notifier)
    for name, member in vars(port).items()
    if not name.startswith("_") and inspect.iscoroutinefunction(member)
) | {"listen"}

#: What of an operation is lost: its request, so that nothing happens, or the reply to what did.
LostPart: TypeAlias = Literal["request", "reply"]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operation of a store.

    Attributes:
        store: "jobs", "schedules", "insights", "schema" or "notifier".
        name: the operation's name in the ports, such as "claim".
        operation: what is called.
        args, kwargs: what it was given; `arguments` names them.
        result: what it returned, once it has.
    """

    store: str
    name: str
    operation: Callable[..., object]
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    result: object = None

    @property
    def arguments(self) -> Mapping[str, object]:
        """What the operation was given, by the names of its parameters."""
        return inspect.signature(self.operation).bind(*self.args, **self.kwargs).arguments


#: An async function that is called before or after an operation; what it raises, the caller gets.
CallHook: TypeAlias = Callable[[Call], Awaitable[object]]


class Hold:
    """Calls of an operation that wait, before their change or with the reply to it.

    Attributes:
        arrived: how many calls have come to wait so far.
    """

    def __init__(self, times: int) -> None:
        self.arrived: int = 0
        self._left = times
        self._released = anyio.Event()
        self._arrival = anyio.Event()

    def release(self) -> None:
        """Let those that wait go on, and hold no other."""
        self._left = 0
        self._released.set()

    async def until_arrived(self, count: int = 1) -> None:
        """Wait until so many calls have come to wait; it is for the caller to limit that."""
        await anyio.lowlevel.checkpoint()
        while self.arrived < count:
            await self._arrival.wait()

    async def pass_through(self) -> bool:
        """Wait to be released, if this call is to be held; return whether it was."""
        if not self._left:
            return False
        self._left -= 1
        self.arrived += 1
        arrival, self._arrival = self._arrival, anyio.Event()
        arrival.set()
        await self._released.wait()
        return True


class Script:
    """What happens to the next calls of each operation, in the order in which it was asked for."""

    def __init__(self) -> None:
        self._errors: dict[tuple[str, LostPart], deque[Exception | None]] = {}
        self._holds: dict[tuple[str, LostPart], list[Hold]] = {}

    def fail(
        self, name: str, error: Exception, part: LostPart, *, times: int, skip: int = 0
    ) -> None:
        """Have calls raise an error, after some that do not.

        Raises:
            ValueError: an unknown operation or part, or a number below zero.
        """
        if times < 0 or skip < 0:
            raise ValueError(f"times and skip are numbers from 0 on, got {times} and {skip}")
        errors = self._errors.setdefault(_known(name, part), deque())
        errors.extend([None] * skip + [error] * times)

    def hold(self, name: str, part: LostPart, *, times: int) -> Hold:
        """Have calls wait.

        Raises:
            ValueError: an unknown operation or part, or a number below one.
        """
        if times < 1:
            raise ValueError(f"times is a number from 1 on, got {times}")
        hold = Hold(times)
        self._holds.setdefault(_known(name, part), []).append(hold)
        return hold

    async def play(self, name: str, part: LostPart) -> None:
        """Do to one call what was asked for."""
        for hold in self._holds.get((name, part), ()):
            if await hold.pass_through():
                break
        errors = self._errors.get((name, part))
        if errors and (error := errors.popleft()) is not None:
            # Raised again and again, it would have the traceback of all times.
            raise error.with_traceback(None)


def _known(name: str, part: LostPart) -> tuple[str, LostPart]:
    if part not in get_args(LostPart):
        raise ValueError(f"part is 'request' or 'reply', got {part!r}")
    if name not in OPERATIONS:
        near = get_close_matches(name, OPERATIONS, n=1)
        raise ValueError(
            f"no store has an operation {name!r}"
            + (f"; did you mean {near[0]!r}?" if near else f": {', '.join(sorted(OPERATIONS))}")
        )
    return name, part
