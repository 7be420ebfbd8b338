"""The contract suite: a test module that imports all of it tests its own fixtures.

    from tests.store.suite import *

The fixtures are `world`, an empty store with the full history, and `outcomes_world`, one with
`history="outcomes"`.
"""

from __future__ import annotations

from tests.store.contract_admin import (
    TestCancel,
    TestClear,
    TestHistory,
    TestLook,
    TestNotifier,
    TestRequeue,
)
from tests.store.contract_claim import TestClaim, TestLostRuns, TestRescue, TestSlot
from tests.store.contract_enqueue import TestDedupe, TestEnqueue
from tests.store.contract_history import TestExpire, TestFold, TestOutcomesOnly
from tests.store.contract_insights import TestInsights
from tests.store.contract_outcomes import TestFence, TestFinish, TestHeartbeat, TestRelease
from tests.store.contract_schedules import TestSchedule

__all__ = [
    "TestCancel",
    "TestClaim",
    "TestClear",
    "TestDedupe",
    "TestEnqueue",
    "TestExpire",
    "TestFence",
    "TestFinish",
    "TestFold",
    "TestHeartbeat",
    "TestHistory",
    "TestInsights",
    "TestLook",
    "TestLostRuns",
    "TestNotifier",
    "TestOutcomesOnly",
    "TestRelease",
    "TestRequeue",
    "TestRescue",
    "TestSchedule",
    "TestSlot",
]
