"""Which books wait for a snapshot, and until when one is asked for."""

from __future__ import annotations

from tests.worlds.helpers import make_book
from trio_ticks.channel.book_hold import BookHold


def test_a_snapshot_before_a_later_loss_does_not_end_the_asking() -> None:
    hold = BookHold()
    hold.lost([make_book("A", 1)], at_head=True)
    hold.lost([make_book("A", 9)], at_head=False)
    assert not hold.holds(make_book("A", 5, snapshot=True))
    assert set(hold.wanted) == {"A"}
    update, snapshot = make_book("A", 10), make_book("A", 11, snapshot=True)
    assert hold.let_in([update, snapshot]) == ([snapshot], [update])
    assert not hold.wanted
