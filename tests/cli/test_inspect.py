"""The commands that look at a queue, for people and as JSON."""

from __future__ import annotations

import signal
from datetime import datetime

import anyio
import anyio.lowlevel
import psycopg
import pytest

from pgq_trio import Job, PgQueuer
from tests.cli.command import Command, Invoke
from tests.servers import OwnServer

COMMANDS = ["queue", "jobs", "log", "statistics", "failed", "stale", "workers", "backlog"]


async def _work(dsn: str) -> None:
    """Two jobs succeed, one fails, one is held, two are queued for nobody."""
    async with PgQueuer.open(dsn) as pgq:

        @pgq.entrypoint("good")
        async def good(job: Job) -> None:
            await anyio.lowlevel.checkpoint()
            assert job.payload == b"secret"

        @pgq.entrypoint("bad")
        async def bad(job: Job) -> None:
            await anyio.lowlevel.checkpoint()
            raise RuntimeError("no\x1b[31m luck")

        pgq.entrypoint("held", on_failure="hold")(bad)
        await pgq.queries.enqueue(["good", "good", "bad", "held", "other", "other"], b"secret")
        await pgq.run(mode="drain", handle_signals=False)


@pytest.fixture
def worked_dsn(installed_dsn: str) -> str:
    """A queue on which a worker has worked."""
    anyio.run(_work, installed_dsn, backend="trio")
    return installed_dsn


@pytest.fixture
def claimed_dsn(worked_dsn: str) -> str:
    """The same, where a worker has claimed one job and died."""
    with psycopg.connect(worked_dsn) as connection:
        connection.execute(
            "UPDATE pgqueuer SET status = 'picked', heartbeat = now() - interval '10 minutes',"
            " queue_manager_id = '00000000-0000-0000-0000-00000000000a'"
            " WHERE id = (SELECT max(id) FROM pgqueuer)"
        )
    return worked_dsn


@pytest.mark.parametrize("name", COMMANDS)
def test_an_empty_queue(invoke: Invoke, installed_dsn: str, name: str) -> None:
    result = invoke(name, "--json", "--dsn", installed_dsn)
    assert (result.code, result.json, result.err) == (0, [], "")
    result = invoke(name, "--dsn", installed_dsn)
    assert (result.code, result.err, result.out.count("\n")) == (0, "", 1)


@pytest.mark.parametrize("name", COMMANDS)
def test_without_tables(invoke: Invoke, dsn: str, name: str) -> None:
    result = invoke(name, "--dsn", dsn)
    assert (result.code, result.out) == (1, "")
    assert "`pgq-trio install`" in result.error


def test_queue(invoke: Invoke, worked_dsn: str) -> None:
    result = invoke("queue", "--json", "--dsn", worked_dsn)
    rows = {(row["entrypoint"], row["status"]): row for row in result.json}
    assert set(rows) == {("held", "failed"), ("other", "queued")}
    assert rows["other", "queued"] == {
        "count": 2,
        "entrypoint": "other",
        "priority": 0,
        "status": "queued",
    }
    text = invoke("queue", "--dsn", worked_dsn).out
    assert "other" in text
    assert "held" in text


def test_jobs(invoke: Invoke, worked_dsn: str) -> None:
    at = ("--dsn", worked_dsn)
    found = invoke("jobs", "--json", *at).json
    assert {(job["entrypoint"], job["status"]) for job in found} == {
        ("held", "failed"),
        ("other", "queued"),
    }
    other = next(job for job in found if job["entrypoint"] == "other")
    assert other["payload_bytes"] == 6
    assert "payload" not in other
    assert datetime.fromisoformat(other["created"]).utcoffset() is not None
    assert len(invoke("jobs", "--json", "--entrypoint", "other", "--limit", "1", *at).json) == 1
    assert len(invoke("jobs", "--json", "--status", "failed", *at).json) == 1
    assert invoke("jobs", "--json", "--offset", "3", *at).json == []
    text = invoke("jobs", *at).out
    assert "other" in text
    assert "secret" not in text


