"""`status`: the page for people and the one for programs."""

from __future__ import annotations

from functools import partial

import anyio
import anyio.lowlevel
import psycopg
import pytest

from pgq_trio import Job, PgQueuer, Schedule
from tests.cli.command import Invoke


async def _work(dsn: str) -> None:
    """One job succeeds, one fails, one is queued; one schedule is known."""
    async with PgQueuer.open(dsn) as pgq:

        @pgq.entrypoint("good")
        async def good(job: Job) -> None:
            await anyio.lowlevel.checkpoint()
            assert job.payload is None

        @pgq.entrypoint("bad")
        async def bad(job: Job) -> None:
            await anyio.lowlevel.checkpoint()
            raise RuntimeError("no\x1b[31m luck")

        @pgq.schedule("hourly", "0 * * * *")
        async def hourly(schedule: Schedule) -> None:
            await anyio.lowlevel.checkpoint()
            assert schedule.entrypoint == "hourly"

        await pgq.queries.enqueue(["good", "bad", "other"], priority=[0, 0, 5])
        await pgq.run(mode="drain", handle_signals=False)
        async with anyio.create_task_group() as tasks:  # a drain makes no schedule known
            await tasks.start(partial(pgq.sm.run, handle_signals=False))
            pgq.request_shutdown()


@pytest.fixture
def worked_dsn(installed_dsn: str) -> str:
    """A queue on which a worker has worked."""
    anyio.run(_work, installed_dsn, backend="trio")
    return installed_dsn


def test_as_json(invoke: Invoke, worked_dsn: str) -> None:
    result = invoke("status", "--json", "--dsn", worked_dsn)
    found = result.json
    assert (result.code, result.err) == (0, "")
    assert list(found) == ["schema", "queue", "schedules", "log", "exceptions"]
    assert found["schema"] == {"ok": True, "problems": []}
    assert found["queue"] == [
        {"entrypoint": "other", "status": "queued", "priority": 5, "count": 1}
    ]
    (schedule,) = found["schedules"]
    assert (schedule["entrypoint"], schedule["expression"]) == ("hourly", "0 * * * *")
    assert schedule["last_run"] is None
    assert len(found["log"]) == 7
    assert [row["status"] for row in found["log"]].count("queued") == 3
    (failed,) = found["exceptions"]
    assert (failed["entrypoint"], failed["status"]) == ("bad", "exception")
    assert failed["exception"]["type"].endswith("RuntimeError")
    assert failed["exception"]["message"] == "no\x1b[31m luck"
    assert "Traceback" in failed["exception"]["traceback"]

    short = invoke("status", "--json", "--log", "2", "--dsn", worked_dsn).json
    assert short["log"] == found["log"][:2]
    assert short["exceptions"] == found["exceptions"]


def test_for_people(invoke: Invoke, worked_dsn: str) -> None:
    result = invoke("status", "--dsn", worked_dsn)
    assert (result.code, result.err) == (0, "")
    assert "schema: every object is in place" in result.out
    for word in ("other", "hourly", "0 * * * *", "successful", "RuntimeError: no\\x1b[31m luck"):
        assert word in result.out
    assert all(character.isprintable() or character == "\n" for character in result.out)


def test_an_empty_queue(invoke: Invoke, installed_dsn: str) -> None:
    result = invoke("status", "--dsn", installed_dsn)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        "schema: every object is in place",
        "queue: none",
        "schedules: none",
        "last changes: none",
        "last exceptions: none",
    ]


def test_problems_of_the_schema(invoke: Invoke, installed_dsn: str) -> None:
    with psycopg.connect(installed_dsn) as connection:
        connection.execute("DROP INDEX pgqueuer_ep_ea_idx")
    result = invoke("status", "--dsn", installed_dsn)
    assert result.code == 0
    assert "schema: index pgqueuer_ep_ea_idx is missing; mend it" in result.out


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_without_tables(invoke: Invoke, dsn: str, flags: tuple[str, ...]) -> None:
    result = invoke("status", "--dsn", dsn, *flags)
    assert result.code == 1
    assert "`pgq-trio install`" in result.error
    if not flags:
        assert result.out == ""
        return
    found = result.json
    assert found["schema"]["ok"] is False
    assert any("pgqueuer" in problem for problem in found["schema"]["problems"])
    rest: dict[str, list[object]] = {"queue": [], "schedules": [], "log": [], "exceptions": []}
    assert found == {"schema": found["schema"], **rest}
