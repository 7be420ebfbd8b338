"""`schedules`: what it lists, changes and refuses."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.cli.command import Invoke

#: Name, expression, status, and how many seconds from now it is due.
ROWS = [
    ("report", "0 6 * * *", "queued", 3600),
    ("report", "0 18 * * *", "queued", 7200),
    ("sync", "*/5 * * * *", "queued", -60),
    ("7", "0 0 * * *", "picked", 3600),
    ("bell\x07", "0 1 * * *", "canceled", -3600),
]


@pytest.fixture
def filled_dsn(installed_dsn: str) -> str:
    """A queue with five schedules, whose ids are 1 to 5."""
    with psycopg.connect(installed_dsn) as connection:
        for name, expression, status, due in ROWS:
            connection.execute(
                "INSERT INTO pgqueuer_schedules (entrypoint, expression, status, next_run)"
                " VALUES (%s, %s, %s, now() + make_interval(secs => %s))",
                (name, expression, status, due),
            )
    return installed_dsn


def listed(invoke: Invoke, dsn: str) -> dict[int, dict[str, Any]]:
    """What the command lists, by id."""
    result = invoke("schedules", "--json", "--dsn", dsn)
    assert (result.code, result.err) == (0, "")
    return {row["id"]: row for row in result.json}


def states(invoke: Invoke, dsn: str) -> list[str]:
    """The states of all schedules, in the order of their ids."""
    return [row["status"] for _, row in sorted(listed(invoke, dsn).items())]


def test_the_list_as_json(invoke: Invoke, filled_dsn: str) -> None:
    found = listed(invoke, filled_dsn)
    assert list(found[1]) == [
        "id", "name", "expression", "status", "next_run", "last_run", "overdue"
    ]  # fmt: skip
    assert [(row["name"], row["expression"]) for row in found.values()] == [x[:2] for x in ROWS]
    assert states(invoke, filled_dsn) == ["queued", "queued", "queued", "running", "paused"]
    assert [row["overdue"] for row in found.values()] == [False, False, True, False, False]
    assert found[1]["last_run"] is None

    with psycopg.connect(filled_dsn) as connection:
        connection.execute("UPDATE pgqueuer_schedules SET heartbeat = now() - interval '1 min'")
    assert [x["overdue"] for x in listed(invoke, filled_dsn).values()] == [
        False, False, True, True, False
    ]  # fmt: skip


def test_the_list_for_people(invoke: Invoke, filled_dsn: str, installed_dsn: str) -> None:
    result = invoke("--dsn", filled_dsn, "schedules")
    assert (result.code, result.err) == (0, "")
    (line,) = [line for line in result.out.splitlines() if "*/5 * * * *" in line]
    assert line.split()[:2] == ["3", "sync"]
    assert line.rstrip().endswith("overdue")
    assert "bell\\x07" in result.out
    assert "paused" in result.out
    invoke("schedules", "remove", "--yes", "1", "2", "3", "4", "5", "--dsn", installed_dsn)
    result = invoke("schedules", "--dsn", installed_dsn)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("no schedules")


def test_status_uses_the_same_words(invoke: Invoke, filled_dsn: str) -> None:
    found = invoke("status", "--json", "--dsn", filled_dsn).json["schedules"]
    assert [row["status"] for row in found] == ["queued", "queued", "queued", "running", "paused"]
    assert "paused" in invoke("status", "--dsn", filled_dsn).out


def test_pause_and_resume_by_name_and_id(invoke: Invoke, filled_dsn: str) -> None:
    result = invoke("schedules", "pause", "report", "3", "--dsn", filled_dsn)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        "paused schedule 1 'report' '0 6 * * *'",
        "paused schedule 2 'report' '0 18 * * *'",
        "paused schedule 3 'sync' '*/5 * * * *'",
    ]
    assert states(invoke, filled_dsn) == ["paused", "paused", "paused", "running", "paused"]

    result = invoke("schedules", "resume", "2", "7", "--dsn", filled_dsn)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        "resumed schedule 2 'report' '0 18 * * *'",
        "schedule 4 '7' '0 0 * * *' is running, nothing to do",
    ]
    result = invoke("schedules", "resume", "--json", "1", "2", "--dsn", filled_dsn)
    assert (result.code, result.json) == (0, {"ids": [1]})
    assert states(invoke, filled_dsn) == ["queued", "queued", "paused", "running", "paused"]


def test_trigger(invoke: Invoke, filled_dsn: str) -> None:
    before = listed(invoke, filled_dsn)
    result = invoke("schedules", "trigger", "1", "--dsn", filled_dsn)
    assert (result.code, result.err) == (0, "")
    assert result.out == "triggered schedule 1 'report' '0 6 * * *'\n"
    after = listed(invoke, filled_dsn)
    assert after[1]["next_run"] < before[1]["next_run"]
    assert {n: x for n, x in after.items() if n != 1} == {n: x for n, x in before.items() if n != 1}

    result = invoke("schedules", "trigger", "2", "bell\x07", "--dsn", filled_dsn)
    assert (result.code, result.out) == (1, "")
    assert "is paused, so nothing was triggered" in result.error
    assert listed(invoke, filled_dsn) == after


@pytest.mark.parametrize("command", ["pause", "resume", "trigger", "remove"])
def test_an_unknown_name_changes_nothing(invoke: Invoke, filled_dsn: str, command: str) -> None:
    before = listed(invoke, filled_dsn)
    result = invoke("schedules", command, "1", "nobody", "--dsn", filled_dsn)
    assert (result.code, result.out) == (1, "")
    assert "there is no schedule 'nobody'" in result.error
    assert "'report', 'sync'" in result.error
    assert listed(invoke, filled_dsn) == before
    assert invoke("schedules", command, "--dsn", filled_dsn).code == 2


def test_remove_with_yes(invoke: Invoke, filled_dsn: str) -> None:
    result = invoke("schedules", "remove", "--yes", "report", "5", "--dsn", filled_dsn)
    assert (result.code, result.err) == (0, "")
    assert "removed schedule 5 'bell\\x07' '0 1 * * *'" in result.out
    assert sorted(listed(invoke, filled_dsn)) == [3, 4]
    result = invoke("schedules", "remove", "--yes", "--json", "3", "--dsn", filled_dsn)
    assert (result.code, result.json) == (0, {"ids": [3]})


@pytest.mark.parametrize(("answer", "goes"), [("y\n", True), ("n\n", False), ("", False)])
def test_remove_asks(invoke: Invoke, filled_dsn: str, answer: str, goes: bool) -> None:
    result = invoke("schedules", "remove", "report", "--dsn", filled_dsn, stdin=answer)
    assert result.code == (0 if goes else 1)
    assert "schedule 2 'report' '0 18 * * *'" in result.err
    assert "Remove 2 schedule(s)?" in result.err
    assert ("nothing was removed" in result.err) == (not goes)
    assert sorted(listed(invoke, filled_dsn)) == ([3, 4, 5] if goes else [1, 2, 3, 4, 5])


def test_without_tables(invoke: Invoke, dsn: str) -> None:
    for args in ((), ("pause", "1")):
        result = invoke("schedules", *args, "--dsn", dsn)
        assert (result.code, result.out) == (1, "")
        assert "pgq-trio install" in result.error
