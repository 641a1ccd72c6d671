"""httpx, if it is installed."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError

__all__ = ["library"]


def library() -> Any:
    """Return the package ``httpx``.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        # httpx reads httpcore only for its first client, which stops the loop for half
        # a second on a busy machine.
        import httpcore  # noqa: ASYNC127, F401
        import httpx  # noqa: ASYNC127  # the extra installs httpx
    except ImportError:
        raise ConfigError("REST needs httpx: pip install 'trio-ticks[rest]'") from None
    return httpx
