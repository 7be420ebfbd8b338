"""An environment that names no database, a directory of its own, and the command in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import Command, Invoke, invoke_in_process
from tests.conftest import NEWEST_SERVER
from tests.servers import FindServer, PostgresServer


@pytest.fixture(autouse=True)
def clean_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable and no file of this machine has a say."""
    for name in os.environ:
        if name.startswith(("PGQ", "PG")) and name != "PGQ_TEST_DSN":
            monkeypatch.delenv(name)
    # Nobody reaches a server by default: a test that gives no database must not find one.
    monkeypatch.setenv("PGHOST", "/nonexistent")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def invoke() -> Invoke:
    """Run the command in this process."""
    return invoke_in_process


@pytest.fixture
def command() -> Iterator[Command]:
    """Start the command as a process; what is left of it is killed at the end."""
    starter = Command()
    try:
        yield starter
    finally:
        starter.close()


@pytest.fixture(scope="session", params=NEWEST_SERVER)
def postgres_server(request: pytest.FixtureRequest, find_server: FindServer) -> PostgresServer:
    """One server: what differs between servers is seen by the suites of the stores."""
    return find_server(request.param)
