"""`install`, `verify`, `uninstall`."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.cli.command import Invoke


def tables(dsn: str) -> list[str]:
    """All tables of the database that are not PostgreSQL's own."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT schemaname || '.' || tablename FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1"
        ).fetchall()
    return [row[0] for row in rows]


def test_install_verify_uninstall(invoke: Invoke, dsn: str) -> None:
    result = invoke("verify", "--dsn", dsn)
    assert (result.code, result.err) == (1, "")
    lines = result.out.splitlines()
    assert "table pgqueuer is missing; mend it with `pgq-trio install`" in lines
    assert all(" is missing; mend it with `pgq-trio " in line for line in lines)

    result = invoke("install", "--dsn", dsn)
    assert (result.code, result.out, result.err) == (0, "installed\n", "")
    assert invoke("install", "--dsn", dsn).code == 0
    result = invoke("verify", "--dsn", dsn)
    assert (result.code, result.out) == (0, "ok: every object is in place\n")

    result = invoke("uninstall", "--dsn", dsn, "--yes")
    assert (result.code, result.out, result.err) == (0, "uninstalled\n", "")
    assert tables(dsn) == []


def test_verify_as_json(invoke: Invoke, installed_dsn: str) -> None:
    result = invoke("--dsn", installed_dsn, "verify", "--json")
    assert (result.code, result.json) == (0, {"ok": True, "problems": []})
    with psycopg.connect(installed_dsn) as connection:
        connection.execute("DROP INDEX pgqueuer_ep_ea_idx")
        connection.execute("ALTER TABLE pgqueuer DROP COLUMN headers")
    result = invoke("--dsn", installed_dsn, "verify", "--json")
    assert result.code == 1
    assert result.json == {
        "ok": False,
        "problems": [
            "column pgqueuer.headers is missing; mend it with PgQueuer's `pgq upgrade`",
            "index pgqueuer_ep_ea_idx is missing; mend it with `pgq-trio install`",
        ],
    }


def test_prefix_and_schema(invoke: Invoke, dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute('CREATE SCHEMA "odd one"')
    place = ("--dsn", dsn, "--schema", "odd one", "--prefix", 'q"uoted ')
    assert invoke("install", *place).code == 0
    assert 'odd one.q"uoted pgqueuer' in tables(dsn)
    assert invoke("verify", *place).code == 0
    assert invoke("verify", "--dsn", dsn).code == 1


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_uninstall_needs_a_yes(invoke: Invoke, installed_dsn: str, answer: str) -> None:
    result = invoke("uninstall", "--dsn", installed_dsn, stdin=answer)
    assert (result.code, result.out) == (1, "")
    assert "nothing was dropped" in result.err
    assert "public.pgqueuer" in tables(installed_dsn)


def test_uninstall_asks(invoke: Invoke, installed_dsn: str) -> None:
    result = invoke("uninstall", "--dsn", installed_dsn, stdin="y\n")
    assert (result.code, result.out) == (0, "uninstalled\n")
    assert "'pgqueuer'" in result.err
    assert tables(installed_dsn) == []


def test_an_older_table_is_no_reason_to_be_told_to_install(
    invoke: Invoke, installed_dsn: str
) -> None:
    with psycopg.connect(installed_dsn) as connection:
        connection.execute("ALTER TABLE pgqueuer DROP COLUMN slot")
    result = invoke("install", "--dsn", installed_dsn)
    assert result.code == 1
    assert "column pgqueuer.slot is missing" in result.err
    assert "`pgq upgrade`" in result.err


def test_a_private_server_may_be_given_as_open_takes_it(invoke: Invoke, tmp_path: Path) -> None:
    target = f"embedded:{tmp_path / 'data'}"
    result = invoke("install", "--dsn", target)
    assert (result.code, result.out) == (0, "installed\n")
    assert invoke("verify", "--dsn", target).code == 0


@pytest.mark.parametrize("target", ["memory:", "embedded:"])
def test_a_queue_of_one_program_alone_cannot_be_asked(invoke: Invoke, target: str) -> None:
    result = invoke("status", "--dsn", target)
    assert result.code == 1
    assert "one program alone" in result.err
