"""What is known about the log: whatever transactions do, no row is passed over for good."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from pgq_trio.store.log_marks import ExpiryMark, FoldMark, Seen


@dataclass(slots=True)
class Table:
    """A log and transactions that write to it; ids are drawn by transactions that have begun."""

    draw: random.Random
    rows: dict[int, int] = field(default_factory=dict)  # the transaction of each id
    open: set[int] = field(default_factory=set)
    counted: set[int] = field(default_factory=set)
    late: list[Callable[[], None]] = field(default_factory=list)
    mark: FoldMark = field(default_factory=FoldMark)
    next_xid: int = 100
    next_id: int = 1

    def begin(self) -> None:
        self.open.add(self.next_xid)
        self.next_xid += 1

    def write(self) -> None:
        if self.open:
            self.rows[self.next_id] = self.draw.choice(sorted(self.open))
            self.next_id += 1

    def commit(self) -> None:
        if self.open:
            self.open.remove(self.draw.choice(sorted(self.open)))

    def seen(self) -> tuple[Seen, list[int]]:
        """What a snapshot shows."""
        visible = [row for row, xid in self.rows.items() if xid not in self.open]
        xmin = min(self.open, default=self.next_xid)
        return Seen(max(visible, default=0), xmin, self.next_xid), visible

    def fold(self, limit: int, *, is_slow: bool = False) -> bool:
        """Count some rows, return whether there may be more."""
        begin, is_whole = self.mark.place, self.mark.is_at_start
        seen, visible = self.seen()
        chosen = sorted(r for r in visible if r > begin and r not in self.counted)[:limit]
        self.counted.update(chosen)
        is_complete = len(chosen) < limit

        def note() -> None:
            last = max(chosen, default=None)
            if not self.mark.note(seen, begin=begin, last=last, is_complete=is_complete):
                self.mark = FoldMark()

        if is_slow:
            self.late.append(note)
        else:
            note()
        return not (is_complete and is_whole)

    def take_late_note(self) -> None:
        """Have a caller take note of a fold whose reply was long on its way."""
        if self.late:
            self.late.pop(self.draw.randrange(len(self.late)))()


@pytest.mark.parametrize("slow", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(200))
def test_every_row_is_counted_in_whatever_order_transactions_end(seed: int, slow: float) -> None:
    draw = random.Random(seed)
    table = Table(draw)
    actions = [table.begin, table.write, table.write, table.commit, table.take_late_note]
    for _ in range(400):
        if draw.random() < 0.25:
            table.fold(draw.choice([1, 2, 5]), is_slow=draw.random() < slow)
        else:
            draw.choice(actions)()
    while table.open:
        table.commit()
    while table.late:
        table.take_late_note()
    while table.fold(3):
        pass
    assert table.counted == set(table.rows)
    # With no transaction left it is settled by the look after the next one.
    for _ in range(2):
        assert not table.fold(3)
    assert table.mark.place == table.mark.settled == max(table.rows)


def test_an_old_transaction_keeps_it_from_being_settled_and_costs_little_memory() -> None:
    table = Table(random.Random(1))
    table.begin()
    table.write()
    (old,) = table.open
    for _ in range(1000):
        table.begin()
        table.rows[table.next_id] = table.next_xid - 1
        table.next_id += 1
        table.open = {old}
        while table.fold(5):
            pass
    assert table.mark.settled == 0
    assert len(table.mark._looks) <= 64
    table.open.clear()
    for _ in range(2):
        table.fold(5)
    assert table.mark.settled == 1001
    assert table.counted == set(table.rows)


@pytest.mark.parametrize("back", [Seen(3, 20, 20), Seen(9, 5, 5)])
def test_a_log_whose_ids_or_transactions_go_back_voids_the_mark(back: Seen) -> None:
    mark = FoldMark()
    assert mark.note(Seen(9, 20, 20), begin=0, last=9, is_complete=True)
    assert not mark.note(back, begin=0, last=None, is_complete=True)


class TestExpiryMark:
    def test_it_goes_on_where_the_last_batch_ended(self) -> None:
        mark = ExpiryMark()
        mark.note(last=10, first_young=None, is_end=False)
        assert (mark.place, mark.settled) == (10, 10)
        mark.note(last=20, first_young=16, is_end=True)
        assert (mark.place, mark.settled) == (15, 15)
        mark.note(last=None, first_young=None, is_end=True)
        assert (mark.place, mark.settled) == (15, 15)

    def test_a_young_row_among_old_ones_does_not_end_the_walk(self) -> None:
        mark = ExpiryMark()
        mark.note(last=10, first_young=5, is_end=False)
        assert (mark.place, mark.settled) == (10, 4)
        mark.note(last=20, first_young=None, is_end=False)
        assert (mark.place, mark.settled) == (20, 4)
        mark.note(last=30, first_young=21, is_end=True)
        assert (mark.place, mark.settled) == (4, 4)
        mark.note(last=30, first_young=21, is_end=True)
        assert (mark.place, mark.settled) == (20, 20)

    def test_a_log_whose_ids_began_anew_voids_it(self) -> None:
        mark = ExpiryMark()
        mark.note(last=10, first_young=None, is_end=True)
        assert not mark.is_void(10)
        assert mark.is_void(9)
