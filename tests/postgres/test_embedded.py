"""The embedded server: real processes, real directories, real crashes."""

# ruff: noqa: ASYNC240 - a look at a directory does not block, and nothing else runs in these loops

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.lowlevel
import psycopg
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from psycopg.conninfo import conninfo_to_dict

import pgq_trio
from pgq_trio.postgres import _embedded_guard as guard, _embedded_host as host, embedded
from pgq_trio.postgres._embedded_share import Share
from pgq_trio.postgres.embedded import EmbeddedError, EmbeddedUnavailable, open_embedded

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run things as others")

#: A program that opens a server, says where, and leaves when its standard input ends.
OPENER = """
import pathlib, sys
import anyio
from pgq_trio.postgres.embedded import open_embedded

async def main():
    async with open_embedded(pathlib.Path(sys.argv[2]) if sys.argv[2] else None) as conninfo:
        print(conninfo, flush=True)
        await anyio.wait_readable(0)

anyio.run(main, backend=sys.argv[1])
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A new directory below one that only we can enter (pytest makes it so)."""
    return tmp_path / "data"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a server that was opened once, to be copied."""
    directory = tmp_path_factory.mktemp("cluster") / "data"

    async def make() -> None:
        async with open_embedded(directory):
            pass

    anyio.run(make)
    return directory


@pytest.fixture
def made_dir(data_dir: Path, cluster: Path) -> Path:
    """A directory in which a server ran before: saves `initdb` where that is not the point."""
    shutil.copytree(cluster, data_dir)
    os.chown(data_dir, cluster.stat().st_uid, cluster.stat().st_gid)
    owned_by_server(data_dir)
    return data_dir


@pytest.fixture
def others_python() -> list[str]:
    """A command that runs Python with our packages, which the user `nobody` can run."""
    packages = os.pathsep.join(
        str(Path(str(module.__file__)).parents[1]) for module in (pgq_trio, psycopg)
    )
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        command = ["env", f"PYTHONPATH={packages}", python]
        with suppress(OSError):
            tried = subprocess.run(
                [*command, "-c", "import pgq_trio, psycopg"],
                user="nobody", group=pwd.getpwnam("nobody").pw_gid, extra_groups=[], cwd="/",
                capture_output=True, check=False,
            )  # fmt: skip
            if tried.returncode == 0:
                return command
    pytest.skip(f"no {name} that the user 'nobody' can run with this project")


@pytest.fixture
def public_dir() -> Iterator[Path]:
    """A directory that everybody can enter, and only we can write."""
    directory = Path(tempfile.mkdtemp(prefix="pgq-public-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def query(conninfo: str, statement: str) -> object:
    """The first value of the first row."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        cursor = connection.execute(statement)
        row = cursor.fetchone() if cursor.description else None
    return row and row[0]


def home(conninfo: str) -> Path:
    """The data directory, or the link to it."""
    return Path(str(conninfo_to_dict(conninfo)["host"]))


def postmaster(conninfo: str) -> int:
    """The process id of the server."""
    return int((home(conninfo) / "postmaster.pid").read_text().split()[0])


def parent(pid: int) -> int:
    """The parent's process id: the server's is the guard."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def processes_in(directory: Path) -> list[str]:
    """What works in the directory or below: the guard, `initdb`, the server and its children."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").readlink().is_relative_to(directory):
                found.append((process / "cmdline").read_text())
    return found


def owned_by_server(directory: Path) -> None:
    """As root, give everything in a data directory to the user that servers run as."""
    if (user := host.claim_directory(directory)) is not None:
        for path in (directory, *directory.rglob("*")):
            os.chown(path, user.uid, user.gid)


async def gone(pid: int) -> None:
    """Wait for the end of a process that is not our child."""
    await anyio.lowlevel.checkpoint()
    with anyio.fail_after(20):
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            await anyio.wait_readable(fd)
        finally:
            os.close(fd)


