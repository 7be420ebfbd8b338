"""Which servers are tried, in which order, and for how long."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import anyio
import psycopg
import pytest
from psycopg.conninfo import conninfo_attempts, conninfo_to_dict

from pgq_trio.postgres import connect
from pgq_trio.postgres.attempts import resolve_attempts
from tests.postgres.helpers import SOON, open_sockets, scalar
from tests.servers import OwnServer

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGTARGETSESSIONATTRS", "PGLOADBALANCEHOSTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "conninfo",
    [
        "",
        "dbname=x",
        "host=/tmp",
        "host=/tmp,/var port=1,2",
        "host=127.0.0.1",
        "host=::1 port=5555",
        "host=127.0.0.1,127.0.0.2 port=5555",
        "host=name.invalid hostaddr=127.0.0.1",
        "host=a.invalid,b.invalid hostaddr=127.0.0.1,127.0.0.2 port=1,2",
        "host=localhost",
        "host=localhost,/tmp,127.0.0.1 port=1,2,3",
        "host=name.invalid,127.0.0.1",
        "hostaddr=127.0.0.1,127.0.0.2",
        "host=127.0.0.1,127.0.0.2 load_balance_hosts=disable",
        "host=127.0.0.1,127.0.0.2 target_session_attrs=read-write",
    ],
)
async def test_as_psycopg_does(conninfo: str) -> None:
    params = conninfo_to_dict(conninfo)
    assert await resolve_attempts(params) == conninfo_attempts(params)


@pytest.mark.parametrize(
    "conninfo", ["host=a,b hostaddr=127.0.0.1", "host=a,b port=1,2,3", "host=name.invalid"]
)
async def test_errors_as_psycopgs(conninfo: str) -> None:
    params = conninfo_to_dict(conninfo)
    with pytest.raises(psycopg.OperationalError) as theirs:
        conninfo_attempts(params)
    with pytest.raises(psycopg.OperationalError) as ours:
        await resolve_attempts(params)
    assert str(ours.value) == str(theirs.value)


async def test_random_order() -> None:
    hosts = [f"127.0.0.{number}" for number in range(1, 9)]
    params = conninfo_to_dict("load_balance_hosts=random", host=",".join(hosts))
    random.seed(1)
    orders = {tuple(str(a["host"]) for a in await resolve_attempts(params)) for _ in range(10)}
    assert len(orders) > 5
    assert all(sorted(order) == hosts for order in orders)


async def test_prefer_standby(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [
        ("127.0.0.1", "standby"),
        ("127.0.0.2", "standby"),
        ("127.0.0.1", "any"),
        ("127.0.0.2", "any"),
    ]
    params = conninfo_to_dict("host=127.0.0.1,127.0.0.2 target_session_attrs=prefer-standby")
    attempts = await resolve_attempts(params)
    assert [(a["host"], a["target_session_attrs"]) for a in attempts] == expected
    # From the environment, it must not reach libpq, which would open a connection per host itself.
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "prefer-standby")
    attempts = await resolve_attempts(conninfo_to_dict("host=127.0.0.1,127.0.0.2"))
    assert [(a["host"], a["target_session_attrs"]) for a in attempts] == expected


async def test_hosts_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "127.0.0.1,localhost")
    monkeypatch.setenv("PGPORT", "7")
    assert await resolve_attempts({}) == conninfo_attempts({})


async def test_names_are_resolved(own_server: OwnServer) -> None:
    async with await connect(own_server.dsn(host="localhost")) as connection:
        assert await scalar(connection, "SELECT 1") == 1


async def test_a_dead_first_host(own_server: OwnServer) -> None:
    dsn = own_server.dsn(host="127.0.0.1,127.0.0.1", port=f"1,{own_server.port}")
    async with await connect(dsn) as connection:
        assert connection.info.port == own_server.port
    async with await connect(dsn, target_session_attrs="prefer-standby") as connection:
        assert connection.info.port == own_server.port


async def test_all_hosts_dead() -> None:
    with pytest.raises(psycopg.OperationalError) as caught:
        await connect("host=127.0.0.1,127.0.0.2 port=1")
    text = str(caught.value)
    assert "'127.0.0.1'" in text
    assert "'127.0.0.2'" in text


@pytest.fixture
def mute_port() -> Iterator[int]:
    """A port that accepts connections and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def test_connect_timeout(mute_port: int) -> None:
    before = open_sockets()
    start = anyio.current_time()
    with pytest.raises(psycopg.errors.ConnectionTimeout):
        await connect(f"host=127.0.0.1 port={mute_port} connect_timeout=1")
    assert 1.9 < anyio.current_time() - start < 4
    assert open_sockets() == before


async def test_cancelled_while_the_server_is_mute(mute_port: int) -> None:
    before = open_sockets()
    with anyio.fail_after(SOON), anyio.move_on_after(0.05) as scope:
        await connect(f"host=127.0.0.1 port={mute_port}")
    assert scope.cancelled_caught
    assert open_sockets() == before


@pytest.mark.parametrize("conninfo", ["host", "connect_timeout=soon", "nonsense=1"])
async def test_malformed_parameters(conninfo: str) -> None:
    with pytest.raises(psycopg.ProgrammingError):
        await connect(conninfo)
