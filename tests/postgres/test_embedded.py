"""How long an embedded server lives: real processes, real crashes."""

# ruff: noqa: ASYNC240 - a look at a directory does not block, and nothing else runs in these loops

from __future__ import annotations

import fcntl
import os
import signal
import stat
import sys
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

from pgq_trio.postgres import _embedded_guard as guard, _embedded_host as host, embedded
from pgq_trio.postgres._embedded_share import ServerSpec, ServerState, Share
from pgq_trio.postgres.embedded import EmbeddedError, open_embedded
from tests.postgres.embedded_tools import (
    gone,
    home,
    leave,
    opener,
    owned_by_server,
    parent,
    postmaster,
    processes_in,
    query,
    shared_memory,
)
from tests.servers import run_steps

pytestmark = pytest.mark.usefixtures("temporary_in_memory")


async def test_a_temporary_server_lives_as_long_as_the_block() -> None:
    async with open_embedded() as conninfo:
        pid, directory = postmaster(conninfo), home(conninfo)
        assert str(query(conninfo, "SHOW server_version")).startswith("18.")
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    await gone(pid)
    assert not directory.exists()
    assert processes_in(directory) == []


async def test_a_kept_directory_keeps_data(closed_dir: Path) -> None:
    directory = closed_dir / "made" / "with parents" / "data"
    async with open_embedded(directory) as conninfo:
        query(conninfo, "CREATE TABLE kept AS SELECT 42 AS x")
        pid = postmaster(conninfo)
    await gone(pid)
    async with open_embedded(directory) as conninfo:
        assert query(conninfo, "SELECT x FROM kept") == 42
        assert postmaster(conninfo) != pid


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
        pid, memory = postmaster(conninfo), shared_memory(conninfo)
        assert memory in Path("/proc/sysvipc/shm").read_text().split()
        # Stopped first: whoever sees another one die would tidy up before its own turn comes.
        everybody = (pid, parent(pid), process.pid)
        for sent in (signal.SIGSTOP, signal.SIGKILL):
            for each in everybody:
                os.kill(each, sent)
        await gone(pid)
    assert (made_dir / "postmaster.pid").exists()
    async with open_embedded(made_dir) as conninfo:
        assert query(conninfo, "SELECT x FROM kept") == 42
        # What the old one could not remove itself.
        assert memory != shared_memory(conninfo)
        assert memory not in Path("/proc/sysvipc/shm").read_text().split()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: PR_SET_PDEATHSIG")
async def test_a_killed_guard_takes_the_server_with_it(
    made_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = Share.state, set[ServerState]()

    def state(self: Share) -> ServerState:
        seen.add(now := original(self))
        if now is ServerState.ORPHANED:
            with suppress(ProcessLookupError):
                os.kill(checkpointer, signal.SIGCONT)
        return now

    async with open_embedded(made_dir) as conninfo:
        pid = postmaster(conninfo)
        found = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"
        checkpointer = int(str(query(conninfo, found)))
        os.kill(checkpointer, signal.SIGSTOP)  # the server cannot finish stopping
        os.kill(parent(pid), signal.SIGKILL)
        with anyio.fail_after(20):
            while True:
                await anyio.lowlevel.checkpoint()
                if "stopping" in (made_dir / "postmaster.pid").read_text():
                    break
        with monkeypatch.context() as patched:
            patched.setattr(Share, "state", state)
            async with open_embedded(made_dir) as again:
                assert query(again, "SELECT 1") == 1
                assert postmaster(again) != pid
        assert ServerState.ORPHANED in seen
    assert processes_in(made_dir) == []


def test_a_pid_file_that_says_ready_too_early(closed_dir: Path) -> None:
    """It is what a killed server left, until the new one writes its own."""
    lock = closed_dir / guard.SERVER_LOCK
    (closed_dir / "postmaster.pid").write_text(
        f"12\n{closed_dir}\n1\n5432\n.\n\n  1  2\nready   \n"
    )
    share = Share(None, ServerSpec(bin_dir=closed_dir, initdb=()))
    share._directory = closed_dir
    share._server_lock = os.open(lock, os.O_RDWR | os.O_CREAT)
    share._guard_lock = os.open(closed_dir / guard.GUARD_LOCK, os.O_RDWR | os.O_CREAT)
    with lock.open("rb") as server, (closed_dir / guard.GUARD_LOCK).open("rb") as guards:
        assert share.state() is ServerState.ABSENT
        assert guard.try_lock(server.fileno(), fcntl.LOCK_EX)
        assert share.state() is ServerState.ORPHANED
        assert guard.try_lock(guards.fileno(), fcntl.LOCK_EX)
        for written, expected in (("", "BUSY"), ("1\n", "BUSY"), ("12\n", "READY")):
            lock.write_text(written)
            assert share.state().name == expected
    share.close()


async def test_a_terminated_guard_stops_the_server(made_dir: Path) -> None:
    async with open_embedded(made_dir) as conninfo:
        pid = postmaster(conninfo)
        os.kill(parent(pid), signal.SIGTERM)
        await gone(pid)
    assert "database system is shut down" in (made_dir / guard.LOG).read_text()


@pytest.mark.parametrize("alive", [True, False])
async def test_a_pid_file_of_a_killed_server(made_dir: Path, alive: bool) -> None:
    async with open_embedded(made_dir) as conninfo:
        first_line, rest = (home(conninfo) / "postmaster.pid").read_text().split("\n", 1)
        assert int(first_line) == postmaster(conninfo)
    # Its id is now that of another program, which the server's user must see, or PostgreSQL
    # knows better by itself; or nobody's.
    owner = made_dir.stat().st_uid
    async with await anyio.open_process(["sleep", "60"], user=owner) as other:
        try:
            (made_dir / "postmaster.pid").write_text(f"{other.pid}\n{rest}")
            owned_by_server(made_dir)
            if not alive:
                other.kill()
                await other.wait()
            async with open_embedded(made_dir) as conninfo:
                assert query(conninfo, "SELECT 1") == 1
        finally:
            if alive:
                other.kill()


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
@pytest.mark.parametrize("step", [0, 3, 8])
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
        assert not (data_dir / "PG_VERSION").exists()
        monkeypatch.undo()
        async with open_embedded(data_dir) as conninfo:
            assert query(conninfo, "SELECT 1") == 1
    else:
        assert not share.directory.exists()


def test_a_request_to_stop_that_comes_at_once(
    made_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reaches PostgreSQL before that can handle it, and is not lost."""
    original = Share._spawn_guard

    def spawn(self: Share, programs: host.Programs, user: host.ServerUser | None) -> bool:
        assert self._users_lock is not None
        fcntl.flock(self._users_lock, fcntl.LOCK_UN)
        return original(self, programs, user)

    monkeypatch.setattr(Share, "_spawn_guard", spawn)
    for _ in range(3):
        share = Share(made_dir, ServerSpec(bin_dir=host.wheel_bin_dir(), initdb=()))
        with suppress(EmbeddedError):  # or it was ready for a moment
            run_steps(share.opening())
        began = time.monotonic()
        run_steps(share.leaving())
        assert time.monotonic() - began < guard.FAST_SHUTDOWN_LIMIT / 2
        assert processes_in(made_dir) == []


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
