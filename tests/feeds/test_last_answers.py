"""What is still answered when a connection fails by the server's fault."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import pytest
import trio
from trio.testing import memory_stream_pair

from tests.worlds.frame_wire import CLOSE, LIMIT, TEXT, ClientFrame, Peer, close_of, frame
from trio_ticks.errors import VenueProtocolError
from trio_ticks.feeds.websocket.connect import Target
from trio_ticks.feeds.websocket.outbox import Outbox
from trio_ticks.feeds.websocket.session import Ended, Session, SessionSettings

Ends = tuple[trio.abc.Stream, trio.abc.Stream]
GOOD = frame(TEXT, b"one") + frame(TEXT, b"two")
BROKEN = b"\x83\x00"  # an opcode that does not exist
LINGER_S = 1.0


class Echo:
    """A session that answers each message by itself, like a codec that replies."""

    def __init__(self, stream: trio.abc.Stream, messages_per_s: int | None = None) -> None:
        async def open_stream(_host: str, _port: int) -> trio.abc.Stream:
            return stream

        self.outbox = Outbox()
        settings = SessionSettings(
            target=Target.parse("ws://venue"),
            headers=(),
            ssl_context=None,
            open_stream=open_stream,
            max_message_size=LIMIT,
            ping_interval=None,
            pong_timeout=10.0,
            stale_after=None,
            connect_timeout=10.0,
            messages_per_s=messages_per_s,
        )
        self.session = Session(settings, self._deliver, lambda: None, self.outbox)

    def _deliver(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            if message == b"nonsense":
                raise VenueProtocolError("nonsense", code=1007)
            self.outbox.put([message.decode()])


async def play(
    script: Callable[[Peer], Awaitable[None]],
    ends: Ends | None = None,
    messages_per_s: int | None = None,
) -> tuple[Ended | None, float]:
    """Return how the session ended, and after how many seconds.

    ``None``: it raised the codec's own error.
    """
    near, far = memory_stream_pair() if ends is None else ends
    echo, ended = Echo(near, messages_per_s), None
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(script, Peer(far))
        with suppress(VenueProtocolError):
            ended = await echo.session.run([])
        took = trio.current_time() - began
        nursery.cancel_scope.cancel()
    return ended, took


def told(frames: Sequence[ClientFrame]) -> list[str | int]:
    """Return the text of each frame, and the code of a Close frame."""
    return [each.code if each.opcode == CLOSE else each.payload.decode() for each in frames]


@pytest.mark.parametrize("behind_the_handshake", [True, False])
@pytest.mark.parametrize(
    ("fault", "code"), [(BROKEN, 1002), (frame(TEXT, b"nonsense"), 1007)], ids=["frame", "codec"]
)
async def test_answers_go_out_before_the_close_frame(
    behind_the_handshake: bool, fault: bytes, code: int, autojump_clock: trio.testing.MockClock
) -> None:
    frames: list[ClientFrame] = []

    async def script(peer: Peer) -> None:
        await peer.accept(GOOD + fault if behind_the_handshake else b"")
        if not behind_the_handshake:
            await peer.send(GOOD + fault)
        while not frames or frames[-1].opcode != CLOSE:
            received = await peer.receive()
            assert received is not None
            frames.append(received)
        await peer.stream.aclose()

    ended, took = await play(script)
    assert told(frames) == ["one", "two", code]
    assert ended is None or (ended.code, ended.violation) == (1002, True)
    assert took == 0


async def test_a_server_that_closes_is_answered_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    frames: list[ClientFrame] = []

    async def script(peer: Peer) -> None:
        await peer.accept(GOOD + close_of(1000))
        received = await peer.receive()
        assert received is not None
        frames.append(received)
        await peer.stream.aclose()

    _ended, took = await play(script)
    assert told(frames) == [1000]
    assert took == 0


async def test_a_limit_of_the_venue_delays_the_close_frame_for_half_of_the_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    frames: list[ClientFrame] = []
    closed_at = began = trio.current_time()

    async def script(peer: Peer) -> None:
        nonlocal closed_at
        await peer.accept(GOOD + BROKEN)
        while not frames or frames[-1].opcode != CLOSE:
            received = await peer.receive()
            assert received is not None
            frames.append(received)
        closed_at = trio.current_time()
        frames.extend(await peer.receive_all())

    _ended, took = await play(script, messages_per_s=1)
    assert told(frames) == ["one", 1002]
    assert closed_at - began == LINGER_S / 2
    assert took <= LINGER_S


@pytest.mark.parametrize("pause_s", [0.0, 5.0])
@pytest.mark.parametrize(
    ("end", "code"), [(BROKEN, 1002), (close_of(1001), 1001)], ids=["fault", "close"]
)
async def test_a_server_that_takes_nothing_does_not_hold_the_session(
    pause_s: float, end: bytes, code: int, autojump_clock: trio.testing.MockClock
) -> None:
    near, far = memory_stream_pair()
    ended_at = began = trio.current_time()

    async def script(peer: Peer) -> None:
        nonlocal ended_at
        await peer.accept()
        near.send_stream.send_all_hook = trio.sleep_forever
        await peer.send(GOOD)
        await trio.sleep(pause_s)
        await peer.send(end)
        ended_at = trio.current_time()
        await trio.sleep_forever()

    with trio.fail_after(100):
        ended, took = await play(script, (near, far))
    assert ended is not None
    assert ended.code == code
    assert began + took - ended_at <= LINGER_S


@pytest.mark.parametrize("how", ["cancelled", "given up"])
@pytest.mark.parametrize(
    ("fault", "code"), [(BROKEN, 1002), (frame(TEXT, b"nonsense"), 1007)], ids=["frame", "codec"]
)
async def test_what_ends_the_session_meanwhile_sends_the_close_frame_at_once(
    how: str, fault: bytes, code: int, autojump_clock: trio.testing.MockClock
) -> None:
    frames: list[ClientFrame] = []
    near, far = memory_stream_pair()
    echo, peer = Echo(near, messages_per_s=1), Peer(far)
    began = trio.current_time()

    async def script() -> None:
        await peer.accept(GOOD + fault)
        frames.extend(await peer.receive_all())
        await peer.stream.aclose()

    async def run(scope: trio.CancelScope) -> None:
        with scope, suppress(VenueProtocolError):
            await echo.session.run([])

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(script)
        nursery.start_soon(run, scope)
        await trio.sleep(0.25)
        if how == "cancelled":
            scope.cancel()
        else:
            echo.session.give_up(Ended(reason="not needed"))
    assert told(frames) == ["one", code]
    assert trio.current_time() - began == 0.25


async def test_a_first_request_that_is_not_taken_does_not_hold_the_session(
    autojump_clock: trio.testing.MockClock,
) -> None:
    near, far = memory_stream_pair()
    echo, peer = Echo(near), Peer(far)
    began = trio.current_time()

    async def script() -> None:
        await peer.accept()
        near.send_stream.send_all_hook = trio.sleep_forever
        await peer.send(GOOD + BROKEN)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(script)
        ended = await echo.session.run(["first", "second"])
    assert (ended.code, ended.violation) == (1002, True)
    assert trio.current_time() - began <= LINGER_S


async def test_a_stream_that_is_broken_when_it_is_closed_ends_the_session_all_the_same(
    autojump_clock: trio.testing.MockClock,
) -> None:
    near, far = memory_stream_pair()

    async def script(peer: Peer) -> None:
        await peer.accept()

        def fail() -> None:
            raise trio.BrokenResourceError

        near.send_stream.close_hook = fail
        await peer.stream.aclose()

    ended, _took = await play(script, (near, far))
    assert ended is not None
    assert ended.code == 1006
