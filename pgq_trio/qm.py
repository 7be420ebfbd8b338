"""`QueueManager`: registering entrypoints and running their jobs, without schedules."""

from __future__ import annotations

from typing import Unpack

import anyio
from anyio.abc import TaskStatus

from pgq_trio.managers import RegistersEntrypoints
from pgq_trio.worker.options import RunArguments, RunOptions

__all__ = ["QueueManager"]


class QueueManager(RegistersEntrypoints):
    """The queue's side of an application."""

    async def run(  # noqa: ASYNC128 - the engine says when it has started
        self,
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
        **options: Unpack[RunArguments],
    ) -> None:
        """Claim and run jobs until told to stop, or until the queue is drained.

        `PgQueuer.run` explains the arguments, what it raises and what cancelling it does.
        """
        checked = RunOptions.check(**options)
        await self._core.run(checked, task_status.started, schedules=False)
