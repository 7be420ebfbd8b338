"""The ports of drivers: what leads to a database, and everything it offers."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pgq_trio.abc.insights import InsightStore
from pgq_trio.abc.jobs import JobStore
from pgq_trio.abc.notifier import Notifier
from pgq_trio.abc.schedules import ScheduleStore
from pgq_trio.abc.schema import SchemaStore
from pgq_trio.settings import Settings

__all__ = ["Backend", "Driver"]


class Backend(Protocol):
    """Everything one driver offers for one set of settings; needs no task and no opening."""

    @property
    def settings(self) -> Settings:
        """The names all parts of this backend use."""
        ...

    @property
    def jobs(self) -> JobStore:
        """The queue table and its log."""
        ...

    @property
    def schedules(self) -> ScheduleStore:
        """The schedules table."""
        ...

    @property
    def insights(self) -> InsightStore:
        """What can be learned about the queue."""
        ...

    @property
    def schema(self) -> SchemaStore:
        """The objects in the database."""
        ...

    @property
    def notifier(self) -> Notifier:
        """The channel of notifications."""
        ...


@runtime_checkable
class Driver(Protocol):
    """A way to a database; `pgq_trio.db` has the ready ones."""

    def backend(self, settings: Settings) -> Backend:
        """Return the stores on this driver; calls with equal settings share one store."""
        ...
