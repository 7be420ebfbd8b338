"""The shared resources of the demo: a session, and totals that outlive an interrupted run.

Results are kept by file, not as sums: a job may run twice (its worker died after the handler and
before the outcome was written), and adding a file twice must change nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TypeAlias

import anyio
from psycopg import sql
from psycopg.errors import LockNotAvailable
from psycopg.rows import TupleRow

from pgq_trio.cli.database import open_session
from pgq_trio.cli.demo.files import FileResult, Sums
from pgq_trio.errors import PgqError
from pgq_trio.postgres import Connection
from pgq_trio.resources import Resources
from pgq_trio.settings import Settings

#: How long writing the results may take, in seconds; a resource has 10 s to close.
SAVE_LIMIT = 8.0

#: How long to wait for another demo to go, in seconds: the server gives the lock of a session
#: that was closed back a moment later.
PATIENCE = 2.0

Session: TypeAlias = Connection[TupleRow]
Say: TypeAlias = Callable[[str], None]


class Totals:
    """What is known of files, by key, and the sum over them.

    Attributes:
        missing: keys of files whose results are waited for.
        finished: whether there is nothing that a later run would have to know.
    """

    def __init__(self, results: dict[str, FileResult]) -> None:
        self._results: dict[str, FileResult] = {}
        self.sums: Sums = Sums()
        self.missing: set[str] = set()
        self.finished = False
        for key, result in results.items():
            self.add(key, result)

    def __len__(self) -> int:
        return len(self._results)

    def add(self, key: str, result: FileResult) -> None:
        """Keep a file's result instead of what was known of it."""
        if (before := self._results.get(key)) is not None:
            self.sums.add(before, -1)
        self._results[key] = result
        self.sums.add(result)
        self.missing.discard(key)

    def knows(self, key: str, *, size: int, mtime_ns: int) -> bool:
        """Whether there is a result for the file as it is now."""
        known = self._results.get(key)
        return known is not None and (known.size, known.mtime_ns) == (size, mtime_ns)

    def sums_over(self, keys: Iterable[str]) -> Sums:
        """Return the sum over some files."""
        sums = Sums()
        for key in keys:
            if key in self._results:
                sums.add(self._results[key])
        return sums

    def items(self) -> Iterable[tuple[str, FileResult]]:
        """Return all keys and results."""
        return self._results.items()


async def make_resources(dsn: str, settings: Settings, say: Say) -> Resources:
    """Return the container; what is in it closes in reverse, after the last job."""
    resources = Resources()
    session = await resources.enter("database", _session(dsn, settings, say))
    await resources.enter("totals", _totals(session, _table(settings), say))
    return resources


@asynccontextmanager
async def _session(dsn: str, settings: Settings, say: Say) -> AsyncGenerator[Session]:
    async with open_session(dsn) as session:
        await reserve(session, settings)
        say("resource `database` opened")
        yield session
    say("resource `database` closed")


async def reserve(session: Session, settings: Settings) -> None:
    """Let no second demo use the same queue while this session is open.

    Raises:
        PgqError: another one does.
    """
    name = f"pgq-trio demo {settings.qualified(settings.queue_table)}"
    try:
        async with session.transaction():
            patience = f"{PATIENCE * 1000:.0f}ms"
            await session.execute("SELECT set_config('lock_timeout', %s, true)", [patience])
            await session.execute("SELECT pg_advisory_lock(hashtext(%s))", [name])
    except LockNotAvailable as exc:
        raise PgqError("another demo is running on this database; wait for it, or stop it") from exc


@asynccontextmanager
async def _totals(session: Session, table: sql.Identifier, say: Say) -> AsyncGenerator[Totals]:
    totals = Totals(await _load(session, table))
    before = f" with {len(totals):,} files of the interrupted run" if len(totals) else ""
    say(f"resource `totals` opened{before}")
    try:
        yield totals
    finally:  # after an error, too: what was added is as true then
        with anyio.move_on_after(SAVE_LIMIT, shield=True) as saving:
            await _save(session, table, totals)
        if saving.cancelled_caught:
            kept = f"nothing kept within {SAVE_LIMIT:g} s: the next run does all files again"
        else:
            kept = "nothing is left to do" if totals.finished else f"{len(totals):,} files kept"
        say(f"resource `totals` closed, {kept}")


async def drop(session: Session, settings: Settings) -> None:
    """Forget the results of earlier runs."""
    await session.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(_table(settings)))


def _table(settings: Settings) -> sql.Identifier:
    name = f"{settings.prefix}results"
    return sql.Identifier(settings.schema, name) if settings.schema else sql.Identifier(name)


async def _load(session: Session, table: sql.Identifier) -> dict[str, FileResult]:
    create = sql.SQL(
        "CREATE TABLE IF NOT EXISTS {} (key text PRIMARY KEY, bytes bigint NOT NULL,"
        " lines bigint NOT NULL, sha256 bytea NOT NULL, mtime_ns bigint NOT NULL,"
        " readable bool NOT NULL)"
    )
    await session.execute(create.format(table))
    select = sql.SQL("SELECT key, bytes, lines, sha256, mtime_ns, readable FROM {}").format(table)
    rows = await session.execute(select)
    return {key: FileResult(*values) async for key, *values in rows}


async def _save(session: Session, table: sql.Identifier, totals: Totals) -> None:
    async with session.transaction(), session.cursor() as cursor:
        await cursor.execute(sql.SQL("DELETE FROM {}").format(table))
        if totals.finished:
            return
        async with cursor.copy(sql.SQL("COPY {} FROM STDIN").format(table)) as copy:
            for key, result in totals.items():
                await copy.write_row((key, *result))
