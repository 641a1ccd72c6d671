"""What ``trio-ticks doctor`` looks at: packages, limits of the system, clock, cores.

Rules: nothing is changed, nothing is connected. A check that cannot look says nothing
or says so; it never raises. No value of an environment variable is shown.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import platform
import re
import shutil
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

import attrs

from ..clock import system_clock
from ..control.cores import usable_cores
from ..version import __version__

__all__ = ["SHARED_MEMORY", "Finding", "findings", "is_synchronised"]

State = Literal["ok", "note", "bad"]

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # no temporary file: where the system has them
_MEMORY_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_CLOCK_SOURCE: Final = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
_FEW_FILES: Final = 1024
_NEEDED_BYTES: Final = 1 << 20
_SLOW_READING_S: Final = 1e-6
"""A clock that is read through the kernel takes longer; a tick costs about as much."""
_UNSYNCHRONISED: Final = 0x40  # STA_UNSYNC of Linux' timex.h
_STATUS_AT: Final = 40  # where struct timex has its status, with longs of 8 bytes
_REQUIREMENT: Final = re.compile(r"([\w.-]+)\s*([^;]*?)\s*(?:;\s*(.*))?")
_EXTRA: Final = re.compile(r"""extra\s*==\s*['"]([\w-]+)['"]""")
_DEVELOPMENT: Final = frozenset(("testing",))
"""Extras that no running pipeline needs."""
_FOR: Final[Mapping[str, str]] = {
    "cli": "the live view and trio-ticks top",
    "kafka": "a buffer in Kafka",
    "otel": "metrics over OpenTelemetry",
    "parquet": "files in Parquet",
    "process": 'executor="process"',
    "record": "recordings that are compressed well",
    "redis": "a buffer in Redis",
    "rest": "history, and snapshots of books",
    "testing": "checks of channels and codecs of your own",
    "zeromq": "a buffer over ZeroMQ",
}


@attrs.frozen(slots=True)
class Finding:
    """One thing that was looked at."""

    topic: str
    name: str
    value: str
    state: State = "ok"
    """``note``: may matter to you; ``bad``: something will not work."""
    advice: str = ""
    """What to do, where something is to be done."""


def findings(known_variables: Iterable[str]) -> list[Finding]:
    """Look at everything.

    Args:
        known_variables: the environment variables that options read.
    """
    known = frozenset(known_variables)
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _versions,
        _extras,
        _cores,
        _limits,
        _shared_memory,
        _clock,
        _network,
        _terminal,
        lambda: _variables(known),
    )
    return [finding for check in checks for finding in check()]


# Packages


def _versions() -> Iterator[Finding]:
    topic = "versions"
    yield Finding(topic, "trio_ticks", f"{__version__}, in {Path(__file__).parents[1]}")
    python = f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"
    if hasattr(sys, "gettotalrefcount"):
        advice = "a debug build of Python is several times slower"
        yield Finding(topic, "Python", python, "note", advice)
    else:
        yield Finding(topic, "Python", python)
    yield Finding(topic, "system", platform.platform())
    for name, wanted, extra in _requirements():
        if not extra:
            yield _package(topic, name, wanted, f"pip install '{name}{wanted}'", "bad")


def _extras() -> Iterator[Finding]:
    topic = "extras"
    requirements = list(_requirements())
    if not requirements:
        yield Finding(
            topic,
            "trio_ticks",
            "is not installed, it runs from its folder",
            "note",
            "which packages belong to which extra is not known then: pip install -e '.[cli]' there",
        )
    for extra in sorted({extra for _, _, extra in requirements if extra}):
        lacking: list[str] = []
        present: list[str] = []
        for name, wanted, of in requirements:
            if of == extra:
                found = _package(topic, name, wanted, "", "note")
                (present if found.state == "ok" else lacking).append(f"{name} {found.value}")
        state: State = "note" if lacking and extra not in _DEVELOPMENT else "ok"
        what = f"for {_FOR[extra]}" if extra in _FOR else ""
        yield Finding(
            topic,
            extra,
            ", ".join((*lacking, *present)) + (f" ({what})" if lacking and what else ""),
            state,
            f"{_how_to_install(extra)}, if you want that" if lacking else "",
        )


