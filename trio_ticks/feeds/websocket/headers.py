"""The headers of the handshake that the user adds: their checks, and their secrets.

Rules: no message shows a value, since it may be a token. A name is shown only if it is
a valid one: a user who swapped the two would see the token.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from typing import Final

from ...errors import ConfigError
from ...version import __version__
from .connect import MIN_SECRET

__all__ = ["USER_AGENT", "check_headers", "check_subprotocols", "header_secrets", "merge_headers"]

USER_AGENT: Final = f"trio-ticks/{__version__}"
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_OURS: Final = frozenset({"host", "upgrade", "connection", "content-length", "transfer-encoding"})
"""Headers that the handshake itself needs, or that it must not have."""
_SEPARATORS: Final = re.compile(r'[\s;,="]+')
_MIN_PART: Final = 8
"""A part of a header's value counts as a secret of its own from this length on.

``Bearer`` and ``Basic`` are shorter.
"""


def check_headers(name: str, headers: object) -> dict[str, str]:
    """Return *headers* as a dict.

    Args:
        name: of the setting.
        headers: what it was given.

    Raises:
        ConfigError: they are no headers, or one of them belongs to the handshake.
    """
    if not isinstance(headers, Mapping):
        raise ConfigError(
            f"{name} must be a mapping of header names to values, not {type(headers).__name__}"
        )
    for number, (header, value) in enumerate(headers.items(), 1):
        if not isinstance(header, str) or not _TOKEN.fullmatch(header):
            raise ConfigError(f"{name}: header number {number} has a name that is none")
        lower = header.lower()
        if lower == "sec-websocket-protocol":
            raise ConfigError(f"{name} must not have {header}: return Endpoint(subprotocols=...)")
        if lower in _OURS or lower.startswith("sec-websocket-"):
            raise ConfigError(f"{name} must not have {header}, which belongs to the handshake")
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise ConfigError(
                f"{name}: the value of {header} must be a str of printable ASCII without spaces"
                " around it"
            )
    if len({header.lower() for header in headers}) < len(headers):
        raise ConfigError(f"{name} must not have the same header twice")
    return dict(headers)


def check_subprotocols(name: str, subprotocols: object) -> tuple[str, ...]:
    """Return *subprotocols* as a tuple.

    Args:
        name: of the setting.
        subprotocols: what it was given.

    Raises:
        ConfigError: they are no WebSocket subprotocols.
    """
    if isinstance(subprotocols, str | bytes) or not isinstance(subprotocols, Iterable):
        raise ConfigError(f"{name} must be a list of str, not {type(subprotocols).__name__}")
    found = tuple(subprotocols)
    if not all(isinstance(each, str) and _TOKEN.fullmatch(each) for each in found):
        raise ConfigError(
            f"{name} must be tokens of HTTP: letters, digits and !#$%&'*+-.^_`|~, without spaces"
        )
    if len(set(found)) < len(found):
        raise ConfigError(f"{name} must not have the same one twice")
    return found


def header_secrets(headers: Mapping[str, str]) -> tuple[str, ...]:
    """Return what must not be shown of *headers*: the values, and long parts of them.

    A venue that is given ``Bearer abc...`` may repeat the token alone.
    """
    found: list[str] = []
    for value in headers.values():
        found.append(value)
        found += (part for part in _SEPARATORS.split(value) if len(part) >= _MIN_PART)
        scheme, _, rest = value.partition(" ")
        if scheme.lower() == "basic":
            found += _user_and_password(rest)
    return tuple(secret for secret in found if len(secret) >= MIN_SECRET)


def _user_and_password(encoded: str) -> tuple[str, ...]:
    """Return what basic authentication has *encoded*: both together, the password."""
    try:
        both = b64decode(encoded, validate=True).decode()
    except ValueError:
        return ()
    return both, both.partition(":")[2]


def merge_headers(*parts: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers of all *parts*; a later part wins, whatever its upper case."""
    chosen = {name.lower(): (name, value) for part in parts for name, value in part.items()}
    return tuple((name.encode(), value.encode()) for name, value in chosen.values())
