"""`demo` from end to end: equal totals, interruptions of all kinds, and starting over."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import psycopg
import pytest

from pgq_trio.cli.demo import conductor, files, totals
from tests.cli.command import Command, Invoke, Result

FILES = 600


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with as many files, of different sizes, and things that are no files."""
    root = tmp_path_factory.mktemp("tree")
    for number in range(FILES):
        directory = root / f"d{number % 7}" / f"e{number % 3}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{number}.txt").write_text("line\n" * number)
    (root / "link").symlink_to(root / "d0" / "e0" / "0.txt")
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "left out").touch()
    return root


LINES = sum(range(FILES))


def row(result: Result, name: str) -> list[str]:
    """The cells of a row of the tables."""
    (line,) = (line for line in result.out.splitlines() if line.startswith(f" {name} "))
    return re.split(r"\s{2,}", line.strip())


def check_equal(result: Result) -> None:
    """All files were counted, once each, and everything was closed in order."""
    # On a machine that is slow a fire of each second may take longer than that, which is told.
    told = [line for line in result.err.splitlines() if " still ran at " not in line]
    assert (result.code, told) == (0, []), result
    assert row(result, "files") == ["files", *[f"{FILES:,}"] * 2, "equal"]
    assert row(result, "lines") == ["lines", *[f"{LINES:,}"] * 2, "equal"]
    assert row(result, "bytes") == ["bytes", *[f"{5 * LINES:,}"] * 2, "equal"]
    assert row(result, "sha256 of all")[-1] == "equal"
    assert "NOT EQUAL" not in result.out
    assert closing(result) == [
        "resource `totals` closed, nothing is left to do",
        "resource `database` closed",
        "resources closed",
    ]


def closing(result: Result) -> list[str]:
    """The last three lines."""
    return result.out.splitlines()[-3:]


