"""The executor of jobs: an async handler on the event loop, a plain `def` in a worker thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from pgq_trio.executors.base import AbstractEntrypointExecutor, is_of_this_package
from pgq_trio.executors.calling import call_here, call_in_thread
from pgq_trio.model.handlers import check_call, is_async_callable
from pgq_trio.models import Context, Job


@dataclass(eq=False)
class EntrypointExecutor(AbstractEntrypointExecutor):
    """Calls an async handler on the event loop, and a plain `def` in a worker thread.

    In the thread `anyio.from_thread.run(async_fn, ...)` reaches async resources and
    `anyio.from_thread.check_cancelled()` raises once the job is cancelled. A thread cannot be
    stopped from outside, so a cancelled job ends when its handler returns.

    Raises:
        RegistrationError: the handler cannot be called with what it would get.
    """

    def __post_init__(self) -> None:
        if is_of_this_package(self):  # a user's subclass may call it in its own way
            arguments = ("job", "context")[: 1 + self.parameters.accepts_context]
            check_call(self.parameters.func, "entrypoint", *arguments)

    @cached_property
    def _is_async(self) -> bool:
        return is_async_callable(self.parameters.func)

    async def execute(self, job: Job, context: Context) -> None:
        """Call the handler with `(job)`, or with `(job, context)` where it accepts a context.

        Raises whatever the handler raises, and `TypeError` when it returned a coroutine.
        Cancellation reaches an async handler at its next checkpoint.
        """
        func = cast("Callable[..., object]", self.parameters.func)
        args = (job, context) if self.parameters.accepts_context else (job,)
        if self._is_async:
            await call_here(func, *args)
        else:
            await call_in_thread(func, *args, limiter=self.limiter)
