"""What is said of librdkafka's clients, and of one that is left to itself."""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Any

import pytest
import trio
import trio.testing
from confluent_kafka import Consumer, KafkaError

from trio_ticks.brokers import Kafka
from trio_ticks.brokers.kafka.health import Health
from trio_ticks.brokers.kafka.topics import Admin


def test_of_a_client_that_was_let_go_nothing_more_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    health = Health(Kafka("127.0.0.1:9"), lambda: 0.0)
    with caplog.at_level(logging.INFO, "trio_ticks.brokers"):
        health.log(logging.ERROR, "Connection %s", "refused")
        assert [each.levelname for each in caplog.records] == ["ERROR"]
        health.let_go()
        health.log(logging.WARNING, "Connection %s", "refused")
        health.error(KafkaError(-187))  # _ALL_BROKERS_DOWN
        assert len(caplog.records) == 1
    assert not health.connected


class Made:
    """Stands for a consumer whose broker is away."""

    def committed(self, _partitions: object, timeout: float) -> list[Any]:
        return []


async def test_a_client_that_comes_after_its_question_was_given_up_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, goes_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()
    made: list[weakref.ref[Made]] = []

    def client(_health: Health, kind: Any, _settings: Any) -> Any:
        if kind is not Consumer:
            return object()
        token.run_sync_soon(asked.set)
        goes_on.wait()
        consumer = Made()
        made.append(weakref.ref(consumer))
        return consumer

    monkeypatch.setattr(Health, "client", client)
    kafka = Kafka("127.0.0.1:9")
    admin = Admin(kafka, Health(kafka, lambda: 0.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(admin.offsets)
        await asked.wait()
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(admin.aclose)
        await trio.testing.wait_all_tasks_blocked(0.01)
        goes_on.set()
    assert [each() for each in made] == [None]
