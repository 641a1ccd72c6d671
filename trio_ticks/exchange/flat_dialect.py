"""The flat protocol as the exchange speaks it; ``wire.py`` has its messages."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, final

from .dialect import Answer, Refusal
from .wire import FlatTick, answer, encode_frames

__all__ = ["FlatDialect", "key_refusal"]


def key_refusal(given: Sequence[bytes], api_key: str | None) -> Refusal | None:
    """Return why a client that has *given* these keys is not let in."""
    if api_key is None:
        return None
    if not given:
        return Refusal(401, "UNAUTHORIZED")
    if len(given) > 1 or not hmac.compare_digest(given[0], api_key.encode()):
        return Refusal(401, "INVALID_TOKEN")
    return None


@final
class FlatDialect:
    """A tick is one JSON object; a key is a symbol."""

    path: ClassVar[str] = ""
    compresses: ClassVar[bool] = False
    faults: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init__(self, api_key: str | None = None, faults: frozenset[str] = frozenset()) -> None:
        self._api_key = api_key
        self.throttles = True
        """Whether there is a request for a lower rate."""

    def at(self, path: str) -> FlatDialect:
        """Return itself: it is spoken at any path."""
        return self

    def refuses(self, target: str, headers: Sequence[tuple[bytes, bytes]]) -> Refusal | None:
        """Return why a client is not let in: the key is in the header ``X-API-Key``."""
        given = [value for name, value in headers if name.lower() == b"x-api-key"]
        return key_refusal(given, self._api_key)

    def converse(self, *, deflates: bool) -> FlatDialect:
        """Return itself: it remembers nothing of a client."""
        return self

    def opening(self) -> Sequence[bytes]:
        """Return nothing: the client speaks first."""
        return ()

    def answer(
        self,
        message: str | bytes,
        *,
        symbols: Sequence[str],
        subscription: frozenset[str],
        max_rate: float | None,
    ) -> Answer:
        """Answer *message*, as :func:`~.wire.answer` does."""
        reply = answer(
            message,
            listed=frozenset(symbols),
            subscription=subscription,
            max_rate=max_rate,
            throttles=self.throttles,
        )
        return Answer((reply.payload,), reply.subscription, reply.bad, reply.max_rate)

    def keys(self, symbols: Sequence[str]) -> frozenset[str]:
        """Return *symbols*."""
        return frozenset(symbols)

    def frames(self, ticks: Sequence[FlatTick]) -> tuple[Sequence[str], Sequence[bytes]]:
        """Return a frame for each tick."""
        return [tick.symbol for tick in ticks], encode_frames(ticks)
