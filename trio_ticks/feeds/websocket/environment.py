"""The proxy that the environment names: HTTPS_PROXY, http_proxy, ALL_PROXY, NO_PROXY.

Rules: as curl has them. The lower-case name wins. ``HTTP_PROXY`` in upper case does not
count: where a web server runs a program, a client's header ``Proxy`` sets it. The
environment is read once, when the feed is made.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, final

import attrs

from .connect import Target
from .proxy import Proxy

__all__ = ["ProxyVariables"]

_FOR_TLS: Final = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_FOR_PLAIN: Final = ("http_proxy", "all_proxy", "ALL_PROXY")
_EXCEPTIONS: Final = ("no_proxy", "NO_PROXY")


@final
@attrs.frozen(repr=False)
class ProxyVariables:
    """The variables of the environment that are about proxies."""

    _values: Mapping[str, str]

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> ProxyVariables:
        """Take the variables out of *environ*; an empty one counts as not set."""
        names = {*_FOR_TLS, *_FOR_PLAIN, *_EXCEPTIONS}
        return cls({name: environ[name] for name in names if environ.get(name)})

    def proxy_for(self, target: Target) -> Proxy | None:
        """Return the proxy on the way to *target*; ``None``: there is none.

        Raises:
            ConfigError: the variable has no usable value. The message names it, and
                does not repeat the value.
        """
        exceptions = next((self._values[n] for n in _EXCEPTIONS if n in self._values), "")
        if _is_exempt(target, exceptions):
            return None
        for name in _FOR_TLS if target.secure else _FOR_PLAIN:
            value = self._values.get(name)
            if value is not None:
                return Proxy.parse(value if "://" in value else f"http://{value}", name)
        return None


def _is_exempt(target: Target, exceptions: str) -> bool:
    """Tell whether one of *exceptions* is about the host of *target*.

    An exception is a host, which stands for all below it, too (``example.com`` and
    ``.example.com`` mean the same), a network (``10.0.0.0/8``), each with a port or
    without, or ``*`` for all.
    """
    host = target.host.lower().rstrip(".")
    for exception in re.split(r"[\s,]+", exceptions.lower()):
        name, port = _without_port(exception)
        if exception == "*":
            return True
        if not name or port not in (None, target.port):
            continue
        if host == name or host.endswith(f".{name}") or _lies_in(host, name):
            return True
    return False


def _without_port(exception: str) -> tuple[str, int | None]:
    name, _, port = exception.rpartition(":")
    # An IPv6 address has colons of its own; with a port it stands in brackets.
    if port.isdecimal() and len(port) <= 5 and (":" not in name or name.endswith("]")):
        return name.strip("[]."), int(port)
    return exception.strip("[]."), None


def _lies_in(host: str, network: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    return False
