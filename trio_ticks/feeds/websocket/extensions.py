"""The extension permessage-deflate in the handshake: our offer, the server's answer.

Plan: the offer is a header of our request. The answer is read from the head of the
response, and then removed from it: wsproto must not see it, since it has not made the
offer and would refuse the answer. It needs not know of the extension either, since it
never sees a data frame.

Rules: sans-I/O. An answer that accepts anything which was not offered is refused (RFC
6455, section 9.1). Section numbers are those of RFC 7692.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from .inflate import DeflateParameters

__all__ = [
    "OFFER",
    "BadAnswer",
    "Compression",
    "accepted_deflate",
    "without_extensions",
]

Compression = Literal["permessage-deflate"]
"""A compression of all messages that a client and a server can agree on."""

OFFER: Final = (b"Sec-WebSocket-Extensions", b"permessage-deflate; client_max_window_bits")
"""The header of a request that offers permessage-deflate.

It lets the server choose the window of the client (section 7.1.2.2). Some servers
refuse an offer without that. We never compress, so that any choice is right.
"""

# The header with its lines; one that begins with a space continues the one before.
_EXTENSIONS: Final = re.compile(
    rb"^sec-websocket-extensions:((?:[^\n]*\n)(?:[ \t][^\n]*\n)*)", re.IGNORECASE | re.MULTILINE
)
_BITS: Final = re.compile(r"8|9|1[0-5]")
_SHOWN: Final = 40


class BadAnswer(Exception):
    """The server accepted something that was not offered; the text says what."""


def accepted_deflate(head: bytes) -> DeflateParameters | None:
    """Return what the *head* of a response accepts; ``None`` if it accepts nothing.

    Raises:
        BadAnswer: it accepts something that was not offered. The text may hold some of
            the head.
    """
    found: DeflateParameters | None = None
    for match in _EXTENSIONS.finditer(head):
        for extension in match[1].decode("latin-1").split(","):
            # The rule for lists in headers allows empty elements.
            if not extension.strip():
                continue
            if found is not None:
                raise BadAnswer("the server accepted more extensions than were offered")
            found = _read_extension(extension)
    return found


def without_extensions(head: bytes) -> bytes:
    """Return the *head* of a response without the headers that name extensions."""
    return _EXTENSIONS.sub(b"", head)


def _read_extension(extension: str) -> DeflateParameters:
    name, *parameters = (part.strip() for part in extension.split(";"))
    if name.lower() != "permessage-deflate":
        raise BadAnswer(
            f"the server accepted the extension {name[:_SHOWN]!r}, which was not offered"
        )
    # A server may give each of these four in its answer. All but the client's window
    # it may give without being asked (sections 7.1.1 and 7.1.2).
    flags = dict.fromkeys(("server_no_context_takeover", "client_no_context_takeover"), False)
    bits = dict.fromkeys(("server_max_window_bits", "client_max_window_bits"), 0)
    for parameter in parameters:
        key, equals, value = (part.strip() for part in parameter.partition("="))
        key = key.lower()
        value = value.removeprefix('"').removesuffix('"')
        if flags.get(key) is False and not equals:
            flags[key] = True
        elif bits.get(key) == 0 and _BITS.fullmatch(value):
            bits[key] = int(value)
        else:
            raise BadAnswer(
                f"the server accepted permessage-deflate with {parameter[:_SHOWN]!r}, which"
                " is unknown, invalid or repeated"
            )
    default = DeflateParameters()
    return DeflateParameters(
        flags["server_no_context_takeover"],
        bits["server_max_window_bits"] or default.server_max_window_bits,
        flags["client_no_context_takeover"],
        bits["client_max_window_bits"] or default.client_max_window_bits,
    )
