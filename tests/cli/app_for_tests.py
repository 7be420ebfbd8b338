"""Factories of every kind, good and bad; copied into the current directory of a test."""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import anyio.lowlevel

from pgq_trio import Job, PgQueuer, QueueManager, Schedule, SchedulerManager

number = 5
instance = PgQueuer.in_memory()


def tell(line: str) -> None:
    """Print a line in one piece, whoever else prints into the same pipe."""
    print(f"{line}\n", end="", flush=True)


def register(pgq: PgQueuer) -> PgQueuer:
    """Register what tests enqueue."""

    @pgq.entrypoint("say")
    async def say(job: Job) -> None:
        await anyio.lowlevel.checkpoint()
        tell(f"said {(job.payload or b'').decode()}")

    @pgq.entrypoint("wait")
    async def wait(job: Job) -> None:
        """End when the process's standard input ends."""
        tell(f"started in {os.getpid()}")
        try:
            await anyio.wait_readable(0)
        except BaseException:
            tell("cancelled")
            raise
        tell("ended")

    @pgq.entrypoint("block")
    async def block(job: Job) -> None:
        """Block the event loop until the process's standard input ends."""
        await anyio.lowlevel.checkpoint()
        tell(f"blocks in {os.getpid()}")
        os.read(0, 1)

    return pgq


@asynccontextmanager
async def manager() -> AsyncGenerator[PgQueuer]:
    """The usual factory."""
    async with PgQueuer.open() as pgq:
        tell(f"opened with prefix {os.environ.get('PGQUEUER_PREFIX')!r}")
        yield register(pgq)
        tell("closing")


entered = PgQueuer.open("memory:")


def function() -> PgQueuer:
    """Return an application whose life is this process's."""
    return register(PgQueuer.in_memory())


async def async_function() -> PgQueuer:
    """The same, async."""
    await anyio.lowlevel.checkpoint()
    return function()


def returns_manager() -> object:
    """Return something to enter."""
    return manager()


def queue_manager() -> QueueManager:
    """Return the queue's side only."""
    return function().qm


def scheduler_manager() -> SchedulerManager:
    """Return the scheduler's side only."""
    pgq = PgQueuer.in_memory()

    @pgq.schedule("hourly", "0 * * * *")
    async def hourly(schedule: Schedule) -> None:
        await anyio.lowlevel.checkpoint()
        raise AssertionError(schedule)

    return pgq.sm


def returns_none() -> None:
    """Forget the `return`."""


def returns_number() -> int:
    """Return something else."""
    return number


@asynccontextmanager
async def yields_none() -> AsyncGenerator[None]:
    """Forget what to yield."""
    yield


def undecorated() -> object:
    """Return what `manager` returns if its decorator is forgotten."""
    return inspect.unwrap(manager)()


@contextmanager
def sync_manager() -> Generator[PgQueuer]:
    """Use the wrong decorator."""
    yield function()


def needs(dsn: str) -> PgQueuer:
    """Want an argument."""
    raise AssertionError(dsn)


@asynccontextmanager
async def with_arguments(arguments: list[str]) -> AsyncGenerator[PgQueuer]:
    """Want what stands after `--`."""
    tell(f"arguments {arguments}")
    async with manager() as pgq:
        yield pgq


def raises() -> PgQueuer:
    """Fail."""
    raise RuntimeError("no\nluck")


def fails_once() -> PgQueuer:
    """Fail in the first process that calls it in this directory."""
    try:
        Path("failed").touch(exist_ok=False)
    except FileExistsError:
        return function()
    raise RuntimeError("not yet")


def empty() -> PgQueuer:
    """Register nothing."""
    return PgQueuer.in_memory()
