"""A program on Trio with a private PostgreSQL, shared resources, an entrypoint and a schedule."""

import trio

from pgq_trio import Context, Job, PgQueuer, Schedule, ScheduleContext


async def main() -> None:
    async with PgQueuer.open("embedded:", resources={"greeted": []}) as pgq:
        await pgq.queries.install()

        @pgq.entrypoint("greet")
        async def greet(job: Job, ctx: Context) -> None:
            ctx.resources["greeted"].append(job.payload.decode())

        @pgq.schedule("report", "0 * * * *")  # each hour; a drain fires no schedules
        async def report(schedule: Schedule, ctx: ScheduleContext) -> None:
            print(schedule.entrypoint, *ctx.resources["greeted"])

        await pgq.queries.enqueue(["greet"] * 3, [b"Ada", b"Grace", b"Edsger"])
        await pgq.run(mode="drain")  # without a mode it runs until SIGTERM or Ctrl-C
        print("greeted", *sorted(pgq.resources["greeted"]))


trio.run(main)
