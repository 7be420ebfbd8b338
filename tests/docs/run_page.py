"""Runs the Python blocks of one page: `python -m tests.docs.run_page PAGE`.

It prints the names of the functions that nothing called. Async functions whose names begin with
`test_` are run by pytest after the blocks, with the fixtures of the package's plugin.

Each page has a process of its own, so that it finds what a reader's program finds: the main
thread, no event loop, no threads.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import re
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

BLOCK = re.compile(
    r"^(?P<indent> *)```python *\n(?P<code>.*?)^(?P=indent)``` *$", re.MULTILINE | re.DOTALL
)


def module_of(page: Path) -> str:
    """The page as one module: its blocks where they stand, everything else as empty lines."""
    text = page.read_text(encoding="utf-8")
    code, end = "", 0
    for block in BLOCK.finditer(text):
        begin = block.start("code")
        code += "\n" * text.count("\n", end, begin)
        indent = block["indent"]
        code += "".join(
            line.removeprefix(indent) for line in block["code"].splitlines(keepends=True)
        )
        end = block.end("code")
    return code


def functions(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The first line, decorators included, and the name of each function on a page."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield min([node.lineno, *(one.lineno for one in node.decorator_list)]), node.name


class Calls:
    """Notes which functions of a page are entered, in any thread."""

    def __init__(self, filename: str) -> None:
        self._filename = filename
        self.lines: set[int] = set()

    def __call__(self, frame: types.FrameType, event: str, _arg: object) -> None:
        if event == "call" and frame.f_code.co_filename == self._filename:
            self.lines.add(frame.f_code.co_firstlineno)


#: How pytest finds the tests of a page, on both event loops.
TEST_FILE = """
import pytest

from {module} import {tests}


@pytest.fixture(params=["trio", "asyncio"])
def anyio_backend(request):
    return request.param
"""


def run_tests(module: types.ModuleType) -> None:
    """Run the async tests of a page, if there are any, with what they print shown."""
    tests = [
        name
        for name, value in vars(module).items()
        if name.startswith("test_") and inspect.iscoroutinefunction(value)
    ]
    if not tests:
        return
    file = Path(f"test_{module.__name__}.py")
    file.write_text(TEST_FILE.format(module=module.__name__, tests=", ".join(tests)))
    options = "-q -s --assert=plain -W error -o anyio_mode=auto -p no:cacheprovider"
    code = pytest.main([*options.split(), "-p", "pgq_trio.testing.plugin", str(file)])
    if code != pytest.ExitCode.OK:
        raise SystemExit(f"pytest ended with {code!r}")


def run_page(page: Path) -> list[str]:
    """Run the blocks of a page; return the names of functions that nothing called."""
    name = f"page_{page.stem.replace('-', '_')}"
    source = module_of(page)
    tree = ast.parse(source, str(page))
    module = types.ModuleType(name)
    # As for any module: dataclasses and string annotations look their names up there.
    sys.modules[name] = module
    linecache.cache[str(page)] = (len(source), None, source.splitlines(True), str(page))
    calls = Calls(str(page))
    threading.setprofile(calls)
    sys.setprofile(calls)
    try:
        exec(compile(tree, str(page), "exec"), module.__dict__)  # noqa: S102
        run_tests(module)
    finally:
        sys.setprofile(None)
    return [function for line, function in functions(tree) if line not in calls.lines]


if __name__ == "__main__":
    uncalled = run_page(Path(sys.argv[1]))
    print("not called:", *uncalled)
