"""Which web pages and names may reach a port of ours, and which names can exist at all.

A browser lets any page send requests to this machine. It says where the page came from
(``Origin``) and by which name it reached us (``Host``). A page from elsewhere may not
read our answers, unless a name of its own leads to this machine, too (DNS rebinding):
so the name is checked, and for WebSockets, whose answers any page may read, the origin.

Rules: sans-I/O. A program that is no browser may send whatever it likes; these checks
protect from web pages, not from programs on this machine.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final, final
from urllib.parse import urlsplit

from .errors import ConfigError

__all__ = ["Hosts", "ascii_host", "is_loopback"]

_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::\d+)?")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,253}")


def ascii_host(name: str, host: str) -> str:
    """Return *host* as the network knows it: without letters beyond ASCII.

    Raises:
        ConfigError: there can be no such host; *name* is of the setting.
    """
    if ":" in host:
        return host  # an IPv6 address
    try:
        # Of names in ASCII, too: the resolver would raise the same error, which is none
        # of the network.
        encoded = host.encode("idna").decode()
        return host if host.isascii() else encoded
    except UnicodeError:
        raise ConfigError(f"{name} has a host name that cannot exist") from None


def is_loopback(name: str) -> bool:
    """Return whether *name* is ``localhost``, below it, or a loopback address."""
    plain = name.lower().removesuffix(".")
    if plain == "localhost" or plain.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _plain(name: str) -> str:
    """Return *name* in the form in which names are compared.

    Raises:
        ConfigError: it is no name of a host.
    """
    try:
        return str(ipaddress.ip_address(name.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"a host that is let in must be a name or an address alone, without a scheme or a "
            f"port, such as metrics.example.com, got {name!r}"
        )
    return name.lower().removesuffix(".")


@final
class Hosts:
    """The names that requests to one port may be sent to.

    Args:
        allowed: further names and addresses, without a port.
        local: whether the port listens on a loopback address. Then it answers to names
            of this machine alone, and to *allowed*. If not, it answers to every name
            unless *allowed* says which.

    Raises:
        ConfigError: one of *allowed* is no name of a host.
    """

    def __init__(self, allowed: Iterable[str] = (), *, local: bool = True) -> None:
        if isinstance(allowed, str):
            raise ConfigError(f"hosts must be several names, not one text; got {allowed!r}")
        self._allowed = frozenset(map(_plain, allowed))
        self._all = not local and not self._allowed

    def admit(self, host: str | None) -> bool:
        """Return whether a request with the header ``Host: <host>`` is to be answered.

        ``None``: it has no such header. Every browser sends one.
        """
        if self._all or host is None:
            return True
        found = _AUTHORITY.fullmatch(host)
        return found is not None and self._knows(found[1] or found[2])

    def admit_origin(self, origin: str | None) -> bool:
        """Return whether a page of *origin* may open a WebSocket.

        ``None``: there is no such header, so it is no page.
        """
        if self._all or origin is None:
            return True
        try:
            name = urlsplit(origin).hostname
        except ValueError:
            return False
        return name is not None and self._knows(name)

    def _knows(self, name: str) -> bool:
        if is_loopback(name):
            return True
        try:
            return _plain(name) in self._allowed
        except ConfigError:
            return False
