"""Drain no-op jobs with one worker: this package on Trio next to PgQueuer on asyncpg.

Each round makes a fresh database for each contestant, fills it with the same jobs and starts one
worker process on it, the contestants in turn. The figure is jobs divided by the time from the
first `picked` to the last `successful` row in the log, by the server's clock, so neither start-up
nor shutdown counts and only durable outcomes do.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import psycopg
from psycopg import sql

from pgq_trio.postgres.embedded import open_embedded
from pgq_trio.schema import install_statements
from pgq_trio.settings import Settings

PAYLOAD_BYTES = 100

#: Module and arguments of each contestant's worker.
CONTESTANTS: dict[str, list[str]] = {
    "pgq-trio on trio": ["benchmarks.worker_pgq_trio", "--backend", "trio"],
    "pgq-trio on asyncio": ["benchmarks.worker_pgq_trio", "--backend", "asyncio"],
    "pgq-trio defaults": ["benchmarks.worker_pgq_trio", "--backend", "trio", "--defaults"],
    "pgqueuer asyncpg": ["benchmarks.worker_pgqueuer"],
}
REFERENCE = "pgqueuer asyncpg"


@contextmanager
def fresh_database(server: str, name: str) -> Iterator[str]:
    """Make a database, yield its conninfo and drop it."""
    identifier = sql.Identifier(name)
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(identifier))
    try:
        yield psycopg.conninfo.make_conninfo(server, dbname=name)
    finally:
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))


def fill(dsn: str, jobs: int) -> None:
    """Install the lean tables, on which both run, and fill them with jobs."""
    with psycopg.connect(dsn) as connection:
        for statement in install_statements(Settings()):
            connection.execute(statement)
        connection.execute(
            "INSERT INTO pgqueuer (priority, status, entrypoint, payload)"
            " SELECT 0, 'queued', 'noop', convert_to(repeat('x', %s), 'UTF8')"
            " FROM generate_series(1, %s)",
            (PAYLOAD_BYTES, jobs),
        )
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE pgqueuer")
        connection.execute("CHECKPOINT")


def measure(server: str, contestant: str, jobs: int) -> tuple[float, float]:
    """Return jobs per second, and µs of worker CPU per job, of one drained database."""
    with fresh_database(server, "bench") as dsn:
        fill(dsn, jobs)
        before = os.times()
        subprocess.run(
            [sys.executable, "-m", *CONTESTANTS[contestant]],
            env=os.environ | {"PGQUEUER_DSN": dsn},
            check=True,
        )
        after = os.times()
        with psycopg.connect(dsn) as connection:
            row = connection.execute(
                "SELECT count(*) FILTER (WHERE status = 'successful'),"
                " extract(epoch FROM max(created) FILTER (WHERE status = 'successful')"
                "   - min(created) FILTER (WHERE status = 'picked')) FROM pgqueuer_log"
            ).fetchone()
    assert row is not None
    done, seconds = int(row[0]), float(row[1])
    if done != jobs:
        raise SystemExit(f"{contestant} finished {done} of {jobs} jobs")
    cpu = (after.children_user + after.children_system) - (
        before.children_user + before.children_system
    )
    return jobs / seconds, cpu / jobs * 1e6


def report(figures: dict[str, list[tuple[float, float]]]) -> None:
    """Print medians, spread and the ratio to the reference, round by round."""
    reference = [rate for rate, _ in figures[REFERENCE]]
    print(f"{'':22}{'jobs/s':>10}{'min':>10}{'max':>10}{'µs CPU/job':>12}{'ratio':>8}")
    for name, rounds in figures.items():
        rates = [rate for rate, _ in rounds]
        ratio = statistics.median(a / b for a, b in zip(rates, reference, strict=True))
        print(
            f"{name:22}{statistics.median(rates):>10,.0f}{min(rates):>10,.0f}{max(rates):>10,.0f}"
            f"{statistics.median(cpu for _, cpu in rounds):>12.1f}{ratio:>8.2f}"
        )


async def main(jobs: int, rounds: int, only: list[str]) -> None:
    """Run all contestants in turn, round after round."""
    names = [name for name in CONTESTANTS if not only or name in {*only, REFERENCE}]
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="pgq-bench-") as directory:
        # A kept directory runs with fsync on, as real ones do.
        async with open_embedded(Path(directory) / "data") as server:
            for number in range(rounds):
                for name in names:
                    figures[name].append(measure(server, name, jobs))
                print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    report(figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", default=[], help="a contestant's name")
    arguments = parser.parse_args()
    anyio.run(main, arguments.jobs, arguments.rounds, arguments.only, backend="trio")
