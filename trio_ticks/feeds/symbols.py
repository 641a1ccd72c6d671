"""What a user calls a feed and its symbols, checked."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping

from ..errors import ConfigError
from .sieve import LONGEST_SYMBOL, is_symbol

__all__ = ["check_name", "check_symbols"]


def check_symbols(symbols: object) -> dict[str, str]:
    """Return *symbols* as a mapping from the venue's names to the user's.

    Raises:
        ConfigError: they are neither a list nor a mapping of texts, or two have the
            same name.
    """
    if isinstance(symbols, str | bytes) or not isinstance(symbols, Iterable):
        raise ConfigError(f"symbols must be a list of symbols, not {type(symbols).__name__}")
    pairs = list(symbols.items() if isinstance(symbols, Mapping) else ((s, s) for s in symbols))
    if not all(isinstance(symbol, str) and symbol for pair in pairs for symbol in pair):
        raise ConfigError("symbols must be a list of symbols, each a str that is not empty")
    if not all(is_symbol(symbol) for pair in pairs for symbol in pair):
        wrong = next(each for pair in pairs for each in pair if not is_symbol(each))
        raise ConfigError(
            f"symbols must be printable and of at most {LONGEST_SYMBOL} characters, unlike"
            f" {reprlib.repr(wrong)}"
        )
    result = dict(pairs)
    double = [name for name, count in Counter(result.values()).items() if count > 1]
    if double:
        raise ConfigError(f"two symbols must not have the same name {double[0]!r}")
    return result


def check_name(name: object) -> str:
    """Return the *name* of a feed.

    Raises:
        ConfigError: it is no str of 1 to 64 printable characters.
    """
    if not isinstance(name, str) or not name.isprintable() or not 1 <= len(name) <= 64:
        raise ConfigError("name must be a str of 1 to 64 printable characters, or None")
    return name
