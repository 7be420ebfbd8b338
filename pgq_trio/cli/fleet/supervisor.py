"""The parent of a fleet: one task for each process, and what signals mean to all of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import anyio

from pgq_trio.cli.fleet.lifeline import open_lifeline
from pgq_trio.cli.fleet.reload import watch
from pgq_trio.cli.fleet.worker import FleetOptions, Worker
from pgq_trio.cli.program import Failure

logger: logging.Logger = logging.getLogger("pgq_trio.cli")

#: Stands for the lifeline's file descriptor in the command of a process.
LIFELINE = "{lifeline}"


class Fleet:
    """Processes with the same command, owned by the task that runs the fleet.

    Args:
        command: program and arguments of each process; `LIFELINE` among them is replaced.
        options: how the fleet behaves.
        directories: whose Python files are watched, with `options.reload`.
    """

    def __init__(
        self, command: Sequence[str], options: FleetOptions, directories: Sequence[Path] = ()
    ) -> None:
        self._command = command
        self._options = options
        self._directories = directories
        self._workers: list[Worker] = []
        self._signals = 0
        self._failure: str | None = None

    async def run(self) -> None:
        """Start the processes and wait until all have ended for good.

        Raises:
            Failure: one failed too often, or did not end in time when it was asked to.

        Cancelled, it kills the processes; `on_signal` is the way to stop it.
        """
        with open_lifeline() as lifeline:
            command = [str(lifeline) if part == LIFELINE else part for part in self._command]
            self._workers = [
                Worker(number, command, lifeline, self._options, self._give_up)
                for number in range(1, self._options.processes + 1)
            ]
            async with anyio.create_task_group() as watchers:
                if self._options.reload:
                    await watchers.start(watch, self._directories, self._reload)
                async with anyio.create_task_group() as tasks:
                    for worker in self._workers:
                        tasks.start_soon(worker.keep)
                watchers.cancel_scope.cancel()
        self._judge()

    def on_signal(self) -> None:
        """Answer a signal: drain, then cancel the jobs that still run, then kill."""
        self._signals += 1
        if self._signals == 1:
            logger.info("asked to stop: running jobs may end; once more cancels them")
            self._stop()
        elif self._signals == 2:
            logger.info("asked again to stop: cancelling the jobs that run; once more kills")
            for worker in self._workers:
                worker.cancel_jobs()
        else:
            logger.info("asked to stop for the third time: killing what still runs")
            for worker in self._workers:
                worker.kill()

    def _stop(self) -> None:
        for worker in self._workers:
            worker.stop()

    def _reload(self, changed: Sequence[Path]) -> None:
        if self._signals:
            return
        names = ", ".join(map(str, changed[:3])) + (", ..." if len(changed) > 3 else "")
        logger.info("%s changed: every worker starts again", names)
        for worker in self._workers:
            worker.reload()

    def _give_up(self, reason: str) -> None:
        if self._failure is None:
            self._failure = reason
            logger.error("%s; the fleet stops", reason)
            self._stop()

    def _judge(self) -> None:
        if self._failure is not None:
            raise Failure(self._failure)
        late = sum(worker.was_killed for worker in self._workers)
        failed = sum(worker.failed and not worker.was_killed for worker in self._workers)
        if late:
            raise Failure(
                f"{late} of {len(self._workers)} processes had to be killed; other workers take "
                "over their jobs when the leases expire"
            )
        if failed:
            raise Failure(f"{failed} of {len(self._workers)} processes failed while they stopped")
