"""Where the next connection leads, for venues whose address or token changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias, final
from urllib.parse import unquote

import attrs

from .connect import MIN_SECRET, Target
from .headers import check_headers, check_subprotocols, header_secrets

__all__ = ["Endpoint", "EndpointFunction"]

_MIN_SEGMENT: Final = 12
"""A part of the path counts as a secret from this length on, such as a listen key."""


def _url(url: object) -> str:
    Target.parse(url)
    return str(url)


def _headers(headers: object) -> Mapping[str, str]:
    return MappingProxyType(check_headers("headers", headers))


def _subprotocols(subprotocols: object) -> tuple[str, ...]:
    return check_subprotocols("subprotocols", subprotocols)


@final
@attrs.frozen(repr=False)
class Endpoint:
    """Where to connect, and with what: returned by the function given as ``endpoint=``.

    Nothing of it is shown in a log line, an error or its ``repr`` but the host.

    Args:
        url: ``ws://`` or ``wss://``, with the token in it if the venue wants that.
        headers: sent with the handshake; they win over the feed's own ``headers``.
        subprotocols: offered to the venue, the preferred first.

    Raises:
        ConfigError: a value makes no sense; the message does not repeat it.
    """

    url: str = attrs.field(converter=_url)
    headers: Mapping[str, str] = attrs.field(factory=dict, converter=_headers, hash=False)
    subprotocols: tuple[str, ...] = attrs.field(default=(), converter=_subprotocols)

    @property
    def target(self) -> Target:
        """The URL, taken apart."""
        return Target.parse(self.url)

    @property
    def shown(self) -> str:
        """The URL without path and query string; both may hold a token."""
        return str(attrs.evolve(self.target, path="/", query=""))

    @property
    def secrets(self) -> tuple[str, ...]:
        """What a venue might repeat and nobody must see."""
        target = self.target
        return (
            *target.secrets,
            *header_secrets(self.headers),
            *(each for each in self.subprotocols if len(each) >= MIN_SECRET),
            *(unquote(part) for part in target.path.split("/") if len(part) >= _MIN_SEGMENT),
        )

    def __repr__(self) -> str:
        return (
            f"<Endpoint {self.shown} headers={len(self.headers)}"
            f" subprotocols={len(self.subprotocols)}>"
        )


EndpointFunction: TypeAlias = Callable[[], Awaitable[Endpoint]]
"""Returns where the next connection leads."""
