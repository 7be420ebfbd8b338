"""`sql`: what it prints, run by psql or psycopg, does what the commands do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from pgq_trio.settings import Settings
from tests.cli.command import Invoke
from tests.schema.older import VERSIONS, fill, rows, take_back
from tests.schema.pgqueuers import fetch
from tests.servers import PostgresServer

PRESENT, ABSENT = ("verify",), ("verify", "--expect", "absent")

ODD = ("--schema", "odd \\one; $$ :x", "--prefix", "q\"u'o%s ")


def printed(invoke: Invoke, *args: str) -> str:
    """What `sql` prints without a database to reach: tests have none by default."""
    result = invoke("sql", *args)
    assert (result.code, result.err) == (0, "")
    comments = [line for line in result.out.splitlines() if line.startswith("--")]
    assert comments[0].startswith("-- pgq-trio ")
    assert result.out.rstrip().endswith(";")
    return result.out


def psql(dsn: str, text: str, *options: str) -> None:
    """Run SQL as the hint in it says."""
    program = shutil.which("psql")
    assert program is not None
    done = subprocess.run(
        [program, "-X", "-q", "-v", "ON_ERROR_STOP=1", *options, "-d", dsn],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("place", [(), ("--prefix", "p_"), ("--schema", "s"), ODD], ids=str)
def test_install_and_uninstall(invoke: Invoke, dsn: str, place: tuple[str, ...]) -> None:
    for _ in range(2):
        fetch(dsn, printed(invoke, "install", *place))
        assert invoke(*PRESENT, "--dsn", dsn, *place).code == 0
    fetch(dsn, printed(invoke, "upgrade", *place))
    assert invoke(*PRESENT, "--dsn", dsn, *place).code == 0
    for _ in range(2):
        fetch(dsn, printed(invoke, "uninstall", *place))
        assert invoke(*ABSENT, "--dsn", dsn, *place).code == 0


@pytest.mark.skipif(shutil.which("psql") is None, reason="there is no psql on this machine")
@pytest.mark.parametrize("options", [(), ("-1",)], ids=["autocommit", "one transaction"])
def test_in_psql(invoke: Invoke, dsn: str, options: tuple[str, ...]) -> None:
    for place in ((), ODD):
        psql(dsn, printed(invoke, "install", *place), *options)
        psql(dsn, printed(invoke, "upgrade", *place), *options)
        assert invoke(*PRESENT, "--dsn", dsn, *place).code == 0
        psql(dsn, printed(invoke, "durability", "volatile", *place), *options)
        psql(dsn, printed(invoke, "autovac", *place), *options)
        psql(dsn, printed(invoke, "uninstall", *place), *options)
        assert invoke(*ABSENT, "--dsn", dsn, *place).code == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_upgrade(invoke: Invoke, installed_dsn: str, version: str) -> None:
    take_back(installed_dsn, version)
    fill(installed_dsn)
    before = rows(installed_dsn)
    for _ in range(2):
        fetch(installed_dsn, printed(invoke, "upgrade"))
        assert invoke(*PRESENT, "--dsn", installed_dsn).code == 0
    assert rows(installed_dsn) == before


def test_upgrade_of_nothing(invoke: Invoke, dsn: str) -> None:
    fetch(dsn, printed(invoke, "upgrade", "--schema", "s"))
    assert invoke(*PRESENT, "--dsn", dsn, "--schema", "s").code == 0
    # Tables that are there keep their durability, those that are missing get the one asked for.
    fetch(dsn, "DROP TABLE s.pgqueuer_statistics")
    fetch(dsn, printed(invoke, "upgrade", "--schema", "s", "--durability", "volatile"))
    kept = "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relpersistence = 'u'"
    assert fetch(dsn, kept) == [("pgqueuer_statistics",)]


def test_durability(invoke: Invoke, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(dsn, printed(invoke, "install", "--durability", "volatile"))
    for durability in ("volatile", "balanced", "durable"):
        fetch(dsn, printed(invoke, "durability", durability))
        monkeypatch.setenv("PGQUEUER_DURABILITY", durability)
        assert invoke(*PRESENT, "--dsn", dsn).code == 0


def test_autovac(invoke: Invoke, installed_dsn: str) -> None:
    options = "SELECT reloptions FROM pg_class WHERE relname = 'pgqueuer'"
    fetch(installed_dsn, printed(invoke, "autovac"))
    assert "vacuum_truncate=off" in fetch(installed_dsn, options)[0][0]
    fetch(installed_dsn, printed(invoke, "autovac", "--rollback"))
    assert fetch(installed_dsn, options) == [(None,)]


def test_grant(invoke: Invoke, installed_dsn: str, postgres_server: PostgresServer) -> None:
    role = f'pgq "cli" {uuid4().hex[:12]}'
    name = sql.Identifier(role)
    postgres_server.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
    try:
        fetch(installed_dsn, printed(invoke, "grant", "producer", role))
        place = ("--dsn", f"{installed_dsn} user='{role}'")
        assert invoke("enqueue", "e", *place).code == 0
        result = invoke("uninstall", "--yes", *place)
        assert result.code == 1
        assert "must be owner" in result.error
    finally:
        with psycopg.connect(installed_dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP OWNED BY {}").format(name))
            connection.execute(sql.SQL("DROP ROLE {}").format(name))


def test_names_come_from_the_environment(
    invoke: Invoke, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGQUEUER_QUEUE_TABLE", "Own table")
    text = printed(invoke, "install")
    assert 'TABLE IF NOT EXISTS "Own table"' in text
    fetch(dsn, text)
    assert invoke(*PRESENT, "--dsn", dsn).code == 0
    assert Settings().queue_table == "Own table"


def test_options_stand_anywhere(invoke: Invoke) -> None:
    texts = {
        invoke("--schema", "s", "sql", "install").out,
        invoke("sql", "--schema", "s", "install").out,
        invoke("sql", "install", "--schema", "s").out,
    }
    assert len(texts) == 1


def test_a_name_cannot_leave_its_comment(invoke: Invoke) -> None:
    out = printed(invoke, "install", "--prefix", "a\nDROP TABLE b; --")
    assert "\nDROP TABLE b" not in "\n".join(out.splitlines()[:2])
    assert out.splitlines()[1].startswith("-- apply it")


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("nonsense",),
        ("durability",),
        ("durability", "eternal"),
        ("install", "--durability", "eternal"),
        ("install", "--prefix", "x" * 60),
        ("grant",),
        ("grant", "boss", "role"),
        ("grant", "worker"),
        ("grant", "worker", ""),
        ("grant", "worker", "x" * 64),
    ],
)
def test_called_in_a_wrong_way(invoke: Invoke, args: tuple[str, ...], tmp_path: Path) -> None:
    result = invoke("sql", *args)
    assert (result.code, result.out) == (2, "")
    assert "--" not in result.out
    assert list(tmp_path.iterdir()) == []
