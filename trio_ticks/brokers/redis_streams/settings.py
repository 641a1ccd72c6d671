"""The buffer as a value, which makes the two ends.

Rules: frozen, and checked before anything runs.
"""

from __future__ import annotations

from typing import Any, Final, final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import attrs

from ...errors import ConfigError
from .addresses import QUERY, parse_url
from .options import Options
from .retiring import retire
from .sink import RedisSink
from .source import RedisSource

__all__ = ["RedisStreams"]

_WHOLE: Final = ("maxsize", "shards", "pack", "prefetch", "max_deliveries")
_SECONDS: Final = ("lease", "timeout", "replica_patience")
_WORDS: Final = ("name", "group")


@final
@attrs.frozen
class RedisStreams(Options):
    """A buffer of ticks in Redis Streams: Redis 6.2 or newer, or Valkey.

    Give the same value to the programs that fill it and to those that work it off. A
    symbol is always in the same shard, and a shard is held by one worker at a time, so
    that each symbol's ticks are handled in order. What is delivered and not
    acknowledged comes again, in order: at least once.

    Several groups may use one buffer; each gets every tick, and a tick is kept until
    each group has acknowledged it. A group is there from its first worker on, until
    :meth:`retire`.

    Args:
        url: ``redis://user:password@host:6379/0``, ``rediss://`` for TLS,
            ``unix:///path/of/socket?db=0``, or
            ``redis+sentinel://host1:26379,host2:26379/master/0``. Of a cluster, one
            node or several, with commas between them.
        name: of the buffer; one server may have many.
        maxsize: how many ticks it holds at most, over all producers. Exact.
        group: which workers share the ticks among them.
        shards: into how many parts the symbols are divided. No more workers than that
            have work, and a slow symbol holds up the acknowledgement of its shard.
        pack: how many ticks an entry holds at most.
        prefetch: how many ticks the workers' channel holds. After a crash up to that
            many come again. A small one is slower, but lets a shard move sooner from a
            worker whose handler is slow: what it has of it is finished before.
        lease: how many seconds a worker that is gone keeps its shards, 600 at most.
        max_deliveries: at so many deaths of its process a tick becomes a dead letter,
            2 or more. The first of them is one in company; at the last the tick was
            alone in its process.
        timeout: how many seconds the server may take for an answer before the
            connection is made anew.
        replica_patience: how many seconds a server may be a replica, as right after a
            failover, before that is an error. Sentinels are asked again instead.
        ssl_context: for ``rediss://``; the system's trusted certificates unless given.

    Raises:
        ConfigError: a setting is wrong, or hiredis is missing
            (``pip install 'trio-ticks[redis]'``).
    """

    @classmethod
    def from_url(cls, url: str, **settings: Any) -> RedisStreams:
        """Make one of a URL that holds the settings, too.

        Args:
            url: as for the class, with settings behind a question mark:
                ``redis://host:6379/0?name=ticks&group=workers&maxsize=50000``.
            settings: further arguments of the class; they go before those of the URL.

        Raises:
            ConfigError: as the class, or the URL has a setting that is none.
        """
        if not isinstance(url, str):
            parse_url(url)
        try:
            parts = urlsplit(url)
        except ValueError:
            parse_url(url)
            raise
        rest, found = [], dict[str, Any]()
        places, unknown = QUERY.get(parts.scheme, set()), []
        for key, value in parse_qsl(parts.query, keep_blank_values=True):
            if key in _WORDS:
                found[key] = value
            elif key in _WHOLE:
                found[key] = _number(key, value, int)
            elif key in _SECONDS:
                found[key] = _number(key, value, float)
            elif key in places:
                rest.append((key, value))
            else:
                unknown.append(key)
        place = urlunsplit(parts._replace(query=urlencode(rest)))
        if unknown:
            parse_url(place)
            known = sorted({*_WORDS, *_WHOLE, *_SECONDS, *places})
            raise ConfigError(
                f"url must not set {unknown[0]!r:.40}, which is unknown; it may set "
                f"{', '.join(known)}"
            )
        return cls(place, **{**found, **settings})

    def sink(self) -> RedisSink:
        """Return a new end for an ingest."""
        return RedisSink(self)

    def source(self) -> RedisSource:
        """Return a new end for workers."""
        return RedisSource(self)

    async def retire(self, group: str) -> int:
        """Keep nothing more for *group*, whose workers are gone for good.

        A tick is kept until every group has acknowledged it, so a group that nobody
        reads fills the buffer. What the other groups have acknowledged is deleted; if
        there is no other group, nothing is. A worker that comes back under this name
        makes the group anew, and begins with the oldest tick that is there.

        Args:
            group: its name; this buffer's own ``group`` says nothing here.

        Returns:
            How many ticks were deleted.

        Raises:
            BrokerError: the group still has workers (or some were killed, and their
                leases are not over), there is no such group or no such buffer, or the
                server is away or refuses us.

        Cancellation: the group is there as before, or is retired; what was not deleted
        yet is by the next acknowledgements of the other groups.
        """
        return await retire(self, group)


def _number(name: str, text: str, kind: type[int] | type[float]) -> float:
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{name} must be a number, got {text!r:.40}") from None
