"""The answer to a WebSocket handshake, judged before trio-websocket sees it.

Rules: a refusal is judged by its HTTP status, never by its text. Nothing that is shown
quotes the server.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from hashlib import sha1
from http import HTTPStatus
from typing import Final, final
from urllib.parse import urljoin, urlsplit

import trio

from ...errors import ConfigError
from .connect import ConnectFailed, Target, is_permanent, shown_status
from .extensions import BadAnswer, accepted_deflate, without_extensions

__all__ = ["HandshakeGate"]

_MAX_HEAD: Final = 16_384
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
_STATUS: Final = re.compile(rb"HTTP/1\.\d (\d{3})\b")
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_SCHEMES: Final = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_ACCEPT_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455, section 4.2.2: the answer to a key is the hash of the key and this."""
_MEDIA_TYPES: Final = {
    "text/html": "a web page",
    "application/xhtml+xml": "a web page",
    "application/json": "JSON",
    "text/plain": "plain text",
    "text/event-stream": "an event stream",
    "application/xml": "XML",
    "text/xml": "XML",
}
"""How the kinds of an answer are named; others are not, since they may be anything."""


@final
class HandshakeGate(trio.abc.Stream):
    """A stream that shows trio-websocket no answer but "101 Switching Protocols".

    Refusals are judged here, by their head, for three reasons: trio-websocket waits for
    ever if the connection ends during the handshake, or if the body of a refusal never
    ends; and its ``ConnectionRejected`` shows the whole text of the server.

    After the handshake the gate passes everything on, except for the text in the
    server's Close frames: some venues repeat the refused key in it, and trio-websocket
    logs the text. For the same reason an answer that trio-websocket would not accept is
    not shown to it.

    Args:
        stream: the connection.
        url: where it leads, without query string; the base of a relative redirect.
        offers_deflate: whether the request offers permessage-deflate. The answer to it
            is then judged here and not shown to trio-websocket, which knows nothing of
            the offer.
        needs_deflate: whether the handshake fails if the server does not accept that.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        url: str = "",
        *,
        offers_deflate: bool = False,
        needs_deflate: bool = False,
    ) -> None:
        self._stream = stream
        self._url = url
        self._offers_deflate = offers_deflate
        self._needs_deflate = needs_deflate
        self._permanent = False
        self._request = b""
        self._head = b""
        self._complete = False
        self._open = False
        self.failed: str | None = None
        """Why the handshake failed; ``None`` while it has not."""
        self.on_failure: Callable[[], object] = lambda: None
        """Called when the handshake has failed."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return the head of a good answer; after that, the data of the stream.

        Cancellation: as the stream's; the part of the head that was read is kept.
        """
        if self._open:
            return _without_close_reason(await self._stream.receive_some(max_bytes))
        try:
            return await self._receive_head()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._fail("the connection was lost during the handshake")
            raise

    async def _receive_head(self) -> bytes:
        while not self._complete:
            data = await self._stream.receive_some()
            # The blank line may span two reads, so search the last two old bytes again.
            searched = max(0, len(self._head) - 2)
            self._head += data
            self._complete = _BLANK_LINE.search(self._head, searched) is not None
            if not data:
                return self._fail("the server closed the connection during the handshake")
            if not self._head.startswith(b"HTTP/"[: len(self._head)]):
                return self._fail("the answer is not HTTP")
            if len(self._head) > _MAX_HEAD:
                return self._fail("the answer has too many headers")
        if self.status != HTTPStatus.SWITCHING_PROTOCOLS:
            return self._fail("refused")
        head = self._head
        if self._offers_deflate:
            try:
                accepted = accepted_deflate(head)
            except BadAnswer as error:
                return self._fail(str(error))
            if accepted is None and self._needs_deflate:
                return self._fail(
                    "the venue demands the compression permessage-deflate, and the server"
                    " does not accept it",
                    permanent=True,
                )
            head = without_extensions(head)
        flaw = _flaw(_headers_of(head), _headers_of(self._request)) if self._request else None
        if flaw is not None:
            return self._fail(f"the answer is no valid WebSocket handshake: {flaw}")
        self._open = True
        return head

    def _fail(self, reason: str, *, permanent: bool = False) -> bytes:
        self.failed = reason
        self._permanent = permanent
        self.on_failure()
        return b""

    @property
    def status(self) -> int | None:
        """The HTTP status of the answer; ``None`` if no status line has arrived."""
        match = _STATUS.match(self._head)
        return int(match[1]) if match else None

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the answer that have arrived, by their lower-case names."""
        return _headers_of(self._head)

    def verdict(self, otherwise: str) -> ConnectFailed:
        """Return why the handshake failed, and whether to try again.

        *otherwise* is the reason where neither the server nor the stream gave one.
        """
        status = self.status
        if status is None or status == HTTPStatus.SWITCHING_PROTOCOLS:
            return ConnectFailed(self.failed or otherwise, permanent=self._permanent)
        return ConnectFailed(
            f"the server answered {shown_status(status)}{self._details(status)}",
            # A redirect or a web page (200) is no WebSocket at the next try either.
            permanent=is_permanent(status),
            status=status,
            retry_after=self.headers.get("retry-after"),
        )

    def _details(self, status: int) -> str:
        headers = self.headers
        if status in _REDIRECTS:
            return _lead(headers.get("location"), self._url)
        if status < 300:
            kind = _MEDIA_TYPES.get(headers.get("content-type", "").partition(";")[0].lower())
            what = f" with {kind}" if kind else ""
            return f"{what}, and opened no WebSocket: check the url"
        return ""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send *data* on the stream.

        Cancellation: as the stream's.
        """
        if not self._open:
            self._request += data
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            if not self._open:
                self._fail("the connection was lost during the handshake")
            raise

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the stream might not block.

        Cancellation: as the stream's.
        """
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the stream.

        Cancellation: as the stream's, which then closes at once.
        """
        await self._stream.aclose()


def _headers_of(head: bytes) -> dict[str, str]:
    """Return the headers in *head* by their lower-case names; the last one wins."""
    lines = head.decode("latin-1").split("\n")[1:]
    pairs = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _colon, value in pairs}


def _flaw(answer: Mapping[str, str], request: Mapping[str, str]) -> str | None:
    """Return what is wrong with the headers of a 101 answer; ``None``: nothing.

    The checks are those of wsproto (RFC 6455, section 4.1).
    """
    if answer.get("upgrade", "").lower() != "websocket":
        return "it has no header 'Upgrade: websocket'"
    if "upgrade" not in _listed(answer.get("connection", "").lower()):
        return "it has no header 'Connection: Upgrade'"
    accept = answer.get("sec-websocket-accept")
    if accept is None:
        return "it has no header 'Sec-WebSocket-Accept'"
    key = request.get("sec-websocket-key", "").encode("latin-1")
    digest = sha1(key + _ACCEPT_GUID, usedforsecurity=False).digest()
    if accept != b64encode(digest).decode():
        return "its Sec-WebSocket-Accept does not belong to our request"
    chosen = answer.get("sec-websocket-protocol")
    if chosen is not None and chosen not in _listed(request.get("sec-websocket-protocol", "")):
        return "it chose a subprotocol that was not offered"
    if _listed(answer.get("sec-websocket-extensions", "")):
        return "it chose an extension that was not offered"
    return None


def _listed(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _lead(location: str | None, url: str) -> str:
    """Return where a redirect leads, as the end of a sentence.

    The query string is left out: it may hold a key, ours or one of the server's.
    """
    try:
        parts = urlsplit(urljoin(url.replace("ws", "http", 1), location or ""))
        host = parts.netloc.rpartition("@")[2]
        target = Target.parse(f"{_SCHEMES[parts.scheme]}://{host}{parts.path}")
    except (ValueError, KeyError, ConfigError):
        return " and does not say where it leads"
    if location is None:
        return " and does not say where it leads"
    if str(target) == url:
        return " and leads back to this url, maybe with another query string"
    return f" and leads to {target}: give that url"


def _without_close_reason(frames: bytes | bytearray) -> bytes | bytearray:
    """Return control *frames* without the text of the Close frame that may end them.

    The frames are unmasked and at most 125 bytes each, so each begins with its opcode
    and its size, one byte each; the first two bytes of a Close frame's payload are its
    code (RFC 6455, section 5.5.1).
    """
    position = 0
    while position < len(frames):
        opcode, size = frames[position], frames[position + 1]
        if opcode == 0x88 and size > 2:
            return frames[:position] + b"\x88\x02" + frames[position + 2 : position + 4]
        position += 2 + size
    return frames
