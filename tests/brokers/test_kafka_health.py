"""What is said of librdkafka's clients, and of one that is left to itself."""

from __future__ import annotations

import logging

import pytest
from confluent_kafka import KafkaError

from trio_ticks.brokers import Kafka
from trio_ticks.brokers.kafka.health import Health


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
