"""The loops that the clients' documentation shows, each end in a process of its own.

A tick is one MessagePack value, written and read by ``msgspec`` as in our own buffers:
that is quicker than the fields and the JSON of the documents. Nothing bounds these
loops, but for ZeroMQ's high-water mark.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import confluent_kafka
import msgspec
import redis
import zmq
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

import trio_ticks as tt

from .broker_child import Tally, Task, account, await_go, make_ticks, ready

__all__ = ["LOOPS"]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tt.Tick).decode
_PIPELINE = 256
_COUNT = 500
_GROUP, _STREAM = "workers", "ticks"


def _brought(task: Task, send: Callable[[list[tt.Tick]], object], size: int) -> None:
    """Have *send* called with *size* ticks at a time, and print the account."""
    ticks = make_ticks(task.ticks, task.symbols)
    ready()
    await_go()
    begun_ns, cpu_s = time.monotonic_ns(), time.process_time()
    for at in range(0, len(ticks), size):
        send(ticks[at : at + size])
    account(appended=len(ticks), begun_ns=begun_ns, cpu_s=time.process_time() - cpu_s, times=[])


# Redis


def _redis(task: Task) -> Any:
    host, _, port = task.place.rpartition(":")
    return redis.Redis(host=host, port=int(port))


def redis_produce(task: Task) -> None:
    """XADD, and wait for the answer."""
    client = _redis(task)

    def send(ticks: list[tt.Tick]) -> None:
        for tick in ticks:
            client.xadd(_STREAM, {"t": _encode(tick)})

    _brought(task, send, 1)


def redis_consume(task: Task) -> None:
    """XREADGROUP one, handle it, XACK it."""
    client, tally = _redis(task), Tally(task.ticks)
    client.xgroup_create(_STREAM, _GROUP, id="0", mkstream=True)
    ready(tally)
    while tally.count < task.ticks:
        found = client.xreadgroup(_GROUP, "one", {_STREAM: ">"}, count=1, block=1000)
        for _, entries in found:
            for entry, fields in entries:
                tally.handle(_decode(fields[b"t"]))
                client.xack(_STREAM, _GROUP, entry)
    account(**tally.account())


def redis_batch_produce(task: Task) -> None:
    """Pipelines of 256 XADDs."""
    client = _redis(task)

    def send(ticks: list[tt.Tick]) -> None:
        with client.pipeline(transaction=False) as pipeline:
            for tick in ticks:
                pipeline.xadd(_STREAM, {"t": _encode(tick)})
            pipeline.execute()

    _brought(task, send, _PIPELINE)


def redis_batch_consume(task: Task) -> None:
    """XREADGROUP up to 500, handle them, XACK all at once."""
    client, tally = _redis(task), Tally(task.ticks)
    client.xgroup_create(_STREAM, _GROUP, id="0", mkstream=True)
    ready(tally)
    while tally.count < task.ticks:
        found = client.xreadgroup(_GROUP, "one", {_STREAM: ">"}, count=_COUNT, block=1000)
        for _, entries in found:
            for _entry, fields in entries:
                tally.handle(_decode(fields[b"t"]))
            client.xack(_STREAM, _GROUP, *[entry for entry, _ in entries])
    account(**tally.account())


# Kafka


def kafka_produce(task: Task) -> None:
    """Produce, then ``poll(0)``; flush at the end."""
    producer = confluent_kafka.Producer({"bootstrap.servers": task.place})

    def delivered(error: Any, _message: Any) -> None:
        if error is not None:
            raise RuntimeError(str(error))

    def send(ticks: list[tt.Tick]) -> None:
        for tick in ticks:
            while True:
                try:
                    producer.produce(_STREAM, _encode(tick), key=tick.symbol, on_delivery=delivered)
                    break
                except BufferError:
                    producer.poll(0.01)
            producer.poll(0)

    _brought(task, send, 512)
    producer.flush()


def _kafka_consumer(task: Task, **settings: Any) -> Any:
    admin = AdminClient({"bootstrap.servers": task.place})
    partitions = task.options["partitions"]
    topic = NewTopic(_STREAM, num_partitions=partitions)
    admin.create_topics([topic])[_STREAM].result(30)
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": task.place,
            "group.id": _GROUP,
            "auto.offset.reset": "earliest",
            **task.options["consumer_settings"],
            **settings,
        }
    )
    consumer.subscribe([_STREAM])
    while len(consumer.assignment()) < partitions:
        consumer.poll(0.1)
    return consumer


def _polled(task: Task, consumer: Any, tally: Tally) -> Iterator[Any]:
    while tally.count < task.ticks:
        message = consumer.poll(1.0)
        if message is None:
            continue
        if message.error():
            raise RuntimeError(str(message.error()))
        tally.handle(_decode(message.value()))
        yield message


def kafka_commit_consume(task: Task) -> None:
    """Poll one, handle it, commit it and wait for the answer."""
    tally = Tally(task.ticks)
    consumer = _kafka_consumer(task, **{"enable.auto.commit": False})
    ready(tally)
    for message in _polled(task, consumer, tally):
        consumer.commit(message=message, asynchronous=False)
    account(**tally.account())
    consumer.close()


def kafka_auto_consume(task: Task) -> None:
    """Poll one and handle it; offsets are committed every five seconds."""
    tally = Tally(task.ticks)
    consumer = _kafka_consumer(task)
    ready(tally)
    for _ in _polled(task, consumer, tally):
        pass
    account(**tally.account())
    consumer.close()


# ZeroMQ


def zeromq_produce(task: Task) -> None:
    """PUSH one message a tick; the high-water marks bound it."""
    context = zmq.Context()
    with context.socket(zmq.PUSH) as socket:
        socket.bind(task.place)
        # So that the connection is there before the time begins.
        socket.send(b"")

        def send(ticks: list[tt.Tick]) -> None:
            for tick in ticks:
                socket.send(_encode(tick))

        _brought(task, send, 512)
    context.term()


def zeromq_consume(task: Task) -> None:
    """PULL one message a tick, and handle it."""
    tally = Tally(task.ticks)
    context = zmq.Context()
    with context.socket(zmq.PULL) as socket:
        socket.connect(task.place)
        socket.recv()
        ready(tally)
        while tally.count < task.ticks:
            tally.handle(_decode(socket.recv()))
    account(**tally.account())
    context.term()


LOOPS = {
    "redis-loop-produce": redis_produce,
    "redis-loop-consume": redis_consume,
    "redis-batch-produce": redis_batch_produce,
    "redis-batch-consume": redis_batch_consume,
    "kafka-loop-produce": kafka_produce,
    "kafka-loop-consume": kafka_commit_consume,
    "kafka-auto-produce": kafka_produce,
    "kafka-auto-consume": kafka_auto_consume,
    "zeromq-loop-produce": zeromq_produce,
    "zeromq-loop-consume": zeromq_consume,
}
"""The roles of the loops."""