def _requirements() -> Iterator[tuple[str, str, str]]:
    """Yield name, wanted version and extra of each package that the metadata names."""
    try:
        lines = importlib.metadata.requires("trio_ticks") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for line in lines:
        match = _REQUIREMENT.fullmatch(line)
        if match is not None:
            extra = _EXTRA.search(match[3] or "")
            yield match[1], match[2], extra[1] if extra else ""


def _package(topic: str, name: str, wanted: str, advice: str, missing: State) -> Finding:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(topic, name, "is missing", missing, advice)
    least = re.search(r">=\s*([\d.]+)", wanted)
    if least is not None and _numbers(version) < _numbers(least[1]):
        return Finding(topic, name, f"{version} is too old, {wanted} is wanted", missing, advice)
    return Finding(topic, name, version)


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in release[0].split(".")) if release else ()


def _how_to_install(extra: str) -> str:
    """Return the command that installs *extra* from where trio_ticks came from."""
    origin = importlib.metadata.distribution("trio_ticks").read_text("direct_url.json")
    try:
        url = str(json.loads(origin or "{}")["url"])
    except (ValueError, KeyError, TypeError):
        return f"pip install 'trio-ticks[{extra}]'"
    return f"pip install 'trio_ticks[{extra}] @ {url}'"


# The machine


def _cores() -> Iterator[Finding]:
    topic = "machine"
    usable, there = usable_cores(), os.cpu_count() or 1
    value = f"{usable:g} usable of {there}"
    if usable < 1:
        advice = "with less than one core the event loop is stopped for tens of milliseconds"
        yield Finding(topic, "cores", value, "note", advice)
    else:
        yield Finding(topic, "cores", value)
    if hasattr(os, "getloadavg"):
        load = os.getloadavg()[0]
        advice = "other programs want the cores as well: what is measured now is too slow"
        busy = load > there
        yield Finding(
            topic,
            "load",
            f"{load:.1f} in the last minute",
            "note" if busy else "ok",
            advice if busy else "",
        )
    limit = _text_of(_MEMORY_LIMIT)
    if limit.isdecimal():
        yield Finding(topic, "memory", f"limited to {int(limit) >> 20:,} MiB (control group)")


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _limits() -> Iterator[Finding]:
    topic = "limits"
    try:
        import resource
    except ImportError:
        yield Finding(topic, "open files", "this system has no ulimits")
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft != resource.RLIM_INFINITY and soft < _FEW_FILES
    yield Finding(
        topic,
        "open files",
        f"{_limit(soft)} (ulimit -n; may be raised to {_limit(hard)})",
        "note" if few else "ok",
        "each connection, client and worker process takes some: ulimit -n 4096" if few else "",
    )
    if hasattr(resource, "RLIMIT_NPROC"):
        soft, _hard = resource.getrlimit(resource.RLIMIT_NPROC)
        yield Finding(topic, "processes and threads", f"{_limit(soft)} (ulimit -u)")
    soft, _hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        yield Finding(
            topic,
            "address space",
            f"{soft >> 20:,} MiB (ulimit -v)",
            "note",
            "threads reserve far more than they use, and fail where this ends",
        )


def _limit(value: int) -> str:
    return "unlimited" if value in (-1, sys.maxsize, 2**64 - 1) else str(value)


def _shared_memory() -> Iterator[Finding]:
    topic, name = "limits", str(SHARED_MEMORY)
    if not SHARED_MEMORY.is_dir():
        if sys.platform == "linux":
            advice = 'executor="process" needs it: mount a tmpfs there, or use executor="thread"'
            yield Finding(topic, name, "is not there", "note", advice)
        return
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
        with tempfile.NamedTemporaryFile(dir=SHARED_MEMORY, prefix="trio_ticks"):
            pass
    except OSError as error:
        advice = 'executor="process" needs it: make it writable, or use executor="thread"'
        yield Finding(topic, name, f"cannot be written: {error.strerror}", "note", advice)
        return
    full = free < _NEEDED_BYTES
    advice = 'executor="process" needs a page a worker: make room (Docker: --shm-size=64m)'
    yield Finding(
        topic,
        name,
        f"{free >> 20:,} MiB free",
        "note" if full else "ok",
        advice if full else "",
    )


