"""An observer that counts what the worker does and how long jobs waited; it prints nothing."""

from __future__ import annotations

from array import array
from collections import Counter
from datetime import UTC, datetime, timedelta

from pgq_trio.cli.demo.names import FILE
from pgq_trio.concurrency.wakeup import Wakeup
from pgq_trio.model.events import Event, JobEnded, JobInterrupted, JobStarted
from pgq_trio.models import Job
from pgq_trio.types import JobId


class Watch:
    """Counts of one run.

    Attributes:
        running: the jobs whose handlers run now.
        ended: how many jobs ended for good, by entrypoint.
        retries: how many runs ended with another attempt to come.
        broken: how many jobs ended without success.
        waits: seconds from enqueue to start of the files' jobs that were enqueued in this run.
        changed: set when a job ends.
    """

    def __init__(self) -> None:
        self.running: set[JobId] = set()
        self.ended: Counter[str] = Counter()
        self.retries: int = 0
        self.broken: int = 0
        self.waits: array[float] = array("d")
        self.changed: Wakeup = Wakeup()
        self._since = datetime.max.replace(tzinfo=UTC)
        self._clock_offset = timedelta(0)

    def begin(self, server_now: datetime) -> None:
        """Measure the waits of jobs enqueued from now on, `server_now` on the server's clock."""
        self._since = server_now
        self._clock_offset = server_now - datetime.now(UTC)

    def on_event(self, event: Event) -> None:
        """Take one event of the worker."""
        if isinstance(event, JobStarted):
            self.running.add(event.job.id)
            self._measure(event.job)
        elif isinstance(event, JobEnded):
            self.running.discard(event.job.id)
            if event.outcome == "retry":
                self.retries += 1
            else:
                self.ended[event.job.entrypoint] += 1
                self.broken += event.outcome != "successful"
            self.changed.set()
        elif isinstance(event, JobInterrupted):
            self.running.discard(event.job.id)
            self.changed.set()

    def _measure(self, job: Job) -> None:
        # Leftovers of an earlier run have waited for that run's end; retries for their delay.
        if job.entrypoint == FILE and job.attempts == 0 and job.created >= self._since:
            now = datetime.now(UTC) + self._clock_offset
            self.waits.append((now - job.created).total_seconds())
