"""What is different in a process that belongs to a fleet: its lifeline, its signals, its end."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager

import click

from pgq_trio.cli.program import HOPELESS, Failure, describe
from pgq_trio.concurrency.errors import unwrapped
from pgq_trio.errors import (
    BackendNotSupported,
    ConnectionLost,
    RegistrationError,
    ResourceError,
    SchemaDrift,
    SchemaMissing,
    StoreError,
)

#: What is the same at the next try, whenever it is raised.
_LASTING = (
    *(Failure, BackendNotSupported, RegistrationError, ResourceError, SchemaDrift, SchemaMissing),
    *(SyntaxError, ImportError),
)


class Hopeless(Failure):
    """Another process would fail as well."""

    exit_code = HOPELESS


class Progress:
    """How far this process has come.

    Attributes:
        runs: whether the application has been opened.
    """

    def __init__(self) -> None:
        self.runs: bool = False


@contextmanager
def telling_the_parent(progress: Progress) -> Generator[None]:
    """Have errors that no restart mends end this process with an exit code of their own."""
    try:
        yield
    except Exception as exc:
        if not is_lasting(exc, runs=progress.runs):
            raise
        text = exc.message if isinstance(exc, click.ClickException) else describe(exc)
        raise Hopeless(text) from exc


def is_lasting(exc: Exception, *, runs: bool) -> bool:
    """Whether another try would fail as well.

    A server that refuses the connection while the application opens (a wrong password, an
    unknown database) will do so again. One that refuses a statement later may have had no room.
    """
    inner = unwrapped(exc)
    if isinstance(inner, StoreError) and not isinstance(inner, ConnectionLost):
        return not runs and not inner.retryable
    return isinstance(inner, _LASTING)


def cancels_jobs(number: signal.Signals, *, again: bool, in_fleet: bool) -> bool:
    """Whether a signal cancels the jobs that run; else it lets them end.

    In a fleet SIGTERM may come more than once, from the parent and from a service manager that
    sends it to every process of a service; the parent's second signal is SIGINT.
    """
    return number is signal.SIGINT if in_fleet else again
