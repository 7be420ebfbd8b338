"""Handing events to observers, none of which can harm a worker or another observer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from pgq_trio.abc import Observer
from pgq_trio.model.events import Event

logger: logging.Logger = logging.getLogger("pgq_trio.telemetry")


def fan_out(observers: Sequence[Observer]) -> Callable[[Event], None] | None:
    """Return a function that tells all observers, or None when there are none to tell.

    Raises:
        TypeError: an observer has no method `on_event`.
    """
    for observer in observers:
        if not callable(getattr(observer, "on_event", None)):
            raise TypeError(f"an observer has a method on_event(event), {observer!r} has none")
    if not observers:
        return None

    def emit(event: Event) -> None:
        for observer in observers:
            try:
                observer.on_event(event)
            except Exception:
                logger.exception("The observer %r failed on %r", observer, type(event).__name__)

    return emit