@asynccontextmanager
async def opener(backend: str, directory: Path | None) -> AsyncIterator[tuple[Process, str]]:
    """Another program that has a server open; stopped with SIGKILL if it is there at the end."""
    command = [sys.executable, "-W", "error", "-c", OPENER, backend, str(directory or "")]
    async with await anyio.open_process(command, stderr=None, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            output = BufferedByteReceiveStream(process.stdout)
            with anyio.fail_after(30):
                conninfo = await output.receive_until(b"\n", 1000)
            yield process, conninfo.decode()
        finally:
            if process.returncode is None:
                process.kill()


async def leave(process: Process) -> None:
    """Have an `opener` leave the server."""
    assert process.stdin is not None
    await process.stdin.aclose()
    with anyio.fail_after(30):
        assert await process.wait() == 0


async def test_a_temporary_server_lives_as_long_as_the_block() -> None:
    async with open_embedded() as conninfo:
        pid, directory = postmaster(conninfo), home(conninfo)
        assert str(query(conninfo, "SHOW server_version")).startswith("18.")
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    await gone(pid)
    assert not directory.exists()
    assert processes_in(directory) == []


async def test_settings(data_dir: Path) -> None:
    names = ("shared_buffers", "max_connections", "synchronous_commit", "listen_addresses")
    for directory, fsync in ((None, "off"), (data_dir, "on")):
        async with open_embedded(directory) as conninfo:
            values = [query(conninfo, f"SHOW {name}") for name in names]
            assert values == ["64MB", "100", "on", ""]
            assert query(conninfo, "SHOW fsync") == fsync
            assert query(conninfo, "SHOW server_encoding") == "UTF8"


async def test_a_kept_directory_keeps_data(tmp_path: Path) -> None:
    directory = tmp_path / "made" / "with parents" / "data"
    async with open_embedded(directory) as conninfo:
        query(conninfo, "CREATE TABLE kept AS SELECT 42 AS x")
        pid = postmaster(conninfo)
    await gone(pid)
    async with open_embedded(directory) as conninfo:
        assert query(conninfo, "SELECT x FROM kept") == 42
        assert postmaster(conninfo) != pid


async def test_a_relative_path(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data_dir.parent)
    async with open_embedded(Path(data_dir.name)) as conninfo:
        assert home(conninfo) == data_dir
        assert query(conninfo, "SELECT 1") == 1


async def test_the_owner_may_configure_a_kept_server(made_dir: Path) -> None:
    async with open_embedded(made_dir) as conninfo:
        query(conninfo, "ALTER SYSTEM SET max_connections = 37")
        query(conninfo, "ALTER SYSTEM SET listen_addresses = '*'")
    async with open_embedded(made_dir) as conninfo:
        assert query(conninfo, "SHOW max_connections") == "37"
        assert query(conninfo, "SHOW listen_addresses") == ""


async def test_directories_above_keep_their_modes(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    above = [closed, *closed.parents]
    before = [(path.stat().st_mode, path.stat().st_uid) for path in above]
    async with open_embedded(closed / "data") as conninfo:
        assert query(conninfo, "SELECT 1") == 1
    assert [(path.stat().st_mode, path.stat().st_uid) for path in above] == before


@pytest.mark.parametrize("name", ["x" * 150, "a,b", "with 'quotes' and spaces"])
async def test_paths_that_no_socket_may_have(tmp_path: Path, name: str) -> None:
    async with open_embedded(tmp_path / name) as conninfo:
        way = home(conninfo)
        assert way.resolve() == tmp_path / name
        assert query(conninfo, "SELECT 1") == 1
    assert way == tmp_path / name or not way.parent.exists()


async def test_two_blocks_share_a_server(made_dir: Path) -> None:
    async with open_embedded(made_dir) as first:
        pid = postmaster(first)
        async with open_embedded(made_dir) as second:
            assert postmaster(second) == pid
        assert query(first, "SELECT 1") == 1
        assert postmaster(first) == pid
    await gone(pid)


async def test_the_last_program_stops_the_server(
    made_dir: Path, anyio_backend_name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async with opener(anyio_backend_name, made_dir) as (other, conninfo):
        async with open_embedded(made_dir) as ours:
            pid = postmaster(conninfo)
            await leave(other)
            assert query(ours, "SELECT 1") == 1
            assert postmaster(ours) == pid
        await gone(pid)
    assert capfd.readouterr() == ("", "")


async def test_a_new_directory_opened_by_many_at_once(
    data_dir: Path, anyio_backend_name: str
) -> None:
    pids = []
    everybody = anyio.Event()

    async def here() -> None:
        async with open_embedded(data_dir) as conninfo:
            await arrived(conninfo)

    async def elsewhere() -> None:
        async with opener(anyio_backend_name, data_dir) as (process, conninfo):
            await arrived(conninfo)
            await leave(process)

    async def arrived(conninfo: str) -> None:
        assert query(conninfo, "SELECT 1") == 1
        pids.append(postmaster(conninfo))
        if len(pids) == 4:
            everybody.set()
        await everybody.wait()

    async with anyio.create_task_group() as group:
        for each in (here, here, elsewhere, elsewhere):
            group.start_soon(each)
    assert len(set(pids)) == 1
    await gone(pids[0])


async def test_opened_again_while_it_stops(made_dir: Path) -> None:
    async def again() -> None:
        for _ in range(4):
            async with open_embedded(made_dir) as conninfo:
                assert query(conninfo, "SELECT 1") == 1

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(again)
    assert processes_in(made_dir) == []


@pytest.mark.parametrize("kept", [False, True])
async def test_a_killed_program_leaves_no_server(
    data_dir: Path, kept: bool, anyio_backend_name: str
) -> None:
    async with opener(anyio_backend_name, data_dir if kept else None) as (process, conninfo):
        pid, directory = postmaster(conninfo), home(conninfo)
        guard_pid = parent(pid)
        process.kill()
        await gone(pid)
        await gone(guard_pid)
    assert processes_in(directory) == []
    # As root in a closed TMPDIR, the server's user cannot remove the empty directory itself.
    assert directory.exists() == kept or list(directory.iterdir()) == []


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
async def test_a_signal_to_one_program_spares_the_server(
    made_dir: Path, sent: signal.Signals, anyio_backend_name: str
) -> None:
    async with opener(anyio_backend_name, made_dir) as (other, conninfo):
        async with open_embedded(made_dir) as ours:
            pid = postmaster(conninfo)
            # As Ctrl-C in a terminal does, to the whole group.
            os.killpg(other.pid, sent)
            with anyio.fail_after(20):
                await other.wait()
            assert query(ours, "SELECT 1") == 1
            assert postmaster(ours) == pid
        await gone(pid)


async def test_everything_killed_at_once(made_dir: Path, anyio_backend_name: str) -> None:
    async with opener(anyio_backend_name, made_dir) as (process, conninfo):
        query(conninfo, "CREATE TABLE kept AS SELECT 42 AS x")
        pid = postmaster(conninfo)
        for each in (parent(pid), pid, process.pid):
            os.kill(each, signal.SIGKILL)
        await gone(pid)
    assert (made_dir / "postmaster.pid").exists()
    async with open_embedded(made_dir) as conninfo:
        assert query(conninfo, "SELECT x FROM kept") == 42


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: PR_SET_PDEATHSIG")
async def test_a_killed_guard_takes_the_server_with_it(made_dir: Path) -> None:
    async with open_embedded(made_dir) as conninfo:
        pid = postmaster(conninfo)
        os.kill(parent(pid), signal.SIGKILL)
        await gone(pid)
        async with open_embedded(made_dir) as again:
            assert query(again, "SELECT 1") == 1
    assert processes_in(made_dir) == []


async def test_a_terminated_guard_stops_the_server(made_dir: Path) -> None:
    async with open_embedded(made_dir) as conninfo:
        pid = postmaster(conninfo)
        os.kill(parent(pid), signal.SIGTERM)
        await gone(pid)
    assert "database system is shut down" in (made_dir / guard.LOG).read_text()


async def test_a_pid_file_that_names_another_program(made_dir: Path) -> None:
    async with open_embedded(made_dir) as conninfo:
        first_line, rest = (home(conninfo) / "postmaster.pid").read_text().split("\n", 1)
        assert int(first_line) == postmaster(conninfo)
    # The server's user must see that program, or PostgreSQL itself knows better.
    owner = made_dir.stat().st_uid
    async with await anyio.open_process(["sleep", "60"], user=owner) as sleeper:
        (made_dir / "postmaster.pid").write_text(f"{sleeper.pid}\n{rest}")
        async with open_embedded(made_dir) as conninfo:
            assert query(conninfo, "SELECT 1") == 1
        sleeper.kill()


async def test_an_interrupted_initdb_is_done_again(data_dir: Path) -> None:
    (data_dir / guard.UNFINISHED).mkdir(parents=True)
    (data_dir / guard.UNFINISHED / "base").write_text("half")
    owned_by_server(data_dir)
    async with open_embedded(data_dir) as conninfo:
        assert query(conninfo, "SELECT 1") == 1
    assert not (data_dir / guard.UNFINISHED).exists()


async def test_an_interrupted_move_is_completed(made_dir: Path) -> None:
    async with open_embedded(made_dir) as conninfo:
        query(conninfo, "CREATE TABLE kept AS SELECT 42 AS x")
    made = made_dir / guard.FINISHED
    made.mkdir()
    for name in ("PG_VERSION", "base", "postgresql.conf"):
        (made_dir / name).rename(made / name)
    owned_by_server(made_dir)
    async with open_embedded(made_dir) as conninfo:
        assert query(conninfo, "SELECT x FROM kept") == 42
    assert not made.exists()


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("step", [0, 3, 12])
async def test_cancelled_while_it_opens(
    data_dir: Path, step: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, shares = Share.opening, []

    def opening(self: Share) -> Generator[None]:
        shares.append(self)
        for k, _ in enumerate(original(self)):
            if k == step:
                anyio.from_thread.run_sync(scope.cancel)
            yield

    monkeypatch.setattr(Share, "opening", opening)
    with anyio.CancelScope() as scope, anyio.fail_after(30):
        async with open_embedded(data_dir if kept else None):
            pytest.fail("it opened in fewer steps")
    assert scope.cancelled_caught
    (share,) = shares
    assert processes_in(share.directory) == []
    if kept:
        assert not (data_dir / guard.UNFINISHED).exists()
        monkeypatch.undo()
        async with open_embedded(data_dir) as conninfo:
            assert query(conninfo, "SELECT 1") == 1
    else:
        assert not share.directory.exists()


async def test_leaving_is_shielded() -> None:
    with anyio.CancelScope() as scope:
        async with open_embedded() as conninfo:
            pid, directory = postmaster(conninfo), home(conninfo)
            scope.cancel()
            await anyio.sleep_forever()
    assert not directory.exists()
    await gone(pid)


async def test_leaving_is_bounded(made_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "STOP_LIMIT", 0.0)
    with pytest.raises(EmbeddedError, match="did not stop within 0 s"):
        async with open_embedded(made_dir) as conninfo:
            pid = postmaster(conninfo)
    await gone(pid)


async def test_the_error_of_the_block_comes_out_as_itself() -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_embedded():
            raise ZeroDivisionError


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
    tmp_path: Path, public_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = host.ServerUser(uid=pwd.getpwnam("nobody").pw_uid, gid=pwd.getpwnam("nobody").pw_gid)
    wheel = host.wheel_bin_dir()
    closed = tmp_path / "venv"
    shutil.copytree(wheel.parent, closed / host.WHEEL / "pginstall18")
    shutil.copytree(wheel.parents[2] / f"{host.WHEEL}.libs", closed / f"{host.WHEEL}.libs")
    bin_dir = closed / wheel.relative_to(wheel.parents[2])
    bad = [public_dir / name for name in ("theirs", "open", "link")]
    for path in bad[:2]:
        path.mkdir()
    os.chown(bad[0], user.uid, user.gid)
    bad[1].chmod(0o777)
    bad[2].symlink_to(tmp_path)
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
    public_dir: Path, anyio_backend_name: str, others_python: list[str]
) -> None:
    nobody = pwd.getpwnam("nobody")
    home_dir = public_dir / "home"
    home_dir.mkdir(mode=0o700)
    os.chown(home_dir, nobody.pw_uid, nobody.pw_gid)

    async def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = [*others_python, "-W", "error", "-c", *arguments]
        return await anyio.run_process(
            command, input=b"", check=False, cwd="/",
            user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[],
        )  # fmt: skip

    for directory in (str(home_dir / "data"), str(home_dir / "data"), ""):
        finished = await run(OPENER, anyio_backend_name, directory)
        assert (finished.returncode, finished.stderr) == (0, b"")
    assert (home_dir / "data" / "PG_VERSION").exists()
    finished = await run(OPENER, anyio_backend_name, str(public_dir / "mine"))
    assert b"mine cannot be the data directory: Permission denied" in finished.stderr
    (public_dir / "roots").mkdir()
    finished = await run(OPENER, anyio_backend_name, str(public_dir / "roots"))
    assert b"belongs to root, and PostgreSQL works only in" in finished.stderr
    async with open_embedded() as conninfo:
        if Path(f"/proc/{postmaster(conninfo)}").stat().st_uid != nobody.pw_uid:
            finished = await run(f"import psycopg; psycopg.connect({conninfo!r})")
            assert b"Permission denied" in finished.stderr
