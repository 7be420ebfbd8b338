"""What every executor is: derive from these to run jobs or fires in your own way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import anyio

from pgq_trio.executors.parameters import EntrypointExecutorParameters, ScheduleExecutorParameters
from pgq_trio.models import Context, Job, Schedule, ScheduleContext


@dataclass(eq=False)
class AbstractEntrypointExecutor(ABC):
    """Runs the jobs of one entrypoint; derive from it to run them in your own way.

    One executor serves all jobs of its entrypoint in a process, many of them at once.

    Attributes:
        parameters: what was registered.
        limiter: bounds the worker threads of plain `def` handlers. The worker sets its own
            before it runs the first job; with None AnyIO's default of 40 threads holds.
    """

    parameters: EntrypointExecutorParameters
    limiter: anyio.CapacityLimiter | None = field(default=None, init=False, repr=False)

    @abstractmethod
    async def execute(self, job: Job, context: Context) -> None:
        """Run one job.

        Called in the job's own task, within the job's cancel scope: returning means success,
        raising `RetryRequested` another attempt, any other `Exception` a failure. Cancellation
        arrives as the backend's own exception and has to be let through.
        """
        ...


@dataclass(eq=False)
class AbstractScheduleExecutor(ABC):
    """Runs the fires of one schedule; derive from it to run them in your own way.

    Attributes:
        parameters: what was registered.
        limiter: bounds the worker threads of plain `def` handlers; None: AnyIO's default.
    """

    parameters: ScheduleExecutorParameters
    limiter: anyio.CapacityLimiter | None = field(default=None, init=False, repr=False)

    @abstractmethod
    async def execute(self, schedule: Schedule, context: ScheduleContext) -> None:
        """Run one fire, in its own task and cancel scope; an `Exception` is logged as a failure.

        Cancellation arrives as the backend's own exception and has to be let through.
        """
        ...


def is_of_this_package(executor: object) -> bool:
    """Whether an executor calls its handler as this package does; a user's may do as it likes."""
    return type(executor).__module__.rpartition(".")[0] == __package__
