"""The parts of the demo that need no server: files, totals, figures, its directory."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pgq_trio.cli.demo.data import MARKS, remove
from pgq_trio.cli.demo.files import (
    CHUNK,
    FileResult,
    Sums,
    examine,
    find_files,
    independent_count,
    key_of,
)
from pgq_trio.cli.demo.report import percentile
from pgq_trio.cli.demo.totals import Totals
from pgq_trio.cli.program import Failure


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files of odd names and sizes, and what is no file."""
    root = tmp_path / "root"
    contents = {
        "b/z": b"",
        "b/a/x": b"\n" * (CHUNK + 1),
        "a.txt": b"no end of line",
        "c": b"1\n2\r\n",
        "ü \t": b"\x00\n",
    }
    for name, data in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\n")).write_bytes(b"odd\n")
    for skipped in ("site-packages", "__pycache__", ".pgq-trio"):
        (root / "b" / skipped).mkdir()
        (root / "b" / skipped / "f").touch()
    (root / "link").symlink_to("c")
    (root / "loop").symlink_to(".")
    (root / "gone").symlink_to("nowhere")
    os.mkfifo(root / "pipe")
    return root


@pytest.mark.parametrize("limit", [None, 0, 1, 3, 100])
def test_both_ways_to_count_agree(tree: Path, limit: int | None) -> None:
    sums = Sums()
    for entry in find_files(str(tree), limit):
        sums.add(examine(entry.path, lambda: None))
    assert sums == independent_count(str(tree), limit)
    assert sums.files == min(6 if limit is None else limit, 6)


def test_the_figures_of_a_file(tree: Path) -> None:
    pieces: list[None] = []
    data = (tree / "b" / "a" / "x").read_bytes()
    result = examine(str(tree / "b" / "a" / "x"), lambda: pieces.append(None))
    assert (result.size, result.lines) == (CHUNK + 1, CHUNK + 1)
    assert result.sha256 == hashlib.sha256(data).digest()
    assert len(pieces) == 2


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    result = examine(str(tmp_path / "missing"), lambda: None)
    assert not result.readable
    sums = Sums()
    sums.add(result)
    assert sums == Sums(files=1, unreadable=1)


def test_a_result_survives_its_payload() -> None:
    result = FileResult(5, 2, bytes(range(32)), 10**18, readable=True)
    assert FileResult.from_payload(result.to_payload("k")) == ("k", result)


def test_keys_are_short_and_differ() -> None:
    keys = {key_of("/a"), key_of("/b"), key_of("/\udcff")}
    assert len(keys) == 3
    assert {len(key) for key in keys} == {32}


def test_adding_a_file_twice_changes_nothing() -> None:
    one = FileResult(5, 2, b"\x01" * 32, 1)
    newer = FileResult(7, 3, b"\x02" * 32, 2)
    totals = Totals({"a": one})
    totals.missing = {"a", "b"}
    totals.add("a", one)
    assert totals.sums == Sums(files=1, lines=2, bytes=5, digest=int.from_bytes(one.sha256))
    assert totals.missing == {"b"}
    totals.add("a", newer)
    totals.add("b", one)
    assert (totals.sums.files, totals.sums.lines, totals.sums.bytes) == (2, 5, 12)
    assert totals.sums_over(["a", "b", "c"]) == totals.sums
    assert totals.sums_over(["b"]).bytes == 5
    assert totals.knows("a", size=7, mtime_ns=2)
    assert not totals.knows("a", size=7, mtime_ns=3)
    assert not totals.knows("c", size=7, mtime_ns=2)


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)]
)
def test_percentiles(share: float, value: float) -> None:
    assert percentile([float(x) for x in range(100, 0, -1)], share) == value
    assert percentile([7.0], share) == 7.0


def test_starting_over_deletes_a_data_directory(tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    remove(demo)
    demo.mkdir()
    for name in MARKS:
        (demo / name).touch()
    (tmp_path / "sibling").touch()
    (demo / "postmaster.pid").write_text("999999999\n")  # left by a crash of the machine
    remove(demo)
    assert [path.name for path in tmp_path.iterdir()] == ["sibling"]


def test_starting_over_deletes_nothing_else(tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    demo.mkdir()
    (demo / "thesis.tex").touch()
    with pytest.raises(Failure, match="does not look like the data of a demo"):
        remove(demo)
    link = tmp_path / "link"
    link.symlink_to(demo)
    with pytest.raises(Failure, match="is no directory"):
        remove(link)
    with pytest.raises(Failure, match="is no directory"):
        remove(demo / "thesis.tex")
    assert (demo / "thesis.tex").exists()


def test_starting_over_leaves_a_running_server_alone(tmp_path: Path) -> None:
    for name in MARKS:
        (tmp_path / name).touch()
    (tmp_path / "postmaster.pid").write_text(f"{os.getpid()}\n")
    with pytest.raises(Failure, match="a server is running"):
        remove(tmp_path)
    assert (tmp_path / "PG_VERSION").exists()
