"""Whether the scheduler reaches its store, told to observers when it changes; it does no I/O."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pgq_trio.errors import StoreError
from pgq_trio.model.events import Event, HealthChanged

logger: logging.Logger = logging.getLogger("pgq_trio.scheduler")

PART = "scheduler"


class StoreHealth:
    """What keeps the scheduler from its store now, from everything that uses the store."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._emit = emit
        self._problems: dict[str, str] = {}

    def failed(self, operation: str, error: StoreError) -> None:
        """Note a failure that another try may mend; raise any other one."""
        if not error.retryable:
            raise error
        was_well = not self._problems
        self._problems[operation] = str(error)
        if was_well:
            logger.warning("the scheduler waits for its store: %s", error)
            self._emit(HealthChanged(PART, str(error)))

    def worked(self, operation: str) -> None:
        """Note a success."""
        if self._problems.pop(operation, None) is not None and not self._problems:
            logger.info("the scheduler has its store again")
            self._emit(HealthChanged(PART, None))
