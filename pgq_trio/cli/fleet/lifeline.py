"""The pipe that tells a process of a fleet that its parent is gone; it knows no event loop.

The parent holds the writing end and never writes. The kernel closes it when the parent dies,
however that happens, and the end of the pipe is what the other side waits for.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager

logger: logging.Logger = logging.getLogger("pgq_trio.cli")

#: Seconds beyond the grace period after which a process that still runs is killed. What it does
#: meanwhile: cancelled handlers clean up, resources close, outcomes are written.
KILL_MARGIN = 10.0


@contextmanager
def open_lifeline() -> Generator[int]:
    """Hold the parent's end for the length of a block, and yield the end for its processes."""
    theirs, ours = os.pipe()  # neither is inherited by a program that is not handed it
    try:
        yield theirs
    finally:
        os.close(theirs)
        os.close(ours)


def hold(lifeline: int, grace_period: float) -> None:
    """Have this process drain when its parent is gone, and killed if that takes too long.

    A thread, not a task: it works while modules are imported, and when a handler blocks the loop.

    Args:
        lifeline: the file descriptor that the parent has handed to this process.
        grace_period: how long running jobs may go on, in seconds.
    """
    os.set_inheritable(lifeline, False)
    threading.Thread(
        target=_outlive, args=(lifeline, grace_period), name="lifeline", daemon=True
    ).start()


def _outlive(lifeline: int, grace_period: float) -> None:
    while os.read(lifeline, 1):
        pass
    logger.warning("the parent of this process is gone: it drains and ends")
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(grace_period + KILL_MARGIN)
    os.kill(os.getpid(), signal.SIGKILL)
