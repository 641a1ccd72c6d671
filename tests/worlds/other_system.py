"""A system that is not POSIX, as far as it can be had here.

:func:`become_windows` takes away what Windows lacks: modules, functions and signals of
POSIX, and the renaming of files that are open. What branches on ``sys.platform`` in
trio_ticks takes the way of Windows; the standard library and other packages were
imported before, and go on as they are.
"""

from __future__ import annotations

import importlib
import os
import signal
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["POSIX_MODULES", "SITE", "become_windows", "environment"]

POSIX_MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
_FUNCTIONS = (
    *(
        "fork",
        "forkpty",
        "killpg",
        "setsid",
        "getpgid",
        "getuid",
        "geteuid",
        "getgid",
        "getloadavg",
    ),
    *("sched_getaffinity", "sched_setaffinity", "posix_fallocate", "posix_spawn", "mkfifo"),
    *("fchmod", "fchown", "chown", "register_at_fork", "sysconf", "nice", "waitid"),
)
_CONSTANTS = ("O_ASYNC", "O_NONBLOCK", "O_NOFOLLOW", "O_DIRECTORY", "O_CLOEXEC", "O_SYNC")
_SIGNALS = (
    *("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGALRM", "SIGIO", "SIGPIPE"),
    *("SIGWINCH", "SIGTSTP", "SIGCONT", "SIGSTOP", "SIGQUIT", "SIGBUS"),
    *("pthread_sigmask", "pthread_kill", "sigwait", "setitimer", "alarm", "siginterrupt"),
)
_BEFORE = (
    *("attrs", "click", "h11", "msgspec", "prometheus_client", "trio", "trio_websocket"),
    *("wsproto", "rich.console", "rich.live", "rich.table", "httpx", "pyarrow.parquet", "zmq"),
    *("multiprocessing.connection", "multiprocessing.shared_memory", "concurrent.futures"),
    *("subprocess", "tempfile", "shutil", "zoneinfo", "platform", "ctypes", "asyncio", "uuid"),
    *("opentelemetry.metrics", "confluent_kafka", "hiredis", "hypothesis", "trio_parallel"),
    *("click.testing", "http.server", "logging.handlers", "importlib.metadata", "getpass"),
    *("importlib.resources", "webbrowser", "sqlite3", "compression.zstd", "zstandard", "numpy"),
)
"""Imported before anything is taken away; what is missing is passed over."""

SITE = (
    "import os\n"
    "if os.environ.get('TICKS_WORLD') == 'windows':\n"
    "    from tests.worlds.other_system import become_windows\n"
    "    become_windows()\n"
)
"""A sitecustomize.py, by which child processes live on that system, too."""


def environment(folder: Path) -> dict[str, str]:
    """Return the variables for a Python on that system, with a console of cp1252.

    Args:
        folder: where the module that Python imports at its start may lie.
    """
    (folder / "sitecustomize.py").write_text(SITE)
    root = Path(__file__).parents[2]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRIO_TICKS_")}
    return {
        **kept,
        "TICKS_WORLD": "windows",
        "PYTHONPATH": os.pathsep.join((str(folder), str(root))),
        "PYTHONIOENCODING": "cp1252:strict",
        "PYTHONUTF8": "0",
        "LC_ALL": "C",
    }


def become_windows() -> None:
    """Take away what Windows lacks, in this process, for good."""
    for name in _BEFORE:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    for module in POSIX_MODULES:
        sys.modules[module] = None  # type: ignore[assignment]  # importing it fails then
    for name in (*_FUNCTIONS, *_CONSTANTS):
        if hasattr(os, name):
            delattr(os, name)
    for name in _SIGNALS:
        if hasattr(signal, name):
            delattr(signal, name)
    ssl.enum_certificates = lambda _store: []  # type: ignore[attr-defined]  # Windows has it
    for name in ("replace", "rename", "remove", "unlink"):
        setattr(os, name, _unless_open(getattr(os, name)))
    os.stat = _without_shared_memory(os.stat)
    sys.platform = "win32"


def _without_shared_memory(real: Callable[..., Any]) -> Callable[..., Any]:
    """Return *real*, for which there is no ``/dev/shm``."""

    def find_no_shared_memory(path: Any, **more: Any) -> Any:
        if not isinstance(path, int) and os.fspath(path) in ("/dev/shm", b"/dev/shm"):
            raise FileNotFoundError(2, "there is no such folder", path)
        return real(path, **more)

    return find_no_shared_memory


def _unless_open(real: Callable[..., Any]) -> Callable[..., Any]:
    """Return *real*, which refuses a file that this process has open."""

    def refuse_open_files(*paths: Any, **more: Any) -> Any:
        for path in paths:
            if isinstance(path, str | os.PathLike) and _is_open(os.path.realpath(path)):
                raise PermissionError(13, "the file is used by this process", str(path))
        return real(*paths, **more)

    return refuse_open_files


def _is_open(path: str) -> bool:
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{descriptor}") == path:
                return True
        except OSError:
            continue
    return False
