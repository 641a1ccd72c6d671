"""The options of a feed over a WebSocket, in groups, and the feed that they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import click

from ..errors import ConfigError
from ..feeds.hours import MarketHours
from ..feeds.websocket.connect import Target
from ..feeds.websocket.feed import WebSocketFeed
from .loading import load_venue, venue_list
from .options import SECONDS, Names, Number, ParamType, SocketUrl, grouped, option

__all__ = ["Codes", "feed_options", "feed_secrets", "make_feed"]


_FEED, _LIVENESS, _ADDRESS = (
    grouped(title) for title in ("Feed", "Feed: alive, back, given up", "Feed: the connection")
)


class Hours(ParamType):
    """A market's weekly hours: a time zone, and the hours of days."""

    name = "zone hours,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> MarketHours:
        if isinstance(value, MarketHours):
            return value
        zone, _space, hours = str(value).strip().partition(" ")
        try:
            return MarketHours(zone, [part.strip() for part in hours.split(",") if part.strip()])
        except ConfigError as error:
            self.fail(f"{error}.", param, ctx)


class Codes(ParamType):
    """Close codes, separated by commas."""

    name = "code,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        codes = value.split(",") if isinstance(value, str) else value
        try:
            return tuple(int(code) for code in codes)
        except (ValueError, TypeError):
            self.fail(f"{value!r} is no list of numbers; write them like 4001,1008.", param, ctx)


class Header(ParamType):
    """A header, NAME:VALUE. Errors do not repeat the value: it may hold a key."""

    name = "name:value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, colon, content = str(value).partition(":")
        if not (colon and name.strip() and content.strip()):
            self.fail("write it like X-Account: 17.", param, ctx)
        return name.strip(), content.strip()


def _show_venues(ctx: click.Context, _param: click.Parameter, value: str) -> str:
    if value == "list":
        click.echo(venue_list())
        ctx.exit()
    return value


_OPTIONS = [
    option(
        "--url",
        cls=_FEED,
        type=SocketUrl(),
        help="The feed's address, ws:// or wss://.  [default: the venue's own]",
    ),
    option("--symbols", cls=_FEED, type=Names(), required=True, help="What to subscribe to."),
    option(
        "--venue",
        cls=_FEED,
        default="flat",
        callback=_show_venues,
        is_eager=True,
        help="The language that the feed speaks: a name, or a codec class of yours like "
        "mine:MyCodec; list shows the names.",
    ),
    option(
        "--channels",
        cls=_FEED,
        type=Names(),
        help="Channels to subscribe to, or all.  [default: the venue's usual ones]",
    ),
    option(
        "--api-key",
        cls=_FEED,
        env=("TICKDB_API_KEY",),
        help="Sent as X-API-Key. Set it in the environment: other users can see command lines.",
    ),
    option(
        "--books",
        cls=_FEED,
        is_flag=True,
        help="Keep the order books in the feed: ticks come when the best level changes.",
    ),
    option("--newer-only", cls=_FEED, is_flag=True, help="Leave out what the venue sends again."),
    option(
        "--stale-after",
        cls=_LIVENESS,
        type=SECONDS,
        default=60,
        help="Reconnect when no market data has come for so many seconds; inf: never.",
    ),
    option(
        "--symbol-stale-after",
        cls=_LIVENESS,
        type=Number("seconds", positive=True),
        help="Report a symbol as silent after so many seconds.  [default: 20 of its intervals]",
    ),
    option(
        "--market-hours",
        cls=_LIVENESS,
        type=Hours(),
        help='When data is expected, like "America/New_York mon-fri 09:30-16:00".  '
        "[default: always]",
    ),
    option(
        "--give-up-after",
        cls=_LIVENESS,
        type=SECONDS,
        help="End after an outage of so many seconds.  [default: never]",
    ),
    option(
        "--final-close-codes",
        cls=_LIVENESS,
        type=Codes(),
        help="Close codes after which the feed ends, like 4001,1008.",
    ),
    option(
        "--rest-url",
        cls=_ADDRESS,
        metavar="URL",
        help="Where snapshots of order books are had over REST.  [default: the venue's own "
        "address, or the host of --url]",
    ),
    option(
        "--ping-interval",
        cls=_ADDRESS,
        type=SECONDS,
        default=20,
        help="Seconds from one WebSocket ping to the next; inf: none.",
    ),
    option(
        "--connect-timeout",
        cls=_ADDRESS,
        type=Number("seconds", positive=True),
        default=10,
        help="Seconds for all steps up to the subscription.",
    ),
    option(
        "--max-message-size",
        cls=_ADDRESS,
        type=Number("bytes", least=1, whole=True),
        default=2**20,
        help="The largest message taken, in bytes.",
    ),
    option(
        "--header",
        cls=_ADDRESS,
        multiple=True,
        type=Header(),
        help="A header of the handshake, NAME:VALUE; may be given again.",
    ),
    option(
        "--proxy",
        cls=_ADDRESS,
        metavar="URL",
        help="An HTTP proxy, http://[user:password@]host:port. Set it in the environment: "
        "other users can see command lines.",
    ),
    option(
        "--trust-env",
        cls=_ADDRESS,
        is_flag=True,
        help="Take the proxy from HTTPS_PROXY, ALL_PROXY and NO_PROXY.",
    ),
    option(
        "--ca",
        cls=_ADDRESS,
        type=click.Path(exists=True, dir_okay=False),
        help="Certificates to trust, a PEM file.  [default: the system's]",
    ),
]


