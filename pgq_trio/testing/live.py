"""A world of tasks that a synchronous test drives step by step; it knows neither jobs nor stores.

The tasks run on an event loop in a thread of its own. The test and that thread take turns: on the
virtual clock nothing moves between two calls of the test, so a drawn sequence of calls does the
same each time. On the real clock the tasks go on while the test thinks.
"""

from __future__ import annotations

import inspect
import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar, cast, get_args, overload

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from pgq_trio.testing.decisions import Policy, Schedule
from pgq_trio.testing.simulate import simulate
from pgq_trio.testing.simulation import Backend, Deadlock, Threads
from pgq_trio.testing.waiting import place_of

__all__ = ["LiveClock", "LiveTask", "LiveWorld", "live"]

P = ParamSpec("P")
R = TypeVar("R")

#: "virtual" jumps from deadline to deadline and never goes on by itself; "real" is the wall's.
LiveClock: TypeAlias = Literal["virtual", "real"]

#: Seconds of the virtual clock that `settle` takes: time passes only when nothing can run.
MOMENT = 1e-6

#: Seconds that one call of the test may take at most, on each clock.
LIMITS: dict[LiveClock, float] = {"virtual": 3600.0, "real": 60.0}

#: Seconds between two looks of `until`, from the first to all later ones.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.5

_Command: TypeAlias = Callable[[], Awaitable[Any]]


class _Reply:
    """What a call led to; `is_last` when the world has ended with it."""

    def __init__(
        self, value: object = None, error: BaseException | None = None, *, is_last: bool = False
    ) -> None:
        self.value = value
        self.error = error
        self.is_last = is_last


class LiveTask:
    """A task that the test has started; `LiveWorld.start` makes one.

    Attributes:
        name: its name.
        is_running: whether it has not ended yet.
    """

    def __init__(self, world: LiveWorld, name: str, scope: anyio.CancelScope) -> None:
        self.name: str = name
        self.is_running: bool = True
        self._world = world
        self.scope: anyio.CancelScope = scope
        self.ended: anyio.Event = anyio.Event()
        self.awaited: Awaitable[object] | None = None

    def __repr__(self) -> str:
        return f"<LiveTask {self.name!r}, {'running' if self.is_running else 'ended'}>"

    def cancel(self) -> None:
        """Cancel it; it hears of that when tasks run next, as in `settle`."""
        self._world.call(self.scope.cancel)

    async def run(self, function: Callable[[], Awaitable[object]]) -> None:
        """Run the function; what it raises is raised by the test's next call."""
        try:
            with self.scope:
                self.awaited = function()
                await self.awaited
        except Exception as exc:  # noqa: BLE001 - the test gets it
            exc.add_note(f"raised by the task {self.name!r}")
            self._world.failures.append(exc)
        finally:
            self.is_running = False
            self.ended.set()


