"""What may stand for ids, names, limits and an order, and in which words the rest is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pgq_trio.model.asked import (
    checked_id,
    checked_ids,
    checked_limit,
    checked_names,
    checked_order,
)


def test_ids_come_alone_or_in_any_collection() -> None:
    assert checked_ids(3) == [3]
    assert checked_ids([3, 1, 3]) == [3, 1, 3]
    assert checked_ids((2**63 - 1, -1)) == [2**63 - 1, -1]
    assert sorted(checked_ids({1, 2})) == [1, 2]
    assert checked_ids({5: "x"}.keys()) == [5]
    assert checked_ids([]) == []


def test_names_come_alone_or_in_any_collection_or_not_at_all() -> None:
    assert checked_names(None) is None
    assert checked_names("a") == ["a"]
    assert checked_names(("a", "b")) == ["a", "b"]
    assert checked_names([]) == []


def test_limits_and_orders() -> None:
    assert [checked_limit(n) for n in (0, 7, 2**63 - 1)] == [0, 7, 2**63 - 1]
    assert [checked_order(order) for order in ("ASC", "DESC")] == ["ASC", "DESC"]


@pytest.mark.parametrize(
    ("check", "value", "error", "words"),
    [
        (checked_ids, "1", TypeError, "an int or a list of ints, got '1'"),
        (checked_ids, b"1", TypeError, "an int or a list of ints"),
        (checked_ids, None, TypeError, "an int or a list of ints, got None"),
        (checked_ids, True, TypeError, "is an int, got True"),
        (checked_ids, 1.0, TypeError, "an int or a list of ints"),
        (checked_ids, ["1"], TypeError, "is an int, got '1'"),
        (checked_ids, [1, 2.0], TypeError, "is an int, got 2.0"),
        (checked_ids, [1, None], TypeError, "is an int, got None"),
        (checked_ids, [True], TypeError, "is an int, got True"),
        (checked_ids, iter([1]), TypeError, "a list of ints"),
        (checked_ids, 2**63, ValueError, "64 bits"),
        (checked_ids, [1, -(2**63) - 1], ValueError, "64 bits"),
        (checked_id, [1], TypeError, "is an int"),
        (checked_names, 5, TypeError, "a string, a list of strings, or None"),
        (checked_names, b"a", TypeError, "a string, a list of strings, or None"),
        (checked_names, ["a", None], TypeError, "entrypoint is a string, got NoneType"),
        (checked_names, "a\x00", ValueError, "NUL"),
        (checked_names, ["\ud800"], ValueError, "surrogate"),
        (checked_limit, -1, ValueError, "0 or more, got -1"),
        (checked_limit, 2**63, ValueError, "0 or more"),
        (checked_limit, True, TypeError, "limit is an int"),
        (checked_limit, "9", TypeError, "limit is an int"),
        (checked_limit, None, TypeError, "limit is an int"),
        (checked_order, "desc", ValueError, "'ASC' or 'DESC', got 'desc'"),
        (checked_order, None, ValueError, "'ASC' or 'DESC'"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    check: Callable[[object], object], value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        check(value)
