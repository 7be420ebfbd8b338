"""The commands that change a queue: requeue, cancel, clear, prune."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import psycopg
import pytest

from pgq_trio import Job, PgQueuer
from tests.cli.command import Invoke


def states(dsn: str) -> list[tuple[int, str, str]]:
    """Id, entrypoint and status of each job in the queue."""
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "SELECT id, entrypoint, status::text FROM pgqueuer ORDER BY id"
        ).fetchall()


def count(dsn: str, table: str) -> int:
    """How many rows a table has."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    found: int = row[0]
    return found


async def _hold(dsn: str) -> None:
    async with PgQueuer.open(dsn) as pgq:

        @pgq.entrypoint("held", on_failure="hold")
        async def held(job: Job) -> None:
            await anyio.lowlevel.checkpoint()
            raise RuntimeError(job.id)

        keys = [None, None, "taken"]
        await pgq.queries.enqueue(["held"] * 3, dedupe_key=keys)
        await pgq.run(mode="drain", handle_signals=False)
        await pgq.queries.enqueue("other", dedupe_key="taken")


@pytest.fixture
def held_dsn(installed_dsn: str) -> str:
    """Three held jobs, the key of the third of which a queued job has taken."""
    anyio.run(_hold, installed_dsn, backend="trio")
    return installed_dsn


def test_requeue(invoke: Invoke, held_dsn: str) -> None:
    at = ("--dsn", held_dsn)
    first, second, third, other = (row[0] for row in states(held_dsn))
    result = invoke("requeue", str(first), str(first), *at)
    assert (result.code, result.out) == (0, "requeued 1 of 1 jobs\n")
    assert [row[2] for row in states(held_dsn)] == ["queued", "failed", "failed", "queued"]

    result = invoke("requeue", str(second), str(other), "999", "--json", *at)
    assert (result.code, result.json) == (1, {"ids": [second], "others": [other, 999]})
    result = invoke("requeue", "--all", *at)
    assert result.code == 1
    assert result.out.splitlines() == [
        "requeued 0 of 1 jobs",
        f"not held as failed, or their dedupe keys are taken: {third}",
    ]


def test_requeue_all(invoke: Invoke, held_dsn: str) -> None:
    at = ("--dsn", held_dsn)
    other = states(held_dsn)[-1][0]
    assert invoke("cancel", str(other), *at).code == 0
    result = invoke("requeue", "--all", *at)
    assert (result.code, result.out) == (0, "requeued 3 of 3 jobs\n")
    assert [row[2] for row in states(held_dsn)] == ["queued"] * 3
    assert invoke("requeue", "--all", "--json", *at).json == {"ids": [], "others": []}


def test_cancel(invoke: Invoke, installed_dsn: str) -> None:
    at = ("--dsn", installed_dsn)
    for _ in range(2):
        assert invoke("enqueue", "mail", *at).code == 0
    first, second = (row[0] for row in states(installed_dsn))
    result = invoke("cancel", str(first), "999", *at)
    assert (result.code, result.err) == (1, "")
    assert result.out.splitlines() == ["cancelled 1 of 2 jobs", "not in the queue: 999"]
    assert [row[0] for row in states(installed_dsn)] == [second]


@pytest.mark.parametrize("args", [("requeue",), ("requeue", "1", "--all"), ("cancel",)])
def test_which_jobs_has_to_be_said(invoke: Invoke, args: tuple[str, ...]) -> None:
    assert invoke(*args).code == 2
    assert invoke("cancel", "0").code == invoke("cancel", "x").code == 2


def test_clear(invoke: Invoke, installed_dsn: str) -> None:
    at = ("--dsn", installed_dsn)
    for name in ("a", "a", "b", "c"):
        assert invoke("enqueue", name, *at).code == 0
    result = invoke("clear", "--entrypoint", "a", *at, stdin="n\n")
    assert (result.code, result.out) == (1, "")
    assert "nothing was deleted" in result.err
    assert len(states(installed_dsn)) == 4
    result = invoke("clear", "--entrypoint", "a", "--entrypoint", "b", *at, stdin="y\n")
    assert (result.code, result.out) == (0, "deleted 3\n")
    assert [row[1] for row in states(installed_dsn)] == ["c"]
    assert invoke("clear", "--all", "--yes", "--json", *at).json == {"deleted": 1}


def test_clear_log_and_statistics(invoke: Invoke, installed_dsn: str) -> None:
    at = ("--dsn", installed_dsn)
    for name in ("a", "b"):
        assert invoke("enqueue", name, *at).code == 0
    assert len(invoke("statistics", "--json", *at).json) == 2
    assert invoke("clear-statistics", "--entrypoint", "a", "-y", *at).out == "deleted 1\n"
    assert invoke("clear-log", "--all", "--yes", *at).out == "deleted 2\n"
    assert (count(installed_dsn, "pgqueuer_log"), count(installed_dsn, "pgqueuer")) == (0, 2)
    assert count(installed_dsn, "pgqueuer_statistics") == 1


@pytest.mark.parametrize("name", ["clear", "clear-log", "clear-statistics"])
def test_what_to_clear_has_to_be_said(invoke: Invoke, name: str) -> None:
    assert invoke(name, "--yes").code == 2
    assert invoke(name, "--yes", "--all", "--entrypoint", "x").code == 2


def test_prune(invoke: Invoke, installed_dsn: str) -> None:
    at = ("--dsn", installed_dsn)
    for name in ("a", "b", "c"):
        assert invoke("enqueue", name, *at).code == 0
    with psycopg.connect(installed_dsn) as connection:
        connection.execute("UPDATE pgqueuer_log SET created = now() - interval '10 days'")
    assert invoke("enqueue", "new", *at).code == 0
    result = invoke("prune", "--older-than", "7d", "--dry-run", *at)
    assert result.out == "about 3 log rows would be deleted\n"
    result = invoke("prune", "--older-than", "7d", *at, stdin="")
    assert (result.code, count(installed_dsn, "pgqueuer_log")) == (1, 4)
    kept = ("--older-than", "7d", "--keep", "queued=forever", "--json", "--yes")
    assert invoke("prune", *kept, *at).json == {"deleted": 0}
    assert invoke("prune", "--keep", "queued=1w", "--yes", *at).out == "deleted 3 log rows\n"
    assert count(installed_dsn, "pgqueuer_log") == 1


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--keep", "queued"),
        ("--keep", "lost=3d"),
        ("--keep", "queued=x"),
        ("--older-than", "x"),
    ],
)
def test_what_is_old_has_to_be_said(invoke: Invoke, args: tuple[str, ...]) -> None:
    result = invoke("prune", "--yes", *args)
    assert (result.code, result.out) == (2, "")


def test_clear_says_when_workers_see_it(invoke: Invoke) -> None:
    text = " ".join(invoke("clear", "--help").out.split())
    assert "A worker sees at its next heartbeat (after a third of heartbeat_timeout" in text
