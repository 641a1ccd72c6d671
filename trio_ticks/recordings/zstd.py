"""Zstandard: Python's own module from 3.14 on, else ``backports.zstd``.

Rules: only this module imports it. Who can do without it asks :func:`find_zstd`, who
cannot :func:`load_zstd`.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any, Final

from ..errors import ConfigError

__all__ = ["find_zstd", "load_zstd"]

_MODULES: Final = ("compression.zstd", "backports.zstd")


@cache
def find_zstd() -> Any:
    """Return the module; ``None`` if none is installed."""
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def load_zstd(what: str) -> Any:
    """Return the module.

    Args:
        what: what it is needed for, for the error.

    Raises:
        ConfigError: it is not installed.
    """
    module = find_zstd()
    if module is None:
        raise ConfigError(f"{what} needs zstd: pip install 'trio-ticks[record]'")
    return module
