"""The chart in the documentation and the table in the code say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from pgq_trio.model.states import TRANSITIONS, is_final, may_follow
from pgq_trio.types import FINAL_STATES, JobStatus

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "job-states.md"


def test_the_chart_shows_every_transition_and_no_other() -> None:
    drawn = set(re.findall(r"^    (\S+) --> (\S+): (.+)$", PAGE.read_text(), re.MULTILINE))
    known = {(t.source or "[*]", t.target, t.event) for t in TRANSITIONS}
    assert drawn == known


def test_the_chart_ends_in_the_final_states_and_nowhere_else() -> None:
    ends = set(re.findall(r"^    (\S+) --> \[\*\]$", PAGE.read_text(), re.MULTILINE))
    assert ends == set(FINAL_STATES)
    assert {state for state in get_args(JobStatus) if is_final(state)} == ends


def test_every_event_is_explained() -> None:
    explained = set(re.findall(r"^\| ([^|]+?) \|", PAGE.read_text(), re.MULTILINE))
    assert {t.event for t in TRANSITIONS} <= explained


def test_nothing_leaves_a_final_state() -> None:
    assert not any(t.source in FINAL_STATES for t in TRANSITIONS)
    assert may_follow("queued", "picked")
    assert not may_follow("successful", "queued")
