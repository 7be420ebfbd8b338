"""Checks of arguments that a registration takes; each says which one is wrong and how."""

from __future__ import annotations

from pgq_trio.errors import RegistrationError
from pgq_trio.model.durations import seconds

#: What PostgreSQL's integer holds: nobody needs more of anything that is counted here.
MAX_COUNT = 2**31 - 1


def check_count(
    name: str, value: object, minimum: int, hint: str = "", *, maximum: int = MAX_COUNT
) -> None:
    """Refuse what is no whole number from the minimum to the maximum.

    Raises:
        RegistrationError: it is none; the message names the argument.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise RegistrationError(
            f"{name} must be a whole number of at least {minimum}{hint}, got {value!r}"
        )
    if value > maximum:
        raise RegistrationError(f"{name} must be at most {maximum}, got {value}")


def checked_duration(value: object, name: str) -> float:
    """Return a duration in seconds.

    Raises:
        RegistrationError: it is none, or negative.
    """
    try:
        return seconds(value, name)
    except (TypeError, ValueError) as exc:
        raise RegistrationError(str(exc)) from exc


def positive_seconds(name: str, value: object) -> float:
    """Return a duration that is longer than nothing, in seconds.

    Raises:
        RegistrationError: it is none, or not positive.
    """
    result = checked_duration(value, name)
    if result == 0:
        raise RegistrationError(f"{name} must be longer than 0 s; None means no {name}")
    return result
