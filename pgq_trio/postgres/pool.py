"""A connection pool without tasks of its own; knows sessions and who waits for one, not SQL.

Who gets what is decided synchronously, in `_grant` and `_dispatch`; whatever waits for the network
(connecting, committing) happens outside, in the task of the caller whom it concerns. The plan is
that of httpcore's pool.
"""

from __future__ import annotations

import random
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeAlias

import anyio
import anyio.lowlevel
from psycopg.rows import Row
from psycopg_pool import PoolClosed, PoolTimeout

from pgq_trio.postgres.patience import keep_trying

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from pgq_trio.postgres.connection import Connection

__all__ = ["ConnectionPool", "PoolClosed", "PoolTimeout"]

#: Lifetimes are shortened by up to this part, so that connections do not all expire at once.
_LIFETIME_JITTER: Final = 0.05


@dataclass(slots=True)
class _Member(Generic[Row]):
    """A connection of the pool."""

    connection: Connection[Row]
    expires_at: float
    idle_since: float


#: What a request is given: a connection, or the right to open one (counted in the pool's size).
_Grant: TypeAlias = "_Member[Row] | Literal['slot']"


@dataclass(slots=True, eq=False)
class _Waiter(Generic[Row]):
    """A request that waits for its turn; `grant` is None until then, and if the pool closes."""

    ready: anyio.Event = field(default_factory=anyio.Event)
    grant: _Grant[Row] | None = None


@dataclass(slots=True)
class _Counters:
    """What has happened so far, under the names of `psycopg_pool`."""

    requests_num: int = 0
    requests_queued: int = 0
    requests_wait_ms: float = 0
    requests_errors: int = 0
    usage_ms: float = 0
    returns_bad: int = 0
    connections_num: int = 0
    connections_ms: float = 0
    connections_errors: int = 0
    connections_lost: int = 0


