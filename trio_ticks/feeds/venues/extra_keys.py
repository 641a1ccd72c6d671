"""The keys that a venue sends besides a tick's, and the proof that none comes twice.

msgspec takes the last of two equal keys without a word. Each key, and each string, has
two quotation marks. A batch's marks can therefore be counted, and compared with those
of the keys and strings that are known to be there: if the sum is right, there is no
other key, and none is there twice. To know what is there besides a tick's own keys,
only these others have to be decoded: the venue sends the same ones each time.

Rules: a wrong proof would let a broken message pass. What is not as it was learnt is
left to the caller, which looks at each key.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final, final

import msgspec

__all__ = ["ExtraKeys"]

_MOST_KEYS: Final = 64
"""For so many keys a look at each of them takes no longer."""
_UNLEARNABLE: Final = re.compile(r'[\\"\x00-\x1f]')
"""The characters that a key of a msgspec struct may not have: it would raise."""
_MOST_LESSONS: Final = 16
"""A venue whose messages always have other keys is not learnt again and again."""


@final
class ExtraKeys:
    """Learns a venue's extra keys from one message, and proves others to be like it.

    Args:
        wanted: the keys of a tick, which the caller has found in each message.
        quotes: the quotation marks of a tick without extra keys.
    """

    def __init__(self, wanted: Collection[str], quotes: int) -> None:
        self._wanted: Final = frozenset(wanted)
        self._own_quotes: Final = quotes
        self._quotes = 0
        """The quotation marks of a message, with its extra keys."""
        self._decoder: msgspec.json.Decoder[Any] | None = None
        self._lessons = 0

    def learn(self, message: dict[str, str | float | bool | None]) -> None:
        """Take the extra keys of *message*, and which have text, as the rule.

        Too many keys, and such as cannot be learnt, leave the rule as it is.
        """
        extra = {name: value for name, value in message.items() if name not in self._wanted}
        if self._lessons == _MOST_LESSONS or len(extra) > _MOST_KEYS:
            return
        if any(map(_UNLEARNABLE.search, extra)):
            return
        self._lessons += 1
        texts = [isinstance(value, str) for value in extra.values()]
        # A key may be no name that Python takes.
        shape = msgspec.defstruct(
            "ExtraKeys",
            [
                (f"key{index}", str if text else float | bool | None)
                for index, text in enumerate(texts)
            ],
            rename={f"key{index}": name for index, name in enumerate(extra)},
            gc=False,
        )
        self._decoder = msgspec.json.Decoder(shape)
        self._quotes = self._own_quotes + 2 * len(texts) + 2 * sum(texts)

    def has_each_once(self, blob: bytes, number: int, quotes: int) -> bool:
        """Tell whether no message has a key twice, or a key that was not learnt.

        Args:
            blob: a batch of messages, as lines. Each has the wanted keys.
            number: how many these are.
            quotes: how many quotation marks are in *blob*.
        """
        if self._decoder is None or quotes != self._quotes * number:
            return False
        try:
            return len(self._decoder.decode_lines(blob)) == number
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
