"""Lines of a stream as they come, with a limit to the waiting; knows no job."""

from __future__ import annotations

import io
import select
import sys
from collections import deque
from io import RawIOBase
from typing import BinaryIO

#: Bytes that are asked for at a time.
_CHUNK = 1 << 18


class Lines:
    """Reads a stream line by line, from one thread.

    Args:
        stream: not buffered, or not a file at all; nobody knows what is in a buffer.
        longest: of a longer line its first part is returned, and reading on makes no sense.
    """

    def __init__(self, stream: BinaryIO | RawIOBase, longest: int) -> None:
        self._stream = stream
        self._longest = longest
        self._lines: deque[bytes] = deque()
        self._begun: list[bytes] = []
        self._begun_size = 0
        self._has_ended = False
        self._poll: select.poll | None = None
        try:
            descriptor = stream.fileno()
        except (OSError, io.UnsupportedOperation):
            return  # it is in memory, and never waits
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def next(self, timeout: float | None) -> bytes | None:
        """Return the next line with its end, nothing at the end of the stream.

        Args:
            timeout: in seconds. None is returned when no whole line came meanwhile.
        """
        while not self._lines:
            if self._has_ended or self._begun_size > self._longest:
                self._end_line(b"")
                break
            wait = None if timeout is None else timeout * 1000
            if self._poll is not None and not self._poll.poll(wait):
                return None
            self._read()
        return self._lines.popleft()

    def _read(self) -> None:
        chunk = self._stream.read(_CHUNK)
        if chunk is None:  # somebody else has read it
            return
        if not chunk:
            self._has_ended = True
            return
        *ended, rest = chunk.split(b"\n")
        for line in ended:
            self._end_line(line + b"\n")
        if rest:
            self._begun.append(rest)
            self._begun_size += len(rest)

    def _end_line(self, last: bytes) -> None:
        self._lines.append(b"".join([*self._begun, last]))
        self._begun.clear()
        self._begun_size = 0


def standard_input() -> BinaryIO | RawIOBase:
    """Return the bytes of standard input, without a buffer.

    Not Python's own reader, whose lock would be held at the end of the interpreter by a thread
    that still waits for a line.
    """
    try:
        return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
    except (AttributeError, OSError, io.UnsupportedOperation):
        return sys.stdin.buffer
