"""`SchedulerManager`: registering schedules and firing them, without a queue."""

from __future__ import annotations

from typing import Unpack

import anyio
from anyio.abc import TaskStatus

from pgq_trio.managers import RegistersSchedules
from pgq_trio.worker.options import RunArguments, RunOptions

__all__ = ["SchedulerManager"]


class SchedulerManager(RegistersSchedules):
    """The scheduler's side of an application."""

    async def run(  # noqa: ASYNC128 - the engine says when it has started
        self,
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
        **options: Unpack[RunArguments],
    ) -> None:
        """Fire schedules until told to stop.

        `PgQueuer.run` explains the arguments, what it raises and what cancelling it does.
        """
        checked = RunOptions.check(**options)
        await self._core.run(checked, task_status.started, entrypoints=False)
