"""The shipped test kit: schedules as data, a clock that jumps, faults at every step.

It drives Trio and asyncio, which the rest of the package does not import.
"""

from pgq_trio.testing.decisions import Decision, Policy, Schedule
from pgq_trio.testing.simulate import cancel_everywhere, explore, simulate
from pgq_trio.testing.simulation import (
    BACKENDS,
    Backend,
    Deadlock,
    Fault,
    Livelock,
    Moment,
    Simulation,
    ThreadRefused,
)
from pgq_trio.testing.strategies import (
    faults,
    headers,
    interleavings,
    jobs,
    payloads,
    schedules,
)
from pgq_trio.testing.unreliable import LostPart, UnreliableDriver

__all__ = [
    "BACKENDS",
    "Backend",
    "Deadlock",
    "Decision",
    "Fault",
    "Livelock",
    "LostPart",
    "Moment",
    "Policy",
    "Schedule",
    "Simulation",
    "ThreadRefused",
    "UnreliableDriver",
    "cancel_everywhere",
    "explore",
    "faults",
    "headers",
    "interleavings",
    "jobs",
    "payloads",
    "schedules",
    "simulate",
]
