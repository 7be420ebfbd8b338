"""Telling those who wait which jobs have ended; it knows neither outcomes nor who waits."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection

import anyio

from pgq_trio.abc import Notifier
from pgq_trio.answers import answer_to
from pgq_trio.errors import StoreError
from pgq_trio.model.wire import INTEREST_LASTS, ended_events, worker_listens_event
from pgq_trio.types import JobId

logger: logging.Logger = logging.getLogger("pgq_trio.worker")


class Teller:
    """What watchers are to be told, and whether there are any.

    Nothing here is needed for a job to end well: watchers look for themselves as well, only later.
    """

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._wanted_until = -math.inf
        self._greets = False
        self._ended: list[JobId] = []

    def __bool__(self) -> bool:
        return self._greets or bool(self._ended)

    @property
    def is_wanted(self) -> bool:
        """Whether somebody has announced lately that they wait for jobs to end."""
        return anyio.current_time() < self._wanted_until

    def want(self) -> None:
        """Take note of an announcement."""
        self._wanted_until = anyio.current_time() + INTEREST_LASTS

    def greet(self) -> None:
        """Have watchers announce themselves again: what they said before was not heard here."""
        self._greets = True

    def add(self, ended: Collection[JobId]) -> None:
        """Have watchers told of jobs whose outcomes are written."""
        self._ended.extend(ended)

    async def send(self) -> None:
        """Tell all there is, in one statement; what fails is not tried again."""
        events = list(ended_events(self._ended))
        count = len(self._ended)
        if self._greets:
            self._greets = False
            events.insert(0, worker_listens_event())
        try:
            await answer_to("a notification", self._notifier.notify("outcomes", events))
        except StoreError as exc:
            logger.info("Watchers could not be told of %d ended jobs: %s", count, exc)
        del self._ended[:count]
