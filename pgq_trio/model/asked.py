"""What a caller of `Queries` may ask for: ids, names, limits, an order; checked before any I/O."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast, get_args

from pgq_trio.model.enqueue import checked_text
from pgq_trio.types import JobId, SortOrder

_INT8 = range(-(2**63), 2**63)


def checked_id(value: object, of: str = "job") -> JobId:
    """Return the id of a job, or of what `of` names.

    Raises:
        TypeError: it is no int.
        ValueError: it does not fit into PostgreSQL's bigint.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"the id of a {of} is an int, got {value!r}")
    if value not in _INT8:
        raise ValueError(f"{value} is no id of a {of}: it does not fit into 64 bits")
    return value


def checked_ids(value: object, of: str = "job") -> list[JobId]:
    """Return one id or several as a list, in their order.

    Raises:
        TypeError: neither an int nor a collection of ints.
        ValueError: an id that does not fit into PostgreSQL's bigint.
    """
    if isinstance(value, int):
        return [checked_id(value, of)]
    return [checked_id(item, of) for item in _items(value, "ids are an int or a list of ints")]


def checked_names(value: object) -> list[str] | None:
    """Return one name or several as a list; None, which stands for all, stays None.

    Raises:
        TypeError: neither a string nor a collection of strings.
        ValueError: a text that PostgreSQL cannot hold.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return [checked_text("entrypoint", value)]
    items = _items(value, "entrypoint is a string, a list of strings, or None for all")
    return [checked_text("entrypoint", item) for item in items]


def _items(value: object, rule: str) -> list[object]:
    if isinstance(value, str | bytes | bytearray | memoryview) or not isinstance(value, Collection):
        raise TypeError(f"{rule}, got {value!r}")
    return list(cast("Collection[object]", value))


def checked_limit(value: object) -> int:
    """Return how many rows are wanted at most.

    Raises:
        TypeError: it is no int.
        ValueError: it is negative, or does not fit into PostgreSQL's bigint.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"limit is an int, got {value!r}")
    if value < 0 or value not in _INT8:
        raise ValueError(f"limit is a number of rows, 0 or more, got {value}")
    return value


def checked_order(value: object) -> SortOrder:
    """Return "ASC" or "DESC".

    Raises:
        ValueError: it is something else.
    """
    if value not in get_args(SortOrder):
        raise ValueError(f"order is 'ASC' or 'DESC', got {value!r}")
    return cast("SortOrder", value)
