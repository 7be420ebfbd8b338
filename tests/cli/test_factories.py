"""`run module:factory`: every kind of factory, and what is said of those that are none."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import app_for_tests
from tests.cli.command import Invoke


@pytest.fixture(autouse=True)
def app(tmp_path: Path) -> Iterator[None]:
    """The module `app` in the current directory."""
    shutil.copy(app_for_tests.__file__, tmp_path / "app.py")
    (tmp_path / "broken.py").write_text("import json\nraise ValueError('broken on purpose')\n")
    (tmp_path / "needy.py").write_text("import no_such_dependency\n")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "inner.py").write_text("class Namespace:\n    from app import function as make\n")
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize(
    "factory",
    [
        *("app:function", "app:async_function", "app:queue_manager", "app:entered"),
        "package.inner:Namespace.make",
    ],
)
def test_every_kind_of_factory(invoke: Invoke, factory: str, backend: str) -> None:
    args = ("--mode", "drain", "--backend", backend, "--log-level", "warning")
    result = invoke("run", factory, *args)
    if factory == "app:entered":  # runs, and finds that nothing is registered with it
        assert result.code == 1
        assert "nothing to run" in result.error
    else:
        assert (result.code, result.out, result.err) == (0, "", "")


@pytest.mark.parametrize("factory", ["app:manager", "app:returns_manager"])
@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_context_manager_gets_the_place(
    invoke: Invoke, installed_dsn: str, factory: str, backend: str
) -> None:
    place = ("--dsn", installed_dsn, "--prefix", "r_")
    assert invoke("install", *place).code == 0
    assert invoke("enqueue", "say", "--payload", "hello", *place).code == 0
    args = ("--backend", backend, "--mode", "drain", "--log-level", "error")
    result = invoke(*place, "run", factory, *args)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == ["opened with prefix 'r_'", "said hello", "closing"]


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("nowhere:x", "there is no module 'nowhere'"),
        ("package.nowhere:x", "there is no module 'package.nowhere'"),
        ("needy:x", "importing needy failed: ModuleNotFoundError: No module named 'no_such_dep"),
        ("broken:x", "importing broken failed: ValueError: broken on purpose"),
        (
            "app:nothing",
            "the module 'app' has no 'nothing'; it has tell, register, manager, function",
        ),
        ("app:number", "app:number is not callable: it is an int"),
        ("app:instance", "app:instance is a PgQueuer, not a factory"),
        ("app:needs", "needs(dsn: 'str') -> 'PgQueuer': missing a required argument: 'dsn'"),
        ("app:returns_none", "app:returns_none returned None, not a PgQueuer"),
        ("app:returns_number", "app:returns_number returned an int, not a PgQueuer"),
        ("app:yields_none", "app:yields_none yielded None, not a PgQueuer"),
        ("app:undecorated", "decorate it with contextlib.asynccontextmanager"),
        ("app:sync_manager", "app:sync_manager returned a _GeneratorContextManager"),
        ("app:raises", "RuntimeError: no luck"),
        ("app:empty", "nothing to run: register a handler"),
    ],
)
def test_what_is_wrong_is_said(invoke: Invoke, factory: str, reason: str) -> None:
    result = invoke("run", factory, "--mode", "drain", "--log-level", "error")
    assert (result.code, result.out) == (1, "")
    assert reason in result.error


@pytest.mark.parametrize("name", ["app", "app:", ":function", ""])
def test_a_name_of_another_form_is_a_wrong_call(invoke: Invoke, name: str) -> None:
    result = invoke("run", name)
    assert result.code == 2
    assert "module:factory" in result.error


@pytest.mark.parametrize(
    "args",
    [
        ("--mode", "forever"),
        ("--batch-size", "0"),
        ("--max-concurrent-jobs", "x"),
        ("--dequeue-timeout", "0"),
        ("--heartbeat-timeout", "nan"),
        ("--grace-period", "-1"),
        ("--log-level", "loud"),
        ("--backend", "curio"),
    ],
)
def test_wrong_options(invoke: Invoke, args: tuple[str, ...]) -> None:
    result = invoke("run", "app:function", *args)
    assert (result.code, result.out) == (2, "")
    assert args[0].strip("-").replace("-", "_") in result.error.replace("-", "_")


def test_without_tables(invoke: Invoke, dsn: str) -> None:
    result = invoke("run", "app:manager", "--dsn", dsn, "--log-level", "error")
    assert result.code == 1
    assert "`pgq-trio install`" in result.error


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_arguments(invoke: Invoke, installed_dsn: str, backend: str) -> None:
    args = ("--mode", "drain", "--backend", backend, "--dsn", installed_dsn)
    result = invoke("run", *args, "app:with_arguments", "--", "--loud", "x")
    assert result.code == 0
    assert result.out.splitlines()[0] == "arguments ['--loud', 'x']"


def test_a_factory_without_a_parameter_takes_no_arguments(invoke: Invoke) -> None:
    result = invoke("run", "app:function", "--", "x")
    assert result.code == 1
    assert "called with one list, the arguments after --" in result.error
    result = invoke("run", "app:entered", "--", "x")
    assert "takes no arguments after --" in result.error
