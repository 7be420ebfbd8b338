"""The shipped test kit: schedules as data, a clock that jumps, faults at every step.

It drives Trio and asyncio, which the rest of the package does not import. The fixtures for pytest
are in `pgq_trio.testing.plugin`; nothing else here needs pytest.
"""

from pgq_trio.testing.calls import Call, CallHook, Hold, LostPart
from pgq_trio.testing.cancelling import cancel_at_each_step
from pgq_trio.testing.decisions import Decision, Policy, Schedule
from pgq_trio.testing.draining import JobFailed, Outcomes, drain
from pgq_trio.testing.expecting import assert_enqueued, assert_not_enqueued
from pgq_trio.testing.live import LiveClock, LiveTask, LiveWorld, live
from pgq_trio.testing.simulate import cancel_everywhere, explore, simulate
from pgq_trio.testing.simulation import (
    BACKENDS,
    Backend,
    Deadlock,
    Fault,
    IORefused,
    Livelock,
    Moment,
    Simulation,
    ThreadRefused,
    Threads,
)
from pgq_trio.testing.travelling import TimeTravel
from pgq_trio.testing.unreliable import UnreliableDriver

try:
    from pgq_trio.testing.strategies import (
        faults,
        headers,
        interleavings,
        jobs,
        payloads,
        schedules,
    )
except ModuleNotFoundError as _exc:
    if _exc.name != "hypothesis":
        raise
    raise ImportError(
        "pgq_trio.testing draws with Hypothesis, which is not installed: "
        "pip install 'pgq-trio[testing]'",
        name=_exc.name,
    ) from _exc

__all__ = [
    "BACKENDS",
    "Backend",
    "Call",
    "CallHook",
    "Deadlock",
    "Decision",
    "Fault",
    "Hold",
    "IORefused",
    "JobFailed",
    "LiveClock",
    "LiveTask",
    "LiveWorld",
    "Livelock",
    "LostPart",
    "Moment",
    "Outcomes",
    "Policy",
    "Schedule",
    "Simulation",
    "ThreadRefused",
    "Threads",
    "TimeTravel",
    "UnreliableDriver",
    "assert_enqueued",
    "assert_not_enqueued",
    "cancel_at_each_step",
    "cancel_everywhere",
    "drain",
    "explore",
    "faults",
    "headers",
    "interleavings",
    "jobs",
    "live",
    "payloads",
    "schedules",
    "simulate",
]
