"""Buffers between processes: Redis Streams, Kafka, ZeroMQ.

Each needs an extra (``pip install 'trio-ticks[redis]'``); its package is imported only
when the buffer is made. :func:`from_url` makes the buffer that a URL describes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .urls import SCHEMES, from_url, secrets_of, shown

if TYPE_CHECKING:
    from .kafka import Kafka
    from .looking import BufferView, GroupView, look
    from .redis_streams import RedisStreams
    from .results.kafka import KafkaResults
    from .results.redis import RedisResults
    from .zeromq import ZeroMQ

__all__ = [
    "SCHEMES",
    "BufferView",
    "GroupView",
    "Kafka",
    "KafkaResults",
    "RedisResults",
    "RedisStreams",
    "ZeroMQ",
    "from_url",
    "look",
    "secrets_of",
    "shown",
]

_LATER = {
    "BufferView": "looking",
    "GroupView": "looking",
    "Kafka": "kafka",
    "KafkaResults": "results.kafka",
    "RedisResults": "results.redis",
    "RedisStreams": "redis_streams",
    "ZeroMQ": "zeromq",
    "look": "looking",
}
"""What is imported when it is first used, and from where."""

if not TYPE_CHECKING:  # With a __getattr__ a type checker would accept any name.

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f".{_LATER[name]}", __name__), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
