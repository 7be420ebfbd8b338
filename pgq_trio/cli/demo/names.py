"""What things are called in the demo's database, and what a run of the demo was asked for."""

from __future__ import annotations

from dataclasses import dataclass

from pgq_trio.settings import Settings

#: Stands in front of every name: whatever the database is, its real queues are not touched.
PREFIX = "demo_"

#: Jobs that hash a file, add a result to the totals, and measure an idle worker.
FILE, ADD, PROBE = "file", "add", "probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line asked for.

    Attributes:
        root: an absolute path.
        jobs: how many files at most; None: all.
        fail_rate: the share of runs that fail, 0 to 1.
    """

    root: str
    jobs: int | None
    fail_rate: float
    fresh: bool


def demo_settings(prefix: str, schema: str) -> Settings:
    """Return the names of a queue that is the demo's alone.

    Each is given, so that none comes from the environment of a program with a real queue.
    """
    prefix += PREFIX
    return Settings(
        prefix=prefix,
        schema=schema,
        channel=f"{prefix}ch_pgqueuer",
        function=f"{prefix}fn_pgqueuer_changed",
        trigger=f"{prefix}tg_pgqueuer_changed",
        queue_status_type=f"{prefix}pgqueuer_status",
        queue_table=f"{prefix}pgqueuer",
        queue_table_log=f"{prefix}pgqueuer_log",
        statistics_table=f"{prefix}pgqueuer_statistics",
        schedules_table=f"{prefix}pgqueuer_schedules",
        durability="durable",
    )
