"""A proxy between a driver and PostgreSQL that cuts the connection at a certain message."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.abc import ByteStream, SocketAttribute
from psycopg.conninfo import conninfo_to_dict, make_conninfo

#: Of the connections that go through a proxy, by which the server knows them.
APPLICATION = "through the proxy"


class MessageProxy:
    """Passes on the protocol, message by message, in both directions.

    Attributes:
        dsn: how to connect through it.
        messages: how many messages there were, of all connections, since `cut_at`.
    """

    def __init__(self, dsn: str, port: int) -> None:
        self.dsn = make_conninfo(
            dsn, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable",
            application_name=APPLICATION,
        )  # fmt: skip
        self.messages = 0
        self._server = conninfo_to_dict(dsn)
        self._cuts: frozenset[int] = frozenset()

    def cut_at(self, *messages: int) -> None:
        """Have connections cut instead of passing on these messages, counted from now, from 1."""
        self.messages = 0
        self._cuts = frozenset(messages)

    async def serve(self, client: ByteStream) -> None:
        """Pass on what a client and the server have to say to each other."""
        server = await self._connect()
        async with client, server, anyio.create_task_group() as tasks:
            # The first message of a client has no type.
            tasks.start_soon(self._pass_on, client, server, 0, tasks.cancel_scope.cancel)
            tasks.start_soon(self._pass_on, server, client, 1, tasks.cancel_scope.cancel)

    async def _connect(self) -> ByteStream:
        host, port = str(self._server.get("host", "")), int(self._server.get("port") or 5432)
        if host.startswith("/"):
            return await anyio.connect_unix(f"{host}/.s.PGSQL.{port}")
        return await anyio.connect_tcp(host, port)

    async def _pass_on(
        self, source: ByteStream, target: ByteStream, head: int, end: Callable[[], None]
    ) -> None:
        unread = b""
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                unread += await source.receive()
                while len(unread) >= head + 4:
                    size = head + int.from_bytes(unread[head : head + 4])
                    if len(unread) < size:
                        break
                    message, unread = unread[:size], unread[size:]
                    head = 1
                    self.messages += 1
                    if self.messages in self._cuts:
                        end()
                        return
                    await target.send(message)
        end()


@asynccontextmanager
async def open_proxy(dsn: str) -> AsyncGenerator[MessageProxy]:
    """Serve a proxy to the server of a conninfo string."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port: int = listener.extra(SocketAttribute.local_port)  # noqa: S610 - this is not Django's
    async with listener, anyio.create_task_group() as tasks:
        proxy = MessageProxy(dsn, port)
        tasks.start_soon(listener.serve, proxy.serve)
        yield proxy
        tasks.cancel_scope.cancel()
