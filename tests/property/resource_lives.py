"""Whole lives of applications with shared resources, which end in each way that there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import anyio

from pgq_trio import Context, Job, PgQueuer, Schedule, ScheduleContext
from tests.property.resource_worlds import Crash, World

#: How the block of `open` ends: by itself, after a request to stop, by an error, by Ctrl-C as Trio
#: delivers it, cancelled by a scope around it (so asyncio delivers it), or by a member's crash.
Ending: TypeAlias = Literal["return", "shutdown", "error", "ctrl-c", "cancelled", "crash"]
ENDINGS: tuple[Ending, ...] = get_args(Ending)

#: Seconds of a fire, and of each cleanup.
FIRE = 2.0
CLEANUP = 0.5


@dataclass(eq=False)
class Life(World):
    """An application with jobs that take time and a schedule, whose end is given.

    Attributes:
        ending: how it ends, `moment` seconds after it began to run.
        seconds: how long each job takes; None: until it is cancelled.
        fires: how many fires there were.
        caller: the task that opened the application.
    """

    members: tuple[str, ...] = ("outer", "plain", "inner")
    ending: Ending = "return"
    moment: float = 5.0
    seconds: tuple[float, ...] = (3.0, 8.0)
    fires: int = 0
    caller: int = 0

    async def serve(self) -> None:
        """Open the application, run jobs and fires, and end as asked."""
        self.caller = anyio.get_current_task().id
        if self.ending == "crash" and self.crashes is None:
            self.crashes = "inner"
        with anyio.CancelScope() as outside:
            async with PgQueuer.open(self.driver, resources=self.source()) as pgq:
                self._register_all(pgq)
                payloads: list[bytes | None] = [b"%d" % i for i in range(len(self.seconds))]
                await pgq.queries.enqueue(["work"] * len(payloads), payloads)
                await pgq.start(grace_period=2)
                await anyio.sleep(self.moment)
                await self._end(pgq, outside)
        self.note("caller", "cancelled" if outside.cancelled_caught else "goes on")
        await self.count()

    async def _end(self, pgq: PgQueuer, outside: anyio.CancelScope) -> None:
        self.note("application", "ends")
        if self.ending == "shutdown":
            pgq.request_shutdown(0)
        elif self.ending == "error":
            raise Crash("the block")
        elif self.ending == "ctrl-c":
            raise KeyboardInterrupt
        elif self.ending == "cancelled":
            outside.cancel()
            await anyio.sleep_forever()
        elif self.ending == "crash":
            await anyio.sleep_forever()

    def _register_all(self, pgq: PgQueuer) -> None:
        @pgq.entrypoint("work")
        async def work(job: Job, context: Context) -> None:
            number = int(job.payload or b"")
            await self._work(f"job {number}", self.seconds[number], context.resources)

        @pgq.schedule("fire", "* * * * * */10")
        async def fire(_schedule: Schedule, context: ScheduleContext) -> None:
            self.fires += 1
            await self._work(f"fire {self.fires}", FIRE, context.resources)

    async def _work(self, who: str, seconds: float, resources: object) -> None:
        """Use the resources, for a while and in a cleanup that takes time as well."""
        self.note(who, "starts")
        self.look(resources, who)
        try:
            await anyio.sleep(seconds)
            self.look(resources, who)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(CLEANUP)
                self.look(resources, f"{who} in its cleanup")
            self.note(who, "has cleaned up")
