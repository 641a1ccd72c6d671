"""The venues that trio_ticks speaks to, by name. To add one, write a :class:`~.base.Codec` in a module of its own and enter it here."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Final

from ...errors import ConfigError
from .base import Codec, CodecContext
from .flat import FlatCodec

__all__ = ["VENUES", "Codec", "CodecContext", "FlatCodec", "find_codec"]

VENUES: Final = MappingProxyType[str, Callable[[CodecContext], Codec]]({"flat": FlatCodec})


def find_codec(venue: str) -> Callable[[CodecContext], Codec]:
    """Return what makes a codec for *venue*.

    Raises:
        ConfigError: there is no such venue; the message lists those that there are.
    """
    try:
        return VENUES[venue]
    except (KeyError, TypeError):
        raise ConfigError(f"unknown venue {venue!r}: choose one of {', '.join(sorted(VENUES))}") from None
