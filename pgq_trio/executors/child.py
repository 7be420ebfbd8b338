"""What runs in a worker process: one call of a handler, and its error made fit to travel.

It keeps the process out of signals that are meant for the program, its standard streams, which
carry AnyIO's protocol, out of the handler's reach, and it ends when the program is gone.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import NamedTuple, cast

from pgq_trio.executors.calling import call_sync
from pgq_trio.model.handlers import describe

#: Seconds between looks at whether the program is still there.
_WATCH = 1.0

_is_prepared = threading.Event()

#: Copies of the standard descriptors while a handler runs.
_kept: list[int] = []


class Reply(NamedTuple):
    """An error of a handler: pickled, None where that cannot be, and in words."""

    error: bytes | None
    text: str
    traceback: str


class TracebackElsewhere(Exception):  # noqa: N818 - it is no error but where one came from
    """The traceback of an error in its worker process; the `__cause__` of the error here."""

    def __str__(self) -> str:
        return f"\n\nin the worker process:\n{self.args[0]}"


def prepare() -> None:
    """Make the process ready for handlers; done once."""
    if _is_prepared.is_set():
        return
    _is_prepared.set()
    # Ctrl-C and many service managers signal every process of the program: the program itself
    # decides what becomes of running jobs. No SIG_IGN, which a handler's own children would keep.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave_it_to_the_program)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_let_go_of_streams)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _leave_it_to_the_program(number: int, frame: object) -> None:
    """Handle a signal by doing nothing."""


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH)
    os._exit(1)


def run(handler: bytes, job: bytes) -> Reply | None:
    """Call the handler with the job; return what it raised."""
    try:
        func = cast("Callable[..., object]", pickle.loads(handler))  # noqa: S301 - our parent's
        one: object = pickle.loads(job)  # noqa: S301 - our parent's
    except Exception as exc:  # noqa: BLE001 - importing the handler's module may raise anything
        error = RuntimeError(f"the worker process cannot import the handler: {exc!r}")
        return _reply(error, "".join(traceback.format_exception(exc)))
    try:
        with _streams_out_of_reach():
            call_sync(func, one)
    except Exception as exc:  # noqa: BLE001 - a handler may raise anything
        return _reply(exc, _formatted(exc))
    except BaseException as exc:  # noqa: ASYNC103, BLE001 - sys.exit() ends the job, no more
        error = RuntimeError(f"the handler {describe(func)} raised {_text(exc)}")
        return _reply(error, _formatted(exc))  # noqa: ASYNC104 - there is no event loop here
    return None


@contextmanager
def _streams_out_of_reach() -> Generator[None]:
    """Point the standard descriptors to nowhere: programs that a handler starts inherit them."""
    _kept.extend(os.dup(number) for number in range(3))
    try:
        _point_to_nowhere()
        yield
    finally:
        for number, copy in enumerate(_kept):
            os.dup2(copy, number)
            os.close(copy)
        _kept.clear()


def _let_go_of_streams() -> None:
    """Keep nothing of the program's in a process that a handler has forked.

    The program notices the death of this process by the end of its streams, which come to no end
    while somebody has a copy. Where the fork returns from the handler, it finds no more work.
    """
    while _kept:
        os.close(_kept.pop())
    _point_to_nowhere()


def _point_to_nowhere() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)
    os.close(nowhere)


def _reply(error: Exception, trace: str) -> Reply:
    pickled: bytes | None
    try:
        pickled = pickle.dumps(error, pickle.HIGHEST_PROTOCOL)
        # Some exceptions can be taken apart and not be put together again.
        if type(pickle.loads(pickled)) is not type(error):  # noqa: S301 - made here
            pickled = None
    except Exception:  # noqa: BLE001 - whatever the reason, the words have to do
        pickled = None
    return Reply(pickled, _text(error), trace)


def error_of(reply: Reply) -> Exception:
    """Return the error that a reply stands for, to be raised in the program."""
    error: Exception | None = None
    if reply.error is not None:
        try:
            error = pickle.loads(reply.error)  # noqa: S301 - our own child's
        except Exception:  # noqa: BLE001 - known there and not here: the words have to do
            error = None
    if error is None:
        error = RuntimeError(f"{reply.text} (the exception itself cannot be pickled)")
    error.__cause__ = TracebackElsewhere(reply.traceback)
    return error


def _text(exc: BaseException) -> str:
    try:
        return f"{type(exc).__name__}: {exc}"
    except Exception:  # noqa: BLE001 - a user's __str__ may do anything
        return type(exc).__name__


def _formatted(exc: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(exc))
    except Exception:  # noqa: BLE001 - formatting calls the user's __str__ and __repr__
        return _text(exc)
