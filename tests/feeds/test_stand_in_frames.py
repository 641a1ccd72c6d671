"""What a stand-in for a reader has to leave to the reader."""

from __future__ import annotations

from trio.testing import memory_stream_pair

from trio_ticks.feeds.websocket.frame_tap import FrameTap


async def test_a_stand_in_leaves_messages_behind_a_ping_to_the_reader() -> None:
    got: list[bytes] = []
    near, _far = memory_stream_pair()
    tap = FrameTap(near, lambda batch: got.extend(batch), max_message_size=100)
    tap.framed = True
    assert not tap.deal(b"\x89\x01p" + b"\x81\x01a")
    assert got == []
    assert await tap.receive_some() == b"\x89\x01p"
    assert got == []
