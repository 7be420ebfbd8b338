"""Deciding when to look for work and how much to take; it knows neither handlers nor sockets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import anyio

from pgq_trio.abc import Claimed, ClaimRequest, JobStore
from pgq_trio.answers import answer_to
from pgq_trio.concurrency.backoff import Backoff
from pgq_trio.concurrency.wakeup import Wakeup
from pgq_trio.errors import StoreError
from pgq_trio.types import QueueExecutionMode, QueueManagerId
from pgq_trio.worker.dispatcher import Dispatcher
from pgq_trio.worker.leases import Leases
from pgq_trio.worker.options import RunOptions
from pgq_trio.worker.outcomes import OutcomeWriter

#: Outcomes that may wait for the store before claiming pauses, as a multiple of the jobs that may
#: run at once; bounds memory through an outage.
MAX_UNWRITTEN = 10

#: Between looks at work that is due but not to be had, from the first to all later ones: seconds.
#: The longest, of which jitter takes up to a half, keeps a worker whose limit is saturated below
#: 0.5 statements a second.
BLOCKED_INITIAL, BLOCKED_MAXIMUM = 0.005, 4.0

#: The same for looks after hints that a slot may be free, which are as good as at once at first.
HINT_INITIAL, HINT_MAXIMUM = 0.005, 4.0


class Claimer:
    """The loop that takes jobs from the store and hands them to the dispatcher."""

    def __init__(
        self,
        store: JobStore,
        queue_manager_id: QueueManagerId,
        *,
        limits: Mapping[str, int],
        options: RunOptions,
        leases: Leases,
        dispatcher: Dispatcher,
        writer: OutcomeWriter,
        on_problem: Callable[[str | None], None],
    ) -> None:
        self._store = store
        self._queue_manager_id = queue_manager_id
        self._limits = limits
        self._options = options
        # A rescue wakes nobody: leases that expire are looked for at least once in their length.
        self._idle = min(options.dequeue_timeout, options.heartbeat_timeout)
        self._leases = leases
        self._dispatcher = dispatcher
        self._writer = writer
        self._on_problem = on_problem
        self._wakeup = Wakeup()
        self._next_look = -math.inf
        self._blocked = Backoff(BLOCKED_INITIAL, BLOCKED_MAXIMUM)
        self._is_blocked = False
        self._hints = Backoff(HINT_INITIAL, HINT_MAXIMUM)
        self._next_hint = -math.inf
        self._has_hint = False
        self._outage = Backoff()
        self._stopped = False
        self._hungry = False
        dispatcher.on_room = self._on_room
        writer.on_written = self._on_written
        leases.when_empty(self._on_empty)

    def notify(self) -> None:
        """Look for work now: somebody says there may be some."""
        self._next_look = -math.inf
        self._wakeup.set()

    def notify_gone(self) -> None:
        """Rows are gone from the queue: a job that waits for a free slot may have one now.

        So a worker of PgQueuer frees a slot, and so ends every job where PgQueuer's trigger is
        installed. Looks that such hints lead to get rarer as long as they find nothing.
        """
        self._has_hint = True
        if self._is_blocked:
            self._wakeup.set()

    def stop(self) -> None:
        """Claim no more; `run` returns."""
        self._stopped = True
        self._wakeup.set()

    async def run(self) -> None:
        """Claim until stopped, or until the queue is drained in drain mode.

        Cancelled, it hands on what a claim under way brings, then ends.
        """
        while not self._stopped:
            # The claim is shielded: without this a cancelled claimer would go on with a backlog.
            await anyio.lowlevel.checkpoint_if_cancelled()
            # Cleared before looking: what is enqueued while we look wakes us again.
            self._wakeup.clear()
            batch, limited = self._room()
            now = anyio.current_time()
            next_look = self._next_look
            if self._has_hint and self._is_blocked:
                next_look = min(next_look, self._next_hint)
            if batch and now >= next_look:
                if await self._look(batch, limited):
                    return
                continue
            self._hungry = not batch
            await self._wakeup.wait(next_look - now if batch else None)

    def _room(self) -> tuple[int, int]:
        """Return how many jobs to ask for, and how many of those with a concurrency limit."""
        maximum = self._options.max_concurrent_jobs
        waiting = self._dispatcher.waiting
        free = maximum - self._dispatcher.running
        # Claiming for every single job that ends would cost a statement each: wait until half of
        # what was claimed ahead is used up.
        if waiting > maximum // 2 or len(self._writer) >= MAX_UNWRITTEN * maximum:
            return 0, 0
        batch = free + maximum - waiting
        if not any(limit == 0 for limit in self._limits.values()):
            batch = free - waiting
        if self._options.batch_size is not None:
            batch = min(batch, self._options.batch_size)
        return max(0, batch), max(0, min(batch, free - waiting))

    async def _look(self, batch: int, limited: int) -> bool:
        """Claim once and set the time of the next look. Returns whether the queue is drained."""
        self._next_look = math.inf
        self._has_hint = False
        try:
            with self._leases.claiming():
                claimed = await self._claim(batch, limited)
                leases = self._leases.add(claimed.jobs)
        except StoreError as exc:
            if not exc.retryable:
                raise
            self._on_problem(str(exc))
            self._next_look = anyio.current_time() + self._outage.next()
            return False
        self._on_problem(None)
        self._outage.reset()
        if claimed.jobs:
            self._dispatcher.add(leases, claimed.lost_runs)
        if self._is_drained(claimed):
            return True
        # A notification that came while we looked has set this to "at once": it stands.
        self._next_look = min(self._next_look, self._time_of_next_look(claimed, batch, limited))
        return False

    async def _claim(self, batch: int, limited: int) -> Claimed:
        request = ClaimRequest(
            queue_manager_id=self._queue_manager_id,
            limits=self._limits,
            batch_size=batch,
            limited_batch_size=limited,
            heartbeat_timeout=self._options.heartbeat_timeout,
        )
        # Not to be abandoned half way: the server may have committed it.
        return await answer_to("a claim", self._store.claim(request), shield=True)

    def _time_of_next_look(self, claimed: Claimed, batch: int, limited: int) -> float:
        now = anyio.current_time()
        more_to_ask_for = limited < batch and any(self._limits.values()) and claimed.jobs
        # Due, but locked by another worker or without a free slot.
        self._is_blocked = (
            claimed.next_due is not None and claimed.next_due <= 0 and not more_to_ask_for
        )
        if claimed.jobs or not self._is_blocked:
            self._hints.reset()
        if self._is_blocked:
            self._next_hint = now + self._hints.next()
            again = self._blocked.next()
            # What is not to be had keeps no other job waiting past its time.
            return now + (again if claimed.next_later is None else min(again, claimed.next_later))
        self._blocked.reset()
        if claimed.next_due is None:
            full = len(claimed.jobs) >= batch
            return -math.inf if full else now + self._idle
        return now + min(claimed.next_due, self._idle) if claimed.next_due > 0 else -math.inf

    def _is_drained(self, claimed: Claimed) -> bool:
        return (
            self._options.mode is QueueExecutionMode.drain
            and not claimed.jobs
            and not self._leases
            and self._next_look == math.inf
            and (claimed.next_due is None or claimed.next_due > 0)
        )

    def _on_room(self) -> None:
        if self._hungry:
            self._wakeup.set()

    def _on_written(self) -> None:
        if self._is_blocked:  # an outcome may have freed a slot
            self.notify()
        elif self._hungry:
            self._wakeup.set()

    def _on_empty(self) -> None:
        if self._options.mode is QueueExecutionMode.drain:
            self.notify()
