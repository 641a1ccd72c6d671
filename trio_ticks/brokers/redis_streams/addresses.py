"""Where a Redis server is, and how to log in: what a URL says.

The forms: ``redis://user:password@host:6379/0``, ``rediss://`` for TLS,
``unix:///path/of/socket?db=0``, and ``redis+sentinel://host1,host2:26379/master/0``
(``rediss+sentinel://`` for TLS). Several hosts with ``redis://`` are nodes of one
cluster: the first that answers says which node has the buffer.

Rules: sans-I/O. No message and no ``repr`` holds a password.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import attrs

from ...errors import ConfigError
from ...hosts import ascii_host

__all__ = ["FORMS", "QUERY", "Target", "parse_url"]

FORMS: Final = (
    "redis://user:password@host:6379/0, rediss://… (TLS), unix:///path/of/socket, or "
    "redis+sentinel://host1:26379,host2:26379/master/0"
)
_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
QUERY: Final = {
    "unix": {"db"},
    "redis+sentinel": {"sentinel_username", "sentinel_password"},
    "rediss+sentinel": {"sentinel_username", "sentinel_password"},
}
"""What of where the server is stands behind the question mark, by scheme."""


@attrs.frozen(slots=True, kw_only=True)
class Target:
    """Where to connect to, and as whom."""

    addresses: tuple[tuple[str, int], ...] = ()
    """Hosts and ports: the server, the nodes of a cluster, or the sentinels."""
    path: str | None = None
    """The path of a Unix socket, if it is one."""
    tls: bool = False
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    database: int = 0
    master: str | None = None
    """The name of the master for which the sentinels are asked; else they are none."""
    sentinel_username: str | None = None
    sentinel_password: str | None = attrs.field(default=None, repr=False)
    shown: str
    """The URL as it may be shown: without a password."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """The passwords."""
        return tuple(each for each in (self.password, self.sentinel_password) if each)


def parse_url(url: object) -> Target:
    """Return what *url* says.

    Raises:
        ConfigError: it is none of the forms that this module's docstring lists.
    """
    if not isinstance(url, str):
        raise ConfigError(f"url must be a text such as {FORMS}, got {type(url).__name__}")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigError(f"url must have one of the forms {FORMS}") from None
    if parts.scheme not in _SCHEMES:
        raise ConfigError(f"url must have one of the forms {FORMS}, got {parts.scheme!r:.40}://…")
    query = _query(parts)
    login, _, hosts = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    blank = Target(
        username=unquote(username) or None,
        password=unquote(password) or None,
        tls=parts.scheme.startswith("rediss"),
        shown="",
    )
    if parts.scheme == "unix":
        if hosts or not parts.path:
            raise ConfigError("url must name a socket by its path: unix:///path/of/socket")
        database = _database(query.get("db", "0"))
        path = unquote(parts.path)
        shown = f"unix://{path}?db={database}"
        return attrs.evolve(blank, path=path, database=database, shown=shown)
    shown_hosts = f"{parts.scheme}://" + (f"{username}:***@" if password else "") + hosts
    segments = [unquote(each) for each in parts.path.split("/")[1:]]
    if parts.scheme.endswith("+sentinel"):
        if not 1 <= len(segments) <= 2 or not segments[0]:
            raise ConfigError(
                "url must name the master after the sentinels: "
                "redis+sentinel://host1:26379,host2:26379/master/0"
            )
        database = _database(segments[1] if len(segments) == 2 else "0")
        return attrs.evolve(
            blank,
            addresses=_addresses(hosts, _SENTINEL_PORT),
            master=segments[0],
            database=database,
            sentinel_username=query.get("sentinel_username"),
            sentinel_password=query.get("sentinel_password"),
            shown=f"{shown_hosts}/{segments[0]}/{database}",
        )
    if len(segments) > 1:
        raise ConfigError("url must end with the number of the database: redis://host:6379/0")
    database = _database(segments[0] if segments else "0")
    return attrs.evolve(
        blank,
        addresses=_addresses(hosts, _PORT),
        database=database,
        shown=f"{shown_hosts}/{database}",
    )


def _query(parts: SplitResult) -> dict[str, str]:
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(query) - QUERY.get(parts.scheme, set()))
    if unknown:
        raise ConfigError(
            f"url must not say {', '.join(unknown)} behind its question mark: give it to "
            "RedisStreams as an argument, or use RedisStreams.from_url"
        )
    if parts.fragment:
        raise ConfigError("url must have no '#': write %23 for one in a password")
    return query


def _database(text: str) -> int:
    if text and not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ConfigError(f"url must end with the number of the database, got {text!r:.40}")
    return int(text or "0")


def _addresses(hosts: str, port: int) -> tuple[tuple[str, int], ...]:
    found = []
    for each in hosts.split(","):
        try:
            parts = urlsplit(f"//{each}")
            host, number = parts.hostname, parts.port
        except ValueError:
            host, number = None, None
        if not host or number == 0:
            raise ConfigError(f"url must name a host and its port (host:{port}) as in {FORMS}")
        found.append((ascii_host("url", host), port if number is None else number))
    return tuple(found)
