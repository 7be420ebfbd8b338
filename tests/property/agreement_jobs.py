"""Commands on jobs, and who plays them on a store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from pgq_trio.abc import ClaimRequest
from pgq_trio.errors import DuplicateJobError
from pgq_trio.model.outcomes import Claim, Finished, Outcome, OutcomeKind
from pgq_trio.model.traceback import TracebackRecord
from pgq_trio.types import JobId, JobStatus, OnConflict, SortOrder
from tests.property.agreement_worlds import LEASE, START, Player, programs
from tests.store.world import ALICE, BOB, new

ENTRYPOINTS = "ab"
KINDS: tuple[OutcomeKind, ...] = ("successful", "exception", "failed", "canceled", "retry")

entrypoints = st.sampled_from(ENTRYPOINTS)
some_entrypoints = st.none() | st.sets(entrypoints).map(sorted)
workers = st.sampled_from([ALICE, ALICE, BOB])
#: Who says that claims are theirs; None: those whose they are.
speakers = st.sampled_from([None, None, None, ALICE, BOB])
#: Which of the jobs, or of the claims, seen so far; 0 is the last one.
pick = st.integers(0, 3) | st.integers(0, 9)
picks = st.lists(pick, min_size=1, max_size=4)
#: When a job is due: None, in so many seconds, or at so many seconds after the start.
afters = st.one_of(
    st.none(),
    st.none(),
    st.integers(0, 5).map(lambda seconds: timedelta(seconds=seconds)),
    st.integers(-2, 12).map(lambda seconds: START + timedelta(seconds=seconds)),
)
new_jobs = st.builds(
    new,
    entrypoints,
    st.sampled_from([None, None, b"", b"\x00payload"]),
    priority=st.integers(-1, 1),
    after=afters,
    key=st.sampled_from([None, None, "k", "l"]),
    headers=st.sampled_from([None, None, {"trace": [1, "ä"]}]),
)
_limit = st.sampled_from([0, 0, 0, 1, 2])
limits = st.fixed_dictionaries(dict.fromkeys(ENTRYPOINTS, _limit)) | st.fixed_dictionaries(
    {}, optional=dict.fromkeys(ENTRYPOINTS, _limit)
)

enqueues = st.tuples(
    st.just("enqueue"),
    st.lists(new_jobs, min_size=1, max_size=4),
    st.sampled_from(["raise", "skip", "update_priority"]),
)
claims = st.tuples(st.just("claim"), workers, limits, st.integers(1, 5), st.integers(0, 3))
finishes = st.tuples(
    st.just("finish"),
    speakers,
    st.lists(
        st.tuples(pick, st.sampled_from(KINDS), st.integers(0, 3), st.booleans()),
        min_size=1,
        max_size=4,
    ),
)
waits = st.tuples(st.just("wait"), st.integers(1, 6))

_pages = st.tuples(
    st.just("browse"),
    st.integers(0, 3) | st.just(99),
    st.integers(0, 2),
    st.none() | st.sets(st.sampled_from(["queued", "picked", "failed"])).map(sorted),
    some_entrypoints,
)
_held = st.tuples(
    st.just("ask_held"), st.integers(0, 3) | st.just(99), st.sampled_from(["ASC", "DESC"])
)

#: What a worker takes if nothing keeps it from it.
_all_claims = st.tuples(
    st.just("claim"),
    workers,
    st.fixed_dictionaries(dict.fromkeys(ENTRYPOINTS, st.sampled_from([0, 0, 2]))),
    st.just(5),
    st.just(3),
)
_someone = st.sampled_from([[0], [0, 1], [1]])

#: The life of some jobs, with a rescue or without, up to something that is done to them.
lives = st.tuples(
    enqueues,
    _all_claims,
    st.just(("wait", 5)) | st.just(("wait", 1)),
    _all_claims,
    finishes,
    st.one_of(
        *(st.tuples(st.just(kind), _someone) for kind in ("requeue", "cancel")),
        *(st.tuples(st.just(kind), speakers, _someone) for kind in ("release", "heartbeat")),
    ),
)

#: Jobs that are rescued, held and queued again.
revivals = st.tuples(
    enqueues,
    _all_claims,
    st.just(("wait", 5)),
    _all_claims,
    st.just(("finish", None, [(n, "failed", 0, False) for n in range(3)])),
    st.just(("requeue", [0, 1, 2])),
)

programs_of_jobs = programs(
    [enqueues, claims, claims, finishes, waits],
    [
        st.tuples(st.just("release"), speakers, picks),
        st.tuples(st.just("heartbeat"), speakers, picks),
        st.tuples(st.just("cancel"), picks),
        st.tuples(st.just("requeue"), picks),
        st.tuples(st.just("clear"), some_entrypoints),
        st.tuples(st.just("clear_log"), some_entrypoints),
        st.tuples(st.just("ask_status")),
        _held,
        st.tuples(st.just("ask_log"), st.none() | pick, st.none() | st.integers(0, 4)),
        _pages,
        st.tuples(st.just("ask_stale"), st.integers(0, 5), st.integers(0, 3)),
        st.tuples(st.just("ask_workers")),
        st.tuples(st.just("ask_ages")),
    ],
    lives | revivals,
)

TRACEBACK = TracebackRecord.from_exception(
    ValueError("as drawn"), job_id=1, timestamp=START
).to_json()


@dataclass
class JobPlayer(Player):
    """Plays commands on jobs."""

    #: What was claimed, and by whom.
    claims: list[tuple[UUID, Claim]] = field(default_factory=list[tuple[UUID, Claim]])
    #: Whether the log is whole: the count of lost runs is read from it.
    has_log: bool = True

    async def look(self) -> dict[str, object]:
        """Read the queue and its log."""
        jobs = await self.backend.insights.browse(
            limit=999, offset=0, statuses=None, entrypoints=None
        )
        log = await self.backend.jobs.log()
        assert [entry.created for entry in log] == sorted(entry.created for entry in log)
        return {"jobs": [*map(self.plain, jobs)], "log": self.plain_log(log)}

    def called(self, picks: Iterable[int]) -> list[JobId]:
        """Return the ids of some jobs; one that nobody has seen is among them."""
        return [self.ids[-1 - n] if n < len(self.ids) else 999_999_999 for n in picks]

    def chosen(self, speaker: UUID | None, picks: Iterable[int]) -> tuple[UUID, list[Claim]]:
        """Return some of the claims that were made, and who says that they are theirs."""
        made = [self.claims[-1 - n] for n in dict.fromkeys(picks) if n < len(self.claims)]
        if speaker is None and made:
            speaker = made[0][0]
            made = [(worker, claim) for worker, claim in made if worker == speaker]
        return speaker or ALICE, [claim for _, claim in made]

    async def play_wait(self, _seconds: int) -> None:
        """Do nothing."""

    async def play_enqueue(self, jobs: Sequence[Any], on_conflict: OnConflict) -> object:
        """Enqueue a batch."""
        try:
            ids = await self.backend.jobs.enqueue(jobs, on_conflict=on_conflict)
        except DuplicateJobError as exc:
            return exc.dedupe_key
        self.ids += sorted({job_id for job_id in ids if job_id is not None} - {*self.ids})
        return [None if job_id is None else self.name(job_id) for job_id in ids]

    async def play_claim(
        self, worker: UUID, limits: dict[str, int], batch: int, limited: int
    ) -> object:
        """Claim jobs."""
        claimed = await self.backend.jobs.claim(
            ClaimRequest(
                queue_manager_id=worker,
                limits=limits,
                batch_size=batch,
                limited_batch_size=limited,
                heartbeat_timeout=LEASE,
            )
        )
        self.claims += [(worker, Claim(job.id, job.updated)) for job in claimed.jobs]
        lost = {self.name(job_id): runs for job_id, runs in claimed.lost_runs.items()}
        return (
            [*map(self.plain, claimed.jobs)],
            claimed.next_due,
            claimed.next_later,
            lost if self.has_log else sorted(lost),
        )

    async def play_finish(
        self, speaker: UUID | None, outcomes: Sequence[tuple[int, OutcomeKind, int, bool]]
    ) -> object:
        """Write outcomes, one for a job."""
        worker, claims = self.chosen(speaker, [outcome[0] for outcome in outcomes])
        finished: dict[JobId, Finished] = {}
        for claim, (_, kind, delay, has_traceback) in zip(claims, outcomes, strict=False):
            traceback = TRACEBACK if has_traceback else None
            outcome = Outcome(kind, traceback, timedelta(seconds=delay))
            finished.setdefault(claim.job_id, Finished(claim, outcome))
        return self.names(await self.backend.jobs.finish(worker, [*finished.values()]))

    async def play_release(self, speaker: UUID | None, picks: list[int]) -> object:
        """Give jobs back."""
        worker, claims = self.chosen(speaker, picks)
        return self.names(await self.backend.jobs.release(worker, claims))

    async def play_heartbeat(self, speaker: UUID | None, picks: list[int]) -> object:
        """Renew leases."""
        worker, claims = self.chosen(speaker, picks)
        return self.names(await self.backend.jobs.heartbeat(worker, claims))

    async def play_cancel(self, picks: list[int]) -> object:
        """Cancel jobs."""
        return self.names(await self.backend.jobs.cancel(self.called(picks)))

    async def play_requeue(self, picks: list[int]) -> object:
        """Queue held jobs again."""
        return self.names(await self.backend.jobs.requeue(self.called(picks)))

    async def play_clear(self, entrypoints: list[str] | None) -> object:
        """Delete jobs."""
        return await self.backend.jobs.clear(entrypoints)

    async def play_clear_log(self, entrypoints: list[str] | None) -> object:
        """Delete log rows."""
        self.has_log = False
        return await self.backend.jobs.clear_log(entrypoints)

    async def play_ask_status(self) -> object:
        """Ask for the states of all jobs, and count them."""
        states = await self.backend.jobs.job_status([*self.ids, 999_999_999])
        return (
            sorted((self.name(job_id), state) for job_id, state in states.items()),
            await self.backend.jobs.queue_size(),
        )

    async def play_ask_held(self, limit: int, order: SortOrder) -> object:
        """Read held jobs."""
        held = await self.backend.jobs.failed_jobs(limit=limit, order=order)
        return [*map(self.plain, held)]

    async def play_ask_log(self, pick: int | None, limit: int | None) -> object:
        """Read a part of the log: what one statement wrote has no order."""
        [job_id] = [None] if pick is None else self.called([pick])
        log = await self.backend.jobs.log(job_id=job_id, limit=limit)
        return [entry.created for entry in log] if job_id is None else self.plain_log(log)

    async def play_browse(
        self,
        limit: int,
        offset: int,
        statuses: list[JobStatus] | None,
        entrypoints: list[str] | None,
    ) -> object:
        """Read a page of the queue."""
        page = await self.backend.insights.browse(
            limit=limit, offset=offset, statuses=statuses, entrypoints=entrypoints
        )
        return [*map(self.plain, page)]

    async def play_ask_stale(self, threshold: int, limit: int) -> object:
        """Read jobs whose worker is silent."""
        stale = await self.backend.insights.stale_jobs(threshold=float(threshold), limit=limit)
        return [(self.name(row.id), row.seconds_since_heartbeat, row.queue_manager_id,
                 row.status, row.heartbeat) for row in stale]  # fmt: skip

    async def play_ask_workers(self) -> object:
        """Read who works."""
        return await self.backend.insights.active_workers()

    async def play_ask_ages(self) -> object:
        """Read how old the queued jobs are."""
        return [
            (row.entrypoint, row.queued_count, row.oldest_created,
             round(row.oldest_age_seconds, 6), round(row.avg_age_seconds, 6))
            for row in await self.backend.insights.queue_age()
        ]  # fmt: skip
