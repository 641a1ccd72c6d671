"""Two connections, one to replace the other: when it may, and what it delivers."""

from __future__ import annotations

import json

import pytest

import trio_ticks as tt
from trio_ticks.feeds.websocket.overlap import Overlap
from trio_ticks.feeds.websocket.role import Role


class Numbered(tt.Codec):
    def subscribe(self, symbols: object) -> list[str]:
        return []

    def place_of(self, payload: bytes) -> tuple[str, int] | None:
        fields = json.loads(payload)
        return (fields["s"], fields["n"]) if "n" in fields else None


CODEC = Numbered.__new__(Numbered)
ACK = b'{"ack":1}'


def message(number: int, stream: str = "A") -> bytes:
    return json.dumps({"s": stream, "n": number}).encode()


def messages(*numbers: int) -> list[bytes]:
    return [message(number) for number in numbers]


def begun() -> tuple[Overlap, tt.FeedStats]:
    """Return an overlap whose new connection has asked, and was given time."""
    stats = tt.FeedStats()
    overlap = Overlap(stats)
    overlap.asked(10.0)
    overlap.asked(11.0)
    return overlap, stats


def test_the_new_one_takes_over_when_both_have_a_message_of_each_stream() -> None:
    overlap, stats = begun()
    assert overlap.keep_new(CODEC, [ACK]) == [ACK]
    assert not overlap.may_change(11.0)
    overlap.note_old(CODEC, messages(5))
    assert not overlap.may_change(11.0)
    assert overlap.keep_new(CODEC, messages(6, 7)) == []
    assert not overlap.may_change(11.0)
    overlap.note_old(CODEC, messages(6))
    assert overlap.may_change(11.0)
    overlap.note_old(CODEC, [message(1, "B")])
    assert not overlap.may_change(11.0)
    overlap.keep_new(CODEC, [message(1, "B"), *messages(8)])
    assert overlap.may_change(11.0)
    assert overlap.change(11.0) == messages(7, 8)
    assert stats.duplicates == 2


def test_after_the_change_what_the_old_one_had_delivered_is_left_out() -> None:
    overlap, stats = begun()
    overlap.note_old(CODEC, [*messages(5, 6, 7), message(3, "B")])
    overlap.keep_new(CODEC, messages(5))
    assert overlap.change(11.0) == []
    assert not overlap.is_over
    assert overlap.newer(CODEC, [*messages(6, 7, 8), ACK], 12.0) == [*messages(8), ACK]
    assert overlap.newer(CODEC, [message(3, "B"), message(4, "B")], 12.0) == [message(4, "B")]
    assert overlap.is_over
    assert stats.duplicates == 4


def test_what_waited_is_not_delivered_twice() -> None:
    overlap, _ = begun()
    overlap.note_old(CODEC, messages(5))
    overlap.keep_new(CODEC, messages(5, 6))
    assert overlap.change(11.0) == messages(6)
    assert overlap.newer(CODEC, messages(6, 7), 11.0) == messages(7)


def test_numbers_that_begin_anew_are_left_out_for_a_minute_at_most() -> None:
    overlap, _ = begun()
    overlap.note_old(CODEC, messages(1000))
    overlap.change(11.0)
    assert overlap.newer(CODEC, messages(1), 70.9) == []
    assert overlap.newer(CODEC, messages(2), 71.0) == messages(2)
    assert overlap.is_over


def test_it_waits_until_all_was_asked_for_and_the_venue_had_a_second() -> None:
    overlap = Overlap(tt.FeedStats())
    overlap.keep_new(CODEC, [ACK])
    assert not overlap.may_change(100.0)
    overlap.asked(100.0)
    assert not overlap.may_change(100.0)
    overlap.asked(100.9)
    assert not overlap.may_change(100.9)
    overlap.note_old(CODEC, messages(5))
    overlap.keep_new(CODEC, messages(5))
    assert not overlap.may_change(100.9)
    overlap.asked(101.0)
    overlap.note_old(CODEC, messages(6))
    overlap.keep_new(CODEC, messages(6))
    assert overlap.may_change(101.0)


def test_what_the_old_one_says_before_the_new_one_has_settled_proves_nothing() -> None:
    overlap = Overlap(tt.FeedStats())
    overlap.note_old(CODEC, messages(5))
    overlap.keep_new(CODEC, [ACK])
    overlap.asked(10.0)
    overlap.asked(11.0)
    # The stream is a slow one: the new connection will have its next message.
    assert not overlap.may_change(11.0)
    assert overlap.may_change(20.0)