# The clock


def _clock() -> Iterator[Finding]:
    topic = "clock"
    facts = system_clock()
    slow = facts.reading_s > _SLOW_READING_S
    source = _text_of(_CLOCK_SOURCE)
    yield Finding(
        topic,
        "reading",
        f"{facts.reading_s * 1e9:,.0f} ns by {facts.implementation}"
        + (f", source {source}" if source else "")
        + f", resolution {facts.resolution_s * 1e9:,.0f} ns",
        "note" if slow else "ok",
        "that is slow: a virtual machine whose clock source is not tsc or kvm-clock?"
        if slow
        else "",
    )
    synchronised = is_synchronised()
    if synchronised is not None:
        yield Finding(
            topic,
            "synchronised",
            "yes" if synchronised else "no, the kernel says",
            "ok" if synchronised else "note",
            ""
            if synchronised
            else "lags by the ticks' own timestamps are wrong by the clock's error: run chrony or "
            "systemd-timesyncd (in a container: on its host)",
        )
    try:
        from zoneinfo import ZoneInfo

        ZoneInfo("America/New_York")
    except Exception as error:  # a missing database, or a broken one
        yield Finding(
            topic,
            "time zones",
            f"cannot be read: {type(error).__name__}",
            "bad",
            "market hours need them: pip install tzdata",
        )
    else:
        yield Finding(topic, "time zones", "can be read")


def is_synchronised() -> bool | None:
    """Tell whether the kernel takes its clock for synchronised; ``None``: no answer."""
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_long) != 8:
        return None
    answer = ctypes.create_string_buffer(512)  # modes is 0: only ask
    try:
        if ctypes.CDLL(None).adjtimex(answer) < 0:
            return None
    except (OSError, AttributeError):
        return None
    return (
        not int.from_bytes(answer.raw[_STATUS_AT : _STATUS_AT + 4], sys.byteorder) & _UNSYNCHRONISED
    )


# What is around


def _network() -> Iterator[Finding]:
    topic = "network"
    store = ssl.create_default_context().cert_store_stats()["x509_ca"]
    paths = ssl.get_default_verify_paths()
    folder = Path(paths.capath) if paths.capath else None
    there = store > 0 or (folder is not None and folder.is_dir() and any(folder.iterdir()))
    yield Finding(
        topic,
        "TLS",
        f"{ssl.OPENSSL_VERSION}, {store} certificates",
        "ok" if there else "bad",
        ""
        if there
        else "no wss:// address can be trusted: apt-get install ca-certificates, or --ca FILE",
    )
    proxies = sorted(name for name in os.environ if name.upper().endswith("_PROXY"))
    if proxies:
        yield Finding(
            topic,
            "proxy",
            ", ".join(proxies),
            "note",
            "is set in the environment, and used only with --trust-env",
        )


def _terminal() -> Iterator[Finding]:
    encoding = (sys.stdout.encoding or "none").lower()
    plain = "utf" not in encoding
    yield Finding(
        "terminal",
        "output",
        f"{encoding}, {'a terminal' if sys.stdout.isatty() else 'no terminal'}",
        "note" if plain else "ok",
        "bars and curves are drawn with ASCII; PYTHONUTF8=1 has them in full" if plain else "",
    )


def _variables(known: frozenset[str]) -> Iterator[Finding]:
    for name in sorted(os.environ):
        if not name.startswith("TRIO_TICKS_"):
            continue
        fine = name in known
        yield Finding(
            "environment",
            name,
            "is set" if fine else "is set, and no option reads it",
            "ok" if fine else "note",
            "" if fine else "a typo? Each option's variable is in its command's --help",
        )
