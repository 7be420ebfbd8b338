"""Commands on the history of a queue, and who plays them on a store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

from hypothesis import strategies as st

from pgq_trio.abc.insights import Step
from pgq_trio.model.retention import FOREVER, Retention
from tests.property.agreement_jobs import (
    JobPlayer,
    claims,
    enqueues,
    finishes,
    pick,
    some_entrypoints,
    waits,
)
from tests.property.agreement_worlds import programs

#: More steps than that are no progress.
_STEPS = 200

_ages = st.none() | st.integers(0, 12) | st.just(FOREVER)
_retentions = st.builds(
    Retention, default=_ages, queued=_ages, picked=_ages, successful=_ages, failed=_ages,
    statistics=_ages,
)  # fmt: skip
_spans = st.integers(0, 20)
_limits = st.integers(1, 4) | st.just(1000)

_folds = st.tuples(st.just("fold"), _limits)
_expiries = st.tuples(st.just("expire"), _retentions, _limits, st.booleans())
#: What is left is deleted, whether it was counted before or not.
_all_gone = st.tuples(
    st.just("expire"), st.builds(Retention, default=st.integers(0, 2)), _limits, st.just(True)
)

programs_of_history = programs(
    [enqueues, claims, finishes, _folds, _expiries],
    [
        waits,
        st.tuples(st.just("clear"), some_entrypoints),
        st.tuples(st.just("clear_log"), some_entrypoints),
        st.tuples(st.just("chores"), st.none() | _retentions),
        st.tuples(st.just("clear_statistics"), some_entrypoints),
        st.tuples(st.just("ask_statistics"), st.none() | st.integers(0, 5), st.none() | _spans),
        st.tuples(st.just("ask_throughput"), st.none() | _spans),
        st.tuples(st.just("ask_timeseries"), _spans),
        st.tuples(st.just("ask_durations"), _spans),
        st.tuples(st.just("ask_log_of"), pick, st.integers(0, 4)),
        st.tuples(st.just("ask_failures"), st.integers(0, 4)),
        st.tuples(st.just("ask_estimate"), _retentions),
        st.tuples(st.just("ask_tables")),
    ],
    st.tuples(enqueues, claims, finishes, _folds, _expiries, _all_gone),
)


@dataclass
class HistoryPlayer(JobPlayer):
    """Plays commands on the history, which jobs go on writing.

    `is_in_order`: what a deletion counts is written by age limit, not by time, and statistics are
    read in the order in which they were written.
    """

    is_in_order: bool = True

    async def look(self) -> dict[str, object]:
        """Read the log and what it was folded into."""
        statistics = await self.backend.insights.log_statistics(limit=None, last=None)
        times = [row.created for row in statistics]
        assert not self.is_in_order or times == sorted(times, reverse=True)
        return {
            "log": self.plain_log(await self.backend.jobs.log()),
            "unfolded": await self.backend.insights.unfolded(),
            "statistics": sorted(map(repr, statistics)),
        }

    async def play_fold(self, limit: int) -> object:
        """Count everything, so many rows at a time."""
        return await _all_of(lambda: self.backend.insights.fold(limit=limit))

    async def play_expire(self, retention: Retention, limit: int, from_start: bool) -> object:
        """Delete everything that is too old; which jobs are left shows what each row was."""
        self.has_log = self.is_in_order = False
        steps = [from_start]

        async def step() -> Step:
            first, steps[0] = steps[0], False
            return await self.backend.insights.expire(retention, limit=limit, from_start=first)

        return await _all_of(step)

    async def play_chores(self, retention: Retention | None) -> object:
        """Do what there is to do, until there is nothing; one look more is no harm."""
        insights = self.backend.insights
        if retention is not None:
            self.has_log = self.is_in_order = False
        rows = looks = 0
        while await insights.chores(retention):
            rows += await _all_of(insights.fold)
            if retention is not None:
                rows += await _all_of(partial(insights.expire, retention))
            looks += 1
            assert looks < _STEPS, "there is always something left to do"
        return rows

    async def play_clear_statistics(self, entrypoints: list[str] | None) -> object:
        """Delete statistics."""
        return await self.backend.insights.clear_statistics(entrypoints)

    async def play_ask_statistics(self, limit: int | None, last: int | None) -> object:
        """Read the statistics; those of one second have no order."""
        rows = await self.backend.insights.log_statistics(
            limit=limit, last=None if last is None else float(last)
        )
        return [row.created for row in rows] if self.is_in_order else len(rows)

    async def play_ask_throughput(self, last: int | None) -> object:
        """Read the sums."""
        return await self.backend.insights.throughput(last=None if last is None else float(last))

    async def play_ask_timeseries(self, last: int) -> object:
        """Read the sums by minute; those of one minute have no order."""
        rows = await self.backend.insights.throughput_timeseries(last=float(last))
        return sorted(rows, key=repr)

    async def play_ask_durations(self, last: int) -> object:
        """Read how long jobs ran; entrypoints that are equally slow have no order."""
        rows = await self.backend.insights.job_durations(last=float(last))
        return sorted(
            (
                replace(row, p50_seconds=round(row.p50_seconds, 6),
                        p95_seconds=round(row.p95_seconds, 6))
                for row in rows
            ),
            key=repr,
        )  # fmt: skip

    async def play_ask_log_of(self, pick: int, limit: int) -> object:
        """Read the first rows of one job."""
        [job_id] = self.called([pick])
        return self.plain_log(await self.backend.insights.job_log(job_id, limit=limit))

    async def play_ask_failures(self, limit: int) -> object:
        """Read the last failures; those of one moment have no order."""
        rows = await self.backend.insights.exception_log(limit=limit)
        return [row.created for row in rows]

    async def play_ask_estimate(self, retention: Retention) -> object:
        """Read how many log rows are too old: of a small log that is exact."""
        return await self.backend.insights.expired_estimate(retention)

    async def play_ask_tables(self) -> object:
        """Read which tables there are."""
        return [table.table_name for table in await self.backend.insights.tables()]


async def _all_of(step: Callable[[], Awaitable[Step]]) -> int:
    """Take steps until the last one; return how many rows they did."""
    rows = 0
    for _ in range(_STEPS):
        done = await step()
        assert not done.is_busy
        rows += done.rows
        if done.is_last:
            return rows
    raise AssertionError("it never ends")
