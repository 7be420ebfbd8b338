"""Whatever order requests, returns, cancellations and kills come in, the pool stays whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from pgq_trio.postgres import Connection, ConnectionPool, open_pool
from tests.postgres.helpers import SOON

MAX_SIZE = 2

Action = Literal["request", "return", "cancel", "kill", "run", "settle"]
ACTIONS: tuple[Action, ...] = ("request", "return", "cancel", "kill", "run", "settle")

#: What to do, and to which of those to whom it can be done.
scripts = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 7)), max_size=30)


@dataclass(eq=False)
class Client:
    """One request for a connection, and what became of it."""

    number: int = -1
    release: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    connection: Connection[Any] | None = None
    killed: bool = False
    over: bool = False


class World:
    """The pool, its clients, and what must hold at every moment."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self.pool = pool
        self.clients: list[Client] = []
        self.requests = 0
        self.served: list[int] = []

    async def run(self, client: Client) -> None:
        # Not before: Trio starts tasks in any order.
        client.number = self.requests
        self.requests += 1
        with client.scope:
            async with self.pool.connection() as connection:
                client.connection = connection
                self.served.append(client.number)
                await client.release.wait()
                try:
                    await connection.execute("SELECT 1")
                except psycopg.OperationalError:
                    if not client.killed:
                        raise
        client.connection = None
        client.over = True

    def check(self) -> None:
        stats = self.pool.get_stats()
        lent = [client.connection for client in self.clients if client.connection is not None]
        assert len(set(map(id, lent))) == len(lent)
        assert len(lent) + stats["pool_available"] <= stats["pool_size"] <= MAX_SIZE
        if stats["requests_waiting"]:
            assert stats["pool_available"] == 0
            assert stats["pool_size"] == MAX_SIZE

    async def act(self, action: Action, which: int, group: Any) -> None:
        candidates = [
            client
            for client in self.clients
            if (action == "cancel" and not client.over)
            or (action in {"return", "kill"} and client.connection is not None)
        ]
        if action == "request":
            client = Client()
            self.clients.append(client)
            group.start_soon(self.run, client)
        elif action == "run":
            await anyio.lowlevel.checkpoint()
        elif action == "settle":
            await anyio.wait_all_tasks_blocked()
        elif candidates:
            client = candidates[which % len(candidates)]
            if action == "cancel":
                client.scope.cancel()
            elif action == "return":
                client.release.set()
            elif client.connection is not None:
                client.killed = True
                client.connection.terminate()


async def play(dsn: str, script: list[tuple[Action, int]]) -> None:
    async with open_pool(dsn, min_size=0, max_size=MAX_SIZE, autocommit=True) as pool:
        world = World(pool)
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                for action, which in script:
                    await world.act(action, which, group)
                    world.check()
                for client in world.clients:
                    client.release.set()
        world.check()
        stats = pool.get_stats()
        assert stats["pool_size"] == stats["pool_available"]
        assert stats["requests_waiting"] == 0
        assert stats["requests_errors"] == 0
        assert all(client.over for client in world.clients)
        # In order of their requests, except that connecting takes a while, for `MAX_SIZE` of them.
        for position, number in enumerate(world.served):
            earlier = [other for other in world.served[position + 1 :] if other < number]
            assert len(earlier) < MAX_SIZE
    assert pool.get_stats()["pool_size"] == 0


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(script=scripts)
def test_interleavings(dsn: str, backend: str, script: list[tuple[Action, int]]) -> None:
    anyio.run(play, dsn, script, backend=backend)
