"""Running the command, in this process or as one of its own, and reading what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, TypeAlias

from click.testing import CliRunner

from pgq_trio.cli import main

#: Seconds after which a process that should have ended is killed, which fails its test.
LIMIT = 40.0


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """Its only line on standard error, which is no traceback."""
        (line,) = self.err.splitlines()
        assert line.startswith("Error: "), self.err
        return line


Invoke: TypeAlias = Callable[..., Result]


def invoke_in_process(*args: str, stdin: str | bytes | None = None) -> Result:
    """Run the command in this process."""
    result = CliRunner().invoke(main, args, input=stdin, prog_name="pgq-trio")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Result(result.exit_code, result.stdout, result.stderr)


class Running:
    """A command that runs in a process, and in a process group as in a terminal."""

    def __init__(self, *args: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "pgq_trio", *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._watchdog = threading.Timer(LIMIT, self._process.kill)
        self._watchdog.start()
        self._out: list[str] = []
        self._err: list[str] = []

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def until(self, *texts: str) -> str:
        """Read lines of its output until one holds one of the texts; return that one."""
        return self._read(self._process.stdout, self._out, texts)

    def until_error(self, text: str) -> str:
        """Read lines of its standard error until one holds the text; return that one."""
        return self._read(self._process.stderr, self._err, (text,))

    def _read(self, stream: IO[str] | None, lines: list[str], texts: tuple[str, ...]) -> str:
        assert stream is not None
        for line in stream:
            lines.append(line)
            if any(text in line for text in texts):
                return line
        raise AssertionError(f"none of {texts} in {self.end()}")

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal, to the whole group if it is to be a terminal's Ctrl-C."""
        if group:
            os.killpg(self._process.pid, number)
        else:
            self._process.send_signal(number)

    def say(self, text: str) -> None:
        """Write to its standard input, which stays open."""
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def end_input(self) -> None:
        """Close its standard input, which handlers of the tests wait for."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def end(self) -> Result:
        """Wait for its end, its standard input still open."""
        self._read_all(self._process.stdout, self._out)
        self._read_all(self._process.stderr, self._err)
        code = self._process.wait()
        self.end_input()
        self._watchdog.cancel()
        return Result(code, "".join(self._out), "".join(self._err))

    @staticmethod
    def _read_all(stream: IO[str] | None, lines: list[str]) -> None:
        if stream is not None and not stream.closed:
            lines.extend(stream)
            stream.close()

    def close(self) -> None:
        """Kill it if it still runs."""
        self._process.kill()
        self.end()


class Command:
    """Starts processes of the command."""

    def __init__(self) -> None:
        self._started: list[Running] = []

    def start(self, *args: str) -> Running:
        """Start one."""
        running = Running(*args)
        self._started.append(running)
        return running

    def run(self, *args: str) -> Result:
        """Run one to its end."""
        return self.start(*args).end()

    def close(self) -> None:
        """Kill what still runs."""
        for running in self._started:
            running.close()
