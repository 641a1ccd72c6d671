"""What is wrong is one error that says what to do, and no secret is shown."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest
import trio
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.worlds.kafka_world import (
    PATIENCE_S,
    Broker,
    Queue,
    Workers,
    appended,
    broker,
    make,
    numbered,
    open_broker,
    until,
)
from trio_ticks.brokers import Kafka
from trio_ticks.brokers.kafka import look
from trio_ticks.errors import BrokerError, ConfigError

__all__ = ["broker"]

SECRET = "s3cret-never-shown"
NOWHERE = "127.0.0.1:1"


def topic(kafka: Kafka, partitions: int) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.servers})
    admin.create_topics([NewTopic(kafka.topic, partitions, 1)])[kafka.topic].result(10)


async def run_both(kafka: Kafka) -> list[Exception]:
    """Return what sink, source and look raise."""
    errors: list[Exception] = []
    world = Workers()
    with trio.fail_after(PATIENCE_S):
        for end in (
            lambda: kafka.sink().run(Queue(numbered(1))),
            lambda: kafka.source().run(world, world.outcomes),
            lambda: look(kafka),
        ):
            try:
                await end()
            except (BrokerError, ConfigError) as error:
                errors.append(error)
    world.send.close()
    world.receive.close()
    return errors


@pytest.mark.parametrize(
    "settings",
    [
        {"servers": "host"},
        {"servers": ""},
        {"servers": "user:password@host:9092"},
        {"topic": "a topic"},
        {"topic": ".."},
        {"topic": "t" * 245},
        {"group": ""},
        {"partitions": 0},
        {"partitions": True},
        {"maxsize": 0},
        {"pack": 0},
        {"prefetch": 1.5},
        {"replication": -2},
        {"max_deliveries": 1},
        {"window": 0},
        {"hand_over_s": -1},
        {"poll_s": 0},
        {"create": "yes"},
        {"settings": [("a", 1)]},
        {"settings": {1: 2}},
        {"settings": {"group.id": "g"}},
        {"producer_settings": {"acks": 1}},
        {"producer_settings": {"message.timeout.ms": 1000}},
        {"consumer_settings": {"enable.auto.commit": True}},
    ],
)
def test_wrong_settings(settings: dict[str, Any]) -> None:
    given = {"servers": "host:9092", **settings}
    with pytest.raises(ConfigError):
        Kafka(**given)


def test_settings_are_a_value() -> None:
    given = {"client.id": "a"}
    kafka = Kafka("host:9092", settings=given)
    given["client.id"] = "b"
    assert kafka.settings == {"client.id": "a"}
    assert kafka == Kafka("host:9092", settings={"client.id": "a"})


@pytest.mark.parametrize(
    ("url", "kafka"),
    [
        ("kafka://host/", Kafka("host:9092")),
        ("kafka://a:1/quotes", Kafka("a:1", "quotes", group="quotes-workers")),
        ("kafka://a:1,b/x?group=g&pack=1", Kafka("a:1,b:9092", "x", group="g", pack=1)),
        (
            "kafka://a:1/x?partitions=3&create=false&client.id=me",
            Kafka("a:1", "x", partitions=3, create=False, settings={"client.id": "me"}),
        ),
        (
            "kafka://me:p%40ss@a:1/x?sasl.mechanism=SCRAM-SHA-512",
            Kafka(
                "a:1",
                "x",
                settings={
                    "security.protocol": "SASL_SSL",
                    "sasl.mechanism": "SCRAM-SHA-512",
                    "sasl.username": "me",
                    "sasl.password": "p@ss",
                },
            ),
        ),
    ],
)
def test_urls(url: str, kafka: Kafka) -> None:
    assert Kafka.from_url(url) == kafka


@pytest.mark.parametrize(
    "url",
    [
        f"redis://me:{SECRET}@host",
        f"kafka://me:{SECRET}@host:port/x",
        f"kafka://me:{SECRET}@host/x?nonsense=1",
        f"kafka://me:{SECRET}@host/x?pack=many",
        f"kafka://me:{SECRET}@host/x?create=perhaps",
        f"kafka://me:{SECRET}@host/x?pack",
        f"kafka://me:{SECRET}@/x",
        f"kafka://me:{SECRET}@[host/x",
    ],
)
def test_wrong_urls_show_no_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Kafka.from_url(url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["sasl.password", "ssl.key.password", "ssl.key.pem", "sasl.oauthbearer.client.secret"]
)
@pytest.mark.parametrize("where", ["settings", "producer_settings", "consumer_settings"])
def test_secrets_are_not_shown(name: str, where: str) -> None:
    given: dict[str, Any] = {where: {name: SECRET, "client.id": "shown"}}
    kafka = Kafka("host:9092", **given)
    for shown in (repr(kafka), str(kafka), kafka.shown):
        assert SECRET not in shown
    assert "shown" in repr(kafka)


def test_without_the_extra_the_error_names_it() -> None:
    program = (
        "import sys; sys.modules['confluent_kafka'] = None\n"
        "import trio_ticks.brokers as brokers\n"
        "try: brokers.Kafka('host:9092')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("ConfigError ")
    assert "pip install 'trio-ticks[kafka]'" in done.stdout


async def test_a_setting_that_librdkafka_does_not_know(broker: Broker) -> None:
    kafka = make(broker.address, settings={"no.such.setting": SECRET})
    errors = await run_both(kafka)
    assert [type(error) for error in errors] == [ConfigError] * 3
    assert all("no.such.setting" in str(error) for error in errors)


async def test_a_value_that_librdkafka_does_not_take_is_not_shown_if_secret(
    broker: Broker,
) -> None:
    kafka = make(broker.address, settings={"ssl.key.pem": SECRET, "security.protocol": "SSL"})
    errors = await run_both(kafka)
    assert [type(error) for error in errors] == [ConfigError] * 3
    assert not any(SECRET in str(error) for error in errors)


async def test_a_topic_that_is_missing_and_must_not_be_made(broker: Broker) -> None:
    kafka = make(broker.address, create=False, partitions=3)
    errors = await run_both(kafka)
    assert [type(error) for error in errors] == [BrokerError] * 3
    assert "create=True" in str(errors[0])
    assert "3 partitions" in str(errors[0])


async def test_a_topic_with_another_number_of_partitions(broker: Broker) -> None:
    kafka = make(broker.address, partitions=3)
    await trio.to_thread.run_sync(topic, kafka, 2)
    errors = await run_both(kafka)
    assert [type(error) for error in errors] == [BrokerError] * 3
    assert "has 2 partitions" in str(errors[0])
    assert "partitions=2" in str(errors[0])


async def test_a_topic_that_is_there_need_not_be_made(broker: Broker) -> None:
    kafka = make(broker.address, partitions=3, create=False)
    await trio.to_thread.run_sync(topic, kafka, 3)
    assert (await appended(kafka, numbered(10))).appended == 10


async def test_wrong_credentials(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    settings = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "somebody",
        "sasl.password": SECRET,
    }
    kafka = make(broker.address, settings=settings)
    errors = await run_both(kafka)
    assert [type(error) for error in errors] == [BrokerError] * 3
    assert all("sasl.password" in str(error) for error in errors)
    assert SECRET not in "".join(map(str, errors)) + caplog.text
    assert "broker.client" in caplog.text


async def test_a_broker_that_is_away_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with open_broker() as gone:
        port = gone.port
    kafka = make(gone.address)
    queue, sink = Queue(numbered(100)), kafka.sink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, queue)
        await until(lambda: "broker.away" in caplog.text)
        # Nothing is taken, so that the channel's overflow strategy decides.
        assert (queue.taken, sink.statistics().connected) == (0, False)
        with open_broker(port):
            await until(lambda: sink.statistics().appended == 100)
            assert caplog.text.count("broker.away") == 1


async def test_a_look_at_a_broker_that_is_away_ends() -> None:
    with pytest.raises(BrokerError, match=r"no answer in 0\.3 s"):
        await look(Kafka(NOWHERE), timeout_s=0.3)


async def test_both_ends_can_be_cancelled_while_the_broker_is_away() -> None:
    kafka = Kafka(NOWHERE)
    sink, source, world = kafka.sink(), kafka.source(), Workers()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, Queue(numbered(1)))
        nursery.start_soon(source.run, world, world.outcomes)
        await trio.sleep(0.3)
        nursery.cancel_scope.cancel()
    world.send.close()
    world.receive.close()
    assert not source.statistics().connected
