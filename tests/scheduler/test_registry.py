"""What may be registered as a schedule."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

from pgq_trio.errors import RegistrationError
from pgq_trio.executors import ScheduleExecutor
from pgq_trio.models import Schedule, ScheduleContext
from pgq_trio.scheduler.registry import ScheduleRegistry


async def tick(schedule: Schedule) -> None: ...
async def tick_with_context(schedule: Schedule, ctx: ScheduleContext) -> None: ...


def test_an_entry_knows_everything_that_was_registered() -> None:
    registry = ScheduleRegistry()
    entry = registry.add(
        "tick",
        "*/5  * * * *",
        tick_with_context,
        timezone="Europe/Berlin",
        misfire="skip",
        misfire_grace=timedelta(minutes=1),
        clean_old=True,
    )
    assert entry.key == ("tick", "*/5 * * * *")
    assert (entry.misfire, entry.misfire_grace, entry.clean_old) == ("skip", 60.0, True)
    assert isinstance(entry.executor, ScheduleExecutor)
    assert entry.executor.parameters.accepts_context
    assert entry.executor.parameters.expression == "*/5 * * * *"
    assert entry.executor.parameters.entrypoint == "tick"
    assert list(registry) == [entry]
    assert entry.key in registry


def test_the_context_is_found_in_the_signature_unless_it_is_said() -> None:
    registry = ScheduleRegistry()
    assert not registry.add("a", "@daily", tick).executor.parameters.accepts_context
    entry = registry.add("b", "@daily", lambda s, c: None, accepts_context=True)  # noqa: ARG005
    assert entry.executor.parameters.accepts_context


def test_one_name_may_have_several_expressions_but_none_twice() -> None:
    registry = ScheduleRegistry()
    registry.add("tick", "*/5 * * * *", tick)
    registry.add("tick", "0 0 * * *", tick)
    registry.add("tock", "0 0 * * *", tick)
    with pytest.raises(RegistrationError, match=r"'tick' is registered twice .*'0 0 \* \* \*'"):
        registry.add("tick", "@daily", tick, timezone="Europe/Berlin")
    assert len(registry) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": ""}, "non-empty string"),
        ({"name": None}, "non-empty string"),
        ({"name": "a\x00b"}, "PostgreSQL cannot store"),
        ({"name": "a\ud800b"}, "PostgreSQL cannot store"),
        ({"expression": "61 * * * *"}, "bad cron expression"),
        ({"timezone": "Mars"}, "unknown time zone"),
        ({"misfire": "never"}, "misfire is 'last', 'skip' or 'all', got 'never'"),
        ({"misfire_grace": -1}, "misfire_grace must be at least 0 s"),
        ({"misfire_grace": math.nan}, "misfire_grace must be at least 0 s"),
        ({"misfire_grace": "1"}, "misfire_grace must be a timedelta or seconds"),
        ({"func": 3}, "the schedule must be callable"),
        (
            {"executor_factory": 3},
            "executor_factory is an executor class, or a function of .* got 3",
        ),
        ({"executor_factory": lambda _: None}, "derives from AbstractScheduleExecutor, got None"),
        ({"func": lambda: None}, r"would be called with \(schedule\)"),
    ],
)
def test_what_cannot_work_is_refused_and_not_registered(
    arguments: dict[str, object], says: str
) -> None:
    registry = ScheduleRegistry()
    given = {"name": "tick", "expression": "@daily", "func": tick} | arguments
    with pytest.raises(RegistrationError, match=says):
        registry.add(**given)  # type: ignore[arg-type]
    assert len(registry) == 0
