"""What surrounds a command: closed or broken output, a directory that holds no server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from pgq_trio.cli.ages import AGE
from tests.cli.command import Invoke

PROGRAM = f"{sys.executable} -W error -m pgq_trio"


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, which fails when any part of a pipe does."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", ["status", "status --json", "queue", "verify"])
def test_closed_output(installed_dsn: str, name: str) -> None:
    done = shell(f"{PROGRAM} {name} --dsn '{installed_dsn}' >&- <&-")
    assert (done.returncode, done.stderr) == (0, "")


def test_errors_without_a_standard_error(tmp_path: Path) -> None:
    done = shell(f"{PROGRAM} status --embedded --data {tmp_path}/none 2>&-")
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("name", ["status", "log", "log --json"])
def test_a_reader_that_has_seen_enough(invoke: Invoke, installed_dsn: str, name: str) -> None:
    lines = "x\n" * 3000
    at = ("--dsn", installed_dsn)
    assert invoke("enqueue", "mail", "--stdin", *at, stdin=lines).code == 0
    more = "--log" if name == "status" else "--limit"
    done = shell(f"{PROGRAM} {name} {more} 3000 --dsn '{installed_dsn}' | head -n 1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    "args",
    [
        *(("status",), ("verify",), ("enqueue", "x"), ("log",), ("uninstall", "--yes")),
        *(("clear", "--all", "--yes"), ("listen",)),
    ],
)
def test_a_mistyped_directory_is_left_alone(
    invoke: Invoke, tmp_path: Path, args: tuple[str, ...]
) -> None:
    result = invoke(*args, "--data", str(tmp_path / "mistyped"))
    assert (result.code, result.out) == (1, "")
    assert "there is no private PostgreSQL in" in result.error
    assert "pgq-trio install --data" in result.error
    assert not (tmp_path / "mistyped").exists()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1.5s", 1.5),
        ("15m", 900),
        ("12 H", 43_200),
        ("30d", 2_592_000),
        ("1w", 604_800),
    ],
)
def test_ages(text: str, seconds: float) -> None:
    assert AGE(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "d", "1y", "1d2h", "nan", "inf", "1e3", "9" * 400])
def test_what_is_no_age(text: str) -> None:
    with pytest.raises(click.BadParameter):
        AGE(text)
