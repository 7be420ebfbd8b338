"""The executor of CPU work: a plain `def` handler in a worker process that can be killed.

The process belongs to AnyIO's pool of the event loop: it is started when it is needed, serves one
job after another, and ends with the program.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import cast

import anyio
import anyio.lowlevel
import anyio.to_process

from pgq_trio.errors import RegistrationError, WorkerProcessDied
from pgq_trio.executors import child
from pgq_trio.executors.base import AbstractEntrypointExecutor
from pgq_trio.executors.checks import check_count
from pgq_trio.model.handlers import (
    check_call,
    describe,
    is_async_callable,
    why_unknown_elsewhere,
)
from pgq_trio.models import Context, Job

#: Seconds for a new process to import the program's modules, and for an idle one, to answer; one
#: that does not is killed. Out of reach of cancellation until then, since AnyIO loses a process
#: whose start is cancelled.
START_LIMIT = 30.0

#: So many are tried: a Ctrl-C in the terminal may hit a process that is just starting, and an idle
#: one may have been stopped.
STARTS = 2

_start_lock: anyio.lowlevel.RunVar[anyio.Lock] = anyio.lowlevel.RunVar("pgq_trio process start")


@dataclass(eq=False)
class ProcessExecutor(AbstractEntrypointExecutor):
    """Calls a plain `def` handler with `(job)` in a worker process.

    For work that computes: a thread of it would hold up the event loop, and no thread can be
    stopped. Cancelled, timed out or interrupted by a shutdown, the process is killed. If it dies
    by itself, that is a `WorkerProcessDied` of this job, and the next job gets another process.

    The handler is found by its name in the other process, which imports its module and the main
    module; guard what must not run there by `if __name__ == "__main__":`. It gets a copy of the
    job and no context, since resources live here. What it returns is dropped, and what it prints
    goes nowhere. An exception comes back with its type, its text and the traceback over there as
    its `__cause__`; one that cannot be pickled as a `RuntimeError` that says what it was.

    A job that waits for a process counts as running, but its timeout begins when it has one.

    Attributes:
        max_workers: how many of its jobs run at once in this program. None: as many as there are
            CPUs, a bound that all such executors and other users of `anyio.to_process` share.

    Raises:
        RegistrationError: another process could not find or call the handler; the message says
            why.
    """

    max_workers: int | None = None
    _own_limiter: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.max_workers is not None:
            check_count("max_workers", self.max_workers, 1)
        self._own_limiter = anyio.lowlevel.RunVar("pgq_trio process limiter")
        func = self.parameters.func
        if self.parameters.accepts_context:
            raise RegistrationError(
                f"the handler {describe(func)} takes a context, which cannot be sent to a worker "
                "process: resources live in this one. Take only the job, and open there what the "
                "work needs."
            )
        if is_async_callable(func):
            raise RegistrationError(
                f"the handler {describe(func)} is async, and a worker process has no event loop: "
                "make it a plain `def`, or leave out executor_factory=ProcessExecutor"
            )
        check_call(func, "entrypoint", "job")
        if (why := why_unknown_elsewhere(func)) is not None:
            raise RegistrationError(
                f"the handler {describe(func)} cannot be sent to a worker process: {why}. "
                "Register a `def` at the top level of a module."
            )

    async def execute(self, job: Job, context: Context) -> None:
        """Run one job in a process of the pool.

        Raises what the handler raised, and `WorkerProcessDied` when its process could not start
        or died. Cancelled, it kills the process.
        """
        call = self._pickled(job)
        scope = context.cancellation
        timeout = self.parameters.timeout_seconds

        def set_timeout(seconds: float) -> None:
            if timeout is not None and isinstance(scope, anyio.CancelScope):
                scope.deadline = anyio.current_time() + seconds

        set_timeout(math.inf)
        async with self._limiter():
            reply = await _run(
                call,
                name=describe(self.parameters.func),
                on_ready=lambda: set_timeout(timeout or math.inf),
            )
        if reply is not None:
            raise child.error_of(reply)

    @cached_property
    def _handler(self) -> bytes:
        return pickle.dumps(self.parameters.func, pickle.HIGHEST_PROTOCOL)

    def _pickled(self, job: Job) -> tuple[bytes, bytes]:
        try:
            return self._handler, pickle.dumps(job, pickle.HIGHEST_PROTOCOL)
        except Exception as exc:
            raise RuntimeError(
                f"the handler {describe(self.parameters.func)} cannot be sent to a worker "
                f"process: {exc}. Register a `def` at the top level of a module."
            ) from exc

    def _limiter(self) -> anyio.CapacityLimiter:
        if self.max_workers is None:
            return anyio.to_process.current_default_process_limiter()
        limiter = self._own_limiter.get(None)
        if limiter is None:
            # Of this event loop: an executor may outlive one.
            limiter = anyio.CapacityLimiter(self.max_workers)
            self._own_limiter.set(limiter)
        return limiter


class _Unlimited:
    """Stands where AnyIO takes a limiter, right before it takes a process from the pool.

    The limiter is held already, and a checkpoint here would let others take the process that has
    just been made ready.
    """

    async def __aenter__(self) -> None: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


async def _run(
    call: tuple[bytes, bytes], *, name: str, on_ready: Callable[[], None]
) -> child.Reply | None:
    await _have_process(name)
    on_ready()
    try:
        return await anyio.to_process.run_sync(
            child.run, *call, cancellable=True, limiter=cast("anyio.CapacityLimiter", _Unlimited())
        )
    except anyio.BrokenWorkerProcess as exc:
        raise WorkerProcessDied(
            f"the worker process that ran the handler {name} died: it was killed (out of memory?), "
            "or the handler ended it"
        ) from exc


async def _have_process(name: str) -> None:
    """Have a process idle in the pool that is ready to run a handler.

    Whoever calls this has it to themselves until their next checkpoint: there is none between
    AnyIO's putting it into the pool and the return.
    """
    problem: BaseException | None = None
    for _ in range(STARTS):
        try:
            async with _one_at_a_time():
                with anyio.move_on_after(START_LIMIT, shield=True):
                    # Cancellable, or AnyIO would wait for an answer for ever, the limit or not.
                    await anyio.to_process.run_sync(
                        child.prepare, cancellable=True, limiter=anyio.CapacityLimiter(math.inf)
                    )
                    return
        except anyio.BrokenWorkerProcess as exc:
            problem = exc.__cause__ or exc
    raise WorkerProcessDied(
        f"no worker process could be started for the handler {name}: "
        + (f"no answer within {START_LIMIT:g} s" if problem is None else repr(problem))
        + '. It imports the main module: what runs there belongs under `if __name__ == "__main__":`'
    ) from problem


def _one_at_a_time() -> anyio.Lock:
    """Return the lock under which processes start: many at once would take each other's time.

    The pool may have as many as the machine has CPUs, of which a container gets few.
    """
    lock = _start_lock.get(None)
    if lock is None:
        lock = anyio.Lock()
        _start_lock.set(lock)
    return lock
