"""Drawn programs of users, workers and time leave the queue as its model says; see machine.py."""

from __future__ import annotations

import functools
import logging

import anyio.lowlevel
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from pgq_trio import InMemoryDriver, PgQueuer, Schedule
from pgq_trio.testing import BACKENDS, Backend, LiveTask, UnreliableDriver, live
from tests.conftest import NEWEST_SERVER
from tests.property.machine import machine
from tests.property.machine_fires import RARELY
from tests.property.profiles import examples

on_each_backend = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Jobs fail by the hundred here: their log costs more than they do."""
    caplog.set_level(logging.CRITICAL, logger="pgq_trio")


def programs(count: int) -> settings:
    """Return settings for so many programs."""
    return settings(examples(count), stateful_step_count=40)


@on_each_backend
def test_machine_in_memory(backend: Backend) -> None:
    """All commands, with a drawn order of the tasks, on a clock that jumps."""
    run_state_machine_as_test(machine(backend), settings=programs(15))


@on_each_backend
def test_machine_of_keys(backend: Backend) -> None:
    """Jobs of which there is one at a time, some of them held."""
    run_state_machine_as_test(
        machine(backend, None, "enqueue_with_key", "requeue"), settings=programs(40)
    )


@on_each_backend
def test_machine_of_stops(backend: Backend) -> None:
    """Workers come and are asked to stop, while there is much to do."""
    run_state_machine_as_test(
        machine(backend, None, "enqueue", "start_worker", "stop_worker"), settings=programs(15)
    )


@on_each_backend
def test_machine_of_seats(backend: Backend) -> None:
    """Jobs with a limit are cancelled and deleted while they run, which frees their seats."""
    run_state_machine_as_test(
        machine(backend, None, "enqueue", "cancel_jobs", "clear"), settings=programs(40)
    )


@on_each_backend
def test_machine_of_silences(backend: Backend) -> None:
    """Workers lose their connections for a moment, again and again."""
    run_state_machine_as_test(
        machine(backend, None, "enqueue", "fall_silent", "wait"), settings=programs(15)
    )


@on_each_backend
def test_machine_of_schedules(backend: Backend) -> None:
    """A schedule is triggered, paused and resumed while those who fire it come and die."""
    commands = ("trigger", "pause", "resume", "wait", "kill_worker", "start_worker")
    run_state_machine_as_test(machine(backend, None, *commands), settings=programs(15))


@pytest.mark.parametrize("postgres_server", NEWEST_SERVER, indirect=True)
@on_each_backend
def test_machine_on_postgres(backend: Backend, installed_dsn: str) -> None:
    """All commands on PostgreSQL, on the real clock."""
    run_state_machine_as_test(machine(backend, installed_dsn), settings=programs(3))


@on_each_backend
def test_a_stop_while_the_scheduler_starts(backend: Backend) -> None:
    """What the machine found on PostgreSQL: the run ends, however early it is asked to."""
    for hundredths in range(60):
        with live(backend) as world:
            connection = UnreliableDriver(InMemoryDriver())
            connection.delay = 0.1
            pgq = PgQueuer(connection)
            pgq.schedule("tick", RARELY)(_nothing)
            task = world.start(pgq.run, name="worker", handle_signals=False)
            world.advance(hundredths / 100)
            world.call(pgq.request_shutdown, 0)
            world.until(functools.partial(_has_ended, task), within=30)


async def _nothing(_schedule: Schedule) -> None:
    await anyio.lowlevel.checkpoint()


def _has_ended(task: LiveTask) -> bool:
    return not task.is_running
