"""The pool under drawn interleavings: bounded, whole and fair, whatever becomes of its users.

The connections are stand-ins, which `ConnectionPool` takes by design: what is tried here is who
gets which one, and that is decided without them. What real ones add is in
`tests/postgres/test_pool_interleavings.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

import anyio
import anyio.lowlevel
import psycopg
import pytest
from hypothesis import given, strategies as st

from pgq_trio.postgres.pool import ConnectionPool, PoolTimeout
from pgq_trio.testing import BACKENDS, Backend, interleavings, simulate
from tests.property.profiles import examples

#: How a client uses its connection: returns it, fails, or leaves it broken; or how it ends without.
Use: TypeAlias = Literal["return", "raise", "break"]


@dataclass(frozen=True)
class Plan:
    """What a client does: for how many steps it has a connection, and when it is cancelled.

    `cancelled_after`: so many steps of the one who cancels; None: it is not. `patience`: seconds
    for which it waits for a connection.
    """

    use: Use
    steps: int
    cancelled_after: int | None
    patience: float


class StandIn:
    """A connection without a server."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.is_broken = False
        self.is_closed = False

    def probe(self) -> bool:
        """Whether it can be lent."""
        return not self.is_broken and not self.is_closed

    def is_at_rest(self) -> bool:
        """Whether it can be taken back."""
        return self.probe()

    def terminate(self) -> None:
        """Close it."""
        assert not self.is_closed, "closed twice"
        self.is_closed = True
        self.world.open.discard(self)

    async def end_block(self, _: BaseException | None) -> None:
        """Commit or roll back; shielded, as the real one does."""
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()


@dataclass(eq=False)
class World:
    """A pool and its clients.

    Attributes:
        served: the clients in the order in which they had a connection.
        asked: the clients in the order in which they asked for one.
    """

    max_size: int
    plans: Sequence[Plan]
    connect_steps: int
    failing: frozenset[int]
    connects: int = 0
    open: set[StandIn] = field(default_factory=set["StandIn"])
    lent: list[StandIn] = field(default_factory=list["StandIn"])
    asked: list[int] = field(default_factory=list[int])
    served: list[int] = field(default_factory=list[int])
    without: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        self.pool: ConnectionPool[Any] = ConnectionPool(
            cast("Any", self.connect), min_size=0, max_size=self.max_size
        )

    async def connect(self) -> StandIn:
        """Open a connection, or fail, some steps later."""
        self.connects += 1
        number = self.connects
        for _ in range(self.connect_steps):
            await anyio.lowlevel.checkpoint()
        if number in self.failing:
            raise psycopg.OperationalError("as drawn")
        connection = StandIn(self)
        self.open.add(connection)
        self.check()
        return connection

    def check(self) -> None:
        """What holds at every moment."""
        stats = self.pool.get_stats()
        assert len(self.open) <= self.max_size
        assert len({*map(id, self.lent)}) == len(self.lent)
        assert len(self.lent) + stats["pool_available"] <= stats["pool_size"] <= self.max_size
        if stats["requests_waiting"]:
            assert stats["pool_size"] == self.max_size, "somebody waits, and there is room"
            assert stats["pool_available"] == 0, "somebody waits, and there is one"

    async def client(self, number: int, plan: Plan, scope: anyio.CancelScope) -> None:
        """Have a connection for a while."""
        with scope:
            self.asked.append(number)
            try:
                async with self.pool.connection(plan.patience) as lent:
                    await self.use(number, plan, cast("Any", lent))
            except PoolTimeout:
                raise  # an error of psycopg's as well, and nobody has a connection for so long
            except (psycopg.OperationalError, ZeroDivisionError):
                pass
        if number not in self.served:
            self.without.append(number)

    async def use(self, number: int, plan: Plan, connection: StandIn) -> None:
        """Use it."""
        self.served.append(number)
        self.lent.append(connection)
        try:
            self.check()
            for _ in range(plan.steps):
                await anyio.lowlevel.checkpoint()
            if plan.use == "raise":
                raise ZeroDivisionError
        finally:
            connection.is_broken = plan.use == "break"
            self.lent.remove(connection)

    async def run(self) -> None:
        """Have all clients at once, and end with one that needs all connections."""
        async with anyio.create_task_group() as tasks:
            for number, plan in enumerate(self.plans):
                scope = anyio.CancelScope()
                tasks.start_soon(self.client, number, plan, scope, name=f"client {number}")
                if plan.cancelled_after is not None:
                    tasks.start_soon(
                        self.canceller, scope, plan.cancelled_after, name=f"canceller {number}"
                    )
        self.check()
        stats = self.pool.get_stats()
        assert stats["pool_size"] == stats["pool_available"] == len(self.open)
        assert stats["requests_waiting"] == 0
        assert {*self.served, *self.without} == {*range(len(self.plans))}
        self.failing = frozenset()
        async with anyio.create_task_group() as tasks:
            for number in range(self.max_size):
                plan = Plan("return", 3, None, 1.0)
                tasks.start_soon(self.client, 100 + number, plan, anyio.CancelScope())
        assert {100 + n for n in range(self.max_size)} <= {*self.served}
        self.pool.close()
        assert not self.open

    async def canceller(self, scope: anyio.CancelScope, steps: int) -> None:
        """Cancel a client some steps later."""
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        scope.cancel()

    def check_fairness(self) -> None:
        """Nobody is served before those who asked earlier and were served at all.

        Except that they may be on their way: as many as there are connections.
        """
        place = {number: n for n, number in enumerate(self.asked)}
        for n, number in enumerate(self.served):
            overtaken = [other for other in self.served[n + 1 :] if place[other] < place[number]]
            assert len(overtaken) < self.max_size, f"{number} overtook {overtaken}"


