"""A progress bar of the market's time, for commands that play a recording.

Rules: it goes to standard error, and is drawn over itself on a terminal; elsewhere it
is a line now and then. A terminal that takes no output loses the bar, and nothing else.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Final, final

import click
import trio

from ..clock import monotonic
from ..feeds.replay import ReplayFeed

__all__ = ["MarketBar"]

_WIDTH: Final = 24
_DRAW_S: Final = 0.2
_LINE_S: Final = 5.0
"""Where there is no terminal, a line comes so often, in seconds."""


@final
class MarketBar:
    """Shows how far *feed* has come, at which time of the market, and how fast.

    Args:
        feed: that plays the recording.
    """

    def __init__(self, feed: ReplayFeed) -> None:
        self._feed = feed
        self._on_terminal = sys.stderr.isatty()
        self._began = self._drawn_at = monotonic()
        self._messages = 0
        self._rate = 0.0
        self._is_drawn = False

    async def run(self) -> None:
        """Draw again and again.

        Cancellation: nothing more is drawn.
        """
        while True:
            await trio.sleep(_DRAW_S)
            self.draw()

    def draw(self) -> None:
        """Draw the bar, if it is time for that."""
        now = monotonic()
        passed_s = now - self._drawn_at
        if passed_s < (_DRAW_S / 2 if self._on_terminal else _LINE_S):
            return
        messages = self._feed.stats.messages
        self._rate = (messages - self._messages) / passed_s
        self._drawn_at, self._messages = now, messages
        with suppress(OSError):
            if self._on_terminal:
                click.echo(f"\r{self.text(now)}\x1b[K", err=True, nl=False)
                self._is_drawn = True
            else:
                click.echo(self.text(now), err=True)

    def text(self, now: float) -> str:
        """Return the bar as it is at *now*, on one line."""
        share, at = self._feed.share, self._feed.market_time
        full = round(share * _WIDTH)
        market = "reading ..." if at is None else f"{at:%Y-%m-%d %H:%M:%S}"
        left_s = (now - self._began) * (1 - share) / share if share > 0 else None
        left = "" if left_s is None else f"  {_clock(left_s)} left"
        return (
            f"[{'#' * full}{'.' * (_WIDTH - full)}] {share:4.0%}  {market}  "
            f"{self._rate:,.0f} messages/s{left}"
        )

    def end(self) -> None:
        """Take the bar away."""
        if self._is_drawn:
            with suppress(OSError):
                click.echo("\r\x1b[K", err=True, nl=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
