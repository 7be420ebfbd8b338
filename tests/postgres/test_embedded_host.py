"""Where an embedded server runs: directories, users, programs, and the errors about them."""

# ruff: noqa: ASYNC240 - a look at a directory does not block, and nothing else runs in these loops

from __future__ import annotations

import os
import pwd
import shutil
import stat
import sys
import tempfile
from pathlib import Path

import anyio
import pytest

from pgq_trio.postgres import _embedded_guard as guard, _embedded_host as host, embedded
from pgq_trio.postgres.embedded import EmbeddedError, EmbeddedUnavailable, open_embedded
from tests.postgres.embedded_tools import home, postmaster, query

#: A program that opens one directory after the other and says what came of it; at last it tries to
#: connect to somebody else's server.
VISITOR = """
import pathlib, sys
import anyio, psycopg
from pgq_trio.postgres.embedded import EmbeddedError, open_embedded

async def main(server, *directories):
    for directory in directories:
        try:
            async with open_embedded(pathlib.Path(directory) if directory else None) as conninfo:
                with psycopg.connect(conninfo) as connection:
                    print(*connection.execute("SELECT version()").fetchone())
        except EmbeddedError as error:
            print(error)
    try:
        psycopg.connect(server).close()
        print("connected")
    except psycopg.OperationalError as error:
        print(" ".join(str(error).split()))

anyio.run(main, *sys.argv[2:], backend=sys.argv[1])
"""

pytestmark = pytest.mark.usefixtures("temporary_in_memory")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run things as others")


async def test_settings(made_dir: Path) -> None:
    names = ("shared_buffers", "max_connections", "synchronous_commit", "listen_addresses")
    for directory, fsync in ((None, "off"), (made_dir, "on")):
        async with open_embedded(directory) as conninfo:
            values = [query(conninfo, f"SHOW {name}") for name in names]
            assert values == ["64MB", "100", "on", ""]
            assert query(conninfo, "SHOW fsync") == fsync
            assert query(conninfo, "SHOW server_encoding") == "UTF8"


async def test_a_relative_path(made_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made_dir.parent)
    async with open_embedded(Path(made_dir.name)) as conninfo:
        assert home(conninfo) == made_dir
        assert query(conninfo, "SELECT 1") == 1


async def test_the_owner_may_configure_a_kept_server(made_dir: Path) -> None:
    async with open_embedded(made_dir) as conninfo:
        query(conninfo, "ALTER SYSTEM SET max_connections = 37")
        query(conninfo, "ALTER SYSTEM SET listen_addresses = '*'")
    async with open_embedded(made_dir) as conninfo:
        assert query(conninfo, "SHOW max_connections") == "37"
        assert query(conninfo, "SHOW listen_addresses") == ""


async def test_directories_above_keep_their_modes(closed_dir: Path) -> None:
    closed = closed_dir / "closed"
    closed.mkdir(mode=0o700)
    above = [closed, *closed.parents]
    before = [(path.stat().st_mode, path.stat().st_uid) for path in above]
    async with open_embedded(closed / "data") as conninfo:
        assert query(conninfo, "SELECT 1") == 1
    assert [(path.stat().st_mode, path.stat().st_uid) for path in above] == before


@pytest.mark.parametrize("name", ["x" * 150, "a,b", "with 'quotes' and spaces"])
async def test_paths_that_no_socket_may_have(made_dir: Path, closed_dir: Path, name: str) -> None:
    made_dir.rename(closed_dir / name)
    async with open_embedded(closed_dir / name) as conninfo:
        way = home(conninfo)
        assert way.resolve() == closed_dir / name
        assert query(conninfo, "SELECT 1") == 1
    assert way == closed_dir / name or not way.parent.exists()


async def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        assert name == host.WHEEL

    monkeypatch.setattr(host, "find_spec", nothing)
    with pytest.raises(EmbeddedUnavailable, match=r"pip install 'pgq-trio\[embedded\]'"):
        async with open_embedded():
            pass


