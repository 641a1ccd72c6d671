"""Where a tick's time goes: the library's pieces, each by itself, then together.

Each piece runs on batches like those that a socket gives. The sum of the pieces leaves
out what only occurs when they run together: task switches, wake-ups, and cache lines
that other pieces have evicted.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import trio

from .contenders import CONTENDERS, decoder
from .loadgen import pin
from .report import table
from .runner import Generator, cores, open_generator, run_job
from .stats import median
from .throughput import verify
from .wire import SUBSCRIBE, encode_session

__all__ = ["measure_stages", "stages_table"]

_READ = 256 * 1024
_MAXSIZE = 1000
_POOL = 20_000


def _clocked(work: Callable[[Any], Any], portions: Sequence[Any]) -> float:
    """Return the seconds that *work* takes for all *portions*.

    Like a pipeline, it keeps each result only until the next.
    """
    began = time.perf_counter()
    for portion in portions:
        work(portion)
    return time.perf_counter() - began


async def _nothing(tick: Any) -> None:
    """Stand for the cheapest handler there is."""


def read_socket(generator: Generator, ticks: int) -> tuple[float, float]:
    """Read the stream through trio and discard it.

    Returns seconds, and the mean size of a read in bytes.
    """
    host, _, port = generator.url.removeprefix("ws://").partition(":")

    async def main() -> tuple[float, float]:
        stream = await trio.open_tcp_stream(host, int(port))
        async with stream:
            request = (
                f"GET /?ticks={ticks} HTTP/1.1\r\nHost: {host}\r\n"
                "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            )
            request += (
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            await stream.send_all(request.encode())
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive_some(_READ)
            # The subscription starts the generator: a masked text frame (a mask of
            # zeros).
            subscribe = SUBSCRIBE.encode()
            await stream.send_all(bytes((0x81, 0x80 | len(subscribe))) + bytes(4) + subscribe)
            total = int(generator.frame_bytes * ticks * 0.999)
            first = received = len(await stream.receive_some(_READ))
            reads, began = 1, time.perf_counter()
            while received < total:
                received += len(await stream.receive_some(_READ))
                reads += 1
            elapsed = time.perf_counter() - began
            return elapsed * generator.frame_bytes * ticks / (received - first), received / reads

    return trio.run(main)


def _parser() -> Callable[[bytes], tuple[list[bytes], list[bytes]]]:
    from trio_ticks.feeds.websocket.frames import FrameParser

    return FrameParser(max_message_size=1 << 20).feed


def _codec() -> Callable[[list[bytes]], list[Any]]:
    from trio_ticks.feeds.venues.flat import FlatCodec
    from trio_ticks.testing import CodecProbe

    return FlatCodec(CodecProbe()).decode


def _channel(batches: Sequence[Sequence[Any]]) -> float:
    """Send each batch and receive it again, in one task, so that no task ever waits."""
    import trio_ticks as tt

    async def main() -> float:
        send: tt.TickSendChannel[Any]
        receive: tt.TickReceiveChannel[Any]
        send, receive = tt.open_tick_channel(maxsize=_MAXSIZE, overflow=tt.Block())
        async with send, receive:
            began = time.perf_counter()
            for batch in batches:
                await send.send_many(batch)
                await receive.receive_many(_MAXSIZE)
            return time.perf_counter() - began

    return trio.run(main)


def _pipeline(batches: Sequence[Sequence[Any]]) -> float:
    """Run a whole pipeline whose feed has its ticks ready."""
    import trio_ticks as tt

    class Ready:
        async def run(self, send: Any) -> None:
            for batch in batches:
                await send.send_many(batch)

    async def main() -> float:
        began = time.perf_counter()
        async with tt.open_pipeline(
            Ready(), _nothing, workers=4, maxsize=_MAXSIZE, overflow=tt.Block()
        ) as pipeline:
            await pipeline.wait()
        elapsed = time.perf_counter() - began
        pipeline.ledger.check()
        return elapsed

    return trio.run(main)


def _handlers(ticks: Sequence[Any]) -> float:
    async def main() -> float:
        began = time.perf_counter()
        for tick in ticks:
            await _nothing(tick)
        return time.perf_counter() - began

    return trio.run(main)


def _round(generator: Generator, ticks: int) -> dict[str, float]:
    socket_s, read = read_socket(generator, ticks)
    generator.served()
    # A few reads' worth, over and over: in a pipeline too, each stage finds its input
    # in the CPU cache, where the stage before it left it.
    session = encode_session(_POOL)
    chunks = [
        session.data[start : start + int(read)] for start in range(0, len(session.data), int(read))
    ]
    parse, decode, one_by_one = _parser(), _codec(), decoder()
    batches = [parse(chunk)[0] for chunk in chunks]
    ready = [tick for batch in batches for tick in decode(batch)]
    held = [ready[start : start + _MAXSIZE] for start in range(0, len(ready), _MAXSIZE)]
    payloads = [payload for batch in batches for payload in batch]
    times = max(1, ticks // _POOL)
    # The pipeline would not hold these objects, so keep the garbage collector from
    # scanning them.
    gc.collect()
    gc.freeze()
    us = 1e6 / (times * len(ready))
    channel, pipeline, handlers = (
        _channel(held * times) * us,
        _pipeline(held * times) * us,
        _handlers(ready * times) * us,
    )
    parts = {
        "socket": socket_s / ticks * 1e6,
        "frames": _clocked(parse, chunks * times) * us,
        "decode": _clocked(decode, batches * times) * us,
        "channel": channel,
        "workers": pipeline - channel - handlers,
        "handler": handlers,
    }
    single = _clocked(one_by_one, payloads * times) * us
    gc.unfreeze()
    account, _ = run_job(generator, "e", ticks)
    verify("e", account, generator.served()["sent"])
    return {
        **parts,
        "sum": sum(parts.values()),
        "whole": account.us_per_tick,
        "decode one by one": single,
        "read bytes": read,
    }


def measure_stages(*, ticks: int, rounds: int) -> dict[str, float]:
    """Return the median over *rounds* of each stage, in microseconds a tick."""
    pin(cores()[0])
    with open_generator(ticks) as generator:
        rows = [_round(generator, ticks) for _ in range(rounds)]
    return {name: median(row[name] for row in rows) for name in rows[0]}


_STAGES = {
    "socket": "trio's receive_some: the system call, the copy, the checkpoint",
    "frames": "FrameParser.feed: headers, a slice a message",
    "decode": "FlatCodec.decode: a batch in one call, checks included",
    "channel": "send_many and receive_many: the buffer, the strategy, the ledger",
    "workers": "what a pipeline from memory takes beyond channel and handler: "
    "order by symbol, failures, latencies, switches",
    "handler": "await of a coroutine that does nothing",
}


def stages_table(stages: dict[str, float]) -> str:
    """Return the stages as text."""
    whole = stages["whole"]
    rows = [
        (name, what, f"{stages[name]:.3f}", f"{stages[name] / whole:.0%}")
        for name, what in _STAGES.items()
    ]
    rows.append(
        (
            "in company",
            "the whole less the sum: wake-ups, trio-websocket's task, colder caches",
            f"{whole - stages['sum']:.3f}",
            f"{1 - stages['sum'] / whole:.0%}",
        )
    )
    rows.append(("whole", f"(e) {CONTENDERS['e'].name}, from the socket", f"{whole:.3f}", "100%"))
    alone = stages["decode one by one"]
    note = (
        f"reads of {stages['read bytes'] / 1024:.0f} KiB; a decoder call for each message, "
        f"unchecked, would take {alone:.3f} µs"
    )
    return f"{table(('stage', 'what', 'µs/tick', 'share'), rows, left=2)}\n\n{note}"