def tables(dsn: str) -> set[str]:
    """The tables in the database."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {name for (name,) in rows}


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_interrupted_and_finished(command: Command, tree: Path, backend: str) -> None:
    args = ("demo", str(tree), "--backend", backend)
    first = command.start(*args)
    first.until("20 %", "21 %", "22 %", "23 %", "24 %")
    first.signal(signal.SIGINT, group=True)
    result = first.end()
    assert (result.code, result.err) == (0, ""), result
    assert re.search(r"\ndraining: [\d,]+ running jobs may end", result.out)
    left = re.search(
        r"^stopped: ([\d,]+) jobs left; run the command again", result.out, re.MULTILINE
    )
    assert left is not None
    assert 0 < int(left[1].replace(",", "")) < 2 * FILES
    assert closing(result)[1:] == ["resource `database` closed", "resources closed"]
    kept = re.fullmatch(r"resource `totals` closed, ([\d,]+) files kept", closing(result)[0])
    assert kept is not None
    assert Path(".pgq-trio", "demo", "PG_VERSION").exists()
    assert not Path(".pgq-trio", "demo", "postmaster.pid").exists()

    result = command.run(*args)
    assert f"resource `totals` opened with {kept[1]} files" in result.out
    assert f"going on where the last run was stopped: {left[1]} jobs left" in result.out
    assert "schedule `progress`: " in result.out
    check_equal(result)
    assert "\x1b" not in result.out


def test_killed_and_finished(command: Command, tree: Path) -> None:
    first = command.start("demo", str(tree))
    first.until("20 %", "21 %", "22 %", "23 %", "24 %")
    first.signal(signal.SIGKILL)
    assert "resources closed" not in first.end().out
    result = command.run("demo", str(tree))
    assert "going on where the last run was stopped" in result.out
    check_equal(result)


def test_the_second_signal_cancels_and_fresh_forgets(
    command: Command, invoke: Invoke, tree: Path
) -> None:
    args = ("demo", str(tree), "--fail-rate", "1")
    first = command.start(*args)
    first.until("schedule `progress`")
    first.signal(signal.SIGINT)
    first.signal(signal.SIGTERM)
    result = first.end()
    assert result.code == 0, result
    assert "jobs left; run the command again" in result.out
    assert closing(result)[-1] == "resources closed"

    result = invoke("demo", str(tree), "--jobs", "5", "--fresh")
    assert (result.code, result.err) == (0, "")
    assert "going on" not in result.out
    assert row(result, "files") == ["files", "5", "5", "equal"]


def test_a_server_and_failures(invoke: Invoke, dsn: str, tree: Path) -> None:
    result = invoke("demo", str(tree), "--dsn", dsn, "--fail-rate", "0.3")
    check_equal(result)
    assert int(row(result, "retries")[1].replace(",", "")) > FILES / 10
    assert row(result, "jobs")[1:] == [
        f"{2 * FILES:,}",
        f"{FILES} files hashed, {FILES} results added",
    ]
    for name in ("enqueue→start, all files at once", "enqueue→start, idle worker"):
        median, p99 = (
            float(row(result, f"{name}, p{n}")[1].split()[0].replace(",", "")) for n in (50, 99)
        )
        assert 0 < median <= p99
    assert all(name.startswith("demo_") for name in tables(dsn))
    assert not Path(".pgq-trio").exists()


def test_the_standard_library_is_the_default(
    invoke: Invoke, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGQUEUER_DSN", dsn)
    monkeypatch.setenv("PGQUEUER_QUEUE_TABLE", "real_queue")  # must not be touched
    monkeypatch.setenv("PGQUEUER_PREFIX", "mine_")
    result = invoke("demo", "--jobs", "200", "--backend", "asyncio")
    assert result.code == 0, result
    assert row(result, "files") == ["files", "200", "200", "equal"]
    assert "real_queue" not in tables(dsn)
    assert "mine_demo_pgqueuer" in tables(dsn)


def test_fresh_starts_over_on_a_server(invoke: Invoke, dsn: str, tree: Path) -> None:
    args = ("demo", str(tree), "--dsn", dsn, "--jobs", "20")
    assert invoke(*args).code == 0
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "INSERT INTO demo_pgqueuer (priority, status, entrypoint) VALUES (0, 'queued', 'x')"
        )
        connection.execute("INSERT INTO demo_results VALUES ('k', 1, 1, '', 1, true)")
    result = invoke(*args, "--fresh")
    assert (result.code, result.err) == (0, "")
    assert row(result, "files") == ["files", "20", "20", "equal"]
    assert "going on" not in result.out


def test_wrong_totals_are_a_failure(
    invoke: Invoke, dsn: str, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def miscount(root: str, limit: int | None) -> files.Sums:
        sums = files.independent_count(root, limit)
        sums.lines += 1
        return sums

    monkeypatch.setattr(conductor, "independent_count", miscount)
    result = invoke("demo", str(tree), "--dsn", dsn, "--jobs", "10")
    assert result.code == 1
    assert row(result, "lines")[-1] == "NOT EQUAL"
    assert result.error == "Error: the shared totals differ from the independent count"
    assert closing(result)[0] == "resource `totals` closed, 10 files kept"
    assert closing(result)[-1] == "resources closed"


def test_one_demo_at_a_time(
    invoke: Invoke, dsn: str, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totals, "PATIENCE", 0.01)
    with psycopg.connect(dsn) as other:
        other.execute("SELECT pg_advisory_lock(hashtext('pgq-trio demo \"demo_pgqueuer\"'))")
        result = invoke("demo", str(tree), "--dsn", dsn)
    assert result.code == 1
    assert "another demo is running" in result.error


@pytest.mark.parametrize(
    "args",
    [("--jobs", "0"), ("--fail-rate", "1.5"), ("--backend", "curio"), ("missing",)],
)
def test_wrong_calls(invoke: Invoke, args: tuple[str, ...]) -> None:
    result = invoke("demo", *args)
    assert (result.code, result.out) == (2, "")
    assert result.error
