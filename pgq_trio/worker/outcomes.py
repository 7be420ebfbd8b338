"""Writing what jobs led to: in batches, in order of arrival, until the store has all of it.

While one batch is written the next one gathers, so batches grow with the load and an idle worker
writes at once. One record that the store refuses never keeps the others waiting.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from itertools import islice

import anyio
from anyio.abc import TaskStatus

from pgq_trio.abc import JobStore
from pgq_trio.answers import answer_to
from pgq_trio.concurrency.backoff import Backoff
from pgq_trio.concurrency.wakeup import Wakeup
from pgq_trio.errors import StoreError
from pgq_trio.model.outcomes import Finished, Outcome
from pgq_trio.types import QueueManagerId
from pgq_trio.worker.leases import Lease, Leases
from pgq_trio.worker.telling import Teller

logger: logging.Logger = logging.getLogger("pgq_trio.worker")

#: Rows in one statement: enough to make the round trip cheap, few enough to stay short.
MAX_BATCH = 2000

#: Why a batch of outcomes could not be written, and that it is written again (None).
OnProblem = Callable[[str | None], None]
OnRefused = Callable[[Lease, Outcome], None]


class OutcomeWriter:
    """Outcomes and releases on their way to the store."""

    def __init__(
        self,
        store: JobStore,
        queue_manager_id: QueueManagerId,
        leases: Leases,
        teller: Teller,
        *,
        on_refused: OnRefused,
        on_problem: OnProblem,
    ) -> None:
        self._store = store
        self._queue_manager_id = queue_manager_id
        self._leases = leases
        self._teller = teller
        self._on_refused = on_refused
        self._on_problem = on_problem
        self._finished: deque[tuple[Lease, Outcome]] = deque()
        self._released: deque[Lease] = deque()
        self._wakeup = Wakeup()
        self._lock = anyio.Lock()
        self.on_written: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._finished) + len(self._released)

    def finish(self, lease: Lease, outcome: Outcome) -> None:
        """Have an outcome written; the lease is ours until then."""
        lease.ending = True
        self._finished.append((lease, outcome))
        self._wakeup.set()

    def release(self, lease: Lease) -> None:
        """Have an interrupted job queued again."""
        lease.ending = True
        self._released.append(lease)
        self._wakeup.set()

    def greet(self) -> None:
        """Ask who waits for outcomes, before the next of them is written."""
        self._teller.greet()
        self._wakeup.set()

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Write until cancelled; a lost connection is waited out, whatever it takes."""
        task_status.started()
        while True:
            self._wakeup.clear()
            await self.flush()
            await self._wakeup.wait()

    async def flush(self) -> None:
        """Write all there is; goes on trying for as long as the connection is lost.

        The caller sets the deadline. What was not written when it is cancelled is kept.
        """
        backoff = Backoff()
        while len(self) or self._teller:
            try:
                async with self._lock:
                    if len(self):
                        await self._write_some()
                    # Behind the batch, which is settled now whatever becomes of this.
                    if self._teller:
                        await self._teller.send()
            except StoreError as exc:
                if not exc.retryable:
                    raise
                self._on_problem(str(exc))
                await anyio.sleep(backoff.next())
            else:
                self._on_problem(None)
                backoff.reset()

    async def _write_some(self) -> None:
        # Read here and removed only after the write: a cancelled write is repeated, and the
        # fence makes the repetition harmless.
        if batch := list(islice(self._finished, MAX_BATCH)):
            await self._write(batch)
            for _ in batch:
                self._finished.popleft()
        if released := list(islice(self._released, MAX_BATCH)):
            claims = [lease.claim for lease in released]
            done = await answer_to("a release", self._store.release(self._queue_manager_id, claims))
            for lease in released:
                self._released.popleft()
                if self._leases.settle(lease, written=lease.job.id in done):
                    self._released.append(lease)
        self.on_written()

    async def _write(self, batch: list[tuple[Lease, Outcome]]) -> None:
        records = [Finished(lease.claim, outcome) for lease, outcome in batch]
        try:
            written = await answer_to(
                "a batch of outcomes", self._store.finish(self._queue_manager_id, records)
            )
        except StoreError as exc:
            if exc.retryable:
                raise
            await self._write_around(batch, exc)
            return
        for lease, outcome in batch:
            is_written = lease.job.id in written
            if outcome.kind == "retry" and lease.successor is not None:
                # Rescued by ourselves, or the reply to an earlier try was lost: either way the
                # job has its next attempt already.
                is_written = True
            if self._leases.settle(lease, written=is_written):
                await self._write([(lease, outcome)])
            elif not is_written:
                self._on_refused(lease, outcome)
        if self._teller.is_wanted:
            ended = [x.job.id for x, outcome in batch if outcome.kind != "retry"]
            self._teller.add(written.intersection(ended))

    async def _write_around(self, batch: list[tuple[Lease, Outcome]], refusal: StoreError) -> None:
        """Write the halves of a batch that the store refused, down to the record at fault."""
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._write(batch[:middle])
            await self._write(batch[middle:])
            return
        lease, outcome = batch[0]
        simpler = _simpler(outcome)
        logger.error(
            "The store refuses the outcome %r of job %s; %s",
            outcome.kind,
            lease.job.id,
            "its lease is given up" if simpler is None else f"writing {simpler.kind!r} instead",
            exc_info=refusal,
        )
        if simpler is None:
            self._leases.drop(lease)
            self._on_refused(lease, outcome)
        else:
            await self._write([(lease, simpler)])


def _simpler(outcome: Outcome) -> Outcome | None:
    """Return what may be stored when an outcome may not: without its record, then as a failure."""
    if outcome.traceback is not None:
        return Outcome(outcome.kind, None, outcome.delay)
    return Outcome("exception") if outcome.kind != "exception" else None
