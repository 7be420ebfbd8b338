"""Generators are driven to their end, without ticks, and in time."""

from __future__ import annotations

import socket
from collections.abc import Generator, Iterator
from typing import cast

import anyio
import psycopg
import pytest
from psycopg.waiting import Ready, Wait

from pgq_trio.postgres.internals import WaitTimeout
from pgq_trio.postgres.waiting import Pace, drive, drive_connecting, is_readable, wait_for
from tests.postgres.helpers import SOON

pytestmark = pytest.mark.anyio

Gen = Generator[Wait, Ready | int, int]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def waiting(*wants: Wait) -> Gen:
    """Wait for each in turn; the `Ready` bits, one hexadecimal digit each."""
    seen = 0
    for want in wants:
        seen = seen * 16 + int((yield want))
    return seen


def fill(sock: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        while True:
            sock.send(b"x" * 65536)


async def test_nothing_to_wait_for(pair: tuple[socket.socket, socket.socket]) -> None:
    assert await drive(waiting(), pair[0].fileno(), Pace()) == 0


async def test_writing_is_polled(pair: tuple[socket.socket, socket.socket]) -> None:
    ready = await drive(waiting(Wait.W, Wait.RW), pair[0].fileno(), Pace())
    assert ready == Ready.W * 16 + Ready.W


@pytest.mark.parametrize("want", [Wait.R, Wait.RW])
async def test_reading(pair: tuple[socket.socket, socket.socket], want: Wait) -> None:
    ours, theirs = pair
    fill(ours)
    results: list[int] = []

    async def run() -> None:
        results.append(await drive(waiting(want), ours.fileno(), Pace()))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        assert results == []
        theirs.send(b"x")
    assert results == [Ready.R]
    assert is_readable(ours.fileno())


@pytest.mark.parametrize("want", [Wait.W, Wait.RW])
async def test_writing(pair: tuple[socket.socket, socket.socket], want: Wait) -> None:
    ours, theirs = pair
    fill(ours)
    results: list[int] = []

    async def run() -> None:
        results.append(await drive(waiting(want), ours.fileno(), Pace()))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        assert results == []
        theirs.recv(1_000_000)
    assert results == [Ready.W]


async def test_timeout(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(WaitTimeout):
        await wait_for(waiting(Wait.R), pair[0].fileno(), Pace(), 0.01)
    with pytest.raises(WaitTimeout):
        await wait_for(waiting(Wait.R), pair[0].fileno(), Pace(), 0)


async def test_timeout_of_zero_takes_what_is_there(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    pair[1].send(b"x")
    assert await wait_for(waiting(Wait.R), pair[0].fileno(), Pace(), 0) == Ready.R
    assert await wait_for(waiting(Wait.R), pair[0].fileno(), Pace(), -1) == Ready.R


async def test_an_outer_cancellation_is_not_a_timeout(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    with anyio.move_on_after(0.01) as scope:
        await wait_for(waiting(Wait.R), pair[0].fileno(), Pace(), SOON)
    assert scope.cancelled_caught


async def test_a_cancelled_generator_can_go_on(pair: tuple[socket.socket, socket.socket]) -> None:
    """psycopg's generators take a wake-up without readiness for "wait again"."""

    def patient() -> Gen:
        while not (ready := (yield Wait.R)):
            pass
        return int(ready)

    gen = patient()
    with anyio.move_on_after(0.01):
        await drive(gen, pair[0].fileno(), Pace())
    pair[1].send(b"x")
    assert await drive(gen, pair[0].fileno(), Pace()) == Ready.R


@pytest.mark.parametrize("want", [Wait.R, Wait.W, Wait.RW])
async def test_closing_the_socket(pair: tuple[socket.socket, socket.socket], want: Wait) -> None:
    ours = pair[0]
    fill(ours)

    async def run() -> None:
        with pytest.raises(psycopg.OperationalError, match="connection socket closed"):
            await drive(waiting(want), ours.fileno(), Pace())

    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await anyio.wait_all_tasks_blocked()
            anyio.notify_closing(ours)
            ours.close()


async def test_a_closed_descriptor(pair: tuple[socket.socket, socket.socket]) -> None:
    number = pair[0].fileno()
    pair[0].close()
    for want in (Wait.R, Wait.W, Wait.RW):
        with pytest.raises(psycopg.OperationalError, match="connection socket closed"):
            await drive(waiting(want), number, Pace())


async def test_the_other_side_is_gone(pair: tuple[socket.socket, socket.socket]) -> None:
    """libpq has to see it, so it counts as ready."""
    pair[1].close()
    assert await drive(waiting(Wait.R), pair[0].fileno(), Pace()) == Ready.R
    assert is_readable(pair[0].fileno())


async def test_a_busy_generator_lets_others_run(pair: tuple[socket.socket, socket.socket]) -> None:
    turns = steps = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    def busy() -> Gen:
        nonlocal steps
        begun = anyio.current_time()
        while turns < 5 and anyio.current_time() - begun < SOON:
            steps += 1
            yield Wait.W
        return 0

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        await drive(busy(), pair[0].fileno(), Pace())
        group.cancel_scope.cancel()
    assert turns >= 5
    assert steps > 10 * turns  # not at each step, which would be slow


async def test_a_busy_generator_can_be_cancelled(pair: tuple[socket.socket, socket.socket]) -> None:
    def endless() -> Gen:
        while True:
            yield Wait.W

    with anyio.move_on_after(0.02) as scope:
        await drive(endless(), pair[0].fileno(), Pace())
    assert scope.cancelled_caught


async def test_a_connecting_generator_is_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    closed: list[bool] = []

    def connecting() -> Generator[tuple[int, Wait], Ready | int, int]:
        try:
            ready = int((yield pair[0].fileno(), Wait.W))
            return ready * 16 + int((yield pair[0].fileno(), Wait.R))
        finally:
            closed.append(True)

    with anyio.move_on_after(0.01):
        await drive_connecting(connecting())
    assert closed == [True]
    pair[1].send(b"x")
    assert await drive_connecting(connecting()) == Ready.W * 16 + Ready.R


async def test_a_generator_that_asks_for_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    def wrong() -> Generator[tuple[int, Wait], Ready | int, int]:
        yield pair[0].fileno(), cast("Wait", 0)
        return 0

    with pytest.raises(psycopg.InternalError):
        await drive_connecting(wrong())
