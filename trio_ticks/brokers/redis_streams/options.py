"""The settings of a buffer: which server, which name, and what holds there.

Rules: frozen, and checked before anything runs. No ``repr`` shows a password. Programs
that use one buffer must agree on ``maxsize`` and ``shards``, which the buffer itself
keeps; all else is each program's own.
"""

from __future__ import annotations

import ssl
from typing import Final
from urllib.parse import urlencode

import attrs

from ...checks import check_count, check_instance, check_seconds, check_text, checked
from ...errors import ConfigError
from .addresses import Target, parse_url
from .connection import require_hiredis
from .keys import Keys

__all__ = ["MOST_SHARDS", "Options"]

MOST_SHARDS: Final = 1024

_LONGEST_LEASE_S: Final = 600
"""The script of the beats knows it, too."""


def _shown(url: object) -> str:
    return repr(parse_url(url).shown)


def _word(name: str, value: object) -> None:
    check_text(name, value)
    if not str(value).isprintable() or set(str(value)) & set("{}| "):
        raise ConfigError(f"{name} must have no spaces and none of {{}}|, got {value!r}")


@attrs.frozen
class Options:
    """What a buffer in Redis Streams is told; the arguments are those of the buffer."""

    url: str = attrs.field(repr=_shown)
    name: str = attrs.field(default="ticks", validator=checked(_word))
    maxsize: int = attrs.field(default=100_000, validator=checked(check_count, below=2**50))
    group: str = attrs.field(default="workers", kw_only=True, validator=checked(_word))
    shards: int = attrs.field(
        default=64, kw_only=True, validator=checked(check_count, below=MOST_SHARDS + 1)
    )
    pack: int = attrs.field(default=256, kw_only=True, validator=checked(check_count, below=1025))
    prefetch: int = attrs.field(default=4096, kw_only=True, validator=checked(check_count))
    lease: float = attrs.field(
        default=10.0, kw_only=True, validator=checked(check_seconds, positive=True)
    )
    max_deliveries: int = attrs.field(
        default=3, kw_only=True, validator=checked(check_count, least=2)
    )
    timeout: float = attrs.field(
        default=5.0, kw_only=True, validator=checked(check_seconds, positive=True)
    )
    replica_patience: float = attrs.field(
        default=10.0, kw_only=True, validator=checked(check_seconds)
    )
    ssl_context: ssl.SSLContext | None = attrs.field(
        default=None,
        kw_only=True,
        repr=False,
        eq=False,
        validator=checked(
            check_instance, kind=ssl.SSLContext, shown="an ssl.SSLContext", or_none=True
        ),
    )

    def __attrs_post_init__(self) -> None:
        target = self.target
        if self.ssl_context is not None and not target.tls:
            raise ConfigError("ssl_context goes with rediss:// only")
        if self.pack > self.maxsize:
            raise ConfigError(
                f"pack ({self.pack}) must not exceed maxsize ({self.maxsize}): "
                "an entry would never fit"
            )
        if self.lease > _LONGEST_LEASE_S:
            raise ConfigError(
                f"lease must be {_LONGEST_LEASE_S} seconds at most, got {self.lease!r}: so long "
                "a worker that is gone would keep its shards"
            )
        require_hiredis()

    @property
    def target(self) -> Target:
        """Where the server is, and how to log in."""
        return parse_url(self.url)

    @property
    def shown(self) -> str:
        """The buffer as it may be shown in logs and errors: without a password."""
        shown = self.target.shown
        return f"{shown}{'&' if '?' in shown else '?'}{urlencode({'name': self.name})}"

    @property
    def keys(self) -> Keys:
        """The keys of the buffer at the server."""
        return Keys(self.name, self.shards)
