"""A buffer by its URL, so that a program needs no line of Python to choose one.

Rules: no message shows a URL as it was given, since it may hold a password. What a URL
may say beside the address is up to the buffer that it is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from ..buffer import Buffer
from ..errors import ConfigError
from ..logs import Redactor

__all__ = ["SCHEMES", "from_url", "secrets_of", "shown"]

SCHEMES: Final[dict[str, tuple[str, str]]] = {
    "redis": ("redis_streams", "RedisStreams"),
    "rediss": ("redis_streams", "RedisStreams"),
    "redis+sentinel": ("redis_streams", "RedisStreams"),
    "unix": ("redis_streams", "RedisStreams"),
    "kafka": ("kafka", "Kafka"),
    "zmq+tcp": ("zeromq", "ZeroMQ"),
    "zmq+ipc": ("zeromq", "ZeroMQ"),
}
"""The schemes of URLs, each with the module and the class of its buffer."""

_EXAMPLES: Final = "redis://host:6379/0?name=ticks, kafka://host:9092/ticks or zmq+tcp://host:5555"
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_TELLTALE: Final = ("pass", "secret", "token", "key", "sign", "auth", "credential", "jaas")


def from_url(url: str) -> Buffer:
    """Return the buffer that *url* describes.

    Args:
        url: ``redis://host:6379/0?name=ticks`` (``rediss://`` with TLS,
            ``redis+sentinel://``, ``unix://``), ``kafka://host:9092/ticks`` or
            ``zmq+tcp://host:5555`` (``zmq+ipc://path``). Further settings of the
            buffer stand behind the question mark, such as ``&maxsize=50000``.

    Raises:
        ConfigError: the scheme is none of these, a setting is wrong, or the extra of
            this buffer is not installed. No message shows a password.
    """
    module, name = SCHEMES[_scheme(url)]
    names = [name for name, _value in parse_qsl(url.partition("?")[2], keep_blank_values=True)]
    twice = next((each for each in names if names.count(each) > 1), None)
    if twice is not None:
        raise ConfigError(f"a buffer's URL has {twice!r:.100} more than once; give it once")
    made: type[Buffer] = getattr(import_module(f".{module}", __package__), name)
    try:
        buffer: Buffer = made.from_url(url)  # type: ignore[attr-defined]  # each of ours has it
    except ConfigError as error:
        raise ConfigError(Redactor(secrets_of(url)).text(str(error))) from None
    return buffer


def _scheme(url: object) -> str:
    if not isinstance(url, str):
        raise ConfigError(f"a buffer's URL is a text like {_EXAMPLES}, not a {type(url).__name__}")
    scheme, separator, _rest = url.strip().partition("://")
    if not separator or scheme not in SCHEMES:
        # What is no scheme at all may be a password, in a URL that was garbled.
        named = separator and _SCHEME.fullmatch(scheme)
        what = f"the scheme {scheme!r:.30}" if named else "no scheme"
        raise ConfigError(
            f"a buffer's URL begins with one of {', '.join(f'{each}://' for each in SCHEMES)}, "
            f"and this has {what}; write it like {_EXAMPLES}"
        )
    return scheme


def secrets_of(url: str) -> tuple[str, ...]:
    """Return the parts of *url* that must not be shown, as they stand and decoded."""
    found = [each for each in _secrets(url) if each]
    return tuple(dict.fromkeys([*found, *map(unquote, found), *(quote(each) for each in found)]))


def _secrets(url: str) -> Iterator[str]:
    _scheme, _, rest = url.partition("://")
    # Not by urlsplit alone: a password may hold characters that end the host for it.
    place, _, query = rest.partition("?")
    user, at, _host = place.rpartition("@")
    if at:
        _name, colon, password = user.partition(":")
        # redis://secret@host is a mistake, but the secret is one.
        yield password if colon else user
    for name, value in parse_qsl(query, keep_blank_values=True):
        if any(word in name.lower() for word in _TELLTALE) and not name.startswith("public"):
            yield value


def shown(url: str) -> str:
    """Return *url* as it may be shown: secrets are replaced by ``***``."""
    try:
        urlsplit(url)
    except ValueError:
        return f"{url.partition('://')[0]}://***"
    return Redactor(secrets_of(url)).text(url)
