"""Threads, processes and real I/O in a scenario: refused, or told of; never waited for."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator

import anyio
import anyio.lowlevel
import anyio.to_process
import pytest
import trio
from anyio.to_thread import run_sync as run_in_a_real_thread

from pgq_trio import Job, PgQueuer
from pgq_trio.testing import Backend, IORefused, ThreadRefused, simulate
from tests.kit.engine_worlds import backends, in_a_thread


class TestThreads:
    @backends
    def test_refused(self, backend: Backend) -> None:
        with pytest.raises(ThreadRefused, match="pass threads='inline'"):
            simulate(in_a_thread, backend=backend).check()

    @backends
    def test_as_one_step(self, backend: Backend) -> None:
        assert simulate(in_a_thread, backend=backend, threads="inline").check() == 42

    def test_are_real_again_afterwards(self) -> None:
        simulate(in_a_thread, threads="inline").check()
        assert anyio.run(in_a_thread) == 42

    @pytest.mark.parametrize(
        ("backend", "to_thread"),
        [("trio", trio.to_thread.run_sync), ("asyncio", asyncio.to_thread)],
    )
    def test_of_the_event_loop_s_own(
        self, backend: Backend, to_thread: Callable[..., Awaitable[int]]
    ) -> None:
        async def scenario() -> int:
            # Looked up by its name, as programs do.
            name = "run_sync" if backend == "trio" else "to_thread"
            start = getattr(trio.to_thread if backend == "trio" else asyncio, name)
            assert start is not to_thread or backend == "asyncio"
            result: int = await start(len, "abc")
            return result

        with pytest.raises(ThreadRefused, match="len"):
            simulate(scenario, backend=backend).check()
        assert simulate(scenario, backend=backend, threads="inline").check() == 3

    def test_of_the_event_loop_s_own_that_fail(self) -> None:
        async def scenario() -> None:
            await asyncio.to_thread(int, "x")

        with pytest.raises(ValueError, match="invalid literal"):
            simulate(scenario, backend="asyncio", threads="inline").check()

    @pytest.mark.parametrize("deadline", [5, None])
    @backends
    def test_whose_start_was_not_seen(self, backend: Backend, deadline: float | None) -> None:
        """A name that was imported before the run is not replaced."""
        goes_on = threading.Event()

        async def scenario() -> None:
            try:
                with anyio.move_on_after(deadline):
                    await run_in_a_real_thread(goes_on.wait, 20, abandon_on_cancel=True)
            finally:
                goes_on.set()

        with pytest.raises(ThreadRefused, match="thread"):
            simulate(scenario, backend=backend).check()


async def run_a_program() -> None:
    await anyio.run_process(["true"])


async def call_in_a_process() -> None:
    await anyio.to_process.run_sync(len, "abc")


async def connect() -> None:
    await anyio.connect_tcp("127.0.0.1", 1)


async def connect_by_name() -> None:
    await anyio.connect_tcp("localhost", 1)


async def listen() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        await listener.serve(lambda _stream: anyio.lowlevel.checkpoint())


async def send_a_datagram() -> None:
    async with await anyio.create_udp_socket(local_host="127.0.0.1"):
        await anyio.lowlevel.checkpoint()


async def look_an_address_up() -> None:
    await anyio.getnameinfo(("127.0.0.1", 80))


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    yield ends
    for end in ends:
        end.close()


Pair = tuple[socket.socket, socket.socket]


def application() -> PgQueuer:
    """One that has something to wait for."""
    pgq = PgQueuer.in_memory()

    @pgq.entrypoint("work")
    async def work(_job: Job) -> None:
        await anyio.lowlevel.checkpoint()

    return pgq


class TestRealIO:
    @pytest.mark.parametrize(
        "scenario",
        [
            run_a_program,
            call_in_a_process,
            connect,
            connect_by_name,
            listen,
            send_a_datagram,
            look_an_address_up,
        ],
    )
    @backends
    def test_is_refused(self, backend: Backend, scenario: Callable[[], Awaitable[None]]) -> None:
        with pytest.raises(IORefused, match=r"use a fake, such as PgQueuer\.in_memory"):
            simulate(scenario, backend=backend).check()

    @backends
    def test_is_refused_whatever_the_scenario_does_with_the_error(self, backend: Backend) -> None:
        async def scenario() -> None:
            for _ in range(3):
                try:
                    await connect_by_name()
                except Exception:  # noqa: BLE001 - as careless handlers do
                    await anyio.sleep(1)

        with pytest.raises(IORefused, match="look up a host"):
            simulate(scenario, backend=backend).check()

    @backends
    def test_that_is_waited_for_in_vain(self, backend: Backend, pair: Pair) -> None:
        async def scenario() -> None:
            await anyio.wait_readable(pair[0])

        with pytest.raises(IORefused, match=r"- main at `await anyio.wait_readable\(pair\[0\]\)`"):
            simulate(scenario, backend=backend).check()

    @backends
    def test_that_is_too_late_for_the_clock_is_told(self, backend: Backend, pair: Pair) -> None:
        async def scenario() -> None:
            with anyio.fail_after(60):
                await anyio.wait_readable(pair[0])

        with pytest.raises(TimeoutError) as failure:
            simulate(scenario, backend=backend).check()
        (note,) = failure.value.__notes__
        assert "the clock jumped, and real I/O was late" in note
        assert "`await anyio.wait_readable(pair[0])`" in note

    @backends
    def test_between_tasks_of_the_scenario_works(self, backend: Backend, pair: Pair) -> None:
        async def write() -> None:
            await anyio.sleep(3)
            pair[1].send(b"x")

        async def scenario() -> bytes:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write, name="writer")
                with anyio.fail_after(60):
                    await anyio.wait_readable(pair[0])
            return pair[0].recv(1)

        assert simulate(scenario, backend=backend).check() == b"x"

    @backends
    def test_an_application_waits_for_nothing_outside(self, backend: Backend) -> None:
        """It waits for signals, and on a socket of its own for requests to shut down."""
        pgq = application()

        async def scenario() -> None:
            with anyio.fail_after(60):
                await pgq.run()

        with pytest.raises(TimeoutError) as failure:
            simulate(scenario, backend=backend).check()
        assert "I/O" not in "".join(failure.value.__notes__)

    @backends
    def test_beside_an_application_is_told(self, backend: Backend, pair: Pair) -> None:
        pgq = application()

        async def read() -> None:
            await anyio.wait_readable(pair[0])

        async def scenario() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read, name="reader")
                with anyio.fail_after(60):
                    await pgq.run()

        run = simulate(scenario, backend=backend)
        assert "- reader at " in run.hurried[0]

    @backends
    def test_is_real_again_afterwards(self, backend: Backend) -> None:
        simulate(anyio.lowlevel.checkpoint, backend=backend).check()
        anyio.run(run_a_program, backend=backend)
        anyio.run(look_an_address_up, backend=backend)
