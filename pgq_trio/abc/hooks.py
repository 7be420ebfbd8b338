"""The ports of users' own code: retry policies and observers."""

from __future__ import annotations

from typing import Protocol

from pgq_trio.model.events import Event
from pgq_trio.models import Job

__all__ = ["Observer", "RetryPolicy"]


class RetryPolicy(Protocol):
    """When a failed job runs again; pure, so that it can be tested without a queue."""

    def next_delay(self, job: Job, exception: Exception) -> float | None:
        """Return the seconds to wait before the next attempt, None when there is none."""
        ...


class Observer(Protocol):
    """Told of what happens in a worker, for logs, metrics and traces.

    Called on the event loop's thread between two checkpoints: it must be quick and must not wait.
    What it raises is logged and dropped.
    """

    def on_event(self, event: Event) -> None:
        """Take one event; unknown kinds are to be ignored, since releases add new ones."""
        ...
