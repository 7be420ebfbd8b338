"""The bundle of stores that a driver hands out; knows none of their kinds."""

from __future__ import annotations

from dataclasses import dataclass

from pgq_trio.abc import InsightStore, JobStore, Notifier, ScheduleStore, SchemaStore
from pgq_trio.settings import Settings

__all__ = ["StoreBackend"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreBackend:
    """A `Backend`: the stores of one queue, all in one place."""

    settings: Settings
    jobs: JobStore
    schedules: ScheduleStore
    insights: InsightStore
    schema: SchemaStore
    notifier: Notifier
