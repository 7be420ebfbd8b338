"""`CompletionWatcher`: waiting for jobs to end; what it learns it learns from `watching`."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import NoReturn, Self, cast

import anyio
import anyio.lowlevel

from pgq_trio.client.base import QueriesBase
from pgq_trio.client.watching import Watch
from pgq_trio.concurrency.errors import is_only, raise_as_itself, unwrapped
from pgq_trio.errors import PgqError, UnknownJob
from pgq_trio.model.durations import Duration, seconds
from pgq_trio.types import JobId, JobStatus

__all__ = ["CompletionWatcher"]

#: The range of PostgreSQL's bigint.
_IDS = range(-(2**63), 2**63)


class CompletionWatcher:
    """Waits for any number of jobs with one connection that listens.

    ```python
    async with CompletionWatcher(pgq.queries) as watcher:
        status = await watcher.wait_for(job_id)
    ```

    This package's workers tell of a job's end at once while somebody waits. The ends that nobody
    tells of (PgQueuer's workers on tables installed by us, jobs deleted by hand) are found by
    looking. It costs nothing while nobody waits.

    Entering the block returns once it listens, or once the server has turned out to be away, which
    is waited out like a connection that is lost later. Leaving the block ends the waits of others
    with a `PgqError`; the jobs go on. It may be entered again then.

    Args:
        queries: the queue; not of a connection that is in a transaction, which would not see
            what others commit, nor be heard by them.
        refresh_interval: the longest time between two looks at jobs that are waited for, a
            `timedelta` or seconds; None: look only when there is a reason to.
        debounce: the shortest time between two looks, a `timedelta` or seconds.

    Raises:
        TypeError, ValueError: an argument that cannot work.
        StoreError: on entering, the server refuses the connection for a reason that lasts.
        The error that ends the watcher for good (tables that are gone, a refused connection): it
            cancels the block and comes out of it as itself; whoever waits gets it as well.
    """

    def __init__(
        self,
        queries: QueriesBase,
        *,
        refresh_interval: Duration | None = 5.0,
        debounce: Duration = 0.05,
    ) -> None:
        if not isinstance(queries, QueriesBase):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"CompletionWatcher takes a Queries, such as pgq.queries, got {queries!r}; "
                "with a driver: CompletionWatcher(Queries(driver))"
            )
        self._queries = queries
        self._refresh_interval = (
            math.inf
            if refresh_interval is None
            else seconds(refresh_interval, "refresh_interval", minimum=0.01)
        )
        self._debounce = seconds(debounce, "debounce")
        self._watch: Watch | None = None
        self._block: AbstractAsyncContextManager[Watch] | None = None

    @property
    def ignored_notifications(self) -> int:
        """How many notifications in this block were malformed, and ignored."""
        return 0 if self._watch is None else self._watch.ignored

    async def wait_for(self, job_id: JobId) -> JobStatus:
        """Wait until a job has ended.

        Returns:
            its final state: "successful", "exception", "canceled" or "deleted"; or "failed": it is
            held and goes on only if somebody requeues it.

        Raises:
            TypeError: this is no id.
            UnknownJob: nobody knows such a job. A job that is enqueued in a transaction which is
                not committed yet is unknown as well: wait after the commit.
            PgqError: the block is not entered, or was left meanwhile.
            The error that ended the watcher.

        Cancelled, by a deadline of the caller for instance, it leaves the job and all other waits
        as they are.
        """
        _check_id(job_id)
        if self._watch is None or job_id not in _IDS:
            await anyio.lowlevel.checkpoint()
            if self._watch is None:
                raise PgqError(
                    "the CompletionWatcher is not open: wait inside of "
                    "`async with CompletionWatcher(queries) as watcher`"
                )
            raise UnknownJob(job_id, "ids have 64 bits")
        return await self._watch.wait_for(job_id)

    async def __aenter__(self) -> Self:
        if self._block is not None:
            await anyio.lowlevel.checkpoint()
            raise PgqError("this CompletionWatcher is open already; make another one")
        self._block = block = _serving(
            Watch(
                self._queries.backend,
                refresh_interval=self._refresh_interval,
                debounce=self._debounce,
            )
        )
        try:
            self._watch = await block.__aenter__()
        except BaseException:
            self._block = None
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        block, self._block = self._block, None
        if block is None:  # left twice
            return None
        # It waits for services that are cancelled and bound their own cleanup.
        return await block.__aexit__(exc_type, exc, traceback)  # noqa: ASYNC102


def _check_id(given: object) -> None:
    if not isinstance(given, int) or isinstance(given, bool):
        raise TypeError(
            f"wait_for takes the id of one job, got {given!r}; `enqueue` returns a list of ids, "
            "with None for a job that was skipped"
        )


@asynccontextmanager
async def _serving(watch: Watch) -> AsyncGenerator[Watch, None]:
    """Have a watch look and listen during a block, which its failure cancels.

    An exception of the block comes out as itself, and so does a failure of the watch.
    """
    error: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks:
            try:
                await tasks.start(watch.listen, name="listen for ends of jobs")
                tasks.start_soon(watch.look, name="look for ends of jobs")
                yield watch
            except Exception as exc:  # noqa: BLE001 - kept out of the group, raised below
                error = exc
            finally:
                watch.close()
            tasks.cancel_scope.cancel()
    except BaseException as exc:  # noqa: BLE001, ASYNC103 - see below
        # A cancellation is raised again at the next checkpoint, an error of the block is not.
        if error is None or not isinstance(exc, anyio.get_cancelled_exc_class()):
            _raise(exc, error, watch.failure)
    if error is not None:
        _raise(None, error, watch.failure)


def _raise(
    plumbing: BaseException | None, error: Exception | None, failure: Exception | None
) -> NoReturn:
    """Raise what came out of the task group and what came out of the block, as one if it is one."""
    if failure is not None:
        if plumbing is not None and is_only(plumbing, failure):
            plumbing = failure
        if error is not None and is_only(error, failure):
            error, plumbing = None, failure
    if error is None:
        raise_as_itself(cast("BaseException", plumbing))
    if plumbing is not None:
        error.add_note(f"Waiting for jobs failed as well: {unwrapped(plumbing)!r}")
    raise_as_itself(error, own=error)
