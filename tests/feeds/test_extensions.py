"""permessage-deflate in the handshake: what is offered, and which answers are right."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_pair

from trio_ticks.feeds.websocket.extensions import (
    BadAnswer,
    accepted_deflate,
    without_extensions,
)
from trio_ticks.feeds.websocket.handshake import HandshakeGate
from trio_ticks.feeds.websocket.inflate import DeflateParameters

START = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
NAME = b"Sec-WebSocket-Extensions: "


def head_with(*answers: bytes) -> bytes:
    return START + b"".join(NAME + answer + b"\r\n" for answer in answers) + b"X: y\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "parameters"),
    [
        (b"permessage-deflate", DeflateParameters()),
        (b"PerMessage-Deflate ;SERVER_no_context_takeover", DeflateParameters(True)),
        (b"permessage-deflate;server_max_window_bits=9", DeflateParameters(False, 9)),
        (b'permessage-deflate; server_max_window_bits = "15"', DeflateParameters()),
        (
            b"permessage-deflate; client_no_context_takeover; client_max_window_bits=8;"
            b" server_no_context_takeover; server_max_window_bits=10",
            DeflateParameters(True, 10, True, 8),
        ),
        (b", permessage-deflate ,,", DeflateParameters()),
        (b"permessage-deflate;\r\n\tserver_no_context_takeover", DeflateParameters(True)),
        (b"", None),
    ],
)
def test_right_answers(answer: bytes, parameters: DeflateParameters | None) -> None:
    for line_end in (b"\r\n", b"\n"):
        head = head_with(answer).replace(b"\r\n", line_end)
        assert accepted_deflate(head) == parameters
        assert without_extensions(head) == head_with().replace(b"\r\n", line_end)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([b"x-webkit-deflate-frame"], "'x-webkit-deflate-frame', which was not offered"),
        ([b"permessage-deflate, permessage-deflate"], "more extensions than were offered"),
        ([b"permessage-deflate", b"permessage-deflate"], "more extensions than were offered"),
        ([b"permessage-deflate; level=9"], "'level=9', which is unknown, invalid or repeated"),
        ([b"permessage-deflate;"], "'', which is unknown"),
        ([b"permessage-deflate; server_no_context_takeover=1"], "takeover=1'"),
        ([b"permessage-deflate; server_max_window_bits"], "window_bits'"),
        ([b"permessage-deflate; server_max_window_bits=7"], "bits=7'"),
        ([b"permessage-deflate; server_max_window_bits=16"], "bits=16'"),
        ([b"permessage-deflate; server_max_window_bits=09"], "bits=09'"),
        ([b"permessage-deflate; client_max_window_bits="], "bits='"),
        (
            [b"permessage-deflate; server_no_context_takeover; server_no_context_takeover"],
            "repeated",
        ),
        ([b"permessage-deflate; client_max_window_bits=9; client_max_window_bits=9"], "repeated"),
    ],
)
def test_wrong_answers(answers: list[bytes], reason: str) -> None:
    with pytest.raises(BadAnswer) as caught:
        accepted_deflate(head_with(*answers))
    assert reason in str(caught.value)


def test_the_text_of_a_wrong_answer_is_short() -> None:
    with pytest.raises(BadAnswer) as caught:
        accepted_deflate(head_with(b"x" * 10_000))
    assert len(str(caught.value)) < 200


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"\n", b";", b"="]), max_size=5))
def test_any_answer_is_right_or_wrong(answers: list[bytes]) -> None:
    head = head_with(*answers)
    assert accepted_deflate(without_extensions(head)) is None
    with suppress(BadAnswer):
        accepted_deflate(head)


# --- the gate


async def gate_for(
    head: bytes, *, offers: bool = True, needs: bool = False
) -> tuple[bytes, HandshakeGate]:
    ours, theirs = memory_stream_pair()
    gate = HandshakeGate(ours, offers_deflate=offers, needs_deflate=needs)
    await theirs.send_all(head)
    return bytes(await gate.receive_some()), gate


ACCEPTED = b"permessage-deflate; server_no_context_takeover"


async def test_the_gate_removes_the_answer_to_the_offer() -> None:
    assert (await gate_for(head_with(ACCEPTED)))[0] == head_with()
    assert (await gate_for(head_with()))[0] == head_with()
    assert (await gate_for(head_with(ACCEPTED), needs=True))[0] == head_with()


async def test_the_gate_passes_an_answer_to_no_offer() -> None:
    # wsproto refuses it.
    assert (await gate_for(head_with(ACCEPTED), offers=False))[0] == head_with(ACCEPTED)


async def test_the_gate_refuses_what_was_not_offered() -> None:
    passed, gate = await gate_for(head_with(b"brotli"))
    assert passed == b""
    verdict = gate.verdict("unused")
    assert str(verdict) == "the server accepted the extension 'brotli', which was not offered"
    assert not verdict.permanent


async def test_the_gate_refuses_a_server_without_what_the_venue_demands() -> None:
    passed, gate = await gate_for(head_with(), needs=True)
    assert passed == b""
    verdict = gate.verdict("unused")
    assert "demands the compression permessage-deflate" in str(verdict)
    assert verdict.permanent
