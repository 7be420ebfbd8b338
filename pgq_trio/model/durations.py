"""Durations as users give them, turned into the one unit this package calculates in."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TypeAlias

#: A `timedelta`, or seconds as a number.
Duration: TypeAlias = timedelta | float


def seconds(value: object, what: str, *, minimum: float = 0.0) -> float:
    """Return a duration in seconds.

    Raises:
        TypeError: the value is neither a timedelta nor a number.
        ValueError: the value is smaller than `minimum`, or not a number.
    """
    if isinstance(value, timedelta):
        result = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        result = float(value)
    else:
        raise TypeError(f"{what} must be a timedelta or seconds, got {value!r}")
    if math.isnan(result) or result < minimum:
        raise ValueError(f"{what} must be at least {minimum:g} s, got {value!r}")
    return result