def test_an_acknowledgement_alone_is_proof_only_if_the_old_one_is_lost() -> None:
    """The subscriptions of the new connection may be refused, or silent."""
    overlap, _ = begun()
    assert not overlap.may_change(11.0, is_lost=True)
    overlap.keep_new(CODEC, [ACK])
    assert not overlap.may_change(11.0)
    assert overlap.may_change(11.0, is_lost=True)
    overlap.note_old(CODEC, messages(5))
    assert not overlap.may_change(30.0)
    assert not overlap.may_change(30.0, is_lost=True)


def test_an_old_one_that_lags_behind_goes_on_until_it_has_come_up() -> None:
    overlap, _ = begun()
    overlap.note_old(CODEC, messages(5))
    overlap.keep_new(CODEC, [*messages(9), message(1, "B")])
    assert not overlap.may_change(11.0)
    overlap.note_old(CODEC, messages(6, 7, 8, 9))
    assert not overlap.may_change(11.0)
    overlap.note_old(CODEC, [message(1, "B")])
    assert overlap.may_change(11.0)


def test_a_new_one_that_lags_behind_does_not_take_over_until_it_has_come_up() -> None:
    overlap, _ = begun()
    overlap.note_old(CODEC, messages(50))
    overlap.keep_new(CODEC, messages(5, 6, 49))
    assert not overlap.may_change(11.0)
    # Nothing is missing, only late; there is no other one.
    assert overlap.may_change(11.0, is_lost=True)
    overlap.note_old(CODEC, messages(51))
    overlap.keep_new(CODEC, messages(50))
    assert overlap.may_change(11.0)
    assert overlap.change(11.0) == []


@pytest.mark.parametrize("of", ["waiting", "bytes", "streams"])
def test_beyond_a_bound_nothing_is_kept_any_more(of: str) -> None:
    overlap, stats = begun()
    bounds = {"waiting": 3, "bytes": 60, "streams": 1}
    setattr(overlap, f"most_{of}", bounds[of])
    others = [message(1, "B")] if of == "streams" else []
    assert overlap.keep_new(CODEC, [*messages(6, 7), *others, *messages(8, 9), ACK]) == [ACK]
    overlap.keep_new(CODEC, messages(10, 11))
    overlap.note_old(CODEC, messages(11))
    assert not overlap.may_change(11.0)
    # What is left out here the old one delivers, or has.
    assert stats.duplicates >= 6
    assert overlap.change(11.0) == []


def test_a_connection_on_which_nothing_is_heard_is_trusted_after_ten_seconds() -> None:
    overlap, _ = begun()
    assert not overlap.may_change(19.9)
    assert overlap.may_change(20.0)


@pytest.mark.parametrize("of", ["old", "new"])
def test_streams_are_bounded(of: str) -> None:
    overlap, _ = begun()
    overlap.most_streams = 2
    many = [message(1, name) for name in "ABC"]
    for codec_sees in (overlap.note_old, overlap.keep_new):
        codec_sees(CODEC, many if of == codec_sees.__name__[-3:] else many[:2])
    assert not overlap.may_change(11.0)


def test_messages_that_wait_are_bounded() -> None:
    overlap, stats = begun()
    overlap.most_waiting = 3
    overlap.note_old(CODEC, messages(2))
    overlap.keep_new(CODEC, messages(1, 2, 3, 4))
    assert overlap.may_change(11.0)
    assert stats.duplicates == 2
    overlap.keep_new(CODEC, messages(5, 6))
    assert not overlap.may_change(11.0)


def test_a_retired_link_delivers_nothing_of_what_comes_while_it_closes() -> None:
    role = Role()
    assert not role.compares
    role.is_retired = True
    assert role.compares
    assert role.compare(CODEC, messages(1), 10.0) == []


def test_a_link_that_has_just_taken_over_may_be_replaced_at_once() -> None:
    overlap, _ = begun()
    role = Role()
    role.follow(overlap)
    overlap.note_old(CODEC, messages(5, 6))
    assert role.compare(CODEC, messages(5), 11.0) == []
    overlap.change(11.0)
    role.take_over()
    later, stats = begun()
    role.lead(later, lambda: None)
    # What the first link had delivered is left out, and the rest is known to the third.
    assert role.compare(CODEC, messages(6, 7), 12.0) == messages(7)
    later.keep_new(CODEC, messages(7, 8))
    assert later.may_change(12.0)
    assert later.change(12.0) == messages(8)
    assert stats.duplicates == 1
