"""When market data is to be expected: a venue's weekly hours, or a function."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final, final
from zoneinfo import ZoneInfo

import attrs

from ..checks import check_callable, check_text
from ..errors import ConfigError

__all__ = ["ExpectData", "MarketHours", "check_expect_data"]

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_RANGE: Final = re.compile(
    r"(?P<first>[a-z]{3})(?:-(?P<last>[a-z]{3}))? "
    r"(?P<open>\d\d:\d\d)-(?P<close>\d\d:\d\d)"
)


def _as_tuple(given: str | Iterable[str]) -> tuple[str, ...]:
    if not isinstance(given, Iterable):
        raise ConfigError(
            f"hours must be a str such as 'mon-fri 09:30-16:00', or several, got {given!r}"
        )
    return (given,) if isinstance(given, str) else tuple(given)


@final
@attrs.frozen
class MarketHours:
    """The weekly hours in which market data is expected.

    Args:
        zone: the time zone of the hours, ``"America/New_York"`` for example.
        hours: day or days, opening and closing: ``"mon-fri 09:30-16:00"``. A closing
            that is not after the opening lies on the next day; ``24:00`` is midnight.

    Raises:
        ConfigError: the zone is unknown, or the hours are not written like that.
    """

    zone: str = attrs.field()
    hours: tuple[str, ...] = attrs.field(converter=_as_tuple)
    _zone: ZoneInfo = attrs.field(init=False, repr=False, eq=False)
    _spans: tuple[tuple[int, int], ...] = attrs.field(init=False, repr=False, eq=False)
    """Beginning and end of each, in minutes since Monday 00:00."""

    def __attrs_post_init__(self) -> None:
        check_text("zone", self.zone)
        try:
            zone = ZoneInfo(self.zone)
        except (ValueError, OSError, KeyError) as error:
            raise ConfigError(
                f"zone must be a time zone such as 'America/New_York', got {self.zone!r}"
            ) from error
        object.__setattr__(self, "_zone", zone)
        spans = tuple(span for text in self.hours for span in _parse(text))
        if not spans:
            raise ConfigError("hours must have at least one entry such as 'mon-fri 09:30-16:00'")
        object.__setattr__(self, "_spans", spans)

    def __call__(self, now: datetime) -> bool:
        """Return whether data is expected at *now*, an aware datetime."""
        local = now.astimezone(self._zone)
        minute = local.weekday() * 1440 + local.hour * 60 + local.minute
        week = 7 * 1440
        return any(
            begin <= minute < end or begin <= minute + week < end for begin, end in self._spans
        )


ExpectData = MarketHours | Callable[[datetime], bool]


def check_expect_data(name: str, value: object) -> None:
    """Raise if *value* cannot say when data is expected; ``None``: always.

    Raises:
        ConfigError: it can be called neither at once nor at all. What an ``async def``
            returns would count as true.
    """
    shown = "a MarketHours, or a function of a datetime that returns a bool"
    check_callable(name, value, shown, or_none=True)
    call = getattr(type(value), "__call__", None)  # noqa: B004  # may be an async def
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(call):
        raise ConfigError(f"{name} must be a plain function, which does not wait")


def _parse(text: str) -> Iterable[tuple[int, int]]:
    match = _RANGE.fullmatch(text.strip().lower()) if isinstance(text, str) else None
    try:
        if match is None:
            raise ValueError
        first = _DAYS.index(match["first"])
        last = first if match["last"] is None else _DAYS.index(match["last"])
        begin, end = _minutes(match["open"]), _minutes(match["close"])
    except ValueError:
        raise ConfigError(
            f"hours must be written like 'mon-fri 09:30-16:00', got {text!r}"
        ) from None
    length = timedelta(minutes=end - begin)
    if length <= timedelta():
        length += timedelta(days=1)
    days = (last - first) % 7 + 1
    for day in range(days):
        start = ((first + day) % 7) * 1440 + begin
        yield start, start + int(length.total_seconds() // 60)


def _minutes(text: str) -> int:
    hour, minute = map(int, text.split(":"))
    if not ((0 <= minute < 60 and 0 <= hour < 24) or (hour, minute) == (24, 0)):
        raise ValueError
    return hour * 60 + minute
