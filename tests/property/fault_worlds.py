"""A fleet of three processes on one queue in memory, and what befalls them.

What may happen to whom is said here: whom a mishap leaves able to renew its leases (within a second
and its retries) must not lose one; whom it does not may lose what it holds, and runs it until it
hears of that. See `Disaster.befall`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel

from pgq_trio import InMemoryDriver, Job, Queries, QueueManager, RetryRequested
from pgq_trio.errors import ConnectionLost
from pgq_trio.testing import Backend, UnreliableDriver
from tests.property.histories import History, Owner
from tests.property.mishaps import LENGTHS, ODD, OPERATIONS, Mishap, Work
from tests.property.stalls import Process, processes

#: Seconds; three heartbeats fit in.
LEASE = 3.0

#: Connections that are gone for so long may cost a lease; for BLIP seconds they may not.
PARTITION, BLIP = 1.5, 0.5

#: A silent server takes so long for each operation, half of it before the change.
SILENCE = 8.0


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


class Worker(Owner):
    """A process with a connection of its own; started again it is another one."""

    def __init__(self, name: str, world: Disaster) -> None:
        self.connection = UnreliableDriver(world.driver)
        super().__init__(name, calls=lambda operation: self.connection.calls[operation])
        self.connection.after = world.history.hears(self)
        self.process = Process()
        self.scope = anyio.CancelScope()
        self.manager = QueueManager(self.connection)
        self.has_crashed = False
        self.has_ended = False
        self.is_leaving = False
        self.has_started = False
        self.may_fail = False
        handler = partial(world.handle, self)
        self.manager.entrypoint("plain")(_handler(handler))
        self.manager.entrypoint("limited", concurrency_limit=world.limit)(_handler(handler))
        self.manager.entrypoint("held", on_failure="hold")(_handler(handler))

    async def run(self) -> None:
        """Run until it is stopped; a start that fails is tried again, as a supervisor does."""
        self.process.enter()
        with self.scope:
            while not self.has_ended:
                try:
                    await self.manager.run(
                        handle_signals=False,
                        heartbeat_timeout=LEASE,
                        grace_period=1,
                        task_status=self,
                    )
                except ConnectionLost:
                    if self.has_started and not (self.has_crashed or self.may_fail):
                        raise
                    await anyio.sleep(1)
                self.has_ended = self.has_started or self.is_leaving
        self.has_ended = True

    def started(self, _value: object = None) -> None:
        """Be told that it serves: what fails from now on is its own fault."""
        self.has_started = True

    def leave(self, grace_period: float) -> None:
        """Be asked to shut down."""
        self.is_leaving = True
        self.manager.request_shutdown(grace_period)

    def crash(self) -> None:
        """Be killed: nothing that it does from now on reaches the queue."""
        self.has_crashed = True
        self.process.go_on()
        self.connection.crash()
        self.scope.cancel()

    def strains(self) -> None:
        """Lose one heartbeat, or half a second: a lease survives that once."""
        self.strain += 1
        self.fragile = self.fragile or self.strain > 1


def _handler(handle: Callable[[Job], Any]) -> Any:
    async def handler(job: Job) -> None:
        await handle(job)

    return handler


class Disaster:
    """Three workers through a plan of mishaps.

    Attributes:
        history: what was wrong is in its `problems`.
        bound: seconds after the end of all trouble by which one worker that is well has everything
            done.
    """

    limit = 1

    def __init__(self, backend: Backend) -> None:
        self.backend: Backend = backend
        self.clock = ShiftedClock()
        self.driver = InMemoryDriver(self.clock)
        ticker: Any = self.driver._ticker
        self.history = History(now=lambda: ticker._last, lease=LEASE, limit=self.limit)
        self.workers: list[Worker] = []
        self.ids: list[int] = []
        self.bound = 0.0
        self._tasks: Any = None
        self._heard: list[str] = []
        self._back = 0.0
        self._count = 0
        connection = UnreliableDriver(self.driver)
        connection.after = self.history.hears(Owner("client"))
        self.client = Queries(connection)
        self.queries = Queries(self.driver)

    async def handle(self, worker: Worker, job: Job) -> None:
        """Do what the payload says, and note it."""
        run = self.history.begins(worker, job)
        ending = "cancelled"
        try:
            await anyio.lowlevel.checkpoint()
            with anyio.CancelScope(shield=job.payload == b"stubborn"):
                await anyio.sleep(LENGTHS[job.payload or b"ok"])
            if job.payload == b"fail":
                ending = "raised"
                raise ValueError("as asked")
            if job.payload == b"again" and job.attempts == 0:
                ending = "asked for a retry"
                raise RetryRequested(delay=2.0)
            ending = "returned"
        finally:
            self.history.ended(run, ending)

    async def run_all(self, work: Work, plan: list[Mishap]) -> list[int]:
        """Run three workers through the mishaps, then one healthy one until all is done."""
        with processes(self.backend):
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(self._listen, name="listener")
                names, payloads, delays = (list(column) for column in zip(*work, strict=True))
                self.ids = await self.client.enqueue(names, payloads, execute_after=[*delays])
                self.workers = [self._start(number) for number in range(3)]
                began = anyio.current_time()
                for mishap in plan:
                    await anyio.sleep_until(began + mishap.at)
                    await self.befall(mishap)
                await self._recover(work)
                for worker in self.workers:
                    self._crash(worker, 0)
                self._tasks.cancel_scope.cancel()
            await self._clean_up()
        return self.ids

    def _start(self, number: int) -> Worker:
        self._count += 1
        worker = Worker(f"worker {number}, start {self._count}", self)
        self._tasks.start_soon(worker.run, name=f"worker {number}")
        return worker

    async def _listen(self) -> None:
        async with self.queries.backend.notifier.listen("work") as payloads:
            async for payload in payloads:
                self._heard.append(payload)

    async def _recover(self, work: Work) -> None:
        """Wait until all is done, if there is a worker that is well, and no longer than `bound`."""
        for worker in self.workers:
            await anyio.sleep(max(0.0, worker.trouble_until - anyio.current_time()))
            worker.process.go_on()
        if all(worker.is_leaving or worker.has_crashed for worker in self.workers):
            return
        # Until it is due, or its lease has expired and that is noticed; after an outage it may take
        # 5 s to try again. A limited job may wait 4 s for a seat that nobody tells of.
        limited = sum(4 + LENGTHS[payload] for name, payload, _ in work if name == "limited")
        self.bound = 8 + self._back + 2 * LEASE + 5 + 2 + 10 + limited
        with anyio.move_on_after(self.bound):
            while not self.history.is_settled:
                await anyio.sleep(1)
        if not self.history.is_settled:
            left = {key: row.state for key, row in self.history.rows.items() if row.state != "gone"}
            self.history.problems.append(f"not done within {self.bound:.0f} s: {left}")

    async def _clean_up(self) -> None:
        await anyio.sleep(LEASE + self._back + 9)
        for _ in range(2):  # a retry that was written last is due after its delay
            worker = Worker("the last one", self)
            await worker.manager.run(
                mode="drain", handle_signals=False, heartbeat_timeout=LEASE, dequeue_timeout=1
            )
            await anyio.sleep(LEASE)

    async def befall(self, mishap: Mishap) -> None:
        """Have a mishap happen.

        - crash, stall, (long) partition, silence: until it is over, and its next heartbeat has come
          through, the worker may lose what it holds; it goes on with it until it hears so, at most
          a lease's length after the end of the mishap. After a crash it is cancelled at once.
        - blip, one lost heartbeat, slow: no lease is lost. Two of the first two may cost one.
        - a reply to a claim that may be lost: those jobs are rescued from it.
        - the database's clock an hour ahead: all leases that there are expire. It is never behind
          what it was: the clock in memory stands still until it has caught up.
        - everything else: nothing may be noticed of it.
        """
        owned = self.history.owned
        worker = sorted(self.workers, key=lambda x: -owned(x))[mishap.worker]
        actions: dict[str, Callable[[Worker, int], Any]] = {
            "crash": self._crash,
            "start again": self._start_again,
            "shutdown": lambda x, which: x.leave(which % 3 / 2),
            "all shut down": self._all_shut_down,
            "stall": self._stall,
            "blip": self._blip,
            "partition": partial(self._partition, seconds=PARTITION),
            "long partition": partial(self._partition, seconds=2 * LEASE),
            "silence": self._silence,
            "slow": lambda x, _: setattr(x.connection, "delay", 0.2),
            "lost request": partial(self._lose, part="request"),
            "lost reply": partial(self._lose, part="reply"),
            "drop notifications": lambda x, _: setattr(x.connection, "drops_notifications", True),
            "double notifications": lambda x, _: setattr(
                x.connection, "doubles_notifications", True
            ),
            "odd notification": self._notify_odd,
            "old notifications again": self._notify_again,
            "clock forward": self._forward,
            "clock back": self._backward,
            "cancel": self._cancel,
            "requeue": self._requeue,
        }
        waits = actions[mishap.kind](worker, mishap.which)
        if waits is not None:
            await waits

    def _crash(self, worker: Worker, _which: int) -> None:
        self._befall_until(worker, anyio.current_time())
        worker.crash()
        worker.fragile = True

    def _start_again(self, worker: Worker, _which: int) -> None:
        if worker.has_ended or worker.has_crashed:
            number = self.workers.index(worker)
            self.workers[number] = self._start(number)

    def _all_shut_down(self, _worker: Worker, which: int) -> None:
        for worker in self.workers:
            worker.leave(which % 3 / 2)

    def _befall_until(self, worker: Worker, until: float) -> None:
        # The claim that is under way may have been made already.
        worker.risky_claims.update({worker.calls("claim"), worker.calls("claim") + 1})
        self.history.befall(worker, until=until)

    def _stall(self, worker: Worker, _which: int) -> None:
        if worker.process.is_stopped or worker.has_crashed or worker.has_ended:
            return
        self._befall_until(worker, anyio.current_time() + 1.5 * LEASE)
        worker.process.stop()
        self._tasks.start_soon(self._go_on, worker, name="end of a stall")

    async def _go_on(self, worker: Worker) -> None:
        await anyio.sleep(1.5 * LEASE)
        worker.process.go_on()

    def _blip(self, worker: Worker, _which: int) -> None:
        if not worker.process.is_stopped:
            worker.strains()
            worker.risky_claims.add(worker.calls("claim"))
            self._cut(worker, BLIP)

    def _partition(self, worker: Worker, _which: int, *, seconds: float) -> None:
        if not worker.process.is_stopped:
            self._befall_until(worker, anyio.current_time() + seconds)
            self._cut(worker, seconds)

    def _cut(self, worker: Worker, seconds: float) -> None:
        if not worker.has_crashed:
            worker.connection.cut(seconds)

    def _silence(self, worker: Worker, _which: int) -> None:
        self._befall_until(worker, anyio.current_time() + LEASE + SILENCE)
        worker.may_fail = True  # what it has to say at a shutdown may take too long
        worker.connection.delay = SILENCE
        self._tasks.start_soon(self._answer, worker, name="end of a silence")

    async def _answer(self, worker: Worker) -> None:
        await anyio.sleep(LEASE)
        worker.connection.delay = 0.0

    def _lose(self, worker: Worker, which: int, *, part: Any) -> None:
        operation = OPERATIONS[which % len(OPERATIONS)]
        if operation == "heartbeat":
            worker.strains()
        if (operation, part) == ("claim", "reply"):
            worker.risky_claims.update({worker.calls("claim"), worker.calls("claim") + 1})
        worker.connection.lose(operation, part)

    async def _notify_odd(self, _worker: Worker, which: int) -> None:
        await self.queries.backend.notifier.notify("work", [ODD[which]])

    async def _notify_again(self, _worker: Worker, _which: int) -> None:
        await self.queries.backend.notifier.notify("work", self._heard[-20:][::-1])

    def _forward(self, _worker: Worker, _which: int) -> None:
        self.history.time_flies()
        for worker in self.workers:  # a claim on its way may have been made before it
            worker.risky_claims.add(worker.calls("claim"))
        self.clock.shift += timedelta(hours=1)
        self._back = 0.0

    def _backward(self, _worker: Worker, _which: int) -> None:
        self.clock.shift -= timedelta(seconds=5)
        self._back += 5

    async def _cancel(self, _worker: Worker, which: int) -> None:
        await self.client.mark_job_as_cancelled(self.ids[which % len(self.ids)])

    async def _requeue(self, _worker: Worker, _which: int) -> None:
        await self.client.requeue_jobs(self.ids)


def expected_ends(name: str, payload: bytes, *, cancelled: bool) -> list[list[str]]:
    """Return how a job may have ended; held, it has not."""
    own: list[str] = ["successful"]
    if payload == b"fail":
        own = [] if name == "held" else ["exception"]
    return [own, ["canceled"]] if cancelled else [own]
