"""The executor that queues a job again after any exception; PgQueuer's, with its meaning."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from pgq_trio.errors import RegistrationError, RetryRequested
from pgq_trio.executors.checks import check_count, checked_duration
from pgq_trio.executors.entrypoints import EntrypointExecutor
from pgq_trio.model.durations import Duration, seconds
from pgq_trio.model.outcomes import retry_of
from pgq_trio.model.retry import exponential_delay
from pgq_trio.models import Context, Job


@dataclass(eq=False)
class DatabaseRetryEntrypointExecutor(EntrypointExecutor):
    """Queues a job again after any exception, with a wait that grows with `job.attempts`.

    PgQueuer's class of this name, with its meaning: `max_attempts` counts *retries*, so a job
    runs up to `max_attempts + 1` times before its exception is final. (A policy given as
    `retry=` counts all attempts.) A `RetryRequested` of the handler itself is left as it is.

    Attributes:
        max_attempts: how many retries there are.
        initial_delay: the wait before the first retry, a `timedelta` or seconds.
        max_delay: the longest wait, a `timedelta` or seconds.
        backoff_multiplier: how much longer each wait is than the one before it.

    Raises:
        RegistrationError: a wait is negative, or the multiplier not positive.
    """

    max_attempts: int = 5
    initial_delay: Duration = timedelta(seconds=1)
    max_delay: Duration = timedelta(minutes=5)
    backoff_multiplier: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("max_attempts", self.max_attempts, 0)
        for name in ("initial_delay", "max_delay"):
            checked_duration(getattr(self, name), name)
        if not self.backoff_multiplier > 0:
            raise RegistrationError(
                f"backoff_multiplier must be positive, got {self.backoff_multiplier!r}"
            )

    async def execute(self, job: Job, context: Context) -> None:
        """Call the handler; turn what it raises into `RetryRequested` while retries are left."""
        try:
            await super().execute(job, context)
        except Exception as exc:
            if (own := retry_of(exc)) is not None:
                if own is exc:
                    raise
                raise own from exc
            if job.attempts >= self.max_attempts:
                raise
            delay = exponential_delay(
                job.attempts,
                initial=seconds(self.initial_delay, "initial_delay"),
                maximum=seconds(self.max_delay, "max_delay"),
                multiplier=self.backoff_multiplier,
            )
            raise RetryRequested(delay=delay, reason=_reason(exc)) from exc


def _reason(exc: Exception) -> str:
    try:
        return str(exc)
    except Exception:  # noqa: BLE001 - a user's __str__ may do anything
        return type(exc).__name__