plans = st.builds(
    Plan,
    use=st.sampled_from(["return", "return", "raise", "break"]),
    steps=st.integers(0, 3),
    cancelled_after=st.none() | st.integers(0, 6),
    patience=st.just(30.0),
)


@pytest.mark.parametrize("backend", BACKENDS)
@examples(150)
@given(
    max_size=st.integers(1, 2),
    clients=st.lists(plans, min_size=2, max_size=5),
    connect_steps=st.integers(0, 2),
    failing=st.frozensets(st.integers(1, 4), max_size=2),
    schedule=interleavings(tasks=4),
)
def test_whole_and_fair(
    backend: Backend,
    max_size: int,
    clients: list[Plan],
    connect_steps: int,
    failing: frozenset[int],
    schedule: tuple[int, ...],
) -> None:
    world = World(max_size, clients, connect_steps, failing)
    simulate(world.run, backend=backend, schedule=schedule).check()
    world.check_fairness()


@pytest.mark.parametrize("backend", BACKENDS)
@examples(60)
@given(patience=st.floats(0.5, 5), held=st.floats(0, 8), schedule=interleavings(tasks=3))
def test_who_waits_too_long_gives_up_the_turn(
    backend: Backend, patience: float, held: float, schedule: tuple[int, ...]
) -> None:
    world = World(1, [], 0, frozenset())

    async def hold() -> None:
        async with world.pool.connection():
            await anyio.sleep(held)

    async def scenario() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold, name="holder")
            tasks.start_soon(wait, name="impatient")
            tasks.start_soon(hold, name="patient")

    async def wait() -> None:
        begun = anyio.current_time()
        try:
            async with world.pool.connection(patience):
                assert anyio.current_time() - begun <= patience
        except PoolTimeout:
            assert anyio.current_time() - begun == pytest.approx(patience)

    simulate(scenario, backend=backend, schedule=schedule).check()
    stats = world.pool.get_stats()
    assert (stats["pool_size"], stats["pool_available"], stats["requests_waiting"]) == (1, 1, 0)
