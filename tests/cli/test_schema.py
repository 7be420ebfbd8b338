"""`install`, `upgrade`, `verify`, `uninstall`, `durability`, `autovac`."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.cli.command import Invoke
from tests.schema.older import take_back
from tests.schema.pgqueuers import fetch


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
    assert all(" is missing; mend it with `pgq-trio install`" in line for line in lines)

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
            "column pgqueuer.headers is missing; mend it with `pgq-trio upgrade`",
            "index pgqueuer_ep_ea_idx is missing; mend it with `pgq-trio upgrade`",
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
    assert "`pgq-trio upgrade`" in result.err
    assert invoke("upgrade", "--dsn", installed_dsn).code == 0
    assert invoke("install", "--dsn", installed_dsn).code == 0


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


class TestVerify:
    def test_expect_absent(self, invoke: Invoke, dsn: str) -> None:
        result = invoke("verify", "--expect", "absent", "--dsn", dsn)
        assert (result.code, result.out) == (0, "ok: no object is there\n")
        assert invoke("install", "--dsn", dsn).code == 0
        result = invoke("verify", "--expect", "absent", "--dsn", dsn)
        assert (result.code, result.err) == (1, "")
        lines = result.out.splitlines()
        assert "table pgqueuer is there; drop it with `pgq-trio uninstall`" in lines
        result = invoke("verify", "--expect", "absent", "--json", "--dsn", dsn)
        assert (result.code, result.json) == (1, {"ok": False, "problems": lines})

    def test_expect_present_is_the_default(self, invoke: Invoke, installed_dsn: str) -> None:
        given = invoke("verify", "--expect", "present", "--dsn", installed_dsn)
        assert given == invoke("verify", "--dsn", installed_dsn)
        assert given.code == 0

    def test_expect_something_else(self, invoke: Invoke, dsn: str) -> None:
        assert invoke("verify", "--expect", "perhaps", "--dsn", dsn).code == 2


class TestUpgrade:
    @pytest.fixture
    def older_dsn(self, installed_dsn: str) -> str:
        take_back(installed_dsn, "1.3")
        return installed_dsn

    def test_plan_and_upgrade(self, invoke: Invoke, older_dsn: str) -> None:
        plan = invoke("upgrade", "--plan", "--dsn", older_dsn)
        assert (plan.code, plan.err) == (0, "")
        assert "-- 3: add the columns that tables lack\n\nALTER TABLE" in plan.out
        assert invoke("verify", "--dsn", older_dsn).code == 1  # nothing was run
        result = invoke("upgrade", "--dsn", older_dsn)
        assert (result.code, result.err) == (0, "")
        assert result.out.splitlines()[0] == "applied 3: add the columns that tables lack"
        assert result.out.endswith("\nupgraded\n")
        assert invoke("verify", "--dsn", older_dsn).code == 0
        assert invoke("upgrade", "--dsn", older_dsn).out == "up to date\n"
        assert invoke("upgrade", "--plan", "--dsn", older_dsn).out == "-- nothing to do\n"

    def test_the_plan_can_be_run(self, invoke: Invoke, older_dsn: str) -> None:
        fetch(older_dsn, invoke("upgrade", "--plan", "--dsn", older_dsn).out)
        assert invoke("verify", "--dsn", older_dsn).code == 0

    def test_as_json(self, invoke: Invoke, older_dsn: str) -> None:
        plan = invoke("upgrade", "--plan", "--json", "--dsn", older_dsn).json
        assert [step["number"] for step in plan] == [3, 5, 7]
        assert plan[0] == {
            "number": 3,
            "name": "add the columns that tables lack",
            "statements": ['ALTER TABLE "pgqueuer" ADD COLUMN slot bigint'],
        }
        assert invoke("upgrade", "--json", "--dsn", older_dsn).json == plan
        assert invoke("upgrade", "--json", "--dsn", older_dsn).json == []

    def test_ids_may_stay_narrow(self, invoke: Invoke, installed_dsn: str) -> None:
        place = ("--dsn", installed_dsn)
        fetch(installed_dsn, "ALTER TABLE pgqueuer ALTER id TYPE integer")
        assert invoke("upgrade", "--no-widen-id", *place).out == "up to date\n"
        assert invoke("upgrade", "--plan", "--no-widen-id", "--json", *place).json == []
        text = invoke("sql", "upgrade", "--no-widen-id").out
        fetch(installed_dsn, text)
        assert invoke("verify", *place).code == 1
        assert invoke("upgrade", "--widen-id", *place).code == 0
        assert invoke("verify", *place).code == 0

    def test_what_stands_in_its_way(self, invoke: Invoke, installed_dsn: str) -> None:
        fetch(installed_dsn, "ALTER TABLE pgqueuer ALTER updated DROP NOT NULL")
        fetch(
            installed_dsn,
            "INSERT INTO pgqueuer (priority, status, entrypoint, updated)"
            " VALUES (0, 'queued', 'e', NULL)",
        )
        result = invoke("upgrade", "--dsn", installed_dsn)
        assert (result.code, result.out) == (1, "")
        assert "step 5 of the upgrade" in result.error


class TestDurability:
    def test_install(self, invoke: Invoke, dsn: str) -> None:
        assert invoke("install", "--durability", "balanced", "--dsn", dsn).code == 0
        assert unlogged(dsn) == ["pgqueuer_log", "pgqueuer_statistics"]
        result = invoke("verify", "--dsn", dsn)
        assert result.code == 1
        assert "`pgq-trio durability durable`, or set PGQUEUER_DURABILITY" in result.out

    def test_from_the_environment(
        self, invoke: Invoke, dsn: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PGQUEUER_DURABILITY", "balanced")
        assert invoke("install", "--dsn", dsn).code == 0
        assert unlogged(dsn) == ["pgqueuer_log", "pgqueuer_statistics"]
        assert invoke("verify", "--dsn", dsn).code == 0

    @pytest.mark.parametrize("answer", ["n\n", ""])
    def test_unlogging_needs_a_yes(self, invoke: Invoke, installed_dsn: str, answer: str) -> None:
        result = invoke("durability", "volatile", "--dsn", installed_dsn, stdin=answer)
        assert (result.code, result.out) == (1, "")
        assert 'ALTER TABLE "pgqueuer_log" SET UNLOGGED\n' in result.err
        assert "nothing was changed" in result.err
        assert unlogged(installed_dsn) == []

    def test_there_and_back(self, invoke: Invoke, installed_dsn: str) -> None:
        place = ("--dsn", installed_dsn)
        result = invoke("durability", "balanced", *place, stdin="y\n")
        assert result.code == 0
        assert result.out.splitlines() == [
            'ALTER TABLE "pgqueuer_log" SET UNLOGGED',
            'ALTER TABLE "pgqueuer_statistics" SET UNLOGGED',
            "balanced",
        ]
        assert unlogged(installed_dsn) == ["pgqueuer_log", "pgqueuer_statistics"]
        result = invoke("durability", "balanced", *place)  # nothing to ask
        assert (result.code, result.out, result.err) == (0, "balanced already\n", "")
        assert len(invoke("durability", "volatile", "--yes", "--json", *place).json["changed"]) == 2
        result = invoke("durability", "durable", "--json", *place)  # nothing to fear
        assert (result.code, result.err) == (0, "")
        assert result.json["durability"] == "durable"
        assert len(result.json["changed"]) == 4
        assert unlogged(installed_dsn) == []

    def test_another_word(self, invoke: Invoke, installed_dsn: str) -> None:
        assert invoke("durability", "eternal", "--dsn", installed_dsn).code == 2

    def test_without_tables(self, invoke: Invoke, dsn: str) -> None:
        result = invoke("durability", "durable", "--dsn", dsn)
        assert result.code == 1
        assert "`pgq-trio install`" in result.error


def test_autovac(invoke: Invoke, installed_dsn: str) -> None:
    tuned = (
        "SELECT relname::text FROM pg_class WHERE reloptions IS NOT NULL AND relname ~ '^pgqueuer'"
    )
    place = ("--dsn", installed_dsn)
    assert invoke("autovac", *place).out == "tuned\n"
    assert len(fetch(installed_dsn, tuned)) == 4
    assert invoke("autovac", "--rollback", *place).out == "back to the defaults\n"
    assert fetch(installed_dsn, tuned) == []
    assert invoke("autovac", "--json", *place).json == {"autovacuum": "tuned"}
    assert len(fetch(installed_dsn, tuned)) == 4
    result = invoke("autovac", "--rollback", "--json", *place)
    assert result.json == {"autovacuum": "defaults"}
    assert fetch(installed_dsn, tuned) == []


def unlogged(dsn: str) -> list[str]:
    """The tables that a crash of the server would empty."""
    rows = fetch(
        dsn,
        "SELECT relname::text FROM pg_class"
        " WHERE relkind = 'r' AND relpersistence = 'u' ORDER BY 1",
    )
    return [row[0] for row in rows]
