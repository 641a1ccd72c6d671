"""The ledger: both halves of the law, and that each of them can break."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ticks.errors import LedgerError, TickError
from trio_ticks.ledger import INTENTIONAL, REASONS, DropCounts, DropReason, Ledger

counts = st.integers(0, 1000)
drops = st.builds(DropCounts, counts, counts, counts, counts, counts, counts)


def make(delivered: int, queued: int, dropped: DropCounts) -> Ledger:
    """Return a ledger of a channel alone, whose law holds."""
    ledger = Ledger(lambda: queued)
    ledger.delivered = delivered
    ledger.in_channel = dropped
    ledger.produced = delivered + queued + dropped.total
    return ledger


def attach(
    ledger: Ledger, consumed: int, failed: int, dropped: DropCounts, *, amiss: int = 0
) -> Ledger:
    """Join a pool that has dealt with all that was delivered, except *amiss* ticks."""
    ledger.in_pool = dropped
    in_flight = ledger.delivered - consumed - failed - dropped.total + amiss
    ledger.attach_pool(
        consumed=lambda: consumed, failed=lambda: failed, in_flight=lambda: in_flight
    )
    return ledger


def test_a_new_ledger_is_in_order() -> None:
    ledger = Ledger()
    ledger.check()
    assert ledger.unaccounted == 0
    assert ledger.dropped_by_reason == dict.fromkeys(REASONS, 0)


@given(counts, counts, drops)
def test_the_channels_half_holds(delivered: int, queued: int, dropped: DropCounts) -> None:
    ledger = make(delivered, queued, dropped)
    ledger.check()
    assert ledger.unaccounted == 0
    assert ledger.queued == queued
    assert ledger.dropped == dropped.total == sum(ledger.dropped_by_reason.values())


@given(
    counts,
    counts,
    drops,
    st.integers(-5, 5).filter(bool),
    st.sampled_from(["produced", "delivered", "overflow", "shutdown"]),
)
def test_the_channels_half_breaks_with_any_counter(
    delivered: int, queued: int, dropped: DropCounts, by: int, counter: str
) -> None:
    ledger = make(delivered, queued, dropped)
    owner = ledger if counter in ("produced", "delivered") else ledger.in_channel
    setattr(owner, counter, getattr(owner, counter) + by)
    with pytest.raises(LedgerError, match=r"^channel: produced"):
        ledger.check()
    assert abs(ledger.unaccounted) == abs(by)


def test_queued_is_measured_and_not_remembered() -> None:
    buffer = [1, 2, 3]
    ledger = Ledger(lambda: len(buffer))
    ledger.produced = 3
    ledger.check()
    buffer.pop()
    assert ledger.queued == 2
    assert ledger.unaccounted == 1
    with pytest.raises(LedgerError):
        ledger.check()


@given(counts, drops, drops, counts, counts)
def test_the_pools_half_holds(
    queued: int, in_channel: DropCounts, in_pool: DropCounts, consumed: int, failed: int
) -> None:
    ledger = attach(
        make(consumed + failed + in_pool.total + 3, queued, in_channel), consumed, failed, in_pool
    )
    ledger.check()
    snapshot = ledger.snapshot()
    assert ledger.unaccounted == snapshot.unaccounted == 0
    assert (snapshot.consumed, snapshot.failed, snapshot.in_flight, snapshot.queued) == (
        consumed,
        failed,
        3,
        queued,
    )
    assert (
        snapshot.dropped
        == in_channel.total + in_pool.total
        == sum(snapshot.dropped_by_reason.values())
    )


@given(counts, drops, drops, counts, st.integers(-3, 3).filter(bool))
def test_the_pools_half_breaks(
    queued: int, in_channel: DropCounts, in_pool: DropCounts, consumed: int, amiss: int
) -> None:
    ledger = attach(
        make(consumed + in_pool.total, queued, in_channel), consumed, 0, in_pool, amiss=amiss
    )
    with pytest.raises(LedgerError, match=r"^pool: delivered"):
        ledger.check()
    assert ledger.unaccounted == ledger.snapshot().unaccounted == -amiss


def test_two_wrongs_in_the_two_halves_do_not_make_a_right() -> None:
    ledger = attach(make(10, 0, DropCounts()), 10, 0, DropCounts())
    ledger.delivered -= 1
    with pytest.raises(LedgerError):
        ledger.check()


def test_every_reason_adds_up_over_both_owners() -> None:
    ledger = Ledger()
    for number, reason in enumerate(REASONS):
        setattr(ledger.in_channel, reason, 10**number)
        setattr(ledger.in_pool, reason, 2 * 10**number)
    assert ledger.dropped_by_reason == {
        reason: 3 * 10**number for number, reason in enumerate(REASONS)
    }
    assert ledger.dropped == 333333


def test_intentional_reasons_are_reasons() -> None:
    assert set(REASONS) > INTENTIONAL
    assert not INTENTIONAL & {"overflow", "evicted", "shutdown"}


def test_a_snapshot_does_not_move_with_the_ledger() -> None:
    ledger = make(5, 2, DropCounts(overflow=1))
    snapshot = ledger.snapshot()
    before = snapshot.to_dict()
    ledger.produced += 1
    ledger.in_channel.overflow += 1
    assert snapshot.to_dict() == before
    assert before["produced"] == 8
    assert before["dropped_by_reason"]["overflow"] == 1


def test_the_error_shows_both_sides_and_is_ours() -> None:
    ledger = make(5, 2, DropCounts(overflow=1))
    ledger.produced = 9
    with pytest.raises(TickError, match="produced 9 != delivered 5 \\+ dropped 1 \\+ queued 2"):
        ledger.check()


def test_the_repr_shows_the_drops_that_happened() -> None:
    ledger = make(5, 2, DropCounts(evicted=3))
    assert (
        repr(ledger) == "<Ledger produced=10 delivered=5 consumed=0 failed=0 "
        "dropped=3 {'evicted': 3} queued=2 in_flight=0>"
    )


@pytest.mark.parametrize("reason", REASONS)
def test_a_drop_is_counted_for_its_reason_alone(reason: DropReason) -> None:
    drops = DropCounts()
    drops.add(reason, 3)
    drops.add(reason, 0)
    drops.add(reason, 2)
    assert drops == DropCounts(**{reason: 5})
    assert drops.total == 5


@pytest.mark.parametrize(
    ("reason", "count"), [("lost", 1), ("total", 1), ("add", 1), ("", 1), ("overflow", -1)]
)
def test_a_drop_that_cannot_be_is_an_error_and_is_not_counted(reason: Any, count: int) -> None:
    drops = DropCounts()
    with pytest.raises(LedgerError, match=f"reason '{reason}'"):
        drops.add(reason, count)
    assert drops == DropCounts()


@given(st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_a_number_without_an_outcome_is_there_exactly_where_a_half_is_broken(
    numbers: list[int],
) -> None:
    produced, delivered, queued, consumed, failed, in_flight, overflow, stale = numbers
    ledger = Ledger(lambda: queued)
    ledger.attach_pool(
        consumed=lambda: consumed, failed=lambda: failed, in_flight=lambda: in_flight
    )
    ledger.produced, ledger.delivered = produced, delivered
    ledger.in_channel.overflow, ledger.in_pool.stale = overflow, stale
    try:
        ledger.check()
    except LedgerError:
        assert ledger.unaccounted != 0
    else:
        assert ledger.unaccounted == 0
    assert ledger.snapshot().unaccounted == ledger.unaccounted
    assert ledger.snapshot().to_dict()["unaccounted"] == ledger.unaccounted


def test_a_channel_alone_accounts_for_what_it_has_delivered() -> None:
    ledger = Ledger(lambda: 1)
    ledger.produced, ledger.delivered = 4, 3
    assert ledger.snapshot().unaccounted == ledger.unaccounted == 0
