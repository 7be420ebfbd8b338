"""Retry policies: when a failed job runs again, from its attempts alone; no clock, no queue."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import cast

from pgq_trio.model.durations import Duration, seconds
from pgq_trio.models import Job

__all__ = ["Exponential", "Fixed", "exponential_delay"]

_EXCEPTIONS: tuple[type[Exception], ...] = (Exception,)


def exponential_delay(attempts: int, *, initial: float, maximum: float, multiplier: float) -> float:
    """Return `initial * multiplier ** attempts`, at most `maximum`; all in seconds."""
    try:
        return min(maximum, initial * float(multiplier) ** attempts)
    except OverflowError:
        return maximum


@dataclass(frozen=True, slots=True)
class Exponential:
    """Wait longer after each failed attempt: initial, initial * multiplier, … up to maximum.

    Args:
        max_attempts: how often a job runs in all, the first attempt included; at least 1.
        initial: the wait after the first failed attempt, a `timedelta` or seconds.
        maximum: the longest wait, a `timedelta` or seconds; jitter does not exceed it.
        multiplier: how much longer each wait is than the one before it; at least 1.
        jitter: the share by which a wait is drawn shorter or longer at random, 0 to 1, so that
            jobs that failed together do not come back together.
        on: the exceptions that are worth another attempt; others end the job.
        random: draws from 0 (included) to 1 (excluded); given by tests.

    Raises:
        ValueError: a number out of its range.
        TypeError: an argument of the wrong type.
    """

    max_attempts: int = 5
    initial: Duration = 1.0
    maximum: Duration = 300.0
    multiplier: float = 2.0
    jitter: float = 0.1
    on: tuple[type[Exception], ...] = _EXCEPTIONS
    random: Callable[[], float] = field(default=random.random, repr=False, compare=False)

    def __post_init__(self) -> None:
        _set(self, "max_attempts", _attempts(self.max_attempts))
        _set(self, "initial", seconds(self.initial, "initial"))
        _set(self, "maximum", seconds(self.maximum, "maximum"))
        _set(self, "on", _exceptions(self.on))
        _set(self, "multiplier", _number("multiplier", self.multiplier, at_least=1.0))
        _set(self, "jitter", _number("jitter", self.jitter, at_least=0.0, at_most=1.0))
        # A wait without end would never be stored; PostgreSQL's intervals end as well.
        _finite("maximum", self.maximum)

    def next_delay(self, job: Job, exception: Exception) -> float | None:
        """Return the seconds to wait before the next attempt, None when there is none."""
        if job.attempts + 1 >= self.max_attempts or not isinstance(exception, self.on):
            return None
        maximum = seconds(self.maximum, "maximum")
        delay = exponential_delay(
            max(job.attempts, 0),
            initial=seconds(self.initial, "initial"),
            maximum=maximum,
            multiplier=self.multiplier,
        )
        return min(maximum, delay * (1 + self.jitter * (2 * self.random() - 1)))


@dataclass(frozen=True, slots=True)
class Fixed:
    """Wait the same time after each failed attempt.

    Args:
        delay: the wait, a `timedelta` or seconds.
        max_attempts: how often a job runs in all, the first attempt included; at least 1.
        on: the exceptions that are worth another attempt; others end the job.

    Raises:
        ValueError: a number out of its range.
        TypeError: an argument of the wrong type.
    """

    delay: Duration
    max_attempts: int = 5
    on: tuple[type[Exception], ...] = _EXCEPTIONS

    def __post_init__(self) -> None:
        _set(self, "delay", seconds(self.delay, "delay"))
        _finite("delay", self.delay)
        _set(self, "max_attempts", _attempts(self.max_attempts))
        _set(self, "on", _exceptions(self.on))

    def next_delay(self, job: Job, exception: Exception) -> float | None:
        """Return the seconds to wait before the next attempt, None when there is none."""
        if job.attempts + 1 >= self.max_attempts or not isinstance(exception, self.on):
            return None
        return seconds(self.delay, "delay")


#: The longest wait a policy may ask for: 100 years, which `timedelta` and PostgreSQL can hold.
_LONGEST = timedelta(days=36_525).total_seconds()


def _set(policy: object, name: str, value: object) -> None:
    object.__setattr__(policy, name, value)


def _finite(name: str, value: Duration) -> None:
    if seconds(value, name) > _LONGEST:
        raise ValueError(f"{name} must be at most {_LONGEST:g} s (100 years), got {value!r}")


def _attempts(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"max_attempts must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"max_attempts counts the first attempt, so at least 1; got {value}")
    return value


def _number(name: str, value: object, *, at_least: float, at_most: float = 1e9) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not at_least <= value <= at_most:
        raise ValueError(f"{name} must be from {at_least:g} to {at_most:g}, got {value!r}")
    return float(value)


def _exceptions(value: object) -> tuple[type[Exception], ...]:
    given = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,)
    for item in given:
        if not (isinstance(item, type) and issubclass(item, Exception)):
            raise TypeError(f"on must hold exception classes, got {item!r}")
    if not given:
        raise ValueError("on is empty, so nothing would ever be retried; leave it out for all")
    return cast("tuple[type[Exception], ...]", given)
