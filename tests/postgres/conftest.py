"""Fixtures of the tests of embedded servers: data directories, and who can reach them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import psycopg
import pytest

import pgq_trio
from pgq_trio.postgres.embedded import open_embedded
from tests.postgres.embedded_tools import owned_by_server
from tests.servers import data_root


@pytest.fixture
def temporary_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have temporary servers, here and in programs that we start, where disks cost no time."""
    monkeypatch.setenv("TMPDIR", data_root())
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.fixture
def closed_dir() -> Iterator[Path]:
    """A directory that only we can enter, in memory where that is possible."""
    directory = Path(tempfile.mkdtemp(prefix="pgq-closed-", dir=data_root()))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def data_dir(closed_dir: Path) -> Path:
    """A directory that does not exist yet, in one that only we can enter."""
    return closed_dir / "data"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """The directory of a server that was opened once, to be copied."""
    directory = Path(tempfile.mkdtemp(prefix="pgq-cluster-", dir=data_root()))

    async def make() -> None:
        async with open_embedded(directory):
            pass

    anyio.run(make)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def made_dir(data_dir: Path, cluster: Path) -> Path:
    """A directory in which a server ran before: saves `initdb` where that is not the point."""
    shutil.copytree(cluster, data_dir)
    os.chown(data_dir, cluster.stat().st_uid, cluster.stat().st_gid)
    owned_by_server(data_dir)
    return data_dir


@pytest.fixture(scope="session")
def others_python() -> Iterator[list[str]]:
    """A command that runs Python with our packages, which the user `nobody` can run."""
    nobody = pwd.getpwnam("nobody")
    packages = os.pathsep.join(
        str(Path(str(module.__file__)).parents[1]) for module in (pgq_trio, psycopg)
    )
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    with tempfile.TemporaryDirectory() as compiled:  # or each run compiles all modules anew
        os.chown(compiled, nobody.pw_uid, nobody.pw_gid)
        for python in (sys.executable, f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
            command = [
                # That user may not write where coverage is measured.
                "env", "-u", "COVERAGE_PROCESS_CONFIG", "-u", "COVERAGE_PROCESS_START",
                f"PYTHONPATH={packages}", f"PYTHONPYCACHEPREFIX={compiled}", python,
            ]  # fmt: skip
            with suppress(OSError):
                tried = subprocess.run(
                    [*command, "-c", "import pgq_trio, psycopg"],
                    user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[], cwd="/",
                    capture_output=True, check=False,
                )  # fmt: skip
                if tried.returncode == 0:
                    yield command
                    return
        pytest.skip(f"no {name} that the user 'nobody' can run with this project")


@pytest.fixture
def nobodys_dir() -> Iterator[Path]:
    """A directory of the user `nobody` that only that user and root can enter."""
    nobody = pwd.getpwnam("nobody")
    directory = Path(tempfile.mkdtemp(prefix="pgq-nobody-", dir=data_root()))
    os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def public_dir() -> Iterator[Path]:
    """A directory that everybody can enter and run programs from, and only we can write."""
    directory = Path(tempfile.mkdtemp(prefix="pgq-public-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)
