"""How handlers are called: on the event loop, in a thread, in a process; knows no queue, no store.

A handler is an `async def`, a plain `def`, a partial, a bound method or any callable object.
"""

from pgq_trio.executors.base import AbstractEntrypointExecutor, AbstractScheduleExecutor
from pgq_trio.executors.entrypoints import EntrypointExecutor
from pgq_trio.executors.parameters import (
    Entrypoint,
    EntrypointExecutorParameters,
    ScheduleCrontab,
    ScheduleExecutorFactoryParameters,
    ScheduleExecutorParameters,
)
from pgq_trio.executors.processes import ProcessExecutor
from pgq_trio.executors.retrying import DatabaseRetryEntrypointExecutor
from pgq_trio.executors.schedules import ScheduleExecutor
from pgq_trio.model.handlers import is_async_callable, wants_context

__all__ = [
    "AbstractEntrypointExecutor",
    "AbstractScheduleExecutor",
    "DatabaseRetryEntrypointExecutor",
    "Entrypoint",
    "EntrypointExecutor",
    "EntrypointExecutorParameters",
    "ProcessExecutor",
    "ScheduleCrontab",
    "ScheduleExecutor",
    "ScheduleExecutorFactoryParameters",
    "ScheduleExecutorParameters",
    "is_async_callable",
    "wants_context",
]
