"""The schedules of one application: names, expressions, executors; it fires nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, cast, get_args

from pgq_trio.errors import RegistrationError
from pgq_trio.executors import (
    AbstractScheduleExecutor,
    ScheduleCrontab,
    ScheduleExecutor,
    ScheduleExecutorParameters,
    wants_context,
)
from pgq_trio.model.cron import CronExpression
from pgq_trio.model.durations import Duration, seconds
from pgq_trio.models import ScheduleContext
from pgq_trio.types import Misfire

#: Name and normalised expression: what makes a row of the schedules table unique.
ScheduleKey: TypeAlias = tuple[str, str]
ScheduleExecutorFactory: TypeAlias = Callable[
    [ScheduleExecutorParameters], AbstractScheduleExecutor
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleEntry:
    """One registered schedule.

    Attributes:
        name: the schedule's name, PgQueuer's column `entrypoint`.
        cron: when it fires.
        executor: runs the handler.
        misfire: what becomes of fire times that nobody answered: "last", "skip" or "all".
        misfire_grace: how many seconds a fire may be late; None: the policy's default.
        clean_old: whether rows of this name with expressions that are not registered any more
            are deleted before the scheduler starts.
    """

    name: str
    cron: CronExpression
    executor: AbstractScheduleExecutor
    misfire: Misfire = "last"
    misfire_grace: float | None = None
    clean_old: bool = False

    @property
    def key(self) -> ScheduleKey:
        """What finds the entry's row in the table."""
        return self.name, self.cron.normalised


class ScheduleRegistry:
    """All schedules of one application, in the order in which they were registered."""

    def __init__(self) -> None:
        self._entries: dict[ScheduleKey, ScheduleEntry] = {}

    def __iter__(self) -> Iterator[ScheduleEntry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def add(
        self,
        name: str,
        expression: str,
        func: ScheduleCrontab,
        *,
        accepts_context: bool | None = None,
        timezone: object = "UTC",
        misfire: Misfire = "last",
        misfire_grace: Duration | None = None,
        executor_factory: ScheduleExecutorFactory | None = None,
        clean_old: bool = False,
    ) -> ScheduleEntry:
        """Register a handler for a cron expression; nothing is written until the scheduler runs.

        Args:
            name: one name may have several expressions.
            expression: croniter's syntax, five fields, or six with the seconds last.
            func: the handler, async or not.
            accepts_context: whether it is called with `(schedule, context)`; None: look at its
                signature.
            timezone: an IANA name or a `tzinfo`, in which the expression is read.
            misfire: "last" runs once for all missed fire times, "skip" leaves them out, "all"
                runs each of them.
            misfire_grace: how late a fire may be, a `timedelta` or seconds; what is later is left
                out. None: any time, but 1 s under "skip".
            executor_factory: makes the executor from its parameters; None: `ScheduleExecutor`.
            clean_old: delete this name's rows with other expressions when the scheduler starts.

        Raises:
            RegistrationError: an argument cannot work, or the pair of name and expression is
                registered already.
        """
        check_schedule_name(name)
        cron = CronExpression.parse(expression, timezone)
        if (name, cron.normalised) in self._entries:
            raise RegistrationError(
                f"the schedule {name!r} is registered twice with the expression "
                f"{cron.normalised!r}; give it another name, or another expression"
            )
        if misfire not in get_args(Misfire):
            raise RegistrationError(
                f"misfire is 'last', 'skip' or 'all', got {cast('object', misfire)!r}"
            )
        parameters = ScheduleExecutorParameters(
            entrypoint=name,
            expression=cron.normalised,
            func=func,
            clean_old=clean_old,
            accepts_context=(
                wants_context(func, ScheduleContext) if accepts_context is None else accepts_context
            ),
        )
        entry = ScheduleEntry(
            name=name,
            cron=cron,
            executor=_executor(executor_factory, parameters),
            misfire=misfire,
            misfire_grace=_grace(misfire_grace),
            clean_old=clean_old,
        )
        self._entries[entry.key] = entry
        return entry


def check_schedule_name(name: object) -> str:
    """Return the name, or say why it cannot be one.

    Raises:
        RegistrationError: not a text that PostgreSQL can store, or empty.
    """
    if not isinstance(name, str) or not name:
        raise RegistrationError(f"the name of a schedule is a non-empty string, got {name!r}")
    if "\x00" in name or any("\ud800" <= character <= "\udfff" for character in name):
        raise RegistrationError(
            f"the name {name!r} holds a NUL byte or a lone surrogate, which PostgreSQL cannot store"
        )
    return name


def _executor(
    factory: ScheduleExecutorFactory | None, parameters: ScheduleExecutorParameters
) -> AbstractScheduleExecutor:
    if factory is not None and not callable(factory):  # pyright: ignore[reportUnnecessaryComparison]
        raise RegistrationError(
            "executor_factory is an executor class, or a function of ScheduleExecutorParameters "
            f"that returns an AbstractScheduleExecutor; got {factory!r}"
        )
    executor = (factory or ScheduleExecutor)(parameters)
    if not isinstance(executor, AbstractScheduleExecutor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RegistrationError(
            "what an executor_factory returns derives from AbstractScheduleExecutor, "
            f"got {executor!r}"
        )
    return executor


def _grace(value: object) -> float | None:
    try:
        return None if value is None else seconds(value, "misfire_grace")
    except (TypeError, ValueError) as exc:
        raise RegistrationError(str(exc)) from exc