def test_failed(invoke: Invoke, worked_dsn: str) -> None:
    (job,) = invoke("failed", "--json", "--dsn", worked_dsn).json
    assert (job["entrypoint"], job["status"], job["payload_bytes"]) == ("held", "failed", 6)
    assert "held" in invoke("failed", "--dsn", worked_dsn).out


def test_log(invoke: Invoke, worked_dsn: str) -> None:
    at = ("--dsn", worked_dsn)
    rows = invoke("log", "--json", "--limit", "100", *at).json
    statuses = [row["status"] for row in rows]
    assert statuses.count("queued") == 6
    assert statuses.count("successful") == 2
    assert [row["created"] for row in rows] == sorted(row["created"] for row in rows)
    bad = next(row for row in rows if row["status"] == "exception")
    assert bad["traceback"]["exception_message"] == "no\x1b[31m luck"
    assert "Traceback" in bad["traceback"]["traceback"]

    mine = invoke("log", "--json", "--job", str(bad["job_id"]), *at).json
    assert [row["status"] for row in mine] == ["queued", "picked", "exception"]
    newest = invoke("log", "--json", "--limit", "1", "--job", str(bad["job_id"]), *at).json
    assert newest == [mine[-1]]
    failures = invoke("log", "--json", "--exceptions", *at).json
    assert {row["status"] for row in failures} == {"exception", "failed"}
    text = invoke("log", *at).out
    assert "RuntimeError: no\\x1b[31m luck" in text
    assert all(character.isprintable() or character == "\n" for character in text)
    assert invoke("log", "--exceptions", "--job", "1", *at).code == 2


def test_statistics(invoke: Invoke, worked_dsn: str) -> None:
    at = ("--dsn", worked_dsn)
    rows = invoke("statistics", "--json", "--limit", "100", "--last", "1h", *at).json
    good = [row for row in rows if (row["entrypoint"], row["status"]) == ("good", "successful")]
    assert sum(row["count"] for row in good) == 2
    assert set(good[0]) == {"count", "created", "entrypoint", "priority", "status"}
    assert len(invoke("statistics", "--json", "--limit", "1", *at).json) == 1
    assert "good" in invoke("statistics", *at).out


def test_backlog(invoke: Invoke, worked_dsn: str) -> None:
    (row,) = invoke("backlog", "--json", "--dsn", worked_dsn).json
    assert (row["entrypoint"], row["queued_count"]) == ("other", 2)
    assert 0 <= row["avg_age_seconds"] <= row["oldest_age_seconds"]
    assert "other" in invoke("backlog", "--dsn", worked_dsn).out


def test_workers_and_stale_jobs(invoke: Invoke, claimed_dsn: str) -> None:
    at = ("--dsn", claimed_dsn)
    (worker,) = invoke("workers", "--json", *at).json
    assert worker["queue_manager_id"] == "00000000-0000-0000-0000-00000000000a"
    assert (worker["active_jobs"], worker["entrypoints"]) == (1, ["other"])
    (job,) = invoke("stale", "--json", *at).json
    assert job["entrypoint"] == "other"
    assert 600 <= job["seconds_since_heartbeat"] < 3600
    assert invoke("stale", "--json", "--threshold", "2h", *at).json == []
    assert "00000000000a" in invoke("workers", *at).out
    assert "other" in invoke("stale", *at).out


@pytest.mark.parametrize(
    "args",
    [
        ("log", "--limit", "0"),
        ("log", "--job", "x"),
        ("statistics", "--last", "tomorrow"),
        ("stale", "--threshold", "-1"),
        ("stale", "--threshold", "1y"),
        ("jobs", "--status", "lost"),
        ("jobs", "--offset", "-1"),
        ("status", "--watch", "0"),
        ("status", "--json", "--watch", "1"),
        ("listen", "--count", "0"),
    ],
)
def test_wrong_options(invoke: Invoke, args: tuple[str, ...]) -> None:
    result = invoke(*args)
    assert (result.code, result.out) == (2, "")
    assert result.error


