"""Handlers whose annotations are objects, strings, or names that only type checkers know."""

from typing import TYPE_CHECKING

import anyio

import pgq_trio
from pgq_trio import Context, Job, Schedule, ScheduleContext

if TYPE_CHECKING:
    from decimal import Decimal

seen: list[object] = []


async def by_object(job: Job, ctx: Context) -> None:
    await anyio.lowlevel.checkpoint()
    seen.append(ctx.resources)


async def by_string(job: "Job", ctx: "Context") -> None:
    await anyio.lowlevel.checkpoint()
    seen.append(ctx.resources)


async def by_dotted_string(job: "pgq_trio.Job", context: "pgq_trio.Context") -> None:
    await anyio.lowlevel.checkpoint()
    seen.append(context.resources)


async def by_string_beside_an_unknown_name(
    job: "Job", ctx: "Context", extra: "Decimal | None" = None
) -> "Decimal | None":
    await anyio.lowlevel.checkpoint()
    seen.append(ctx.resources)
    return extra


async def by_keyword_only(job: Job, *, ctx: Context | None = None) -> None:
    await anyio.lowlevel.checkpoint()
    seen.append(None if ctx is None else ctx.resources)


def in_a_thread(job: Job, ctx: Context) -> None:
    seen.append(ctx.resources)


class Methods:
    async def method(self, job: Job, ctx: Context) -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(ctx.resources)

    async def __call__(self, job: Job, ctx: Context) -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(ctx.resources)


async def with_a_number(number: int, job: Job, ctx: Context) -> None:
    await anyio.lowlevel.checkpoint()
    seen.append(ctx.resources)


async def unannotated(job, ctx):  # type: ignore[no-untyped-def]
    await anyio.lowlevel.checkpoint()
    seen.append(ctx.resources)


async def job_only(job: Job) -> None:
    await anyio.lowlevel.checkpoint()
    seen.append(job)


async def optional_context(job: Job, ctx: Context | None = None) -> None:
    await anyio.lowlevel.checkpoint()
    seen.append(ctx)


async def tick(schedule: Schedule, ctx: ScheduleContext) -> None:
    await anyio.lowlevel.checkpoint()
    seen.append(ctx.resources)


async def tick_by_string(schedule: "Schedule", ctx: "ScheduleContext") -> None:
    await anyio.lowlevel.checkpoint()
    seen.append(ctx.resources)


async def tick_unannotated(schedule, ctx):  # type: ignore[no-untyped-def]
    await anyio.lowlevel.checkpoint()
    seen.append(ctx.resources)


async def tick_only(schedule: Schedule) -> None:
    await anyio.lowlevel.checkpoint()
    seen.append(schedule)
