"""What the memory stores of one queue share: tables, log, listeners and the clock."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import datetime

import anyio
import anyio.lowlevel
from anyio.streams.memory import MemoryObjectSendStream

from pgq_trio.model.states import is_final
from pgq_trio.model.traceback import TracebackRecord
from pgq_trio.model.wire import Channel
from pgq_trio.models import Log, Schedule
from pgq_trio.settings import Settings
from pgq_trio.store.memory_clock import Ticker
from pgq_trio.store.memory_rows import JobTable, Row
from pgq_trio.types import JobId, JobStatus

__all__ = ["MemoryState"]


class MemoryState:
    """The data of one queue in memory; every change of it is synchronous, hence atomic."""

    def __init__(self, settings: Settings, ticker: Ticker) -> None:
        self.settings = settings
        self.now = ticker
        self.jobs: JobTable = JobTable()
        self.schedules: dict[int, Schedule] = {}
        self.log: list[Log] = []
        #: Counts of log rows by second, priority, state and entrypoint, first counted first.
        self.statistics: dict[tuple[datetime, int, JobStatus, str], int] = {}
        self._last_status: dict[JobId, JobStatus] = {}
        self._listeners: dict[MemoryObjectSendStream[str], frozenset[Channel]] = {}

    def write_log(
        self, row: Row, status: JobStatus, now: datetime, traceback: str | None = None
    ) -> None:
        """Note a change of a job's state; queued and picked only with the full history."""
        self.log.append(
            Log(
                created=now,
                job_id=row.id,
                status=status,
                priority=row.priority,
                entrypoint=row.entrypoint,
                traceback=None
                if traceback is None
                else TracebackRecord.from_json(json.loads(traceback)),
            )
        )
        self._last_status[row.id] = status

    def clear_log(self, entrypoints: Collection[str] | None) -> int:
        """Forget log rows of these entrypoints, of all with None."""
        kept = (
            [] if entrypoints is None else [x for x in self.log if x.entrypoint not in entrypoints]
        )
        return self.keep_log(kept)

    def keep_log(self, kept: list[Log]) -> int:
        """Forget all other log rows; return how many they are."""
        gone = len(self.log) - len(kept)
        self.log = kept
        self._last_status = {entry.job_id: entry.status for entry in kept}
        return gone

    def status(self, job_id: JobId) -> JobStatus | None:
        """Return the last known state of a job; a row that went without an outcome is deleted."""
        row = self.jobs.rows.get(job_id)
        if row is not None:
            return row.status
        last = self._last_status.get(job_id)
        return last if last is None or is_final(last) else "deleted"

    def wake(self, operation: str, now: datetime) -> None:
        """Tell all listeners that the queue table changed."""
        self.notify(
            json.dumps(
                {
                    "channel": self.settings.channel,
                    "operation": operation,
                    "sent_at": now.isoformat(),
                    "table": self.settings.queue_table,
                    "type": "table_changed_event",
                }
            )
        )

    def notify(self, payload: str, channel: Channel = "work") -> None:
        """Send a payload to all who listen on a channel."""
        for listener, channels in self._listeners.items():
            if channel in channels:
                listener.send_nowait(payload)

    @asynccontextmanager
    async def listen(self, *channels: Channel) -> AsyncGenerator[AsyncIterator[str]]:
        """Receive every payload sent on these channels from now on; none given: on "work"."""
        await anyio.lowlevel.checkpoint()
        send, receive = anyio.create_memory_object_stream[str](math.inf)
        with send, receive:
            self._listeners[send] = frozenset(channels or ("work",))
            try:
                yield receive
            finally:
                del self._listeners[send]