def test_listen(command: Command, invoke: Invoke, installed_dsn: str) -> None:
    at = ("--dsn", installed_dsn)
    listener = command.start("listen", *at)
    listener.until_error("listening on ch_pgqueuer")
    assert invoke("enqueue", "mail", *at).code == 0
    assert '"operation"' in listener.until("table_changed_event")
    listener.signal(signal.SIGINT)
    assert listener.end().code == 130


def test_listen_elsewhere(command: Command, installed_dsn: str) -> None:
    listener = command.start("listen", "--channel", "news", "--count", "2", "--dsn", installed_dsn)
    listener.until_error("listening on news")
    with psycopg.connect(installed_dsn) as connection:
        connection.execute("NOTIFY news, E'a\\x1b'")
        connection.execute("NOTIFY news, 'b'")
    result = listener.end()
    assert (result.code, result.out) == (0, "a\\x1b\nb\n")


def end_other_sessions(dsn: str) -> None:
    """Have the server end them, as it does when it is restarted."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_listen_after_an_outage(command: Command, installed_dsn: str) -> None:
    listener = command.start("listen", "--channel", "news", "--count", "2", "--dsn", installed_dsn)
    for text in ("a", "b"):
        listener.until_error("listening on news")
        with psycopg.connect(installed_dsn) as connection:
            connection.execute(f"NOTIFY news, '{text}'")
        if text == "a":
            listener.until("a")
            end_other_sessions(installed_dsn)
            line = listener.until_error("trying to connect again")
            assert line.startswith("the connection to PostgreSQL is lost: ")
            listener.until_error("connected again")
    assert listener.end().code == 0


def test_listen_and_watch_while_the_server_is_down(command: Command, own_server: OwnServer) -> None:
    at = ("--dsn", own_server.dsn())
    assert command.run("install", *at).code == 0
    listener = command.start("listen", *at)
    watcher = command.start("status", "--watch", "0.1", *at)
    listener.until_error("listening on ch_pgqueuer")
    watcher.until("queue: none")
    own_server.stop()
    for running in (listener, watcher):
        running.until_error("trying to connect again")
    own_server.start()
    for running in (listener, watcher):
        running.until_error("connected again")
    listener.until_error("listening on ch_pgqueuer")
    assert command.run("enqueue", "mail", *at).code == 0
    listener.until("table_changed_event")
    watcher.until("mail")


def test_listen_without_a_server(invoke: Invoke) -> None:
    result = invoke("listen", "--dsn", "host=127.0.0.1 port=1")
    assert (result.code, result.out) == (1, "")
    assert result.error.startswith("Error: cannot connect to PostgreSQL: ")


def test_watch_after_an_outage(command: Command, invoke: Invoke, installed_dsn: str) -> None:
    at = ("--dsn", installed_dsn)
    watcher = command.start("status", "--watch", "0.1", *at)
    watcher.until("queue: none")
    end_other_sessions(installed_dsn)
    watcher.until_error("trying to connect again")
    watcher.until_error("connected again")
    assert invoke("enqueue", "mail", *at).code == 0
    watcher.until("mail")
    watcher.signal(signal.SIGTERM)
    assert watcher.end().code == 143


def test_what_another_try_does_not_mend_ends_a_watch(
    command: Command, invoke: Invoke, installed_dsn: str
) -> None:
    watcher = command.start("status", "--watch", "0.1", "--dsn", installed_dsn)
    watcher.until("queue: none")
    assert invoke("uninstall", "--yes", "--dsn", installed_dsn).code == 0
    result = watcher.end()
    assert result.code == 1
    assert "`pgq-trio install`" in result.err


def test_watch(command: Command, invoke: Invoke, installed_dsn: str) -> None:
    at = ("--dsn", installed_dsn)
    watcher = command.start("status", "--watch", "0.1", *at)
    watcher.until("queue: none")
    assert invoke("enqueue", "mail", *at).code == 0
    watcher.until("mail")
    watcher.signal(signal.SIGINT)
    assert watcher.end().code == 130
