"""The REST interfaces of the venues: where they are, and how they report errors.

Facts: TickDB's pages on REST and on errors, Binance's ``rest-api.md`` and
``errors.md``. TickDB sends some codes as numbers and some as text, so they are compared
as text; its words are shown and never looked at.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final, final

import attrs
import msgspec

from ..checks import check_word
from .answers import Failure, Judge, judge_status
from .client import RestClient

__all__ = ["REST_VENUES", "RestVenue", "judge_binance", "judge_tickdb", "open_venue"]

_TICKDB_AUTH: Final = frozenset(
    {"1001", "1002", "1004", "1005", "UNAUTHORIZED", "INVALID_TOKEN", "PERMISSION_DENIED"}
)
_TICKDB_AGAIN: Final = frozenset({"3001", "3005", "5000", "5001", "5002", "5003", "5004"})
"""Too fast, or the venue's own trouble: the same request may succeed later."""
_TICKDB_UNKNOWN: Final = frozenset({"2002", "2005", "2006"})
_TICKDB_AMBIGUOUS: Final = "AMBIGUOUS_SYMBOL"
_TICKDB_HISTORY: Final = "3008"
_BINANCE_UNKNOWN: Final = -1121
_FIREWALL: Final = 403
"""Binance's web application firewall answers so; it is not about a key."""
_BINANCE_AGAIN: Final = frozenset({-1000, -1001, -1003, -1006, -1007, -1008, -1015})
"""Too fast, or the venue's own trouble."""


class _TickDBAnswer(msgspec.Struct, gc=False):
    code: int | str = 0
    message: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Types(msgspec.Struct):
    available_types: list[str] = []


_read_tickdb: Final = msgspec.json.Decoder(_TickDBAnswer).decode
_read_types: Final = msgspec.json.Decoder(_Types).decode


def judge_tickdb(status: int, body: bytes) -> Failure | None:
    """Judge an answer of TickDB by its status and its code; both have to be good."""
    plain = judge_status(status)
    try:
        answer = _read_tickdb(body)
    except msgspec.DecodeError:
        # A proxy on the way answers with a page; what is no JSON is judged later.
        return plain
    code = str(answer.code)
    if code == "0":
        return plain
    words = f"{answer.message} (code {code})" if answer.message else f"code {code}"
    # What a plan does not include is refused with 403, too, and a number.
    refused = plain is not None and plain.kind == "auth" and not code.isdecimal()
    if code in _TICKDB_AUTH or refused:
        return Failure(reason=words, status=status, code=code, again=False, kind="auth")
    if code == _TICKDB_AMBIGUOUS:
        types = _available_types(answer.data)
        return Failure(
            reason=words,
            advice=f"choose a type: {', '.join(types) or 'the venue names none'}",
            status=status,
            code=code,
            again=False,
            kind="symbol",
            types=types,
        )
    advice = ""
    if code == _TICKDB_HISTORY:
        advice = "the free plan may not ask for a time range"
    return Failure(
        reason=words,
        advice=advice,
        status=status,
        code=code,
        again=code in _TICKDB_AGAIN or (plain is not None and plain.again),
        kind="symbol" if code in _TICKDB_UNKNOWN else "other",
    )


def _available_types(data: msgspec.Raw) -> tuple[str, ...]:
    try:
        return tuple(_read_types(data).available_types)
    except msgspec.DecodeError:
        return ()


class _BinanceError(msgspec.Struct):
    code: int
    msg: str = ""


_read_binance: Final = msgspec.json.Decoder(_BinanceError).decode


def judge_binance(status: int, body: bytes) -> Failure | None:
    """Judge an answer of Binance by its status; its code says what has failed."""
    plain = judge_status(status)
    if plain is None:
        return None
    if status == _FIREWALL:
        plain = attrs.evolve(plain, kind="other")
    try:
        answer = _read_binance(body)
    except msgspec.DecodeError:
        return plain
    return attrs.evolve(
        plain,
        reason=f"{answer.msg} (code {answer.code})" if answer.msg else f"code {answer.code}",
        code=str(answer.code),
        again=plain.again or answer.code in _BINANCE_AGAIN,
        kind="symbol" if answer.code == _BINANCE_UNKNOWN else plain.kind,
    )


@final
@attrs.frozen(kw_only=True)
class RestVenue:
    """What has to be known of a venue's REST interface."""

    urls: tuple[str, ...]
    """Its addresses; the first that can be reached is used."""
    judge: Judge
    """Reads its errors."""
    key_header: str = "X-API-Key"
    """The header that carries the key, where there is one."""


REST_VENUES: Final = MappingProxyType(
    {
        "tickdb": RestVenue(urls=("https://api.tickdb.ai",), judge=judge_tickdb),
        "binance": RestVenue(
            urls=("https://data-api.binance.vision", "https://api.binance.com"),
            judge=judge_binance,
            key_header="X-MBX-APIKEY",
        ),
    }
)
"""The venues by their names."""


def open_venue(venue: str, *, url: str | None = None, **settings: Any) -> RestClient:
    """Return a client for *venue*, to be used in ``async with``.

    Args:
        venue: ``"tickdb"`` or ``"binance"``.
        url: the address, instead of the venue's own.
        settings: further arguments of :class:`RestClient`.

    Raises:
        ConfigError: there is no such venue, or a setting is wrong.
    """
    check_word("venue", venue, tuple(REST_VENUES))
    known = REST_VENUES[venue]
    return RestClient(
        known.urls if url is None else url,
        judge=known.judge,
        key_header=known.key_header,
        **settings,
    )
