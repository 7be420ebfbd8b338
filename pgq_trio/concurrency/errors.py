"""Exception groups that plumbing made, taken apart again; the user's own groups stay whole."""

from __future__ import annotations

from typing import NoReturn, cast


def unwrapped(exc: BaseException) -> BaseException:
    """Return the one error inside of groups of one; any other exception as it is."""
    while isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        if len(group.exceptions) != 1:
            return group
        exc = group.exceptions[0]
    return exc


def raise_as_itself(exc: BaseException, *, own: BaseException | None = None) -> NoReturn:
    """Raise the one error inside of groups of one, its own context and cause untouched.

    Args:
        exc: what plumbing has perhaps wrapped.
        own: an exception of the user, which is raised as it is also when it is a group.
    """
    inner = exc if exc is own else unwrapped(exc)
    context = inner.__context__
    try:
        raise inner
    finally:
        # Raising while a group is handled would make the group the context of its own member.
        inner.__context__ = context


def is_only(exc: BaseException, original: BaseException | None) -> bool:
    """Whether an exception is the original, or groups around it with no other error in them.

    What counts is the errors inside: a nursery takes cancellations out of a group by building
    another group of the rest.
    """
    if exc is original:
        return True
    if original is None or not isinstance(exc, BaseExceptionGroup):
        return False
    return _leaves(cast("BaseException", exc)) <= _leaves(original)


def _leaves(exc: BaseException) -> set[int]:
    """Return which errors are in an exception, by identity."""
    if not isinstance(exc, BaseExceptionGroup):
        return {id(exc)}
    group = cast("BaseExceptionGroup[BaseException]", exc)
    return {leaf for inner in group.exceptions for leaf in _leaves(inner)}


def combined(message: str, errors: list[Exception]) -> Exception:
    """Return the error itself if it is alone, else a group of all."""
    return errors[0] if len(errors) == 1 else ExceptionGroup(message, errors)


def as_failure(exc: BaseException, cancelled: type[BaseException]) -> Exception | None:
    """Return the failure that an exception of a user's function is, though it is no `Exception`.

    `sys.exit()` in a handler is meant for a program of its own; here it ends one job. What comes
    from outside of the function is none: a cancellation, and Ctrl-C, which Python may raise
    anywhere. None for these, and for groups with one of them.

    Args:
        exc: what was raised.
        cancelled: the class of the event loop's cancellation.
    """
    if isinstance(exc, Exception):
        return exc
    kind = type(exc).__name__
    outside = (cancelled, KeyboardInterrupt)
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        if group.subgroup(outside) is not None:
            return None
    elif isinstance(exc, outside):
        return None
    failure = RuntimeError(f"the handler raised {kind}, see its cause")
    failure.__cause__ = exc
    return failure
