"""Records are read shortly before they are delivered: from Kafka's end, without one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from tests.worlds.helpers import make_ticks
from trio_ticks.brokers import Kafka
from trio_ticks.brokers.kafka.consuming import Entry
from trio_ticks.brokers.kafka.dead_letters import DeadLetters
from trio_ticks.brokers.kafka.health import Health
from trio_ticks.brokers.kafka.holding import Holding
from trio_ticks.brokers.kafka.reading import PART, Reading
from trio_ticks.brokers.packing import Packer
from trio_ticks.buffer import Stretch
from trio_ticks.clock import Clock


def record(count: int) -> bytes:
    """Return a record of *count* ticks."""
    (found,), _refused = Packer(1, count).pack(Stretch(make_ticks(count), [1.0] * count))
    return found.body


def world() -> tuple[Holding, DeadLetters, Reading]:
    kafka = Kafka("127.0.0.1:1", partitions=1)
    holding = Holding(kafka, "us")
    holding.gain(0, 0, None)
    holding.book.take()
    holding.confirm(())
    letters = DeadLetters(kafka, Health(kafka, trio.current_time))
    send: Any = SimpleNamespace(clock=Clock())
    return holding, letters, Reading(kafka, send, holding, letters)


async def test_no_more_is_read_than_is_delivered_soon() -> None:
    holding, _letters, reading = world()
    each = PART // 4
    holding.unread += [Entry(0, offset, record(each)) for offset in range(10)]
    assert reading.waiting > 0
    assert reading.read()
    assert holding.received == PART
    assert len(holding.unread) == 6
    assert reading.read()
    assert reading.read()
    assert holding.received == 10 * each
    assert reading.waiting == 0
    assert not reading.read()


async def test_what_cannot_be_read_goes_to_the_dead_letters_and_costs_itself_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    holding, letters, reading = world()
    holding.unread += [Entry(0, 0, record(2)), Entry(0, 1, b"junk"), Entry(0, 2, record(3))]
    assert reading.read()
    assert (holding.received, reading.junk) == (5, 1)
    assert len(list(letters.tokens)) == 1
    assert any("at 1 of partition 0" in each for each in caplog.messages)
