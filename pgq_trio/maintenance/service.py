"""The service that folds the log and deletes what is kept for too long; knows a store, no SQL."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from anyio.abc import TaskStatus

from pgq_trio.abc import InsightStore
from pgq_trio.answers import answer_to
from pgq_trio.concurrency.backoff import Backoff
from pgq_trio.errors import StoreError
from pgq_trio.model.retention import Retention

__all__ = ["INTERVAL", "Maintenance"]

logger: logging.Logger = logging.getLogger("pgq_trio.maintenance")

T = TypeVar("T")

#: Seconds between two passes, on average.
INTERVAL = 60.0

#: Each pause is this part of the interval longer or shorter, so that a fleet does not act as one.
_JITTER = 0.2

#: Seconds after which a statement counts as lost. The first look at a log of a hundred million rows
#: takes minutes, and nobody waits for this service.
_ANSWER_LIMIT = 900.0

#: Seconds of rest after a batch that deleted rows; as long as the batch took, within these bounds.
_SHORTEST_REST = 0.05
_LONGEST_REST = 5.0


class Maintenance:
    """One run of the housekeeping; make a new one for each run.

    A fleet needs no agreement on who does it: each step takes turns in the store, and who finds
    another one at it leaves the pass to that one.

    Args:
        store: where the history is.
        retention: how long it is kept.
        on_problem: told what keeps it from its work, and with None that nothing does any more.
        uniform: draws the jitter.
    """

    def __init__(
        self,
        store: InsightStore,
        retention: Retention,
        *,
        on_problem: Callable[[str | None], None],
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._store = store
        self._retention = retention
        self._on_problem = on_problem
        self._uniform = uniform

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Make a pass about every minute until cancelled, the first at a moment of the first one.

        What the store refuses does not end it, since jobs can run without: it is reported, and
        tried again at the next pass. A lost connection is waited out. Cancelled, what is done stays
        done and each step is whole.
        """
        task_status.started()
        await anyio.sleep(self._uniform(0, INTERVAL))
        backoff = Backoff(initial=1.0, maximum=INTERVAL)
        while True:
            pause = INTERVAL * self._uniform(1 - _JITTER, 1 + _JITTER)
            try:
                await self._pass()
            except StoreError as exc:
                self._on_problem(str(exc))
                if exc.retryable:
                    pause = backoff.next()
            else:
                self._on_problem(None)
                backoff.reset()
            await anyio.sleep(pause)

    async def _pass(self) -> None:
        """Look, which is all that an idle queue costs; fold first, then delete."""
        if not await _answer("a look", self._store.chores(self._retention)):
            return
        while True:
            step = await _answer("folding", self._store.fold())
            if step.is_busy:
                return
            if step.is_last:
                break
        deleted = 0
        while True:
            begin = anyio.current_time()
            step = await _answer("a deletion", self._store.expire(self._retention))
            deleted += step.rows
            if step.is_last or step.is_busy:
                break
            took = anyio.current_time() - begin
            await anyio.sleep(min(max(took, _SHORTEST_REST), _LONGEST_REST))
        if deleted:
            logger.info("deleted %d log rows that were kept for long enough", deleted)


def _answer(what: str, statement: Awaitable[T]) -> Awaitable[T]:
    return answer_to(f"{what} of the maintenance", statement, limit=_ANSWER_LIMIT)
