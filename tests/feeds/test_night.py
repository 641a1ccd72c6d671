"""A night in a minute: one feed, one pipeline, and everything that can go wrong.

What is checked is that the feed comes back from each fault, counts and logs it, and
that the strategy was told of it in time. The table of all this is in docs/feeds.md.
"""

from __future__ import annotations

import pytest

from docs.make_night_table import PAGE, written
from tests.worlds.night import SCENES, SYMBOLS, Night, Record, run_night
from tests.worlds.pipeline_world import assert_accounted


@pytest.fixture(scope="module")
def night() -> Night:
    return run_night()


def scene(night: Night, words: str) -> Record:
    (found,) = [record for record in night.records if words in record.name]
    return found


def first(record: Record) -> dict[str, float]:
    """After how many seconds the strategy was told of each kind first."""
    return {what: round(told.after_s) for what, told in record.told.items()}


def test_the_table_is_up_to_date(night: Night) -> None:
    page = PAGE.read_text()
    assert written(page, night) == page, "run python docs/make_night_table.py"


def test_nothing_ended_and_nothing_is_unaccounted_for(night: Night) -> None:
    assert [record.name for record in night.records] == list(SCENES)
    assert night.symbols == SYMBOLS
    assert_accounted(night.report, failed=0, dropped=0)


@pytest.mark.parametrize("name", SCENES)
def test_the_feed_came_back(name: str, night: Night) -> None:
    record = scene(night, name)
    # A quote every two seconds in three minutes; some scenes end before the feed is
    # back, by at most three seconds.
    assert set(record.ticks) == set(SYMBOLS)
    assert min(record.ticks.values()) >= 88
    lost, back = record.told.get("lost"), record.told.get("back")
    assert (lost and lost.times) == (back and back.times) == (record.counts["reconnects"] or None)


def test_a_quiet_market(night: Night) -> None:
    record = scene(night, "No market data")
    assert record.counts["reconnects"] == record.counts["watchdog_trips"] == 60
    assert 37 <= first(record)["symbol-silent"] <= 41
    assert 57 <= first(record)["lost"] == first(record)["back"] <= 60
    assert first(record)["symbol-back"] in range(3600, 3604)
    assert record.told["symbol-back"].times == len(SYMBOLS)


@pytest.mark.parametrize(
    ("words", "back_after", "failed"),
    [("refused for 10", 603, 14), ("certificate", 303, 9), ("credentials", 31, 4)],
)
def test_an_outage(words: str, back_after: int, failed: int, night: Night) -> None:
    record = scene(night, words)
    assert first(record) == {"lost": 0, "back": back_after, "gap: reconnect": back_after}
    assert record.counts["connect_failures"] == record.logged["feed.connect_failed"] == failed
    assert record.logged["feed.disconnected"] == record.logged["feed.connected"] == 1


def test_a_restart(night: Night) -> None:
    record = scene(night, "1012")
    assert first(record) == {"lost": 0, "back": 1, "gap: reconnect": 1}
    assert record.reasons[0] == "service restart"


def test_heartbeats_are_no_data(night: Night) -> None:
    record = scene(night, "forgotten")
    assert record.counts["watchdog_trips"] == 1
    assert record.counts["ignored"] >= 30
    assert 57 <= first(record)["lost"] <= 60
    assert first(record)["gap: reconnect"] == first(record)["back"]


def test_malformed_messages_are_no_data(night: Night) -> None:
    record = scene(night, "malformed")
    assert record.counts["malformed"] >= 260
    assert record.logged["feed.malformed"] >= 80
    assert record.counts["watchdog_trips"] == 3
    assert 37 <= first(record)["symbol-silent"] <= 41
    assert first(record)["gap: malformed"] in range(180, 184)
    others = [other for other in night.records if other is not record]
    assert not any(other.logged["feed.malformed"] for other in others)


def test_one_symbol_gone(night: Night) -> None:
    record = scene(night, "One of three")
    assert record.told["symbol-silent"].times == record.told["symbol-back"].times == 1
    assert 37 <= first(record)["symbol-silent"] <= 50
    assert record.counts["reconnects"] == 0


@pytest.mark.parametrize("words", ["5 s in the future", "9999"])
def test_a_wrong_stamp(words: str, night: Night) -> None:
    record = scene(night, words)
    assert record.told == {}
    assert record.counts["duplicates"] == 0


def test_a_venue_that_hangs_up_is_not_asked_in_a_loop(night: Night) -> None:
    record = scene(night, "snapshot")
    assert record.counts["reconnects"] == 6
    assert record.told["gap: reconnect"].times == 6 * len(SYMBOLS)
