"""Gaps and duplicates in numbered messages. Sans-I/O."""

from __future__ import annotations

__all__ = ["SequenceTracker"]


class SequenceTracker:
    """Finds gaps and duplicates in numbered messages, per symbol.

    For codecs of venues that number their messages without holes (Binance ``U``/``u``,
    Kraken and Coinbase sequences).
    """

    __slots__ = ("_last", "duplicates", "missed")

    most = 100_000
    """Symbols that are kept; the one that began first is forgotten for a new one."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self.missed = 0
        """Messages that never arrived, over all symbols."""
        self.duplicates = 0
        """Messages that had arrived before."""

    def check(self, symbol: str, first: int, last: int | None = None) -> int:
        """Check the message of *symbol* that covers the numbers *first* to *last*.

        Returns:
            int: how many numbers are missing before the message. 0 if it continues or
            begins the sequence, -1 if all of its numbers have arrived before.

        Raises:
            ValueError: *last* lies before *first*.
        """
        last = first if last is None else last
        if last < first:
            raise ValueError(f"a message cannot cover {first} to {last}")
        known = self._last.get(symbol)
        if known is not None and last <= known:
            self.duplicates += 1
            return -1
        self._last[symbol] = last
        if len(self._last) > self.most:
            del self._last[next(iter(self._last))]
        missing = 0 if known is None else max(0, first - known - 1)
        self.missed += missing
        return missing

    def reset(self, symbol: str | None = None) -> None:
        """Forget *symbol*, or all symbols.

        Call it after a snapshot or a reconnect, when the numbering may restart.
        """
        if symbol is None:
            self._last.clear()
        else:
            self._last.pop(symbol, None)
