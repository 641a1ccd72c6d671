"""The lengths of bars: their names, and how far apart two bars can be.

Rules: sans-I/O. Times are whole milliseconds since 1970, as the venues have them.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, final

import attrs

from ..errors import ConfigError

__all__ = ["Interval", "find_interval", "from_ms", "to_ms"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_SECOND: Final = 1000
_MINUTE: Final = 60 * _SECOND
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR


def to_ms(moment: datetime) -> int:
    """Return an aware *moment* in milliseconds since 1970, rounded up."""
    return -((_EPOCH - moment) // _MS)


def from_ms(milliseconds: int) -> datetime:
    """Return a time of a venue as a datetime in UTC.

    Raises:
        OverflowError: the calendar does not reach so far.
    """
    return _EPOCH + timedelta(milliseconds=milliseconds)


@final
@attrs.frozen
class Interval:
    """One length of bars."""

    name: str
    """As the venues write it."""
    usual_ms: int
    """The length of a bar; of a month, the longest one."""
    least_ms: int
    """From the open of a bar to the next one, at least.

    It is less than a bar's length where bars follow trading sessions or the calendar:
    the second 4h bar of a day opens after a lunch break, a day in spring has 23 hours.
    """

    def end_ms(self, open_ms: int) -> int:
        """Return when a bar ends that opens at *open_ms*."""
        if self.name != _MONTH:
            return open_ms + self.usual_ms
        first = from_ms(open_ms).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return to_ms((first + timedelta(days=32)).replace(day=1))


_MONTH: Final = "1M"
_ALL: Final = {
    each.name: each
    for each in (
        Interval("1s", _SECOND, _SECOND),
        *(Interval(f"{n}m", n * _MINUTE, n * _MINUTE) for n in (1, 3, 5, 15, 30)),
        Interval("1h", _HOUR, _HOUR),
        *(Interval(f"{n}h", n * _HOUR, _HOUR) for n in (2, 4, 6, 8, 12)),
        Interval("1d", _DAY, 23 * _HOUR),
        Interval("3d", 3 * _DAY, 3 * _DAY - _HOUR),
        Interval("1w", 7 * _DAY, 5 * _DAY),
        Interval(_MONTH, 31 * _DAY, 25 * _DAY),
    )
}


def find_interval(name: str, known: tuple[str, ...], venue: str) -> Interval:
    """Return the interval that *venue* calls *name*.

    Raises:
        ConfigError: it is none of those that the venue has, which the message lists.
    """
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"interval must be one of {venue}'s: {', '.join(known)}; got {name!r}")
    return _ALL[name]
