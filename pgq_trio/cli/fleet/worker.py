"""One place in a fleet: a process, and after its end perhaps the next one; it knows no other."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import anyio
from anyio.abc import Process

from pgq_trio.cli.fleet.lifeline import KILL_MARGIN
from pgq_trio.cli.fleet.restarts import Restarts, describe_end, is_clean, is_hopeless

logger: logging.Logger = logging.getLogger("pgq_trio.cli")


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """How a fleet behaves; all durations are seconds.

    Attributes:
        processes: how many there are.
        restart_limit: how often one that fails again and again is started anew.
        restart_delay: the delay before the first restart; it doubles with each failure.
        grace_period: what running jobs get when a process is asked to end.
        reload: whether processes end and start anew when the code changes; one that has ended by
            itself then waits for the next change.
    """

    processes: int
    restart_limit: int
    restart_delay: float
    grace_period: float
    reload: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """How one process ended; `code` is None when it could not be started."""

    what: str
    code: int | None
    lived: float


class Worker:
    """One place in the fleet.

    Attributes:
        was_killed: whether the last process had to be killed, so that its jobs wait for others.
        failed: whether the last process did not end as it was asked to.
    """

    def __init__(
        self,
        number: int,
        command: Sequence[str],
        lifeline: int,
        options: FleetOptions,
        give_up: Callable[[str], None],
    ) -> None:
        self.was_killed: bool = False
        self.failed: bool = False
        self._name = f"worker {number}"
        self._command = command
        self._lifeline = lifeline
        self._options = options
        self._give_up = give_up
        self._restarts = Restarts(options.restart_limit, options.restart_delay)
        self._process: Process | None = None
        self._stopped = anyio.Event()
        self._reloading = False
        self._asked = anyio.Event()
        self._wake = anyio.Event()

    def stop(self) -> None:
        """Have the process drain, and start no other."""
        self._stopped.set()
        self._ask()

    def reload(self) -> None:
        """Have the process drain, and start another one with the new code."""
        self._reloading = True
        self._ask()

    def cancel_jobs(self) -> None:
        """Have the process cancel the jobs that still run, and end."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self.was_killed = True
            self._signal(signal.SIGKILL)

    def _ask(self) -> None:
        self._asked.set()
        self._wake.set()
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def keep(self) -> None:
        """Keep a process running until it has ended well, or is not to be started again.

        Cancelled, it kills the process.
        """
        while not self._stopped.is_set():
            self._asked = anyio.Event()
            self._wake = anyio.Event()
            self._reloading = False
            end = await self._live()
            if self._stopped.is_set():
                self.failed = not is_clean(end.code)
                logger.info("%s", end.what)
            elif self._reloading:
                logger.info("%s; it starts again with the changed code", end.what)
            elif not await self._again(end):
                return

    async def _again(self, end: _End) -> bool:
        """Wait until another process is due; False when there is none to be."""
        if self._options.reload:
            logger.warning("%s; waiting for the code to change", end.what)
            await self._pause(math.inf)
            return True
        if end.code == 0:
            logger.info("%s", end.what)
            return False
        if is_hopeless(end.code):
            self._give_up(f"{end.what}, which no restart mends; the lines above say why")
            return False
        delay = self._restarts.next(end.lived)
        count, limit = self._restarts.failures, self._options.restart_limit
        if delay is None:
            self._give_up(f"{end.what}: failure {count} in a row, and --restart-limit is {limit}")
            return False
        logger.error("%s; restart %d of %d in %.2f s", end.what, count, limit, delay)
        await self._pause(delay)
        return True

    async def _pause(self, delay: float) -> None:
        with anyio.move_on_after(delay):
            await self._wake.wait()

    async def _live(self) -> _End:
        """Start a process and wait for its end."""
        started = anyio.current_time()
        self.was_killed = False
        try:
            process = await anyio.open_process(
                self._command,
                stdin=None,
                stdout=None,
                stderr=None,
                # Ctrl-C in a terminal reaches the parent alone, which passes it on.
                start_new_session=True,
                pass_fds=(self._lifeline,),
            )
        except OSError as exc:
            return _End(what=f"{self._name} cannot be started: {exc}", code=None, lived=0)
        async with process:
            name = f"{self._name} (pid {process.pid})"
            logger.info("%s started", name)
            self._process = process
            if self._asked.is_set():  # while it started
                self._ask()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._bound, name)
                await process.wait()
                self._process = None
                tasks.cancel_scope.cancel()
        lived = anyio.current_time() - started
        code = await process.wait()  # known by now
        return _End(what=f"{name} {describe_end(code)}", code=code, lived=lived)

    async def _bound(self, name: str) -> None:
        """Kill the process if it does not end in time when it is asked to."""
        await self._asked.wait()
        limit = self._options.grace_period + KILL_MARGIN
        await anyio.sleep(limit)
        logger.error("%s did not end within %g s and is killed", name, limit)
        self.kill()
