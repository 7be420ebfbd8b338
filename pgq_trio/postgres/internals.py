"""The one door to psycopg's private names; it adds nothing to them.

Each is a synchronous helper that psycopg's own asyncio code is built from. `pyproject.toml` pins
psycopg's minor release because of them; after raising it, look here first.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from psycopg import errors
from psycopg._capabilities import Capabilities, capabilities as _capabilities
from psycopg._conninfo_utils import get_param, get_param_def, is_ip_address, split_attempts
from psycopg._enums import Ready, Wait
from psycopg.conninfo import timeout_from_conninfo

__all__ = [
    "Ready",
    "Wait",
    "WaitTimeout",
    "capabilities",
    "get_param",
    "get_param_def",
    "is_ip_address",
    "split_attempts",
    "timeout_from_conninfo",
]

#: What the libpq in use can do.
capabilities: Capabilities = _capabilities

#: What psycopg's callers of `wait` catch when its `timeout` is over.
WaitTimeout = errors._WaitTimeout  # noqa: SLF001
