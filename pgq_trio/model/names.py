"""Quoting of PostgreSQL identifiers and literals: the one place where names enter SQL text."""

from __future__ import annotations

import re

#: PostgreSQL cuts longer names off silently (NAMEDATALEN - 1).
MAX_IDENTIFIER_BYTES = 63

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def fold(name: str) -> str:
    """Lower-case a plain identifier, as PostgreSQL does with PgQueuer's unquoted names.

    Other names (with dashes, spaces, quotes, …) PgQueuer cannot use; they are kept as they are.
    """
    return name.lower() if _PLAIN.match(name) else name


def check_identifier(name: str, what: str) -> str:
    """Return the name, or say why PostgreSQL cannot use it.

    Raises:
        ValueError: it is empty, holds a NUL byte, or is longer than 63 bytes in UTF-8.
    """
    if not name:
        raise ValueError(f"the {what} must not be empty")
    if "\x00" in name:
        raise ValueError(f"the {what} {name!r} holds a NUL byte, which PostgreSQL cannot store")
    if len(name.encode()) > MAX_IDENTIFIER_BYTES:
        raise ValueError(
            f"the {what} {name!r} is longer than {MAX_IDENTIFIER_BYTES} bytes; "
            "choose a shorter prefix or name"
        )
    return name


def quote_identifier(*parts: str) -> str:
    """Quote a name, or a schema and a name, for use in SQL text."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def quote_literal(text: str) -> str:
    """Quote a text as an SQL string literal, also when it holds backslashes."""
    quoted = "'" + text.replace("'", "''").replace("\\", "\\\\") + "'"
    return f" E{quoted}" if "\\" in text else quoted
