"""`enqueue --stdin` and `--jsonl`: many jobs, and lines that are none."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from pgq_trio.cli import bulk
from pgq_trio.cli.lines import Lines
from tests.cli.command import Command, Invoke


def rows(dsn: str) -> list[dict[str, Any]]:
    """The queue, and how long each job has to wait."""
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        return connection.execute(
            "SELECT *, extract(epoch FROM execute_after - created)::float AS wait"
            " FROM pgqueuer ORDER BY id"
        ).fetchall()


def test_a_payload_on_each_line(invoke: Invoke, installed_dsn: str) -> None:
    result = invoke(
        *("enqueue", "mail", "--stdin", "--priority", "3", "--header", "a=b"),
        *("--dsn", installed_dsn),
        stdin=b"one\r\n\n\xff\xfe\nlast",
    )
    assert (result.code, result.out, result.err) == (0, "enqueued 4 jobs\n", "")
    found = rows(installed_dsn)
    assert [row["payload"] for row in found] == [b"one", b"", b"\xff\xfe", b"last"]
    assert {row["priority"] for row in found} == {3}
    assert [row["headers"] for row in found] == [{"a": "b"}] * 4


def test_objects(invoke: Invoke, installed_dsn: str) -> None:
    lines = [
        {"payload": "grüße", "priority": 5, "headers": {"x": [1]}, "dedupe_key": "k"},
        {"payload": {"id": 1}, "execute_after": 90},
        {"payload": None, "execute_after": "2040-02-03T04:05:00+01:00", "priority": None},
        {},
    ]
    text = "\n\n".join(map(json.dumps, lines))
    at = ("--dsn", installed_dsn)
    result = invoke("enqueue", "mail", "--jsonl", "--priority", "7", "--json", *at, stdin=text)
    found = rows(installed_dsn)
    assert (result.code, result.json) == (0, {"ids": [row["id"] for row in found]})
    assert [row["payload"] for row in found] == ["grüße".encode(), b'{"id":1}', None, None]
    assert [row["priority"] for row in found] == [5, 7, 7, 7]
    assert (found[0]["headers"], found[0]["dedupe_key"]) == ({"x": [1]}, "k")
    assert found[1]["wait"] == pytest.approx(90, abs=0.01)
    assert found[2]["execute_after"].year == 2040


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "no JSON"),
        ("[]", "an object is expected"),
        ('{"payloads": 1}', "'payloads' is none of"),
        ('{"priority": "high"}', "priority"),
        ('{"execute_after": "tomorrow"}', "tomorrow"),
        ('{"execute_after": "2040-01-01T00:00"}', "time zone"),
        ('{"headers": 3}', "headers"),
        ('{"dedupe_key": "a\\u0000"}', "dedupe_key"),
        (b"\xff", "UTF-8"),
        ('{"payload": NaN}', "NaN is no number in JSON"),
        ('{"payload": [-Infinity]}', "-Infinity is no number in JSON"),
        ('{"payload": [1e999]}', "JSON"),
        ('{"headers": {"a": Infinity}}', "Infinity is no number in JSON"),
    ],
)
def test_a_malformed_line(
    invoke: Invoke, installed_dsn: str, line: str | bytes, reason: str
) -> None:
    data = line.encode() if isinstance(line, str) else line
    result = invoke(
        *("enqueue", "mail", "--jsonl", "--dsn", installed_dsn),
        stdin=b'{"payload": "a"}\n\n' + data + b'\n{"payload": "b"}\n',
    )
    assert (result.code, result.out) == (1, "")
    assert result.error.startswith("Error: line 3: ")
    assert reason in result.error
    assert "the lines 1 to 2 were enqueued" in result.error
    assert [row["payload"] for row in rows(installed_dsn)] == [b"a"]


def test_batches(invoke: Invoke, installed_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "BATCH_JOBS", 10)
    at = ("--dsn", installed_dsn)
    text = "".join(f'{{"dedupe_key": "{number}"}}\n' for number in range(35))
    assert invoke("enqueue", "mail", "--jsonl", *at, stdin=text).out == "enqueued 35 jobs\n"
    assert [row["dedupe_key"] for row in rows(installed_dsn)] == list(map(str, range(35)))

    more = "".join(f'{{"dedupe_key": "{number}"}}\n' for number in range(60, 20, -1))
    result = invoke("enqueue", "mail", "--jsonl", *at, stdin=more)
    assert result.code == 1
    # Of several keys that are taken the first in their own order, in which keys are inserted.
    assert result.error.startswith("Error: line 30: the dedupe key '31' is taken, so none of the ")
    assert "none of the lines 21 to 30 was enqueued" in result.error
    assert "the lines 1 to 20 were enqueued" in result.error
    assert len(rows(installed_dsn)) == 55
    result = invoke("enqueue", "mail", "--jsonl", "--on-conflict", "skip", *at, stdin=more)
    assert (result.code, result.out) == (0, "enqueued 6 jobs, skipped 34\n")
    assert len(rows(installed_dsn)) == 61


def test_nothing(invoke: Invoke, installed_dsn: str) -> None:
    result = invoke("enqueue", "mail", "--stdin", "--dsn", installed_dsn, stdin="")
    assert (result.code, result.out) == (0, "enqueued 0 jobs\n")


@pytest.mark.parametrize(
    "args", [("--payload", "x"), ("--dedupe-key", "k"), ("--payload-file", "f")]
)
def test_what_is_for_one_job_only(invoke: Invoke, tmp_path: Path, args: tuple[str, ...]) -> None:
    (tmp_path / "f").touch()
    result = invoke("enqueue", "mail", "--stdin", *args, stdin="a\n")
    assert (result.code, result.out) == (2, "")


def test_a_terminal_gets_a_progress_bar(installed_dsn: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("a\nb\n")
    shown, terminal = pty.openpty()
    program = [sys.executable, "-m", "pgq_trio", "enqueue", "mail", "--stdin"]
    with (tmp_path / "in").open() as source, (tmp_path / "out").open("w") as target:
        subprocess.run(
            [*program, "--dsn", installed_dsn],
            stdin=source,
            stdout=target,
            stderr=terminal,
            check=True,
            timeout=60,
        )
    bar = os.read(shown, 65536)
    os.close(terminal)
    os.close(shown)
    assert b"enqueued" in bar
    assert b"2/?" in bar
    assert (tmp_path / "out").read_text() == "enqueued 2 jobs\n"


def test_ctrl_c_while_it_waits_for_a_line(command: Command, installed_dsn: str) -> None:
    writer = command.start("enqueue", "mail", "--stdin", "--dsn", installed_dsn, "--debug")
    with psycopg.connect(installed_dsn, autocommit=True) as connection:
        until_connected(connection)
    writer.signal(signal.SIGINT)
    result = writer.end()
    assert (result.code, result.out) == (130, "")
    assert result.err == "Interrupted: nothing was enqueued\n"


def test_lines_that_have_come_do_not_wait_for_others(command: Command, installed_dsn: str) -> None:
    writer = command.start("enqueue", "mail", "--stdin", "--json", "--dsn", installed_dsn)
    writer.say("1\n2\n3\n")
    with psycopg.connect(installed_dsn, autocommit=True) as connection:
        until_enqueued(connection, 3)
        writer.say("4\n5")  # the last is no line yet
        until_enqueued(connection, 4)
    writer.signal(signal.SIGINT)
    result = writer.end()
    assert result.code == 130
    ids = [row["id"] for row in rows(installed_dsn)]
    # The signal may be there before the answer of the server is.
    surely, reported = len(result.json["ids"]), result.err
    assert result.json["ids"] == ids[:surely]
    if surely == 4:
        assert reported == "Interrupted: the lines 1 to 4 were enqueued\n"
    else:
        assert reported == (
            "Interrupted: the lines 1 to 3 were enqueued; whether line 4 was is unknown\n"
        )


def test_a_key_given_twice(invoke: Invoke, installed_dsn: str) -> None:
    text = "".join(f'{{"dedupe_key": "{key}"}}\n\n' for key in ("a)", "b", "(a)", "b", "c"))
    result = invoke("enqueue", "mail", "--jsonl", "--dsn", installed_dsn, stdin=text)
    assert result.code == 1
    assert "the lines 3 and 7 have the same dedupe key 'b', so none of the lines" in result.error
    assert "nothing was enqueued before it" in result.error
    assert rows(installed_dsn) == []


def test_lines_as_they_come() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", 0) as stream, os.fdopen(writing, "wb", 0) as writer:
        lines = Lines(stream, 10)
        assert lines.next(0) is None
        writer.write(b"a\n\nb")
        assert [lines.next(None), lines.next(0), lines.next(0)] == [b"a\n", b"\n", None]
        writer.write(b"c\nd")
        assert [lines.next(None), lines.next(0)] == [b"bc\n", None]
        writer.close()
        assert [lines.next(None) for _ in range(3)] == [b"d", b"", b""]


def test_a_line_that_is_too_long_is_not_read_to_its_end() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", 0) as stream, os.fdopen(writing, "wb", 0) as writer:
        writer.write(b"x" * 11)
        assert Lines(stream, 10).next(0) == b"x" * 11


def test_lines_in_memory() -> None:
    lines = Lines(io.BytesIO(b"a\nb"), 10)
    assert [lines.next(0) for _ in range(3)] == [b"a\n", b"b", b""]


def until_enqueued(connection: psycopg.Connection[Any], count: int) -> None:
    """Wait until there are so many jobs."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        row = connection.execute("SELECT count(*) FROM pgqueuer").fetchone()
        if row is not None and row[0] >= count:
            return
        time.sleep(0.01)
    raise AssertionError("the jobs did not come")


def until_connected(connection: psycopg.Connection[Any]) -> None:
    """Wait until somebody else has a session in this database."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        ).fetchone()
        if row is not None and row[0] > 1:
            return
        time.sleep(0.01)
    raise AssertionError("nobody connected")
