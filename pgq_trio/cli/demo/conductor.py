"""Runs the demo's worker and gives it work, until all is done or a signal comes."""

from __future__ import annotations

from datetime import datetime
from typing import cast

import anyio
import anyio.lowlevel
import anyio.to_thread

from pgq_trio.app import PgQueuer
from pgq_trio.cli.demo.files import independent_count
from pgq_trio.cli.demo.handlers import Luck, register
from pgq_trio.cli.demo.names import ADD, FILE, PROBE, Options
from pgq_trio.cli.demo.producer import Producer
from pgq_trio.cli.demo.report import speed_table, totals_table
from pgq_trio.cli.demo.screen import Screen
from pgq_trio.cli.demo.totals import Session, Totals
from pgq_trio.cli.demo.watch import Watch

#: Hashing is work for the processor: more threads than this only stand in each other's way.
MAX_CONCURRENT_JOBS = 16

#: How long the jobs of a demo that was killed have to wait for the next run, in seconds.
HEARTBEAT_TIMEOUT = 5.0

#: How often an idle worker looks whether there are such jobs, in seconds.
DEQUEUE_TIMEOUT = 1.0

#: Single jobs that measure how fast an idle worker starts one.
PROBES = 50

#: The longest time between two looks at what is left, in seconds.
LOOK = 0.5


class Conductor:
    """One run of the worker.

    Args:
        pgq: the open application; the demo's handlers are registered with it.
    """

    def __init__(
        self, pgq: PgQueuer, options: Options, screen: Screen, watch: Watch, totals: Totals
    ) -> None:
        self._pgq = pgq
        self._options = options
        self._screen = screen
        self._watch = watch
        self._totals = totals
        self._producer = Producer(options, pgq.queries, totals)
        self._working = anyio.CancelScope()
        self._stopping = False
        self._began = 0.0
        self._seconds = 0.0
        self._probes: dict[bytes, anyio.Event] = {}
        self._probed: list[float] = []
        register(pgq, screen, Luck(options.fail_rate), self._probes)

    def on_signal(self) -> None:
        """Drain at the first signal, cancel at the second."""
        running = len(self._watch.running)
        if self._stopping:
            self._screen.say(f"cancelling: {running:,} running jobs go back to the queue")
            self._pgq.request_shutdown(0)
            return
        self._stopping = True
        self._screen.say(f"draining: {running:,} running jobs may end; Ctrl-C cancels them")
        self._working.cancel()
        self._pgq.request_shutdown()

    async def run(self) -> None:
        """Run until everything is done and measured, or until stopped."""
        left = await self._jobs_left()
        if left or len(self._totals):
            self._screen.say(f"going on where the last run was stopped: {left:,} jobs left")
        self._watch.begin(await self._server_now())
        with self._screen:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._screen.keep_drawing)
                tasks.start_soon(self._give_work)
                await self._pgq.run(
                    max_concurrent_jobs=MAX_CONCURRENT_JOBS,
                    heartbeat_timeout=HEARTBEAT_TIMEOUT,
                    dequeue_timeout=DEQUEUE_TIMEOUT,
                    handle_signals=False,
                )
                tasks.cancel_scope.cancel()

    async def report(self) -> bool:
        """Show what came of it; returns whether that is what should have."""
        if self._missing:
            self._screen.say(
                f"stopped: {await self._jobs_left():,} jobs left; run the command again to finish"
            )
            return True
        independent = await anyio.to_thread.run_sync(
            independent_count, self._options.root, self._options.jobs, abandon_on_cancel=True
        )
        shared = self._totals.sums_over(self._producer.planned)
        self._totals.finished = equal = shared == independent
        self._screen.show(
            speed_table(self._watch, self._seconds, self._probed),
            totals_table(shared, independent),
        )
        return equal

    @property
    def _missing(self) -> bool:
        """Whether a signal came before everything was done."""
        return self._stopping and bool(self._totals.missing or not self._producer.complete)

    async def _give_work(self) -> None:
        self._began = anyio.current_time()
        with self._working:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._producer.run)
                await self._all_done()
            await self._probe()
        self._pgq.request_shutdown()

    async def _all_done(self) -> None:
        """Return when no job is left, whatever became of them."""
        while True:
            self._watch.changed.clear()
            complete = self._producer.complete  # as it was before the look at the queue
            self._progress()
            if self._totals.missing or not complete:
                # A job that ended without success leaves its file missing: look all the same.
                with anyio.move_on_after(LOOK) as scope:
                    await self._watch.changed.wait()
                if not scope.cancelled_caught or not complete:
                    continue
            if not await self._jobs_left():
                return
            await self._watch.changed.wait(LOOK)

    def _progress(self) -> None:
        planned, missing = len(self._producer.planned), len(self._totals.missing)
        if missing or not self._producer.complete or not self._seconds:
            self._seconds = max(anyio.current_time() - self._began, 1e-6)
        jobs = self._watch.ended[FILE] + self._watch.ended[ADD]
        total = planned if self._producer.complete else None
        self._screen.progress(planned - missing, total, jobs / self._seconds)

    async def _probe(self) -> None:
        await anyio.lowlevel.checkpoint()
        for number in range(PROBES):
            payload = b"%d" % number
            self._probes[payload] = started = anyio.Event()
            began = anyio.current_time()
            await self._pgq.queries.enqueue(PROBE, payload)
            await started.wait()
            self._probed.append(anyio.current_time() - began)

    async def _jobs_left(self) -> int:
        rows = await self._pgq.queries.queue_size()
        return sum([row.count for row in rows])

    async def _server_now(self) -> datetime:
        session = cast("Session", self._pgq.resources["database"])
        rows = await session.execute("SELECT clock_timestamp()")
        row = await rows.fetchone()
        return cast("tuple[datetime]", row)[0]
