"""Items in a recording: of a feed without messages, or that came without one.

Ticks are messages in the language ``flat``. Other items are event lines of the
recorder, each with its kind as the word.

Rules: sans-I/O. An item that cannot be written or read costs itself alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import attrs
import msgspec

from ..gaps import Gap
from ..ticks import QUANTITIES, Bar, BookUpdate, Tick, Trade

__all__ = ["encode_items", "item_of"]

_WORD_OF: Final[dict[type, bytes]] = {
    Trade: b"#trade ",
    BookUpdate: b"#book ",
    Bar: b"#bar ",
}
_KIND_OF: Final[dict[str, type[Any]]] = {
    "trade": Trade,
    "book": BookUpdate,
    "bar": Bar,
    "gap": Gap,
}
_encode: Final = msgspec.json.Encoder().encode
_encode_lines: Final = msgspec.json.Encoder().encode_lines
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


def encode_items(items: Sequence[Any]) -> tuple[list[bytes], int]:
    """Return *items* as messages of a recording in the language ``flat``.

    Ticks are such messages, and other items are events.

    Returns:
        The messages, and how many items are of a kind that no recording can hold.
    """
    if {*map(type, items)} == {Tick}:
        lines: list[bytes] = _encode_lines(items).splitlines()
        # A quantity that is absent is NaN, which is written as null; the language
        # leaves it out instead.
        if not any(b"null" in line for line in lines):
            return lines, 0
    messages = [message for item in items if (message := _message(item)) is not None]
    return messages, len(items) - len(messages)


def _message(item: Any) -> bytes | None:
    kind = type(item)
    if kind is Tick:
        fields = attrs.asdict(item, filter=lambda _field, value: value == value)
        return _encode(fields)
    word = _WORD_OF.get(kind)
    return None if word is None else word + _encode(item)


def item_of(word: str, body: bytes) -> Any:
    """Return the item of an event.

    Raises:
        ValueError: it makes no sense.
    """
    kind = _KIND_OF[word]
    try:
        fields = _decode(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    names = QUANTITIES.get(kind, ())
    absent = {name: math.nan for name in names if fields.get(name) is None}
    # The constraints of the class refuse NaN.
    item = msgspec.convert({**fields, **dict.fromkeys(absent, 0.0)}, kind)
    return attrs.evolve(item, **absent) if absent else item
