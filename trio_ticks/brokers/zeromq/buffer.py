"""``ZeroMQ``: a buffer between processes without a broker."""

from __future__ import annotations

from typing import Any, final
from urllib.parse import parse_qsl

import attrs

from ...checks import check_text
from ...errors import ConfigError
from .settings import HOW, ZeroMQSettings, check_address
from .sink import ZeroMQSink
from .source import ZeroMQSource

__all__ = ["ZeroMQ"]


@final
@attrs.frozen
class ZeroMQ(ZeroMQSettings):
    """A buffer without a broker: ingests send their ticks to the workers themselves.

    Each ingest binds an address, and each worker process connects to all of them. An
    ingest keeps each tick until the worker that got it says that it has an outcome. It
    shares its shards out among the workers that it sees, and gives those of a worker
    that is silent for *lease* seconds to the others, with all that was not finished, in
    order.

    What is promised: at least once while the ingest lives, in order for each symbol of
    one ingest, and never more than *window* ticks out. What an ingest had not got
    acknowledged when it died is lost with it; workers see that it was restarted, count
    and log what may be lost (``ZeroMQSource.lost``), and a handler gets a gap with the
    reason ``"reconnect"`` before the next tick of each symbol. Since there is no
    broker, there is no dead-letter stream either: a tick at which workers died
    *max_deliveries* times is logged and kept in the memory of the ingest, in
    ``ZeroMQSink.dead_letters``.

    A symbol should come from one ingest only. If two bring it, its order holds for each
    of them alone; the workers log and count that.

    Needs ``pip install 'trio-ticks[zeromq]'``.

    Example:
        At the ingest ``ZeroMQ(bind="tcp://*:5555")``, at the workers
        ``ZeroMQ(["tcp://a:5555", "tcp://b:5555"])``; on one machine
        ``ZeroMQ("tcp://127.0.0.1:5555")`` at both ends.

    Raises:
        ConfigError: a setting makes no sense, or pyzmq is missing.
    """

    @classmethod
    def from_url(cls, url: str) -> ZeroMQ:
        """Return the buffer that *url* describes.

        Args:
            url: ``zmq+tcp://host:5555`` or ``tcp://host:5555``, several with commas
                (``zmq+tcp://a:5555,b:5555``), with settings after a question mark
                (``?window=8192&bind=tcp://*:5555``). A plus in a key is ``%2B``, an
                ampersand ``%26``.

        Raises:
            ConfigError: it describes none.
        """
        check_text("url", url)
        places, _, query = url.removeprefix("zmq+").partition("?")
        scheme, separator, hosts = places.partition("://")
        if not separator:
            raise ConfigError(f"a ZeroMQ URL begins with zmq+{HOW}")
        given: dict[str, Any] = {}
        fields = attrs.fields_dict(cls)
        known = sorted(set(fields) - {"addresses"})
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name in given:
                raise ConfigError(f"a ZeroMQ URL has the setting {name!r:.40} twice")
            if name not in known:
                raise ConfigError(
                    f"a ZeroMQ URL has no setting {name!r:.40}; it may have {', '.join(known)}"
                )
            kind = fields[name].type
            try:
                given[name] = {"int": int, "float": float}.get(str(kind), str)(value)
            except ValueError:
                raise ConfigError(f"{name} in a ZeroMQ URL must be a number") from None
        return cls([f"{scheme}://{host}" for host in hosts.split(",") if host], **given)

    def sink(self) -> ZeroMQSink:
        """Return a new end for an ingest.

        Raises:
            ConfigError: it is not clear where it listens, or it has no secret key.
        """
        check_address("bind", self.bind_address, bind=True)
        if self.server_key is not None and self.secret_key is None:
            raise ConfigError("an ingest with CURVE needs its own public_key and secret_key")
        return ZeroMQSink(self)

    def source(self) -> ZeroMQSource:
        """Return a new end for workers.

        Raises:
            ConfigError: there is no address to connect to, or no server key.
        """
        if not self.addresses:
            raise ConfigError("workers need the addresses of the ingests to connect to")
        for address in self.addresses:
            check_address("addresses", address, bind=False)
        if self.secret_key is not None and self.server_key is None:
            raise ConfigError("workers with CURVE need server_key=, the public key of the ingests")
        return ZeroMQSource(self)
