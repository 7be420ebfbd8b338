"""`enqueue`: what lands in the table, and what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.cli.command import Invoke


def rows(dsn: str) -> list[dict[str, Any]]:
    """The queue, and how long each job has to wait."""
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        return connection.execute(
            "SELECT *, extract(epoch FROM execute_after - created)::float AS wait"
            " FROM pgqueuer ORDER BY id"
        ).fetchall()


def test_a_plain_job(invoke: Invoke, installed_dsn: str) -> None:
    result = invoke("enqueue", "mail", "--dsn", installed_dsn)
    (row,) = rows(installed_dsn)
    assert (result.code, result.out, result.err) == (0, f"enqueued job {row['id']}\n", "")
    assert (row["entrypoint"], row["payload"], row["headers"]) == ("mail", None, None)


def test_everything_a_job_can_have(invoke: Invoke, installed_dsn: str) -> None:
    result = invoke(
        *("enqueue", "mail", "--payload", "grüße", "--priority", "-3", "--delay", "90.5"),
        *("--dedupe-key", "k", "--header", "a=b=c", "--header", "d=", "--json"),
        *("--dsn", installed_dsn),
    )
    (row,) = rows(installed_dsn)
    assert (result.code, result.json) == (0, {"ids": [row["id"]]})
    assert row["payload"] == "grüße".encode()
    assert (row["priority"], row["dedupe_key"]) == (-3, "k")
    assert row["headers"] == {"a": "b=c", "d": ""}
    assert row["wait"] == pytest.approx(90.5, abs=0.01)


def test_a_point_in_time(invoke: Invoke, installed_dsn: str) -> None:
    assert (
        invoke("enqueue", "x", "--at", "2040-02-03T04:05+01:00", "--dsn", installed_dsn).code == 0
    )
    (row,) = rows(installed_dsn)
    assert row["execute_after"] == datetime(2040, 2, 3, 3, 5, tzinfo=UTC)


def test_payloads_from_files(invoke: Invoke, installed_dsn: str, tmp_path: Path) -> None:
    data = bytes(range(256))
    (tmp_path / "data").write_bytes(data)
    at = ("--dsn", installed_dsn)
    assert invoke("enqueue", "x", "--payload-file", "data", *at).code == 0
    assert invoke("enqueue", "x", "--payload-file", "-", *at, stdin=data).code == 0
    assert [row["payload"] for row in rows(installed_dsn)] == [data, data]


def test_dedupe_keys(invoke: Invoke, installed_dsn: str) -> None:
    at = ("--dedupe-key", "k", "--dsn", installed_dsn)
    assert invoke("enqueue", "x", *at).code == 0
    result = invoke("enqueue", "x", *at)
    assert (result.code, result.out) == (1, "")
    assert "'k'" in result.error
    assert "--on-conflict skip" in result.error

    result = invoke("enqueue", "x", "--on-conflict", "skip", *at)
    assert result.code == 0
    assert result.out.startswith("skipped: ")
    assert invoke("enqueue", "x", "--on-conflict", "skip", "--json", *at).json == {"ids": [None]}
    result = invoke(
        "enqueue", "x", "--on-conflict", "update_priority", "--priority", "7", "--json", *at
    )
    (row,) = rows(installed_dsn)
    assert (result.json, row["priority"]) == ({"ids": [row["id"]]}, 7)


def test_without_tables(invoke: Invoke, dsn: str) -> None:
    result = invoke("enqueue", "x", "--dsn", dsn)
    assert result.code == 1
    assert "`pgq-trio install`" in result.error


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ((), "ENTRYPOINT"),
        (("",), "non-empty"),
        (("x", "--priority", "many"), "--priority"),
        (("x", "--priority", "3000000000"), "32 bits"),
        (("x", "--delay", "-1"), "--delay"),
        (("x", "--delay", "nan"), "--delay"),
        (("x", "--delay", "1e300"), "--delay"),
        (("x", "--at", "noon"), "ISO 8601"),
        (("x", "--at", "2030-01-01T00:00"), "time zone"),
        (("x", "--at", "2030-01-01T00:00Z", "--delay", "1"), "exclude"),
        (("x", "--header", "novalue"), "K=V"),
        (("x", "--header", "=v"), "K=V"),
        (("x", "--payload", "a", "--payload-file", "-"), "exclude"),
        (("x", "--payload-file", "missing"), "missing"),
        (("x", "--on-conflict", "ignore"), "ignore"),
    ],
)
def test_wrong_calls(invoke: Invoke, args: tuple[str, ...], reason: str) -> None:
    result = invoke("enqueue", *args)
    assert (result.code, result.out) == (2, "")
    assert reason in result.error


def test_json_is_json(invoke: Invoke, installed_dsn: str) -> None:
    result = invoke("enqueue", "x", "--json", "--dsn", installed_dsn)
    assert list(json.loads(result.out)) == ["ids"]
