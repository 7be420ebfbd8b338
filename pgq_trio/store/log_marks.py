"""How far the log has been worked off, so that nobody looks at all of it again; pure, no I/O.

The log has no index on times or on rows that are not counted yet: each would cost every job. But
ids rise with time, so a place in the primary key says what is behind it. These marks are kept in
memory only. A process that starts anew walks the log once.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ExpiryMark", "FoldMark", "Seen"]

#: How many looks are remembered while an old transaction keeps them from being settled.
_MOST_LOOKS = 64


class Seen(NamedTuple):
    """What the snapshot of one statement shows: the highest id, and its transactions.

    Every transaction before `xmin` has ended; none from `xmax` on had begun.
    """

    top: int
    xmin: int
    xmax: int


class FoldMark:
    """Up to which id every row that will ever be there has been counted.

    A transaction that is open for long may commit rows with low ids at any time, so having counted
    all one sees up to an id does not settle it. What is not seen belongs to transactions before
    the `xmax` of that look, since a row's id is drawn by a transaction that has begun. Once they
    all have ended, a further look that finds nothing left has settled that id.

    Should ids begin anew and pass the mark unseen, within a minute, those rows are counted when
    they are deleted.
    """

    def __init__(self) -> None:
        self.settled: int = 0
        self._place = 0
        self._first: Seen | None = None
        self._last: Seen | None = None
        self._looks: list[Seen] = []

    @property
    def place(self) -> int:
        """Behind which id to go on."""
        return self._place

    @property
    def is_at_start(self) -> bool:
        """Whether the next statement begins a walk: if it sees nothing more, nothing is left.

        At the end of a longer walk something may have been committed behind its place.
        """
        return self._first is None

    def note(self, seen: Seen, *, begin: int, last: int | None, is_complete: bool) -> bool:
        """Take note of a statement that counted what it saw behind the id `begin`, up to `last`.

        `is_complete`: it saw nothing more to count. Returns False if ids or transactions went
        back, as in an emptied or a restored log: this mark is void then, a new one is needed.
        """
        if self._last is not None and (seen.top < self._last.top or seen.xmax < self._last.xmax):
            return False
        self._last = seen
        if begin > self._place:
            return True  # of a walk that another caller in this process has ended meanwhile
        if self._first is None:
            self._first = seen
        if not is_complete:
            self._place = max(self._place, last or 0)
            return True
        ended = self._first.xmin
        for look in self._looks:
            if look.xmax <= ended:
                self.settled = max(self.settled, look.top)
        self._looks = [look for look in self._looks if look.xmax > ended]
        if len(self._looks) >= _MOST_LOOKS:
            del self._looks[1::2]  # each that is left is still true
        self._looks.append(seen)
        self._place = self.settled
        self._first = None
        return True


class ExpiryMark:
    """Up to which id everything that is old enough has been deleted, for one age.

    A single young row among old ones (from a clock that was wrong) does not end a walk, it only
    keeps the mark where it is. An old row that is committed behind the mark, by a transaction that
    was open for as long as rows are kept, is found by the next process.
    """

    def __init__(self) -> None:
        self.settled: int = 0
        self._place = 0
        self._meets_young = False

    @property
    def place(self) -> int:
        """Behind which id to go on."""
        return self._place

    def note(self, *, last: int | None, first_young: int | None, is_end: bool) -> None:
        """Take note of a walk from `place` to the id `last`; `is_end`: nothing old is behind it."""
        if last is not None:
            self._place = max(self._place, last)
        if not self._meets_young:
            self.settled = self._place if first_young is None else first_young - 1
            self._meets_young = first_young is not None
        if is_end:
            self._place = self.settled
            self._meets_young = False

    def is_void(self, top: int) -> bool:
        """Whether the highest id is below the mark: the log was emptied and ids began anew."""
        return top < self.settled
