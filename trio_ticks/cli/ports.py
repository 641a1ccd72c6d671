"""Say of a port that cannot be opened which option it came from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import ConfigError

__all__ = ["naming"]


@contextmanager
def naming(option: str, port: int, host: str = "127.0.0.1") -> Iterator[None]:
    """Add *option* and its value to the error of a port that cannot be listened on.

    Raises:
        ConfigError: the block raised an ``OSError``, or a ConfigError of the port.
    """
    try:
        yield
    except OSError as error:
        reason = re.sub(r"^\[Errno -?\d+\] ", "", error.strerror or str(error))
        raise ConfigError(f"{option} {port}: cannot listen on {host}:{port}: {reason}") from error
    except ConfigError as error:
        if "listen" not in str(error):
            raise
        raise ConfigError(f"{option} {port}: {error}") from error
