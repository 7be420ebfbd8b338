"""SIGINT and SIGTERM to a real process: the first drains, the second cancels now."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from pgq_trio import Job, PgQueuer
from tests.worker.tools import Place, in_table, outcome, queued_again, until

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@contextmanager
def program(backend: str, place: Place, gate: Path) -> Iterator[subprocess.Popen[str]]:
    """The program in `app.py`, gone at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.shutdown.app", backend, str(place.target), str(gate)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


async def ends(process: subprocess.Popen[str]) -> list[str]:
    """Wait for the end of the program; what it printed."""
    out, err = await anyio.to_thread.run_sync(process.communicate, abandon_on_cancel=True)
    assert (process.returncode, err) == (0, "")
    return out.splitlines()


async def has(pgq: PgQueuer, **counts: int) -> None:
    """Wait until the table has these counts."""

    async def reached() -> bool:
        return await in_table(pgq.queries) == counts

    await until(reached, within=20)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
async def test_the_first_signal_drains(
    database: Place, anyio_backend_name: str, tmp_path: Path, number: signal.Signals
) -> None:
    gate = tmp_path / "gate"
    async with database.open() as pgq:
        ids = await pgq.queries.enqueue(["it"] * 3)
        with program(anyio_backend_name, database, gate) as process:
            await has(pgq, picked=2, queued=1)  # one runs, one waits
            process.send_signal(number)
            await has(pgq, picked=1, queued=2)  # that one is given back at once
            gate.touch()
            lines = await ends(process)
        assert lines == ["started", "finished", "cleaned up", "resources closed"]
        assert await outcome(pgq.queries, ids[0]) == "successful"
        await queued_again(pgq.queries, "it", ids[1:])


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
async def test_the_second_signal_cancels_now(
    database: Place, anyio_backend_name: str, tmp_path: Path, number: signal.Signals
) -> None:
    async with database.open() as pgq:
        ids = await pgq.queries.enqueue(["it"] * 3)
        with program(anyio_backend_name, database, tmp_path / "gate") as process:
            await has(pgq, picked=2, queued=1)
            process.send_signal(number)
            await has(pgq, picked=1, queued=2)
            process.send_signal(SIGNALS[1])
            with anyio.fail_after(15):  # the grace period is 60 s
                lines = await ends(process)
        assert lines == ["started", "cleaned up", "resources closed"]
        await queued_again(pgq.queries, "it", ids)


async def test_outside_of_the_main_thread_it_warns_and_leaves_signals_alone() -> None:
    async def program() -> None:
        async with PgQueuer.open("memory:") as pgq:

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None: ...

            with pytest.warns(RuntimeWarning, match="signals"):
                await pgq.run(mode="drain")

    before = [signal.getsignal(number) for number in SIGNALS]
    await anyio.to_thread.run_sync(lambda: anyio.run(program))
    assert [signal.getsignal(number) for number in SIGNALS] == before


async def test_handlers_of_others_are_put_back(anyio_backend_name: str) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    async with PgQueuer.open("memory:") as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None: ...

        await pgq.run(mode="drain")
    assert [signal.getsignal(number) for number in SIGNALS] == before