class ConnectionPool(Generic[Row]):
    """Connections that are opened when needed, lent to one block at a time and kept for the next.

    Made by `open_pool`. Requests are served in the order in which they came.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection[Row]]],
        *,
        min_size: int = 1,
        max_size: int = 8,
        max_lifetime: float = 3600.0,
        max_idle: float = 600.0,
        timeout: float = 30.0,
    ) -> None:
        if not 0 <= min_size <= max_size or max_size < 1:
            raise ValueError(
                "a pool needs 0 <= min_size <= max_size and max_size >= 1,"
                f" got min_size={min_size} and max_size={max_size}"
            )
        self.min_size = min_size
        self.max_size = max_size
        self.max_lifetime = max_lifetime
        self.max_idle = max_idle
        self.timeout = timeout
        self._connect = connect
        self._size = 0  # idle, lent and being opened
        self._idle: deque[_Member[Row]] = deque()  # the one used last on the right
        self._waiters: deque[_Waiter[Row]] = deque()
        self._counters = _Counters()
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self._size} of {self.max_size}"
        return f"<{type(self).__name__} {state} at 0x{id(self):x}>"

    @property
    def closed(self) -> bool:
        """Whether the block of `open_pool` has been left."""
        return self._closed

    def get_stats(self) -> dict[str, int]:
        """Counters and sizes at this moment, named and meant as `psycopg_pool` does.

        `pool_min`, `pool_max`; `pool_size` (idle, lent or being opened), `pool_available` (idle);
        `requests_num`, of which had to wait `requests_queued`, wait now `requests_waiting`, failed
        `requests_errors`; `requests_wait_ms` and `usage_ms` in total; `returns_bad` (came back
        unusable); `connections_num` attempts, of which failed `connections_errors`,
        `connections_ms` in total; `connections_lost` (found dead in the pool).
        """
        return {
            "pool_min": self.min_size,
            "pool_max": self.max_size,
            "pool_size": self._size,
            "pool_available": len(self._idle),
            "requests_waiting": len(self._waiters),
            **{name: int(value) for name, value in asdict(self._counters).items()},
        }

    @asynccontextmanager
    async def connection(self, timeout: float | None = None) -> AsyncGenerator[Connection[Row]]:
        """A block that has a connection for itself.

        Leaving it commits, or rolls back on an exception; without an open transaction nothing is
        sent. A connection that is closed, or left in a state that cannot be ended, is replaced.

        Args:
            timeout: seconds to wait for a connection, instead of the pool's own `timeout`.

        Raises:
            PoolTimeout: none could be had in time.
            PoolClosed: the block of `open_pool` has been left.
            psycopg.OperationalError: a connection was to be opened, and could not be.

        Cancellation: while waiting, the turn goes to the next request. In the block, the
        transaction is rolled back, shielded for 5 s, after which the connection is closed.
        """
        member = await self._acquire(self.timeout if timeout is None else timeout)
        lent_at = anyio.current_time()
        try:
            try:
                yield member.connection
            except BaseException as exc:
                await member.connection.end_block(exc)
                raise
            await member.connection.end_block(None)
        finally:
            self._counters.usage_ms += 1000.0 * (anyio.current_time() - lent_at)
            self._check_in(member)

    async def fill(self, reconnect_timeout: float) -> None:
        """Open connections up to `min_size`, waiting for a server that is down or starting up.

        Raises:
            psycopg.OperationalError: no retry mends it, or `reconnect_timeout` seconds are over.
        """
        for _ in range(self.min_size):
            self._size += 1
            self._idle.append(await self._open_slot(reconnect_timeout))

    def close(self) -> None:
        """Close idle connections now and lent ones when they return; requests get `PoolClosed`."""
        self._closed = True
        while self._idle:
            self._discard(self._idle.popleft())
        while self._waiters:
            self._waiters.popleft().ready.set()

    async def _acquire(self, timeout: float) -> _Member[Row]:
        self._counters.requests_num += 1
        try:
            with anyio.move_on_after(timeout):
                return await self._obtain()
        except Exception:
            self._counters.requests_errors += 1
            raise
        self._counters.requests_errors += 1
        raise PoolTimeout(
            f"no connection within {timeout:g} s: {self._size - len(self._idle)} of at most"
            f" {self.max_size} are in use and {len(self._waiters)} requests wait"
        )

    async def _obtain(self) -> _Member[Row]:
        await anyio.lowlevel.checkpoint_if_cancelled()
        grant = None if self._waiters else self._grant()
        if grant is None:
            grant = await self._wait_for_grant()
        return await self._open_slot() if grant == "slot" else grant

    async def _wait_for_grant(self) -> _Grant[Row]:
        waiter: _Waiter[Row] = _Waiter()
        self._waiters.append(waiter)
        self._counters.requests_queued += 1
        queued_at = anyio.current_time()
        try:
            await waiter.ready.wait()
        except BaseException:
            if waiter.grant is not None:
                # Served and cancelled at the same moment: the next one gets it.
                self._give_back(waiter.grant)
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            raise
        finally:
            self._counters.requests_wait_ms += 1000.0 * (anyio.current_time() - queued_at)
        if waiter.grant is None:
            raise PoolClosed("the pool is closed")
        return waiter.grant

    def _grant(self) -> _Grant[Row] | None:
        """What the next request gets now, if anything."""
        if self._closed:
            raise PoolClosed("the pool is closed")
        while self._idle:
            member = self._idle.pop()
            if not member.connection.probe():
                self._counters.connections_lost += 1
            elif not self._is_expired(member):
                return member
            self._discard(member)
        if self._size < self.max_size:
            self._size += 1
            return "slot"
        return None

    def _dispatch(self) -> None:
        """Serve those who wait, in order, for as long as there is something to give."""
        while self._waiters and (grant := self._grant()) is not None:
            waiter = self._waiters.popleft()
            waiter.grant = grant
            waiter.ready.set()

    def _give_back(self, grant: _Grant[Row]) -> None:
        if grant == "slot":
            self._size -= 1
            self._dispatch()
        else:
            self._check_in(grant)

    async def _open_slot(self, patience: float = 0.0) -> _Member[Row]:
        """Open the connection for which the size was raised; lower it again on failure."""
        self._counters.connections_num += 1
        begun_at = anyio.current_time()
        try:
            connection = await keep_trying(self._connect, patience)
        except BaseException as exc:
            if isinstance(exc, Exception):
                self._counters.connections_errors += 1
            self._give_back("slot")
            raise
        now = anyio.current_time()
        self._counters.connections_ms += 1000.0 * (now - begun_at)
        jitter = 1.0 - _LIFETIME_JITTER * random.random()  # noqa: S311
        member = _Member(connection, now + self.max_lifetime * jitter, now)
        if self._closed:
            self._discard(member)
            raise PoolClosed("the pool is closed")
        return member

    def _check_in(self, member: _Member[Row]) -> None:
        """Take back a connection that was lent, and pass it on."""
        member.idle_since = now = anyio.current_time()
        if not member.connection.is_at_rest():
            self._counters.returns_bad += 1
            self._discard(member)
        elif self._closed or self._is_expired(member):
            self._discard(member)
        else:
            self._idle.append(member)
            self._shrink(now)
        self._dispatch()

    def _shrink(self, now: float) -> None:
        """Close what has been idle for `max_idle`, down to `min_size`; oldest stand on the left."""
        while (
            self._idle
            and self._size > self.min_size
            and self._idle[0].idle_since + self.max_idle <= now
        ):
            self._discard(self._idle.popleft())

    def _is_expired(self, member: _Member[Row]) -> bool:
        return anyio.current_time() >= member.expires_at

    def _discard(self, member: _Member[Row]) -> None:
        member.connection.terminate()
        self._size -= 1
