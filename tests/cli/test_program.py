"""The program as a whole: help, versions, exit codes, error lines, where options may stand."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from pgq_trio.cli.output import printable
from pgq_trio.cli.place import DEFAULT_DATA, Place
from pgq_trio.cli.program import describe
from pgq_trio.errors import SchemaMissing
from tests.cli.command import Command, Invoke

COMMANDS = ("install", "uninstall", "verify", "run", "enqueue", "status", "demo")


def test_help_names_every_command(invoke: Invoke) -> None:
    result = invoke("--help")
    assert result.code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_the_options_of_the_place(invoke: Invoke, name: str) -> None:
    result = invoke(name, "--help")
    assert result.code == 0
    for option in ("--dsn", "--embedded", "--data", "--prefix", "--schema"):
        assert option in result.out


def test_without_a_command_help_goes_to_standard_error(invoke: Invoke) -> None:
    result = invoke()
    assert (result.code, result.out) == (2, "")
    assert "Commands:" in result.err


def test_the_module_and_the_script_are_one_program(command: Command) -> None:
    result = command.run("--version")
    script = Path(sys.executable).with_name("pgq-trio")
    other = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert result.out == other.stdout == f"pgq-trio, version {version('pgq-trio')}\n"
    assert (result.code, result.err) == (0, "")


def test_a_wrong_call_is_one_line_and_2(invoke: Invoke) -> None:
    result = invoke("frobnicate")
    assert result.code == 2
    assert result.error == "Error: No such command 'frobnicate'. (see `pgq-trio --help`)"
    result = invoke("verify", "--frob")
    assert result.code == 2
    assert "--frob" in result.error
    assert "pgq-trio verify --help" in result.error


@pytest.mark.parametrize(
    "args", [("install",), ("verify", "--json"), ("enqueue", "x"), ("status",)]
)
def test_no_server_is_one_line_and_1(invoke: Invoke, args: tuple[str, ...]) -> None:
    result = invoke(*args)
    assert (result.code, result.out) == (1, "")
    assert "cannot connect to PostgreSQL" in result.error
    assert "/nonexistent" in result.error


@pytest.mark.parametrize("flag", [("--debug", "verify"), ("verify", "--debug")])
def test_a_traceback_is_shown_only_on_demand(invoke: Invoke, flag: tuple[str, ...]) -> None:
    result = invoke(*flag)
    assert result.code == 1
    assert result.err.startswith("Traceback")
    assert result.err.splitlines()[-1].startswith("Error: cannot connect")


def test_the_environment_can_ask_for_tracebacks(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGQ_DEBUG", "1")
    assert invoke("verify").err.startswith("Traceback")


def test_the_place_is_named_before_or_behind_the_command(
    invoke: Invoke, installed_dsn: str
) -> None:
    wrong = "host=/nowhere"
    assert invoke("--dsn", installed_dsn, "verify").code == 0
    assert invoke("verify", "--dsn", installed_dsn).code == 0
    assert invoke("--dsn", wrong, "verify", "--dsn", installed_dsn).code == 0
    assert "/nowhere" in invoke("--dsn", installed_dsn, "verify", "--dsn", wrong).error
    assert "x_pgqueuer" in invoke("--prefix", "x_", "verify", "--dsn", installed_dsn).out
    assert (
        "y_pgqueuer"
        in invoke("--prefix", "x_", "--dsn", installed_dsn, "verify", "--prefix", "y_").out
    )


def test_the_environment_names_the_place(
    invoke: Invoke, installed_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGDSN", installed_dsn)
    assert invoke("verify").code == 0
    monkeypatch.setenv("PGQUEUER_DSN", "host=/nowhere")
    assert "/nowhere" in invoke("verify").error
    assert invoke("verify", "--dsn", installed_dsn).code == 0


def test_two_databases_at_one_position_are_refused(invoke: Invoke) -> None:
    result = invoke("--dsn", "x", "--embedded", "verify")
    assert result.code == 2
    assert "two databases" in result.error
    assert invoke("verify", "--dsn", "x", "--data", "d").code == 2


def test_a_name_postgresql_cannot_use_is_a_wrong_call(invoke: Invoke) -> None:
    result = invoke("verify", "--prefix", "p" * 60)
    assert result.code == 2
    assert "63 bytes" in result.error


def test_later_places_win() -> None:
    first = Place(dsn="a", prefix="p_", schema="s")
    embedded = first.then(Place(embedded=True, prefix="q_"))
    assert embedded == Place(embedded=True, prefix="q_", schema="s")
    assert embedded.is_embedded
    assert embedded.directory == DEFAULT_DATA
    assert embedded.then(Place(data=Path("d"))).directory == Path("d")
    assert Place(data=Path("d")).then(Place(embedded=True)).directory == Path("d")
    assert embedded.then(Place(dsn="b")) == Place(dsn="b", prefix="q_", schema="s")
    assert first.then(Place()) == first
    with pytest.raises(click.UsageError):
        Place(dsn="a", data=Path("d"))


def test_errors_are_described_in_one_line() -> None:
    assert describe(SchemaMissing(["table a"])).startswith("missing in the database: table a")
    assert describe(ValueError("a\n  b\x1b[31m")) == "ValueError: a b\\x1b[31m"
    assert describe(RuntimeError()) == "RuntimeError"
    assert describe(ExceptionGroup("g", [ValueError("x")])) == "ValueError: x"
    both = ExceptionGroup("g", [ValueError("x"), KeyError("y")])
    assert describe(both) == "g: ValueError: x; KeyError: 'y'"


def test_nothing_printed_can_steer_a_terminal() -> None:
    assert printable("a\x1b]0;x\x07\n\udcff é") == "a\\x1b]0;x\\x07\\n\\udcff é"