class LiveWorld:
    """Tasks on an event loop, driven by the test's thread; `live` makes one.

    Each method returns when what it asks for is done, and raises what a task has raised meanwhile.
    """

    def __init__(
        self, run: Callable[[_Command], BaseException | None], clock: LiveClock, limit: float | None
    ) -> None:
        self.failures: deque[BaseException] = deque()
        self._run = run
        self._clock = clock
        self._limit = LIMITS[clock] if limit is None else limit
        self._commands: SimpleQueue[tuple[str, float, _Command] | None] = SimpleQueue()
        self._replies: SimpleQueue[_Reply] = SimpleQueue()
        self._tasks: list[LiveTask] = []
        self._is_over = False
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._main,), name="live world", daemon=True
        )

    @property
    def tasks(self) -> list[LiveTask]:
        """The tasks that the test has started and that have not ended."""
        return [task for task in self._tasks if task.is_running]

    @overload
    def call(self, func: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R: ...

    @overload
    def call(self, func: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...

    def call(self, func: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call a function, async or not, on the event loop, and return what it returns.

        Others run only while it waits. When it has ended, nothing else moves until the next call.

        Raises:
            Deadlock: it has not ended within the world's limit.
            Whatever it raises.
        """

        async def command() -> Any:
            result = func(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return self._do(f"the call of {_name(func)}", command)

    def start(
        self,
        func: Callable[..., Awaitable[object]],
        *args: object,
        name: str | None = None,
        **kwargs: object,
    ) -> LiveTask:
        """Have a task begin with the next step that tasks make, such as in `settle`.

        Args:
            func: an async function.
            *args: its arguments.
            name: of the task; None: the function's.
            **kwargs: the function's. Signals reach the main thread only, so a worker's `run` needs
                `handle_signals=False`.
        """

        def begin() -> LiveTask:
            task = LiveTask(self, name or _name(func), anyio.CancelScope())
            self._tasks.append(task)
            self._group.start_soon(task.run, partial(func, *args, **kwargs), name=task.name)
            return task

        return self.call(begin)

    def enter(self, manager: AbstractAsyncContextManager[R]) -> R:
        """Enter an async context manager and return what it yields.

        It is left at the end of the world, after all tasks have ended, last in first out.
        """
        return cast(
            "R",
            self._do(
                f"entering {_name(type(manager))}",
                lambda: self._entered.enter_async_context(manager),
                math.inf,
            ),
        )

    def settle(self) -> None:
        """Let the tasks run until none can without time passing; a microsecond passes then.

        Raises:
            RuntimeError: the clock is real, where nobody can tell: use `until`.
        """
        if self._clock == "real":
            raise RuntimeError("on the real clock nobody knows when all is quiet: use until(...)")
        self._do("settling", _settle)

    def advance(self, seconds: float) -> None:
        """Let so much time pass, and all that is due meanwhile happen, up to the last of it.

        On the real clock it takes that long, and there may be more to do at its end.

        Raises:
            ValueError: less than no time.
        """
        if seconds < 0:
            raise ValueError(f"time goes forward; got {seconds!r}")

        async def command() -> None:
            await anyio.sleep(seconds)
            if self._clock == "virtual":
                await _settle()

        self._do("advancing", command, self._limit + seconds)

    def until(self, condition: Callable[[], object], *, within: float | None = None) -> None:
        """Let time pass until a condition, a function that may be async, holds.

        Args:
            condition: called now and again, on the event loop.
            within: seconds of the world's clock; None: the world's limit.

        Raises:
            Deadlock: it does not come to hold within that time.
            Whatever it raises.
        """

        async def command() -> None:
            pause = _FIRST_PAUSE
            while True:
                result = condition()
                if await result if inspect.isawaitable(result) else result:
                    return
                await anyio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

        self._do(f"waiting for {_name(condition)}", command, within)

    # ------------------------------------------------------------------ the test's side

    def open(self) -> None:
        """Start the event loop."""
        self._thread.start()
        self._take_reply()

    def close(self) -> None:
        """Cancel all tasks, leave what was entered, and raise what went wrong since the last call.

        A second call does nothing.
        """
        if self._is_over:
            return
        self._commands.put(None)
        try:
            self._take_reply()
        finally:
            if not self._is_over:  # that was of a call that the test was interrupted in
                self._take_reply()

    def _do(self, what: str, command: _Command, limit: float | None = None) -> Any:
        if self._is_over:
            raise RuntimeError("the world has ended: nothing runs in it any more")
        self._commands.put((what, self._limit if limit is None else limit, command))
        return self._take_reply()

    def _take_reply(self) -> Any:
        reply = self._replies.get()
        if reply.is_last:
            self._is_over = True
            self._thread.join()
        errors = [] if reply.error is None else [reply.error]
        while self.failures:
            errors.append(self.failures.popleft())
        if len(errors) > 1:
            raise BaseExceptionGroup("several tasks of the world failed", errors)
        if errors:
            raise errors[0]
        return reply.value

    # ------------------------------------------------------------------ the loop's side

    def _main(self) -> None:
        try:
            error = self._run(self._serve)
        except BaseException as exc:  # noqa: ASYNC103, BLE001 - the test gets it
            error = exc
        self._replies.put(_Reply(error=error, is_last=True))

    async def _serve(self) -> None:
        # What is entered may hold scopes of its own, so it is inside of the group of the tasks.
        async with (
            anyio.create_task_group() as self._group,
            AsyncExitStack() as self._entered,
        ):
            self._replies.put(_Reply())
            while (command := await self._next()) is not None:
                self._replies.put(await self._answer(*command))
            for task in self.tasks:
                task.scope.cancel()
            for task in self.tasks:
                await task.ended.wait()

    _entered: AsyncExitStack
    _group: TaskGroup

    async def _next(self) -> tuple[str, float, _Command] | None:
        if self._clock == "virtual":
            return self._commands.get()  # the loop stands still, and its clock with it
        return await anyio.to_thread.run_sync(self._commands.get, abandon_on_cancel=True)

    async def _answer(self, what: str, limit: float, command: _Command) -> _Reply:
        if limit == math.inf:  # around what is entered to stay there can be no scope that ends now
            return await _attempt(command)
        with anyio.move_on_after(limit):
            return await _attempt(command)
        names = ", ".join(f"{x.name} at {place_of(x.awaited)}" for x in self.tasks) or "none"
        return _Reply(
            error=Deadlock(f"{what} did not end within {limit:g} s; tasks that still run: {names}")
        )


async def _attempt(command: _Command) -> _Reply:
    try:
        return _Reply(await command())
    except Exception as exc:  # noqa: BLE001 - the test gets it
        return _Reply(error=exc)


async def _settle() -> None:
    # The clock moves when nothing can run. Who wakes at the same time as this task runs then, too.
    for _ in range(2):
        await anyio.sleep(MOMENT / 2)


@contextmanager
def live(
    backend: Backend = "trio",
    *,
    clock: LiveClock = "virtual",
    schedule: Schedule = (),
    policy: Policy = "stay",
    threads: Threads = "refuse",
    limit: float | None = None,
    max_steps: int = 1_000_000,
) -> Generator[LiveWorld]:
    """Run tasks that a synchronous test, such as a `RuleBasedStateMachine`, drives step by step.

    Args:
        backend: "trio" or "asyncio".
        clock: "virtual" in memory; "real" where real I/O is done, as with PostgreSQL.
        schedule: which task goes next, see `simulate`; on the virtual clock only.
        policy: who goes when the schedule says nothing.
        threads: see `simulate`; on the real clock there are threads.
        limit: seconds of the clock that one call may take; None: an hour if it is virtual, a
            minute if it is real.
        max_steps: more than that on the virtual clock is a `Livelock`, which ends the world.

    Leaving it cancels all tasks and closes what was entered. It raises what a task has raised since
    the last call, unless the block raises.

    Raises:
        ValueError: an argument that cannot be.
        RuntimeError: it is used on an event loop: tests that drive a world are no coroutines.
    """
    if clock not in get_args(LiveClock):
        raise ValueError(f"clock is 'virtual' or 'real', got {clock!r}")
    if clock == "real" and schedule:
        raise ValueError("a schedule orders tasks on the virtual clock only")
    _refuse_event_loop()

    def run_virtually(serve: _Command) -> BaseException | None:
        return simulate(
            serve,
            backend=backend,
            schedule=schedule,
            policy=policy,
            threads=threads,
            max_steps=max_steps,
        ).error

    def run_really(serve: _Command) -> None:
        anyio.run(serve, backend=backend)

    world = LiveWorld(run_virtually if clock == "virtual" else run_really, clock, limit)
    world.open()
    try:
        yield world
    except BaseException as exc:
        try:
            world.close()
        except Exception as error:  # noqa: BLE001 - what the block raises counts
            exc.add_note(f"Ending the world failed as well: {error!r}")
        raise
    world.close()


def _refuse_event_loop() -> None:
    try:
        anyio.current_time()
    except RuntimeError:
        return
    raise RuntimeError("a live world is driven by a synchronous test: this is an event loop")


def _name(func: object) -> str:
    return getattr(func, "__qualname__", None) or type(func).__qualname__
