"""Handlers that worker processes import, and files by which they tell what they do.

The payload is a path: a handler that has begun creates the file and writes its process id.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pgq_trio import Job, RetryRequested


def begun(job: Job) -> Path:
    """Say that the handler runs, and in which process."""
    assert job.payload is not None
    path = Path(job.payload.decode())
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path)
    return path


def returns(job: Job) -> object:
    """Succeed, with a result that cannot be sent anywhere, and much noise."""
    begun(job)
    print("x" * 100_000)
    sys.stderr.write("x" * 100_000)
    subprocess.run(["sh", "-c", "cat; echo noise; echo noise >&2"], check=True)
    return lambda: None


def runs_for_ever(job: Job) -> None:
    """Go on until killed."""
    begun(job)
    while True:
        time.sleep(1)


def runs_while_it_is_there(job: Job) -> None:
    """Go on until the file is gone."""
    path = begun(job)
    while path.exists():
        time.sleep(0.01)


def exits(job: Job) -> None:
    """Take the process along."""
    os._exit(3)


def is_killed(job: Job) -> None:
    """As by the kernel when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def forks_and_is_killed(job: Job) -> None:
    """Leave a process behind that lives while the file is there; the file has its id."""
    path = begun(job)
    if os.fork() == 0:
        begun(job)
        while path.exists():
            time.sleep(0.01)
        os._exit(0)
    while path.read_text() == str(os.getpid()):
        time.sleep(0.01)
    is_killed(job)


def raises(job: Job) -> None:
    """Fail in a way that can be sent."""
    raise ValueError("in the process", job.id)


class Unsendable(Exception):
    """Can be taken apart, but not be put together again."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def raises_unsendable(job: Job) -> None:
    """Fail in a way that cannot be sent."""
    raise Unsendable(1, 2)


def raises_local(job: Job) -> None:
    """Fail with a class that only this call knows."""

    class LocalError(Exception):
        pass

    raise LocalError("of this call")


def calls_exit(job: Job) -> None:
    """End the process, or so it thinks."""
    sys.exit(5)


async def work() -> None:
    """Never awaited."""


def forgets_to_await(job: Job) -> object:
    """Return a coroutine that nobody awaits."""
    return work()


def retries_twice(job: Job) -> None:
    """Ask for other attempts, alone and in a group."""
    if job.attempts == 0:
        raise RetryRequested(0.001, reason="once")
    if job.attempts == 1:
        raise ExceptionGroup("two", [RetryRequested(0), RetryRequested(0.002, "twice")])


def ignores_signals(job: Job) -> None:
    """Get the signals that a terminal or a service manager sends to every process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
        time.sleep(0.01)
