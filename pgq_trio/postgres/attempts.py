"""Which servers to try, in which order: resolves host names; knows addresses, not connections.

libpq would resolve names itself, but blocking; so each attempt gets its `hostaddr` here.
"""

from __future__ import annotations

import socket
from random import shuffle
from typing import TYPE_CHECKING

import anyio
from psycopg import errors as e

from pgq_trio.postgres.internals import get_param, get_param_def, is_ip_address, split_attempts

if TYPE_CHECKING:
    from psycopg.abc import ConnDict, ConnMapping

__all__ = ["resolve_attempts"]


async def resolve_attempts(params: ConnMapping) -> list[ConnDict]:
    """Split connection parameters into the single attempts to make, in order.

    There is one attempt for each entry of a comma-separated `host` and, where a name has several
    addresses, for each address. `load_balance_hosts=random` shuffles them.
    `target_session_attrs=prefer-standby` tries all for a standby first, then all again for any
    server. Each value may come from libpq's environment variables.

    Raises:
        psycopg.OperationalError: hosts, addresses and ports do not match in number, or no name
            could be resolved (the last `socket.gaierror` is its `__cause__`).
    """
    prefer_standby = get_param(params, "target_session_attrs") == "prefer-standby"
    if prefer_standby:
        # "any", not absent: libpq would fall back to the environment variable, where
        # `prefer-standby` may come from.
        params = {**params, "target_session_attrs": "any"}

    attempts: list[ConnDict] = []
    failure: e.OperationalError | None = None
    for candidate in split_attempts(params):
        try:
            attempts += await _resolve(candidate)
        except OSError as exc:
            failure = e.OperationalError(f"failed to resolve host {candidate.get('host')!r}: {exc}")
            failure.__cause__ = exc
    if failure is not None and not attempts:
        raise failure

    if get_param(params, "load_balance_hosts") == "random":
        shuffle(attempts)
    if prefer_standby:
        standbys: list[ConnDict] = [{**a, "target_session_attrs": "standby"} for a in attempts]
        attempts = standbys + attempts
    return attempts


async def _resolve(params: ConnDict) -> list[ConnDict]:
    """One attempt for each address of the host of `params`, which names one host at most."""
    host = get_param(params, "host")
    if not host or _is_socket_directory(host) or get_param(params, "hostaddr"):
        return [params]
    if is_ip_address(host):
        return [{**params, "hostaddr": host}]
    infos = await anyio.getaddrinfo(
        host, _port(params), type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
    )
    return [{**params, "hostaddr": address[0]} for *_, address in infos]


def _is_socket_directory(host: str) -> bool:
    """Whether libpq takes `host` for a path: absolute, abstract (Linux) or with a drive letter."""
    return host.startswith(("/", "@")) or host[1:2] == ":"


def _port(params: ConnDict) -> str:
    if port := get_param(params, "port"):
        return port
    definition = get_param_def("port")
    return (definition and definition.compiled) or "5432"
