"""The demo's handlers: what a program on this package looks like; they count nothing else."""

from __future__ import annotations

import os
import random
from functools import partial

import anyio
import anyio.from_thread
import anyio.lowlevel

from pgq_trio.app import PgQueuer
from pgq_trio.cli.demo.files import FileResult, examine, key_of
from pgq_trio.cli.demo.names import ADD, FILE, PROBE
from pgq_trio.cli.demo.producer import dedupe_key
from pgq_trio.cli.demo.screen import Screen
from pgq_trio.cli.demo.totals import Totals
from pgq_trio.errors import RetryRequested
from pgq_trio.model.retry import Exponential
from pgq_trio.models import Context, Job, Schedule, ScheduleContext

#: So often a job is made to fail at the most: the last allowed attempt always succeeds.
MAX_FAULTS = 4

#: Results run before further files, so that few of them are on their way at any time.
ADD_PRIORITY = 10


class BadLuck(Exception):  # noqa: N818
    """A failure the demo was asked for with --fail-rate."""


class Luck:
    """Decides at random which runs fail; the same runs in each demo."""

    def __init__(self, fail_rate: float) -> None:
        self._fail_rate = fail_rate

    def fails(self, job: Job) -> bool:
        """Whether this run of the job is to fail."""
        if job.attempts >= MAX_FAULTS:
            return False
        draw = random.Random(f"{job.dedupe_key} {job.attempts}").random()  # noqa: S311
        return draw < self._fail_rate


def register(pgq: PgQueuer, screen: Screen, luck: Luck, probes: dict[bytes, anyio.Event]) -> None:
    """Register everything that runs in the demo."""
    retry = Exponential(max_attempts=MAX_FAULTS + 1, initial=0.1, maximum=1.0)

    @pgq.entrypoint(FILE, retry=retry)
    def file(job: Job) -> None:
        """Hash a file; a plain `def` runs in a worker thread."""
        path = os.fsdecode(job.payload or b"")
        if luck.fails(job):
            raise BadLuck(f"{path} was to fail in attempt {job.attempts + 1}")
        result = examine(path, anyio.from_thread.check_cancelled)
        key = key_of(path)
        # The key keeps a file that runs twice from being added twice at a time; that it is
        # added again later does no harm.
        hand_on = partial(
            pgq.queries.enqueue,
            ADD,
            result.to_payload(key),
            priority=ADD_PRIORITY,
            dedupe_key=dedupe_key(ADD, key),
            on_conflict="skip",
        )
        anyio.from_thread.run(hand_on)

    @pgq.entrypoint(ADD)
    async def add(job: Job, ctx: Context) -> None:
        """Add a result to the totals, the one object that all jobs share."""
        await anyio.lowlevel.checkpoint()
        key, result = FileResult.from_payload(job.payload or b"")
        totals_in(ctx).add(key, result)
        if luck.fails(job):  # after its work is done: adding it again must change nothing
            raise RetryRequested(delay=0.1, reason="the demo was asked to fail")

    @pgq.entrypoint(PROBE)
    async def probe(job: Job) -> None:
        """Say that it has started."""
        await anyio.lowlevel.checkpoint()
        if (started := probes.get(job.payload or b"")) is not None:
            started.set()

    @pgq.schedule("progress", "* * * * * *", misfire="skip")
    async def progress(schedule: Schedule, ctx: ScheduleContext) -> None:
        """Report each second."""
        await anyio.lowlevel.checkpoint()
        sums = totals_in(ctx).sums
        screen.say(
            f"schedule `{schedule.entrypoint}`: {sums.files:,} files, {sums.lines:,} lines, "
            f"{sums.bytes:,} bytes in the shared totals"
        )


def totals_in(ctx: Context | ScheduleContext) -> Totals:
    """Return the totals out of the shared container."""
    totals = ctx.resources["totals"]
    if not isinstance(totals, Totals):
        raise TypeError(f"the resource 'totals' is {totals!r}")
    return totals
