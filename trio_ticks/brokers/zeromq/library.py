"""pyzmq, if it is installed."""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError

__all__ = ["library"]


def library() -> Any:
    """Return the package ``zmq``.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import zmq
    except ImportError:
        raise ConfigError("a ZeroMQ buffer needs pyzmq: pip install 'trio-ticks[zeromq]'") from None
    return zmq
