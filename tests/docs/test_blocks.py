"""Every Python block of the documentation runs as written.

The convention, for who writes a page: each block fenced as `python` is run, those of one page in
order and in one namespace, as if they were one module. A page runs what it defines: either in the
block itself or in a later one, with `anyio.run(main)` or `trio.run(main)`. A function that nothing
on its page calls fails the test, since nobody would notice when it breaks. Warnings are errors.
Async functions whose names begin with `test_` are run by pytest, with the fixtures of our plugin.
What is not to be run is fenced as something else, such as `text` or `pycon`.

What is fenced as `output` has to be printed by the page, in this order; `...` in it stands for
anything, as in doctest.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.run_page import BLOCK

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

OUTPUT = re.compile(r"^```output *\n(?P<text>.*?)^``` *$", re.MULTILINE | re.DOTALL)

#: Seconds that the blocks of one page may take.
BOUND = 240


def has_blocks(page: Path) -> bool:
    """Whether there is anything to run on a page."""
    return BLOCK.search(page.read_text(encoding="utf-8")) is not None


def uncalled(page: Path, cwd: Path) -> list[str]:
    """Run a page in a process of its own; the functions on it that nothing called."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.docs.run_page", str(page)],
        cwd=cwd,
        # With CI set, Hypothesis draws the same examples each time: pages show what it finds.
        env={**os.environ, "PYTHONPATH": str(ROOT), "CI": "true"},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"{page} does not run:\n{done.stdout}\n{done.stderr}", pytrace=False)
    if (claimed := unprinted(page, done.stdout)) is not None:
        pytest.fail(f"{page} does not print:\n{claimed}\nbut:\n{done.stdout}", pytrace=False)
    last = done.stdout.splitlines()[-1]
    return last.removeprefix("not called:").split()


def unprinted(page: Path, printed: str) -> str | None:
    """The first of a page's outputs that it did not print after the ones before it."""
    end = 0
    for block in OUTPUT.finditer(page.read_text(encoding="utf-8")):
        wanted = "(?:.|\n)*?".join(map(re.escape, block["text"].split("...")))
        # pytest's dots stand in front of what a test prints first.
        found = re.compile(f"^[.]*{wanted}", re.MULTILINE).search(printed, end)
        if found is None:
            return block["text"]
        end = found.end()
    return None


@pytest.mark.parametrize(
    "page", [page for page in PAGES if has_blocks(page)], ids=lambda page: page.stem
)
def test_blocks_of_the_page(page: Path, tmp_path: Path) -> None:
    assert uncalled(page, tmp_path) == []


def test_the_pages_that_have_to_have_code_have_some() -> None:
    with_blocks = {page.relative_to(ROOT).as_posix() for page in PAGES if has_blocks(page)}
    assert {"README.md", "docs/how-to/resources.md"} <= with_blocks


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


# The test of pages can fail


def test_a_page_that_is_wrong_fails_where_it_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "wrong.md"
    page.write_text("# Wrong\n\n```python\na = 1\n```\n\ntext\n\n```python\nassert a == 2\n```\n")
    with pytest.raises(pytest.fail.Exception, match=r'wrong\.md", line 10, in <module>'):
        uncalled(page, tmp_path)


def test_a_warning_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "warns.md"
    page.write_text("```python\nimport warnings\n\nwarnings.warn('old')\n```\n")
    with pytest.raises(pytest.fail.Exception, match="UserWarning: old"):
        uncalled(page, tmp_path)


def test_blocks_share_a_namespace_and_nothing_else_is_run(tmp_path: Path) -> None:
    page = tmp_path / "right.md"
    page.write_text(
        "```python\nnumbers = []\n```\n\n```text\nraise SystemExit(3)\n```\n\n"
        "- in a list:\n  ```python\n  numbers.append(1)\n  ```\n\n"
        "```python\nassert numbers == [1]\n```\n"
    )
    assert uncalled(page, tmp_path) == []


def test_async_tests_of_a_page_are_run(tmp_path: Path) -> None:
    page = tmp_path / "tests.md"
    text = "```python\nasync def test_it(pgq, run_jobs):\n    assert {} == {}\n```\n"
    page.write_text(text.format("await pgq.queries.queue_size()", "[]"))
    assert uncalled(page, tmp_path) == []
    page.write_text(text.format("await pgq.queries.queue_size()", "[1]"))
    with pytest.raises(pytest.fail.Exception, match=r"tests\.md does not run:"):
        uncalled(page, tmp_path)


def test_a_function_that_nothing_calls_is_named(tmp_path: Path) -> None:
    page = tmp_path / "forgotten.md"
    page.write_text(
        "```python\nimport functools\nimport threading\n\n\ndef used() -> None: ...\n\n\n"
        "@functools.cache\ndef also_used() -> None: ...\n\n\nasync def main() -> None: ...\n\n\n"
        "used()\nthread = threading.Thread(target=also_used)\nthread.start()\nthread.join()\n```\n"
    )
    assert uncalled(page, tmp_path) == ["main"]


@pytest.mark.parametrize(
    ("output", "is_printed"),
    [
        ("one\ntwo\n", True),
        ("o...wo\n", True),
        ("one\n```\n\n```output\ntwo\n", True),
        ("two\n```\n\n```output\none\n", False),
        ("ne\n", False),
        ("o.e\n", False),
    ],
)
def test_what_a_page_says_it_prints_it_prints(
    tmp_path: Path, output: str, is_printed: bool
) -> None:
    page = tmp_path / "prints.md"
    code = "print('one')\nprint('two')\nprint('three')"
    page.write_text(f"```python\n{code}\n```\n\n```output\n{output.rstrip()}\n```\n")
    if is_printed:
        assert uncalled(page, tmp_path) == []
        return
    with pytest.raises(pytest.fail.Exception, match=r"prints\.md does not print:"):
        uncalled(page, tmp_path)
