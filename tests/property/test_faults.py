"""Crashes, partitions, lost replies, odd notifications and jumping clocks: no job is lost.

Hypothesis draws jobs, workers and what befalls them; each worker has a connection of its own to
one queue in memory. At the end a healthy worker drains the queue, after all leases have expired.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import anyio
import pytest
from hypothesis import given, strategies as st

from pgq_trio import InMemoryDriver, Job, QueueManager
from pgq_trio.testing import BACKENDS, Backend, UnreliableDriver, interleavings, simulate
from tests.property.profiles import examples
from tests.property.queue_worlds import Fleet, Ledger

backends = pytest.mark.parametrize("backend", BACKENDS)

LEASE = 3.0
OPERATIONS = ("claim", "finish", "release", "heartbeat", "listen")
KINDS = (
    "crash",
    "partition",
    "long partition",
    "lost request",
    "lost reply",
    "drop notifications",
    "double notifications",
    "slow",
    "clock jump",
    "shutdown",
)


@dataclass(frozen=True)
class Mishap:
    """What befalls a worker."""

    at: float
    worker: int
    kind: str
    operation: str


mishaps = st.lists(
    st.builds(
        Mishap,
        at=st.floats(0, 12).map(lambda seconds: round(seconds, 2)),
        worker=st.integers(0, 2),
        kind=st.sampled_from(KINDS),
        operation=st.sampled_from(OPERATIONS),
    ),
    max_size=5,
).map(lambda drawn: sorted(drawn, key=lambda mishap: mishap.at))
works = st.lists(
    st.tuples(
        st.sampled_from(["plain", "limited"]),
        st.sampled_from([b"ok", b"sleep", b"again", b"fail"]),
        st.floats(0, 8).map(lambda seconds: round(seconds, 2)),
    ),
    min_size=1,
    max_size=8,
)


class ShiftedClock:
    """The clock of the database: that of the loop, and jumps."""

    def __init__(self) -> None:
        self.shift = timedelta(0)

    def __call__(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=_loop_time()) + self.shift


def _loop_time() -> float:
    try:
        return anyio.current_time() % 1e6
    except RuntimeError:  # asked after the run
        return 1e6


class Disaster(Fleet):
    """A fleet whose workers are befallen by mishaps."""

    def __init__(self) -> None:
        self.clock = ShiftedClock()
        super().__init__(driver=InMemoryDriver(self.clock), limit=1)
        self.managers: list[QueueManager] = []
        self.befallen: set[int] = set()

    def manager(self, connection: UnreliableDriver) -> QueueManager:
        """Return one more worker."""
        manager = QueueManager(connection)
        manager.entrypoint("plain")(self.handle)
        manager.entrypoint("limited", concurrency_limit=self.limit)(self.handle)
        return manager

    async def worker(self, number: int) -> None:
        """Run one worker until it is stopped."""
        try:
            await self.managers[number].run(
                handle_signals=False, heartbeat_timeout=LEASE, grace_period=1
            )
        except Exception:
            if number not in self.befallen:
                raise

    async def run_all(self, work: list[tuple[str, bytes, float]], plan: list[Mishap]) -> list[int]:
        """Run three workers through the mishaps, then one healthy one until all is done."""
        connections = [UnreliableDriver(self.driver) for _ in range(3)]
        self.managers = [self.manager(connection) for connection in connections]
        names, payloads, delays = (list(column) for column in zip(*work, strict=True))
        ids = await self.queries.enqueue(names, payloads, execute_after=[*delays])
        async with anyio.create_task_group() as tasks:
            scopes: list[anyio.CancelScope] = []
            for number in range(len(connections)):
                scopes.append(anyio.CancelScope())
                tasks.start_soon(self._in_scope, scopes[-1], number, name=f"worker {number}")
            began = anyio.current_time()
            for mishap in plan:
                await anyio.sleep_until(began + mishap.at)
                self._befall(mishap, connections[mishap.worker], scopes[mishap.worker])
            await anyio.sleep_until(began + 20)
            for number, connection in enumerate(connections):
                self.befallen.add(number)
                self._crash(connection, scopes[number])
        self.owners.clear()
        await anyio.sleep(LEASE + 1)
        for _ in range(2):  # a retry that was written last is due after its delay
            await self.run(1, heartbeat_timeout=LEASE)
            await anyio.sleep(LEASE + 1)
        return ids

    async def _in_scope(self, scope: anyio.CancelScope, number: int) -> None:
        with scope:
            await self.worker(number)

    def _befall(
        self, mishap: Mishap, connection: UnreliableDriver, scope: anyio.CancelScope
    ) -> None:
        self.befallen.add(mishap.worker)
        actions: dict[str, Callable[[], object]] = {
            "crash": lambda: self._crash(connection, scope),
            "partition": lambda: connection.cut(LEASE / 2),
            "long partition": lambda: connection.cut(LEASE * 2),
            "lost request": lambda: connection.lose(mishap.operation, "request"),
            "lost reply": lambda: connection.lose(mishap.operation, "reply"),
            "drop notifications": lambda: setattr(connection, "drops_notifications", True),
            "double notifications": lambda: setattr(connection, "doubles_notifications", True),
            "slow": lambda: setattr(connection, "delay", 0.2),
            "clock jump": self._jump,
            "shutdown": lambda: self.managers[mishap.worker].request_shutdown(0),
        }
        actions[mishap.kind]()

    def _crash(self, connection: UnreliableDriver, scope: anyio.CancelScope) -> None:
        connection.crash()
        scope.cancel()

    def _jump(self) -> None:
        # Forward: all leases expire at once, for all workers.
        self.befallen.update(range(3))
        self.clock.shift += timedelta(hours=1)


@backends
@examples(40)
@given(schedule=interleavings(tasks=6), work=works, plan=mishaps)
def test_no_job_is_lost(
    backend: Backend,
    schedule: tuple[int, ...],
    work: list[tuple[str, bytes, float]],
    plan: list[Mishap],
) -> None:
    """Every job ends exactly once, whatever befalls the workers; healthy ones never overlap."""
    fleet = Disaster()

    async def scenario() -> list[int]:
        return await fleet.run_all(work, plan)

    ids = simulate(scenario, schedule=schedule, backend=backend).check()
    ledger = Ledger.of(fleet)
    ledger.check_conservation(ids)
    assert not ledger.left
    if not plan:
        assert not fleet.problems
        assert fleet.most["limited"] <= fleet.limit


@backends
@examples(20)
@given(schedule=interleavings(tasks=5), workers=st.integers(1, 3))
def test_a_job_longer_than_its_lease(
    backend: Backend, schedule: tuple[int, ...], workers: int
) -> None:
    """While its worker lives it runs once: the lease is renewed, and nobody takes it over."""
    fleet = Fleet()
    ids: list[int] = []

    async def scenario() -> None:
        ids.extend(await fleet.queries.enqueue(["plain", "limited"], [b"long", b"long"]))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(
                partial(fleet.run, workers, mode="continuous", heartbeat_timeout=LEASE)
            )
            await anyio.sleep(20)
            tasks.cancel_scope.cancel()

    simulate(scenario, schedule=schedule, backend=backend).check()
    ledger = Ledger.of(fleet)
    assert not fleet.problems
    assert sorted(job.id for job in fleet.starts) == ids
    assert [ledger.ends(job_id) for job_id in ids] == [["successful"]] * 2


@backends
@examples(20)
@given(
    schedule=interleavings(tasks=5),
    silence=st.floats(LEASE + 1, 3 * LEASE),
    behaviour=st.sampled_from([b"long", b"again", b"fail"]),
)
def test_a_stale_owner(
    backend: Backend, schedule: tuple[int, ...], silence: float, behaviour: bytes
) -> None:
    """Back after a silence longer than its lease, a worker changes nothing that is not its own."""
    fleet = Fleet()
    ids: list[int] = []
    connection = UnreliableDriver(fleet.driver)
    slow = QueueManager(connection)

    @slow.entrypoint("plain")
    async def slow_handler(_job: Job) -> None:
        with anyio.CancelScope(shield=True):  # it does not hear that it lost the lease
            connection.cut(silence)
            await anyio.sleep(silence - 0.5)
        if behaviour != b"fail":  # the opposite of what the job does elsewhere
            raise ValueError("too late")

    async def scenario() -> None:
        ids.extend(await fleet.queries.enqueue("plain", behaviour))
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                await slow.run(handle_signals=False, heartbeat_timeout=LEASE)

            tasks.start_soon(run, name="slow worker")
            await anyio.sleep(0.2)
            second = fleet.application()

            async def run_second() -> None:
                await second.run(handle_signals=False, heartbeat_timeout=LEASE)

            tasks.start_soon(run_second, name="second worker")
            await anyio.sleep(4 * LEASE + 10)
            slow.request_shutdown(0)
            second.request_shutdown(0)

    simulate(scenario, schedule=schedule, backend=backend).check()
    ledger = Ledger.of(fleet)
    ledger.check_conservation(ids)
    assert ledger.ends(ids[0]) == ["exception" if behaviour == b"fail" else "successful"]
    assert [job.attempts for job in fleet.starts] == [1]
