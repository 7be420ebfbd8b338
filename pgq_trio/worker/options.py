"""The arguments of `run`, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack

from pgq_trio.model.durations import Duration, seconds
from pgq_trio.types import QueueExecutionMode

#: In seconds: a year, which PostgreSQL's intervals hold easily.
LONGEST_LEASE = 31_557_600.0


class RunArguments(TypedDict, total=False):
    """The arguments of `run` as users give them; `PgQueuer.run` explains each."""

    mode: QueueExecutionMode | Literal["continuous", "drain"]
    batch_size: int | None
    max_concurrent_jobs: int
    max_concurrent_tasks: int | None
    dequeue_timeout: Duration
    heartbeat_timeout: Duration
    grace_period: Duration
    handle_signals: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How one run behaves; all durations are seconds here.

    Attributes:
        mode: go on until told to stop, or until the queue is drained.
        batch_size: upper bound for one claim; None lets the worker size claims itself.
        max_concurrent_jobs: how many jobs run at once; at most as many again are claimed ahead.
        dequeue_timeout: the longest time without a look at the queue.
        heartbeat_timeout: age at which the lease of a job expires; the same for a whole fleet.
        grace_period: how long running jobs may go on after a request to stop.
        handle_signals: whether SIGINT and SIGTERM are such requests.
    """

    mode: QueueExecutionMode
    batch_size: int | None
    max_concurrent_jobs: int
    dequeue_timeout: float
    heartbeat_timeout: float
    grace_period: float
    handle_signals: bool

    @classmethod
    def check(cls, **given: Unpack[RunArguments]) -> RunOptions:
        """Check the arguments of `run` before anything starts.

        Raises:
            TypeError: an argument of a wrong type, or one that `run` does not have.
            ValueError: a number that is too small, an unknown mode.
        """
        unknown = given.keys() - RunArguments.__annotations__.keys()
        if unknown:
            raise TypeError(
                f"run() got an unexpected argument {min(unknown)!r}; "
                f"it takes {', '.join(RunArguments.__annotations__)}"
            )
        return cls._checked(**given)

    @classmethod
    def _checked(
        cls,
        *,
        mode: QueueExecutionMode | str = QueueExecutionMode.continuous,
        batch_size: int | None = None,
        max_concurrent_jobs: int = 100,
        dequeue_timeout: Duration = 30.0,
        heartbeat_timeout: Duration = 30.0,
        grace_period: Duration = 30.0,
        handle_signals: bool = True,
        max_concurrent_tasks: int | None = None,
    ) -> RunOptions:
        if max_concurrent_tasks is not None:
            max_concurrent_jobs = max_concurrent_tasks
        if not isinstance(handle_signals, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"handle_signals is True or False, got {handle_signals!r}")
        return cls(
            mode=_mode(mode),
            batch_size=None if batch_size is None else _count(batch_size, "batch_size"),
            max_concurrent_jobs=_count(max_concurrent_jobs, "max_concurrent_jobs"),
            dequeue_timeout=seconds(dequeue_timeout, "dequeue_timeout", minimum=0.01),
            heartbeat_timeout=_lease(heartbeat_timeout),
            grace_period=seconds(grace_period, "grace_period"),
            handle_signals=handle_signals,
        )


def _lease(value: object) -> float:
    lease = seconds(value, "heartbeat_timeout", minimum=0.1)
    if lease > LONGEST_LEASE:
        raise ValueError(
            f"heartbeat_timeout must be at most {LONGEST_LEASE:g} s, got {value!r}: so long would "
            "the jobs of a worker that died lie"
        )
    return lease


def _mode(value: object) -> QueueExecutionMode:
    if isinstance(value, QueueExecutionMode):
        return value
    try:
        return QueueExecutionMode(value)
    except ValueError:
        names = ", ".join(repr(mode.value) for mode in QueueExecutionMode)
        raise ValueError(f"mode is one of {names}, got {value!r}") from None


def _count(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what} is an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{what} must be at least 1, got {value}")
    return value
