"""One worker process: it opens an application and runs it to its end, alone or in a fleet."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from pgq_trio.cli.database import embedded_beside
from pgq_trio.cli.factories import Application, Factory, load_factory, open_application
from pgq_trio.cli.fleet.child import Progress, cancels_jobs, telling_the_parent
from pgq_trio.cli.fleet.lifeline import hold
from pgq_trio.cli.place import Place
from pgq_trio.cli.runtime import Backend, Interrupts, execute
from pgq_trio.worker.options import RunArguments, RunOptions

logger: logging.Logger = logging.getLogger("pgq_trio.cli")


class Process:
    """What this process runs, and how.

    Args:
        factory: `module:factory`.
        arguments: for the factory.
        options: of `run`, checked already.
        in_fleet: whether a parent owns this process.
    """

    def __init__(
        self, factory: str, arguments: Sequence[str], options: RunArguments, *, in_fleet: bool
    ) -> None:
        self._name = factory
        self._arguments = arguments
        self._options = options
        self._in_fleet = in_fleet
        self._progress = Progress()

    def run(self, place: Place, backend: Backend) -> None:
        """Import the factory, open what it makes, and run it until it has ended."""
        telling = telling_the_parent(self._progress) if self._in_fleet else nullcontext()
        beside: AbstractContextManager[str | None] = (
            embedded_beside(place.directory, backend) if place.is_embedded else nullcontext()
        )
        with telling, beside as dsn, place.in_environment(dsn):
            place.settings()
            made = load_factory(self._name, self._arguments)

            async def command(interrupts: Interrupts) -> None:
                await self._run(made, interrupts)

            execute(command, backend=backend)

    def hold(self, lifeline: int) -> None:
        """Have this process drain when its parent is gone."""
        hold(lifeline, RunOptions.check(**self._options).grace_period)

    async def _run(self, factory: Factory, interrupts: Interrupts) -> None:
        async with open_application(self._name, factory) as application:
            shutdown = _Shutdown(application, interrupts, in_fleet=self._in_fleet)
            self._progress.runs = True
            with interrupts.taken_by(shutdown):
                logger.info("%s runs", self._name)
                await application.run(**self._options)
        logger.info("%s has ended", self._name)


class _Shutdown:
    """What a signal does while the application is open: drain, then cancel."""

    def __init__(self, application: Application, interrupts: Interrupts, *, in_fleet: bool) -> None:
        self._application = application
        self._interrupts = interrupts
        self._in_fleet = in_fleet
        self._asked = False

    def __call__(self) -> None:
        number = self._interrupts.signal or signal.SIGTERM
        if cancels_jobs(number, again=self._asked, in_fleet=self._in_fleet):
            logger.info("asked to stop now: cancelling the jobs that run")
            self._application.request_shutdown(0)
        elif not self._asked:
            hint = "" if self._in_fleet else "; once more cancels them"
            logger.info("asked to stop: running jobs may end%s", hint)
            self._application.request_shutdown()
        self._asked = True
