"""Programs and databases that speak another encoding than UTF-8, with every kind of psycopg's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgq_trio import PsycopgDriver, Queries, Settings, SyncPsycopgDriver, SyncQueries
from pgq_trio.errors import StoreError
from pgq_trio.postgres import connect, open_pool
from tests.conftest import NEWEST_SERVER

pytestmark = pytest.mark.parametrize(
    "postgres_server", NEWEST_SERVER, indirect=True, scope="session"
)

#: Names of tables that only the right encoding finds.
SETTINGS = Settings(prefix="é_")

LATIN = r"client_encoding is LATIN1; connect with client_encoding=UTF8"


@pytest.fixture
def latin_dsn(dsn: str) -> str:
    return make_conninfo(dsn, client_encoding="latin1")


@pytest.fixture
def ascii_dsn(dsn: str) -> Iterator[str]:
    """A database in SQL_ASCII: whoever connects to it has that encoding, too."""
    name = "nobody_knows"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0"
            " LC_COLLATE 'C' LC_CTYPE 'C'".encode()
        )
        yield make_conninfo(dsn, dbname=name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture(params=["connection", "pool", "using"])
async def queries(request: pytest.FixtureRequest, latin_dsn: str) -> AsyncIterator[Queries]:
    """Of every kind with an event loop, installed."""
    async with AsyncExitStack() as stack:
        target: Any
        if request.param == "pool":
            target = await stack.enter_async_context(open_pool(latin_dsn))
        else:
            target = await stack.enter_async_context(await connect(latin_dsn, autocommit=True))
        queries = Queries(PsycopgDriver(target), settings=SETTINGS)
        await queries.install()
        yield queries.using(target) if request.param == "using" else queries


async def test_what_the_encoding_has(queries: Queries) -> None:
    assert await queries.verify() == []
    [job_id] = await queries.enqueue("né", headers={"k": "é"}, dedupe_key="ü")
    assert [size.entrypoint for size in await queries.queue_size()] == ["né"]
    assert await queries.enqueue("né", dedupe_key="ü", on_conflict="skip") == [None]
    assert [log.entrypoint for log in await queries.queue_log(job_id=job_id)] == ["né"]


async def test_what_it_lacks(queries: Queries, dsn: str) -> None:
    with pytest.raises(StoreError, match=f"'€' cannot be sent: .*{LATIN}"):
        await queries.enqueue(["it", "1 €"])
    assert await queries.queue_size() == []
    with psycopg.connect(dsn) as other:
        SyncQueries(SyncPsycopgDriver(other), settings=SETTINGS).enqueue("€")
    with pytest.raises(StoreError, match=f'no equivalent in encoding "LATIN1": .*{LATIN}'):
        await queries.queue_size()


def test_without_an_event_loop(dsn: str, latin_dsn: str) -> None:
    with psycopg.connect(latin_dsn, autocommit=True) as connection:
        queries = SyncQueries(SyncPsycopgDriver(connection), settings=SETTINGS)
        queries.install()
        assert queries.verify() == []
        [job_id] = queries.enqueue("né", headers={"k": "é"})
        connection.execute("UPDATE \"é_pgqueuer\" SET status = 'failed'")
        [job] = queries.list_failed_jobs()
        assert (job.id, job.entrypoint, job.headers) == (job_id, "né", {"k": "é"})
        with pytest.raises(StoreError, match=LATIN):
            queries.enqueue("€")
        # It is the program's own, before and after.
        assert connection.info.encoding == "iso8859-1"
        connection.execute("SET client_encoding TO 'UTF8'")
        queries.enqueue("€")


def test_a_database_whose_encoding_nobody_knows(ascii_dsn: str) -> None:
    """Text is text all the same, and UTF-8 as everywhere else."""
    with psycopg.connect(ascii_dsn, autocommit=True) as connection:
        queries = SyncQueries(SyncPsycopgDriver(connection), settings=SETTINGS)
        queries.install()
        assert queries.verify() == []
        [job_id] = queries.enqueue("né €", headers={"k": "v"}, dedupe_key="ü")
        assert [(x.entrypoint, x.status) for x in queries.queue_size()] == [("né €", "queued")]
        assert queries.job_status([job_id]) == [(job_id, "queued")]
        connection.execute("UPDATE \"é_pgqueuer\" SET status = 'failed'".encode())
        [job] = queries.list_failed_jobs()
        assert (job.entrypoint, job.dedupe_key, job.headers) == ("né €", "ü", {"k": "v"})
        # What others have written.
        connection.execute("UPDATE \"é_pgqueuer\" SET entrypoint = E'x\\351'".encode())
        assert queries.list_failed_jobs()[0].entrypoint == "x\\xe9"
