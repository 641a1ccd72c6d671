"""The other contenders, (b) to (f), and the list of all of them.

Each is what a good programmer would write with those parts. All run the recorder's
handler, with the same number of workers and the same size of queue. Contenders with a
decoder of ours use one decoder for the whole run, straight into
:class:`trio_ticks.Tick`: they differ only in what carries the tick.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import msgspec
import trio

from .classic import run_classic
from .job import Job, run_asyncio, run_trio_until
from .recorder import Handler, Recorder
from .venue_words import CHANNELS
from .wire import SUBSCRIBE, encode_session, symbol_names

__all__ = ["CONTENDERS", "Contender", "decoder"]

_FLOOR_PAYLOADS = 1000
_AT_ONCE = 256
"""So many ticks are given to a thread at most, by (b)."""


def decoder() -> Callable[[Any], Any]:
    """Return the decode function of a fresh decoder."""
    from trio_ticks.ticks import Tick

    return msgspec.json.Decoder(Tick).decode


async def _drain(handler: Handler, queue: asyncio.Queue[Any]) -> None:
    """Handle what comes out of *queue*; await only an empty one."""
    get_nowait = queue.get_nowait
    while True:
        tick = await queue.get()
        await handler(tick)
        try:
            while True:
                await handler(get_nowait())
        except asyncio.QueueEmpty:
            pass


async def _drain_in_threads(
    handle: Callable[[Any], None], queue: asyncio.Queue[Any], pool: ThreadPoolExecutor
) -> None:
    """Have a thread handle all that *queue* holds, and wait for it."""
    loop = asyncio.get_running_loop()

    def handle_all(ticks: list[Any]) -> None:
        for tick in ticks:
            handle(tick)

    while True:
        ticks = [await queue.get()]
        while len(ticks) < _AT_ONCE and not queue.empty():
            ticks.append(queue.get_nowait())
        await loop.run_in_executor(pool, handle_all, ticks)


def run_websockets(job: Job, recorder: Recorder) -> None:
    """(b) websockets, msgspec and asyncio.Queue, without loss.

    The fastest way found to put these three together. With handlers in threads, each
    worker gives a thread what the queue holds.
    """
    queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=job.maxsize)

    async def read() -> None:
        from websockets.asyncio.client import connect

        decode, put_nowait, full = decoder(), queue.put_nowait, queue.full
        async with connect(job.full_url, ssl=job.ssl_context(), compression=None) as socket:
            await socket.send(SUBSCRIBE)
            receive = socket.recv
            while True:
                tick = decode(await receive(decode=False))
                if full():
                    await queue.put(tick)
                else:
                    put_nowait(tick)

    if not job.threads:
        drains = [_drain(recorder.handler, queue) for _ in range(job.workers)]
        run_asyncio(job, recorder, read(), *drains)
        return
    with ThreadPoolExecutor(job.workers) as pool:
        handle = recorder.in_threads()
        drains = [_drain_in_threads(handle, queue, pool) for _ in range(job.workers)]
        run_asyncio(job, recorder, read(), *drains)


def run_picows(job: Job, recorder: Recorder) -> None:
    """(c) picows, msgspec and asyncio.Queue.

    The callback of picows cannot wait, so a tick that finds the queue full is dropped.
    """
    from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

    queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=job.maxsize)

    class Listener(WSListener):
        def __init__(self) -> None:
            self.decode, self.put_nowait = decoder(), queue.put_nowait

        def on_ws_connected(self, transport: WSTransport) -> None:
            transport.send(WSMsgType.TEXT, SUBSCRIBE.encode())

        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type == WSMsgType.TEXT:
                tick = self.decode(frame.get_payload_as_memoryview())
                try:
                    self.put_nowait(tick)
                except asyncio.QueueFull:
                    recorder.drop()

    async def read() -> None:
        transport, _ = await ws_connect(Listener, job.full_url, ssl_context=job.ssl_context())
        await transport.wait_disconnected()

    run_asyncio(
        job, recorder, read(), *(_drain(recorder.handler, queue) for _ in range(job.workers))
    )


def run_trio_websocket(job: Job, recorder: Recorder) -> None:
    """(d) The plain trio pipeline.

    ``get_message``, ``fail_after`` around each send, and cloned receive channels.
    """
    from trio_websocket import open_websocket_url

    async def read(send: trio.MemorySendChannel[Any]) -> None:
        decode = decoder()
        async with open_websocket_url(job.full_url, ssl_context=job.ssl_context()) as socket:
            await socket.send_message(SUBSCRIBE)
            while True:
                tick = decode(await socket.get_message())
                try:
                    with trio.fail_after(job.write_timeout):
                        await send.send(tick)
                except trio.TooSlowError:
                    recorder.drop()

    async def work(receive: trio.MemoryReceiveChannel[Any]) -> None:
        async with receive:
            async for tick in receive:
                await recorder.handler(tick)

    async def main() -> None:
        send, receive = trio.open_memory_channel[Any](job.maxsize)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, send)
            for _ in range(job.workers):
                nursery.start_soon(work, receive.clone())
            await run_trio_until(job, recorder, trio.Event())
            nursery.cancel_scope.cancel()

    trio.run(main)


def run_trio_ticks(job: Job, recorder: Recorder) -> dict[str, Any]:
    """(e) This library, with nothing switched off; loses nothing, by ``Block()``."""
    import trio_ticks as tt

    ordering: Any = job.ordering

    async def main() -> dict[str, Any]:
        feed = tt.WebSocketFeed(
            job.full_url,
            symbols=symbol_names(job.symbols),
            venue=job.venue,
            channels=CHANNELS.get(job.venue),
            api_key="key" if job.venue == "tickdb" else None,
            ssl_context=job.ssl_context(),
        )
        with tempfile.TemporaryDirectory() as folder:
            extra: dict[str, Any] = {"record": tt.Recorder(folder)} if job.record else {}
            began = time.thread_time()
            async with tt.open_pipeline(
                feed,
                recorder.in_threads() if job.threads else recorder.handler,
                workers=job.workers,
                maxsize=job.maxsize,
                overflow=tt.Block(),
                ordering=ordering,
                executor="thread" if job.threads else "loop",
                **extra,
            ) as pipeline:
                await run_trio_until(job, recorder, trio.Event())
                loop_cpu_s = time.thread_time() - began
        report = pipeline.report.to_dict()
        ledger = pipeline.report.ledger
        return {
            "ledger": ledger.to_dict(),
            "unaccounted": ledger.unaccounted,
            "loop_cpu_s": loop_cpu_s,
            "recorded": report.get("recorder"),
            "reconnects": report["reconnects"],
        }

    return trio.run(main)


def run_floor(job: Job, recorder: Recorder) -> None:
    """(f) The floor: decoder and handler, payload by payload, from warm memory.

    No socket, no queue, no accounting.
    """
    payloads = encode_session(min(job.ticks, _FLOOR_PAYLOADS), symbols=job.symbols).payloads()

    async def main() -> None:
        decode, handler = decoder(), recorder.handler
        whole, rest = divmod(job.ticks, len(payloads))
        for _ in range(whole):
            for payload in payloads:
                await handler(decode(payload))
        for payload in payloads[:rest]:
            await handler(decode(payload))

    trio.run(main)


@attrs.frozen
class Contender:
    """One way to get ticks from a socket to a handler."""

    letter: str
    name: str
    run: Callable[[Job, Recorder], dict[str, Any] | None]
    share: float
    """Of the run's ticks: slow ones get fewer, and are compared per tick."""
    lossless: bool = True
    on_wire: bool = True


CONTENDERS = {
    contender.letter: contender
    for contender in (
        Contender("a", "classic: websockets, json, asyncio.Queue, wait_for", run_classic, 0.08),
        Contender("b", "best asyncio: websockets, msgspec, asyncio.Queue", run_websockets, 0.25),
        Contender("c", "picows, msgspec, asyncio.Queue (drops)", run_picows, 1.0, lossless=False),
        Contender(
            "d", "literal trio: trio-websocket, msgspec, fail_after", run_trio_websocket, 0.08
        ),
        Contender("e", "trio_ticks", run_trio_ticks, 1.0),
        Contender("f", "floor: decode and handler alone", run_floor, 2.0, on_wire=False),
    )
}
