"""Drives psycopg's generators on AnyIO's event loops; knows file descriptors, not SQL.

psycopg writes each protocol exchange as a generator that yields what it waits for (`Wait.R`, `W`
or `RW`) and is sent what came true (`Ready`). No timer ticks here: the loop wakes a task when its
socket is ready, when its cancel scope ends, or when `Connection.terminate` closes the socket.
"""

from __future__ import annotations

import select
from time import monotonic
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel
from psycopg import errors as e

from pgq_trio.postgres.internals import Ready, Wait, WaitTimeout

if TYPE_CHECKING:
    from psycopg.abc import RV, PQGen, PQGenConn

__all__ = ["MAX_BUSY_TIME", "Pace", "drive", "drive_connecting", "is_readable", "wait_for"]

#: Seconds a connection may keep the event loop to itself while its socket never blocks (a long
#: COPY, a full pipeline). psycopg's own figure.
MAX_BUSY_TIME: Final = 0.005

_R: Final = Wait.R
_W: Final = Wait.W
_RW: Final = Wait.RW
_READY_R: Final = int(Ready.R)
_READY_W: Final = int(Ready.W)

_SOCKET_CLOSED: Final = "connection socket closed"


class Pace:
    """When one connection last let the event loop run, so that it does not starve other tasks."""

    __slots__ = ("_rested_at",)

    def __init__(self) -> None:
        self._rested_at = 0.0

    def rested(self) -> None:
        """The loop has just had its turn."""
        self._rested_at = monotonic()

    def is_due(self) -> bool:
        """Whether the loop has waited for `MAX_BUSY_TIME` or more."""
        return monotonic() - self._rested_at >= MAX_BUSY_TIME

    async def checkpoint(self) -> None:
        """Let other tasks run, and notice a cancellation."""
        await anyio.lowlevel.checkpoint()
        self._rested_at = monotonic()


if hasattr(select, "poll"):
    _EVENTS: Final = {
        int(_R): select.POLLIN,
        int(_W): select.POLLOUT,
        int(_RW): select.POLLIN | select.POLLOUT,
    }

    def _poll(fileno: int, want: int) -> int:
        """What the socket is ready for now; an error counts as ready, libpq then reports it."""
        poll = select.poll()
        poll.register(fileno, _EVENTS[want])
        ready = 0
        for _, events in poll.poll(0):
            if events & select.POLLNVAL:
                raise e.OperationalError(_SOCKET_CLOSED)
            if events & select.POLLIN:
                ready |= _READY_R
            if events & select.POLLOUT:
                ready |= _READY_W
            if not ready:
                ready = want
        return ready

else:  # pragma: no cover - Windows

    def _poll(fileno: int, want: int) -> int:
        """What the socket is ready for now."""
        readers = [fileno] if want & _R else []
        writers = [fileno] if want & _W else []
        readable, writable, _ = select.select(readers, writers, [], 0)
        return (_READY_R if readable else 0) | (_READY_W if writable else 0)


def is_readable(fileno: int) -> bool:
    """Whether the server has sent something, or closed the socket, without waiting."""
    return bool(_poll(fileno, int(_R)))


async def _wait_either(fileno: int) -> int:
    """Wait until the socket is readable or writable; which of them, as `Ready` bits."""
    ready = 0
    failure: Exception | None = None

    async def watch(writing: bool) -> None:
        nonlocal ready, failure
        try:
            if writing:
                await anyio.wait_writable(fileno)
            else:
                await anyio.wait_readable(fileno)
        except (OSError, anyio.ClosedResourceError) as exc:
            # Kept, because the task group would hand it on wrapped in an exception group.
            failure = exc
        else:
            ready |= _READY_W if writing else _READY_R
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(watch, False, name="wait_readable")
        group.start_soon(watch, True, name="wait_writable")
    if failure is not None:
        raise failure
    return ready


async def _wait_ready(fileno: int, want: int) -> int:
    """Wait until the socket is ready for some of `want`, as `Ready` bits."""
    if want == _R:
        await anyio.wait_readable(fileno)
        return _READY_R
    if want == _W:
        await anyio.wait_writable(fileno)
        return _READY_W
    if want == _RW:
        return await _wait_either(fileno)
    raise e.InternalError(f"psycopg asked to wait for {want!r}")


async def drive(gen: PQGen[RV], fileno: int, pace: Pace, *, poll_reads: bool = False) -> RV:
    """Run a generator of a connected session to its end and return its value.

    A socket asked for writing is nearly always writable, so it is polled before the event loop is
    troubled. `poll_reads` does the same for reading (for timeouts of zero).

    On cancellation the generator stays suspended: whoever called decides whether to close it or to
    go on with another `drive`.

    Raises:
        psycopg.OperationalError: the connection's socket was closed meanwhile.
    """
    polled = False
    try:
        want = next(gen)
        while True:
            if want == _R and not poll_reads:
                await anyio.wait_readable(fileno)
                pace.rested()
                want = gen.send(_READY_R)
                continue
            # Not before the first poll: a timeout of zero must look at the socket once.
            if polled and pace.is_due():
                await pace.checkpoint()
            polled = True
            if not (ready := _poll(fileno, want)):
                ready = await _wait_ready(fileno, want)
                pace.rested()
            want = gen.send(ready)
    except StopIteration as stop:
        result: RV = stop.value
        return result
    except (OSError, anyio.ClosedResourceError) as exc:
        raise e.OperationalError(_SOCKET_CLOSED) from exc


async def wait_for(gen: PQGen[RV], fileno: int, pace: Pace, timeout: float | None = None) -> RV:
    """As `drive`, for at most `timeout` seconds; zero processes what has already arrived.

    Raises:
        psycopg.errors._WaitTimeout: the time is up; the generator stays suspended.
        psycopg.OperationalError: the connection's socket was closed meanwhile.
    """
    if timeout is None:
        return await drive(gen, fileno, pace)
    with anyio.move_on_after(max(timeout, 0.0)):
        return await drive(gen, fileno, pace, poll_reads=True)
    raise WaitTimeout("wait timeout expired")


async def drive_connecting(gen: PQGenConn[RV]) -> RV:
    """Run a generator that opens a socket of its own (a connect, a cancel request) to its end.

    On cancellation or error the generator is closed, and its socket with it.

    Raises:
        psycopg.OperationalError: the socket was closed meanwhile.
    """
    try:
        fileno, want = next(gen)
        while True:
            ready = await _wait_ready(fileno, want)
            fileno, want = gen.send(ready)
    except StopIteration as stop:
        result: RV = stop.value
        return result
    except (OSError, anyio.ClosedResourceError) as exc:
        raise e.OperationalError(_SOCKET_CLOSED) from exc
    finally:
        gen.close()
