"""Says how the snapshots of a venue's order books are had over REST. Sans-I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import final
from urllib.parse import urlsplit

import attrs

from ...checks import check_callable, check_count, check_instance, checked
from ...ticks import BookUpdate

__all__ = ["RestSnapshots"]


@final
@attrs.frozen(kw_only=True)
class RestSnapshots:
    """How the snapshots of a venue's order books are had over REST.

    For venues whose streams have the changes of a book only. The feed waits for a
    change, asks for the snapshot, and puts the changes behind it that it lacks.

    Raises:
        ConfigError: a value makes no sense.
    """

    url: str = attrs.field(validator=checked(check_instance, kind=str, shown="a str"))
    """The venue's own address, such as ``https://api.example.com``."""
    path: str = attrs.field(validator=checked(check_instance, kind=str, shown="a str"))
    """Below the address, such as ``/api/v3/depth``."""
    parameters: Callable[[str], Mapping[str, str | int]] = attrs.field(
        validator=checked(check_callable, shown="a function of a symbol")
    )
    """Returns the parameters of the query for a symbol in the venue's spelling."""
    parse: Callable[[str, bytes, datetime], BookUpdate] = attrs.field(
        validator=checked(check_callable, shown="a function of a symbol, a body and a time")
    )
    """Makes the snapshot of a symbol, in the venue's spelling, a body and its arrival.

    What it raises of :attr:`Codec.decode_one`'s errors means that the body is none.
    """
    channels: frozenset[str] = attrs.field(
        validator=checked(check_instance, kind=frozenset, shown="a frozenset of names")
    )
    """The channels that have changes of books."""
    requests_per_min: int = attrs.field(default=60, validator=checked(check_count))
    """The most requests in a minute."""
    domains: tuple[str, ...] = ()
    """The venue's domains. A feed that is given another address than the venue's own,
    such as a local exchange's, asks for snapshots at that host."""

    def base_url(self, stream_url: str | None) -> str:
        """Return the address to ask at, for a feed connected to *stream_url*.

        ``None``: to the venue's own address.
        """
        if stream_url is None:
            return self.url
        parts = urlsplit(stream_url)
        host = (parts.hostname or "").lower()
        if any(host == each or host.endswith(f".{each}") for each in self.domains):
            return self.url
        scheme = "https" if parts.scheme == "wss" else "http"
        return f"{scheme}://{parts.netloc.rpartition('@')[2]}"
