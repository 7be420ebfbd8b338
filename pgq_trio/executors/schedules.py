"""The executor of schedules: an async handler on the event loop, a plain `def` in a thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from pgq_trio.executors.base import AbstractScheduleExecutor, is_of_this_package
from pgq_trio.executors.calling import call_here, call_in_thread
from pgq_trio.model.handlers import check_call, is_async_callable
from pgq_trio.models import Schedule, ScheduleContext


@dataclass(eq=False)
class ScheduleExecutor(AbstractScheduleExecutor):
    """Calls an async handler on the event loop, and a plain `def` in a worker thread.

    Raises:
        RegistrationError: the handler cannot be called with what it would get.
    """

    def __post_init__(self) -> None:
        if is_of_this_package(self):  # a user's subclass may call it in its own way
            arguments = ("schedule", "context")[: 1 + self.parameters.accepts_context]
            check_call(self.parameters.func, "schedule", *arguments)

    @cached_property
    def _is_async(self) -> bool:
        return is_async_callable(self.parameters.func)

    async def execute(self, schedule: Schedule, context: ScheduleContext) -> None:
        """Call the handler with `(schedule)`, or `(schedule, context)` where it accepts one.

        Raises whatever the handler raises, and `TypeError` when it returned a coroutine.
        Cancellation reaches an async handler at its next checkpoint.
        """
        func = cast("Callable[..., object]", self.parameters.func)
        args = (schedule, context) if self.parameters.accepts_context else (schedule,)
        if self._is_async:
            await call_here(func, *args)
        else:
            await call_in_thread(func, *args, limiter=self.limiter)