async def test_programs_that_do_not_run(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = data_dir.parent / "lib" / host.WHEEL / "pginstall18" / "bin"
    fake.mkdir(parents=True)
    for name in ("initdb", "postgres"):
        (fake / name).write_text("#!/bin/sh\necho no such library >&2\nexit 127\n")
        (fake / name).chmod(0o755)
    monkeypatch.setattr(embedded, "wheel_bin_dir", lambda: fake)
    monkeypatch.setattr(host, "RUNTIME_ROOTS", (tempfile.mkdtemp(dir=data_dir.parent),))
    with pytest.raises(EmbeddedUnavailable, match=r"does not run.*: "):
        async with open_embedded(data_dir):
            pass


async def test_directories_that_cannot_be_used(made_dir: Path) -> None:
    async def refused(directory: Path, message: str) -> None:
        with pytest.raises(EmbeddedError, match=message):
            async with open_embedded(directory):
                pass

    file = made_dir.with_name("file")
    file.touch()
    await refused(file, "is not a directory")
    await refused(Path("/proc/pgq-trio/data"), "cannot be the data directory: No such file")
    full = made_dir.with_name("full")
    full.mkdir()
    (full / "notes.txt").touch()
    await refused(full, r"is not empty and no PostgreSQL cluster \(it holds 'notes.txt'\)")
    assert [path.name for path in full.iterdir()] == ["notes.txt"]
    (made_dir / "PG_VERSION").write_text("16\n")
    await refused(
        made_dir, "is a cluster of PostgreSQL 16, and the embedded server is PostgreSQL 18"
    )


async def test_a_mount_point(data_dir: Path) -> None:
    """It exists already, is open to all, and holds what a new file system holds."""
    (data_dir / "lost+found").mkdir(parents=True)
    data_dir.chmod(0o755)
    async with open_embedded(data_dir) as conninfo:
        assert query(conninfo, "SELECT 1") == 1
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700


async def test_a_failed_start_shows_the_log(made_dir: Path) -> None:
    configuration = made_dir / "postgresql.conf"
    sound = configuration.read_text()
    configuration.write_text(f"{sound}\nnonsense = 1\n")
    with pytest.raises(EmbeddedError, match='unrecognized configuration parameter "nonsense"'):
        async with open_embedded(made_dir):
            pass
    configuration.write_text(sound)
    async with open_embedded(made_dir) as conninfo:
        assert query(conninfo, "SELECT 1") == 1


@pytest.mark.parametrize("kept", [False, True])
async def test_a_failed_initdb_shows_the_log(
    data_dir: Path, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "INITDB", (*embedded.INITDB, "--nonsense"))
    monkeypatch.setattr(tempfile, "tempdir", str(data_dir.parent))
    with pytest.raises(EmbeddedError, match="unrecognized option '--nonsense'"):
        async with open_embedded(data_dir if kept else None):
            pass
    assert sorted(path.name for path in data_dir.parent.iterdir()) == (["data"] if kept else [])
    monkeypatch.undo()
    async with open_embedded(data_dir) as conninfo:
        assert query(conninfo, "SELECT 1") == 1


async def test_a_large_log_is_set_aside(made_dir: Path) -> None:
    log = made_dir / guard.LOG
    with log.open("a") as file:
        file.write("x" * guard.LOG_SIZE_LIMIT)
    async with open_embedded(made_dir):
        assert log.stat().st_size < guard.LOG_SIZE_LIMIT
    assert (made_dir / f"{guard.LOG}.1").stat().st_size > guard.LOG_SIZE_LIMIT


async def test_a_link_in_place_of_a_lock_is_not_followed(data_dir: Path) -> None:
    data_dir.mkdir()
    victim = data_dir.parent / "victim"
    victim.write_text("untouched")
    (data_dir / guard.SERVER_LOCK).symlink_to(victim)
    with pytest.raises(EmbeddedError, match="cannot be opened"):
        async with open_embedded(data_dir):
            pass
    assert victim.read_text() == "untouched"


async def test_frozen_programs_are_refused(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(EmbeddedUnavailable, match="frozen"):
        async with open_embedded(data_dir):
            pass


@needs_root
async def test_programs_that_the_servers_user_cannot_reach(
    data_dir: Path, public_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = host.wheel_bin_dir()
    closed = data_dir.parent / "venv"
    for name in (host.WHEEL + "/pginstall18", host.WHEEL + ".libs"):
        shutil.copytree(original.parents[2] / name, closed / name)
    closed.chmod(0o700)
    root = public_dir / "runtime"
    monkeypatch.setattr(host, "RUNTIME_ROOTS", (str(root),))
    monkeypatch.setattr(embedded, "wheel_bin_dir", lambda: closed / original.relative_to(
        original.parents[2]))  # fmt: skip
    for _ in range(2):
        async with open_embedded(data_dir) as conninfo:
            assert query(conninfo, "SELECT 1") == 1
            running = Path(f"/proc/{postmaster(conninfo)}/exe").readlink()
        assert running.is_relative_to(root)
    assert len(list(root.iterdir())) == 1
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    for path in (root, *root.rglob("*")):
        assert path.stat().st_uid == 0
        assert not path.stat().st_mode & 0o022


@needs_root
def test_copies_that_others_could_have_made_are_not_run(
    closed_dir: Path, public_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = host.ServerUser(uid=pwd.getpwnam("nobody").pw_uid, gid=pwd.getpwnam("nobody").pw_gid)
    wheel = host.wheel_bin_dir()
    closed = closed_dir / "venv"
    shutil.copytree(wheel.parent, closed / host.WHEEL / "pginstall18")
    shutil.copytree(wheel.parents[2] / f"{host.WHEEL}.libs", closed / f"{host.WHEEL}.libs")
    bin_dir = closed / wheel.relative_to(wheel.parents[2])
    bad = [public_dir / name for name in ("theirs", "open", "link")]
    for path in bad[:2]:
        path.mkdir()
    os.chown(bad[0], user.uid, user.gid)
    bad[1].chmod(0o777)
    bad[2].symlink_to(closed_dir)
    monkeypatch.setattr(host, "RUNTIME_ROOTS", tuple(map(str, bad)))
    with pytest.raises(EmbeddedUnavailable, match="theirs is not a directory that only root can"):
        host.usable_programs(bin_dir, user)
    good = public_dir / "good"
    monkeypatch.setattr(host, "RUNTIME_ROOTS", tuple(map(str, (*bad, good))))
    programs = host.usable_programs(bin_dir, user)
    assert programs.bin_dir.is_relative_to(good)
    assert programs.major == 18
    programs.bin_dir.parents[2].chmod(0o777)
    with pytest.raises(EmbeddedUnavailable, match="only root can write"):
        host.usable_programs(bin_dir, user)


@needs_root
async def test_a_cluster_of_root_is_refused(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "PG_VERSION").write_text("18\n")
    with pytest.raises(EmbeddedError, match=r"belongs to root.*chown -R \w+ "):
        async with open_embedded(data_dir):
            pass


@needs_root
async def test_root_serves_a_directory_as_its_owner(data_dir: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    data_dir.mkdir()
    os.chown(data_dir, nobody.pw_uid, nobody.pw_gid)
    async with open_embedded(data_dir) as conninfo:
        assert Path(f"/proc/{postmaster(conninfo)}").stat().st_uid == nobody.pw_uid


@needs_root
async def test_a_normal_user(
    public_dir: Path, nobodys_dir: Path, anyio_backend_name: str, others_python: list[str]
) -> None:
    nobody = pwd.getpwnam("nobody")
    (public_dir / "roots").mkdir()
    mine = str(nobodys_dir / "data")
    directories = [mine, mine, "", str(public_dir / "new"), str(public_dir / "roots")]
    async with open_embedded() as ours:
        runs_as = Path(f"/proc/{postmaster(ours)}").stat().st_uid
        finished = await anyio.run_process(
            [*others_python, "-W", "error", "-c", VISITOR, anyio_backend_name, ours, *directories],
            user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[], cwd="/", check=False,
        )  # fmt: skip
    assert finished.stderr == b""
    printed = finished.stdout.decode().splitlines()
    assert all(line.startswith("PostgreSQL 18.") for line in printed[:3])
    assert "new cannot be the data directory: Permission denied" in printed[3]
    assert "belongs to root, and PostgreSQL works only in" in printed[4]
    # Where there is no user `postgres`, root's servers run as `nobody` as well.
    assert ("Permission denied" in printed[5]) == (runs_as != nobody.pw_uid)
    assert (nobodys_dir / "data" / "PG_VERSION").exists()
