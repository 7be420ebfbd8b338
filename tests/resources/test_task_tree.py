"""Every task has an owner: the nursery of `open`, or of a stand-alone run; and nothing is left."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.from_thread
import psycopg
import pytest
import trio
from anyio._backends._asyncio import _task_states

from pgq_trio import (
    Context,
    InMemoryDriver,
    Job,
    PgQueuer,
    QueueManager,
    Schedule,
    ScheduleContext,
    SchedulerManager,
)
from pgq_trio.db import PsycopgDriver
from pgq_trio.postgres import open_pool
from tests.resources.test_cancelled_outside import server_in
from tests.resources.tools import RARE, Server, make_due, with_server
from tests.worker.tools import SOON, Notes, Place, until


class TrioTree:
    """The tasks that a block began, and the nurseries it opened in its own task."""

    def __init__(self) -> None:
        self._owner = trio.lowlevel.current_task()
        self._nurseries = list(self._owner.child_nurseries)
        self._before = set(self._all())

    def _all(self) -> list[trio.lowlevel.Task]:
        root = trio.lowlevel.current_root_task()
        assert root is not None
        return [root, *self._below(root.child_nurseries)]

    def _below(self, nurseries: list[trio.Nursery]) -> list[trio.lowlevel.Task]:
        return [
            task
            for nursery in nurseries
            for child in nursery.child_tasks
            for task in (child, *self._below(child.child_nurseries))
        ]

    def begun(self) -> list[str]:
        """The names of the tasks that have begun since."""
        return [task.name for task in self._all() if task not in self._before]

    def strays(self) -> list[str]:
        """Those of them that are not below a nursery opened since by the owner."""
        opened = [one for one in self._owner.child_nurseries if one not in self._nurseries]
        owned = set(self._below(opened))
        return [task.name for task in self._all() if task not in self._before and task not in owned]


class AsyncioTree:
    """The same on asyncio, whose tasks know no nursery: AnyIO keeps the parent of each."""

    def __init__(self) -> None:
        self._owner = anyio.get_current_task().id
        self._before = asyncio.all_tasks()

    def _new(self) -> list[asyncio.Task[object]]:
        return [task for task in asyncio.all_tasks() if task not in self._before]

    def begun(self) -> list[str]:
        return [task.get_name() for task in self._new()]

    def strays(self) -> list[str]:
        parents = {info.id: info.parent_id for info in anyio.get_running_tasks()}
        for task in self._new():
            # What a worker thread asked for has no parent, but the scope of who started the thread.
            state = _task_states.get(task)
            if state is not None and state.parent_id is None and state.cancel_scope is not None:
                parents[id(task)] = id(state.cancel_scope._host_task)
        found: list[str] = []
        for task in self._new():
            if _is_about_to_begin(task):
                continue
            ancestor: int | None = id(task)
            while ancestor is not None and ancestor != self._owner:
                ancestor = parents.get(ancestor)
            if ancestor is None:  # nobody's: made by asyncio.create_task or by a dead parent
                found.append(task.get_name())
        return found


def _is_about_to_begin(task: asyncio.Task[object]) -> bool:
    """Whether a worker thread has just asked for it: AnyIO knows it from its first step on."""
    name = str(getattr(task.get_coro(), "__qualname__", ""))
    return task not in _task_states and "run_async_from_thread" in name


Tree = TrioTree | AsyncioTree


def tree(backend: str) -> Tree:
    """Remember what there is now."""
    return TrioTree() if backend == "trio" else AsyncioTree()


def busy_threads() -> list[str]:
    """The other threads that are inside of a handler or of the package."""
    ours = (__file__, f"{os.sep}pgq_trio{os.sep}")
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    busy: list[str] = []
    for ident, top in sys._current_frames().items():
        frame: types.FrameType | None = top
        while frame is not None and ident != threading.get_ident():
            if any(part in frame.f_code.co_filename for part in ours):
                busy.append(names.get(ident, str(ident)))
                break
            frame = frame.f_back
    return busy


def open_sockets() -> set[str]:
    """The sockets of this process."""
    found: set[str] = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:  # the one that lists the directory
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def connections(dsn: str) -> int:
    """How many sessions there are in the database, this one left out."""
    with psycopg.connect(dsn, autocommit=True, application_name="the one that looks") as one:
        row = one.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        ).fetchone()
    assert row is not None
    return int(row[0])


class World:
    """What there was before anything was opened."""

    def __init__(self, backend: str, place: Place) -> None:
        self._tree = tree(backend)
        self._target = place.target
        self._sockets = open_sockets()

    def check_while_running(self, *, at_least: int) -> None:
        """All tasks are owned, and there really are some to look at."""
        assert self._tree.strays() == []
        assert len(self._tree.begun()) >= at_least, self._tree.begun()
        if isinstance(self._target, str):
            assert open_sockets() - self._sockets
            assert connections(self._target) > 0

    async def check_nothing_is_left(self) -> None:
        """No task, no thread, no connection, no socket."""
        assert self._tree.begun() == []
        assert busy_threads() == []
        assert open_sockets() - self._sockets == set()
        assert anyio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
        target = self._target
        if isinstance(target, str):

            async def gone() -> bool:
                await anyio.lowlevel.checkpoint()
                return connections(target) == 0

            await until(gone)  # the server needs a moment to end a session that was closed


def register(
    queue: PgQueuer | QueueManager | None, scheduler: PgQueuer | SchedulerManager | None
) -> tuple[Notes[str], anyio.Event]:
    """Register handlers of each kind that hold on; who runs, and what lets them go."""
    running: Notes[str] = Notes()
    release = anyio.Event()

    async def hold(who: str, server: Server) -> None:
        assert await server.ask(1) == 2
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(release.wait, name="a task of a job")
            running.add(who)

    def hold_thread(who: str, server: Server) -> None:
        assert anyio.from_thread.run(server.ask, 1) == 2
        anyio.from_thread.run_sync(running.add, who)
        anyio.from_thread.run(release.wait)

    if queue is not None:

        @queue.entrypoint("async")
        async def async_job(job: Job, ctx: Context) -> None:
            await hold("async", server_in(ctx))

        @queue.entrypoint("sync")
        def sync_job(job: Job, ctx: Context) -> None:
            hold_thread("sync", server_in(ctx))

    if scheduler is not None:

        @scheduler.schedule("tick", RARE)
        async def tick(schedule: Schedule, ctx: ScheduleContext) -> None:
            await hold("tick", server_in(ctx))

        @scheduler.schedule("sync tick", RARE)
        def sync_tick(schedule: Schedule, ctx: ScheduleContext) -> None:
            hold_thread("sync tick", server_in(ctx))

    return running, release


ENDS = ["released", "cancelled", "failed"]


class BodyError(Exception):
    pass


@pytest.mark.parametrize("end", ENDS)
async def test_everything_descends_from_the_nursery_of_open(
    anyio_backend_name: str, place: Place, end: str
) -> None:
    world = World(anyio_backend_name, place)
    try:
        with anyio.CancelScope() as scope:
            async with place.open(resources=with_server) as pgq:
                running, release = register(pgq, pgq)
                await pgq.queries.enqueue(["async", "sync"] * 2)
                await make_due(pgq, "tick", "sync tick")
                await pgq.start()
                await running.until(6)
                assert sorted(running.entries) == sorted(
                    ["async", "async", "sync", "sync", "sync tick", "tick"]
                )
                # The resource's own, six jobs and fires, three tasks of theirs, and services.
                world.check_while_running(at_least=10)
                if end == "failed":
                    release.set()
                    raise BodyError
                release.set()
                if end == "cancelled":
                    scope.cancel()
                    await anyio.sleep_forever()
    except BodyError:
        pass
    await world.check_nothing_is_left()


async def test_everything_descends_from_the_nursery_of_open_while_run_is_elsewhere(
    anyio_backend_name: str, place: Place
) -> None:
    """`tg.start(pgq.run)` in the caller's own nursery: jobs are still below `open`."""
    world = World(anyio_backend_name, place)
    async with place.open(resources=with_server) as pgq:
        running, release = register(pgq, None)
        await pgq.queries.enqueue(["async", "sync"])
        async with anyio.create_task_group() as tasks:
            await tasks.start(pgq.run)
            await running.until(2)
            world.check_while_running(at_least=5)
            release.set()
            pgq.request_shutdown()
    await world.check_nothing_is_left()


