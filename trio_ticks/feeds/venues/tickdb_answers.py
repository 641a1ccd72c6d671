"""What TickDB answers to subscriptions, and when those that failed are asked for again.

The venue's requests have no number. An answer names its channel and symbols, or it
belongs to the oldest request that has no answer yet.

Rules: sans-I/O. Codes are compared as text, since the venue sends some as numbers and
some as text; its words are shown and never looked at. What may succeed later is asked
for again after 1 s three times, 5 s three times, and then 30 s: the waits that the
venue documents for reconnects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, final

import msgspec

from .base import CodecContext

__all__ = ["Subscriptions", "names_in"]

_SYMBOLS_A_REQUEST: Final = 50
"""The venue refuses too many symbols (code 2004), and does not say how many that is."""
_WAITS_S: Final = (1, 1, 1, 5, 5, 5, 30)
_AGAIN: Final = frozenset({"3001", "3005", "5000", "5001", "5002", "5003", "5004"})
"""Too fast, or the venue's own trouble: the same request may succeed later."""
_NEVER: Final = frozenset(
    {"2002", "2003", "2005", "2006", "4005"} | {str(code) for code in range(3006, 3013)}
)
"""No such symbol, or not for this key: the same request never succeeds."""
_NO_CHANNEL: Final = "4005"
"""The key may not use this channel at all."""
_MOST_UNANSWERED: Final = 4096


def names_in(fields: Mapping[str, Any], *keys: str) -> list[str]:
    """Return the texts in the lists that *fields* has under *keys*, each once."""
    found: dict[str, None] = {}
    for key in keys:
        value = fields.get(key)
        if isinstance(value, list):
            found.update(dict.fromkeys(name for name in value if isinstance(name, str) and name))
    return list(found)


@final
class Subscriptions:
    """The requests of one connection that have no answer, and those to be repeated.

    Args:
        context: of the codec.
        channels_of: returns all channels that a symbol is subscribed to.
        spelled: returns a symbol of the venue as it was asked for.
    """

    def __init__(
        self,
        context: CodecContext,
        channels_of: Callable[[str], Sequence[str]],
        spelled: Callable[[str], str],
    ) -> None:
        self._context = context
        self._channels_of = channels_of
        self._spelled = spelled
        self._asked: dict[str, set[str]] = {}
        """By symbol, its channels that are not refused for good."""
        self._unanswered: deque[tuple[str, list[str]]] = deque(maxlen=_MOST_UNANSWERED)
        self.retries: dict[str, dict[str, None]] = {}
        """By channel, the symbols to ask for again."""
        self._tries = 0
        self._due: datetime | None = None

    def ask(self, cmd: str, wanted: Mapping[str, Sequence[str]]) -> list[str | bytes]:
        """Return the requests *cmd* for the symbols of each channel in *wanted*.

        The channel "" stands for whole markets, which are asked for in other words.
        """
        requests: list[str | bytes] = []
        for channel, symbols in wanted.items():
            for symbol in symbols:
                if cmd == "subscribe":
                    self._asked.setdefault(symbol, set(self._channels_of(symbol)))
                else:
                    self._asked.pop(symbol, None)
                    self._forget_retry(channel, symbol)
            for first in range(0, len(symbols), _SYMBOLS_A_REQUEST):
                part = list(symbols[first : first + _SYMBOLS_A_REQUEST])
                if cmd == "subscribe":
                    self._unanswered.append((channel, part))
                data: dict[str, Any] = (
                    {"channel": channel, "symbols": part}
                    if channel
                    else {"universes": part, "channels": ["ticker"]}
                )
                requests.append(msgspec.json.encode({"cmd": cmd, "data": data}).decode())
        return requests

    def _forget_retry(self, channel: str, symbol: str) -> None:
        symbols = self.retries.get(channel, {})
        symbols.pop(symbol, None)
        if not symbols:
            self.retries.pop(channel, None)

    def retry(self, arrived: datetime) -> None:
        """Ask again for what is due at the time *arrived*."""
        if self._due is None or arrived < self._due:
            return
        self._due = None
        self._tries += 1
        wanted = {channel: list(symbols) for channel, symbols in self.retries.items()}
        self.retries.clear()
        for request in self.ask("subscribe", wanted):
            self._context.reply(request)

    def accepted(self, data: Mapping[str, Any]) -> None:
        """Notice that the venue has accepted a request; *data* may say which."""
        self._take_answered(data)
        if not self.retries:
            self._tries = 0

    def refused(
        self, cmd: str, code: str, words: str, data: Mapping[str, Any], arrived: datetime
    ) -> None:
        """Report a refusal, of single symbols or of a whole request.

        Args:
            cmd: the kind of the answer: ``subscribe`` or ``error``.
            code: the venue's code.
            words: for people.
            data: what the answer says besides.
            arrived: when it came.
        """
        # An error may be the answer to anything; it is taken for that to a request only
        # where there is but one.
        is_ours = cmd == "subscribe" or len(self._unanswered) == 1
        request = self._take_answered(data) if is_ours else None
        failed = names_in(data, "failed_symbols", "retryable_symbols")
        if failed:
            named = data.get("channel")
            channel = named if isinstance(named, str) else request[0] if request else ""
            again = names_in(data, "retryable_symbols")
            for symbol in failed:
                self._refuse(channel, symbol, words, again=symbol in again, never=True)
        elif request is None:
            self._context.refused(None, words)
        else:
            channel, symbols = request
            # Which one of several symbols is unknown, the venue does not say.
            never = code in _NEVER and (len(symbols) == 1 or code == _NO_CHANNEL)
            for symbol in symbols:
                self._refuse(channel, symbol, words, again=code in _AGAIN, never=never)
        if self.retries and self._due is None:
            wait_s = _WAITS_S[min(self._tries, len(_WAITS_S) - 1)]
            self._due = arrived + timedelta(seconds=wait_s)

    def _refuse(self, channel: str, symbol: str, words: str, *, again: bool, never: bool) -> None:
        symbol = self._spelled(symbol)
        channels = self._asked.get(symbol)
        if channels is None:
            # Not asked for, or not any more.
            self._context.refused(symbol, words)
        elif again:
            self.retries.setdefault(channel, {})[symbol] = None
            self._context.refused(symbol, words)
        else:
            if never:
                channels.discard(channel)
            # A symbol is left out for good when all its channels are refused.
            self._context.refused(symbol, words, final=never and not channels)

    def _take_answered(self, data: Mapping[str, Any]) -> tuple[str, list[str]] | None:
        """Take the request that an answer with *data* belongs to; ``None``: to none."""
        channel = data.get("channel")
        symbols = set(map(self._spelled, names_in(data, "symbols", "failed_symbols", "universes")))
        for request in self._unanswered:
            if channel in (None, request[0]) and (not symbols or symbols & set(request[1])):
                self._unanswered.remove(request)
                return request
        return None