def feed_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give *command* the options of a feed; :func:`make_feed` takes their values."""
    for each in reversed(_OPTIONS):
        command = each(command)
    return command


def make_feed(parameters: dict[str, Any]) -> WebSocketFeed:
    """Return the feed of the options, which are taken out of *parameters*.

    Raises:
        click.BadParameter: there is no such venue.
        ConfigError: an option makes no sense.
    """
    take = parameters.pop
    try:
        venue = load_venue(take("venue"))
    except click.BadParameter as error:
        raise click.BadParameter(
            error.message, click.get_current_context(), param_hint="'--venue'"
        ) from error
    channels = take("channels")
    options: dict[str, Any] = {
        "stale_after": _finite(take("stale_after")),
        "symbol_stale_after": take("symbol_stale_after"),
        "expect_data": take("market_hours"),
        "newer_only": take("newer_only"),
        "books": take("books"),
        "rest_url": take("rest_url"),
        "ping_interval": _finite(take("ping_interval")),
        "connect_timeout": take("connect_timeout"),
        "max_message_size": take("max_message_size"),
        "final_close_codes": take("final_close_codes") or (),
    }
    give_up_after = take("give_up_after")
    if give_up_after is not None:
        options["give_up_after"] = give_up_after
    return WebSocketFeed(
        take("url"),
        take("symbols"),
        take("api_key"),
        venue,
        channels="all" if channels == ("all",) else channels,
        headers=dict(take("header")) or None,
        proxy=take("proxy"),
        trust_env=take("trust_env"),
        ca=take("ca"),
        **options,
    )


def _finite(seconds: float) -> float | None:
    return None if seconds == float("inf") else seconds


_TELLTALE = ("key", "token", "secret", "sign", "auth", "pass")


def feed_secrets(parameters: dict[str, Any]) -> tuple[str, ...]:
    """Return the texts in the options of a feed that must never be written.

    These are the key, the headers, the proxy, the address's query, and values in it
    that look like secrets.
    """
    url = parameters["url"]
    query = "" if url is None else Target.parse(url).query
    hidden = [
        value
        for name, value in parse_qsl(query)
        if len(value) >= 16 or any(word in name.lower() for word in _TELLTALE)
    ]
    headers = [value for _name, value in parameters["header"]]
    found = (parameters["api_key"], query, *hidden, *headers, parameters["proxy"])
    return tuple(filter(None, found))