async def run_alone(
    world: World, manager: QueueManager | SchedulerManager | PgQueuer, count: int
) -> None:
    """Run a manager without `open` until its handlers run, look, and let it end."""
    queue = None if isinstance(manager, SchedulerManager) else manager
    scheduler = None if isinstance(manager, QueueManager) else manager
    running, release = register(queue, scheduler)
    if queue is not None:
        await queue.queries.enqueue(["async", "sync"])
    if scheduler is not None:
        await make_due(scheduler, "tick", "sync tick")
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(SOON):
            await tasks.start(manager.run)
        await running.until(count)
        world.check_while_running(at_least=count + 1)
        release.set()
        manager.request_shutdown()


@pytest.mark.parametrize("kind", [QueueManager, SchedulerManager, PgQueuer])
async def test_everything_descends_from_a_stand_alone_run(
    anyio_backend_name: str,
    place: Place,
    kind: Callable[..., QueueManager | SchedulerManager | PgQueuer],
) -> None:
    world = World(anyio_backend_name, place)
    count = 4 if kind is PgQueuer else 2
    async with with_server() as resources:
        if isinstance(place.target, str):
            async with open_pool(place.target, autocommit=True) as pool:
                await run_alone(world, kind(PsycopgDriver(pool), resources=resources), count)
        else:
            await run_alone(world, kind(InMemoryDriver(), resources=resources), count)
    await world.check_nothing_is_left()


async def test_a_stray_task_would_be_found(anyio_backend_name: str) -> None:
    """The tests above can fail."""
    before = tree(anyio_backend_name)
    stop = anyio.Event()
    if anyio_backend_name == "trio":
        trio.lowlevel.spawn_system_task(stop.wait, name="stray")
    else:
        stray = asyncio.create_task(asyncio.sleep(SOON), name="stray")
    await anyio.lowlevel.checkpoint()
    assert before.strays() == before.begun() == ["stray"]
    stop.set()
    if anyio_backend_name == "asyncio":
        stray.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stray
    await anyio.wait_all_tasks_blocked()
    assert before.begun() == []


async def test_a_busy_thread_would_be_found() -> None:
    inside, release = threading.Event(), threading.Event()

    def work() -> None:
        inside.set()
        release.wait(SOON)

    thread = threading.Thread(target=work, name="busy")
    thread.start()
    try:
        assert inside.wait(SOON)
        assert busy_threads() == ["busy"]
    finally:
        release.set()
        thread.join()
    assert busy_threads() == []
