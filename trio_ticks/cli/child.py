"""Run the exchange in a process of its own, so that a demo measures only the pipeline.

Rules: the child never outlives us: it ends when its standard input does, which the
system closes however we end. It gets no signal from our terminal, and no settings from
our environment.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import attrs
import click
import msgspec
import trio

from ..errors import ConfigError, TickError
from ..exchange.recorded import Damage

__all__ = ["ChildExchange", "Hello", "end_with_parent", "open_child_exchange", "say"]

# Our package is found even if it is not installed. It comes last on the path, and the
# current directory is left out (-P), so that it hides no other module.
_PROGRAM = (
    f"import sys; sys.path.append({str(Path(__file__).resolve().parents[2])!r}); "
    "from trio_ticks.cli import main; sys.exit(main())"
)
START_S = 30.0
"""How long the child may take until it serves; it starts slowly on a busy machine."""
END_S = 0.5
_message = msgspec.json.Decoder(Damage | str).decode
EXIT_USAGE = 2


class Hello(msgspec.Struct):
    """The child's first line."""

    url: str
    symbols: list[str]


def say(message: Hello | Damage | str) -> None:
    """Write *message* to the parent, as one line of JSON."""
    click.echo(msgspec.json.encode(message).decode())


async def end_with_parent() -> None:
    """Wait until the parent has gone.

    Cancellation: leaves the waiting thread behind; it ends with the process.
    """
    # Not sys.stdin: if a daemon thread holds the lock of a buffered reader at the
    # interpreter's end, the interpreter aborts.
    while await trio.to_thread.run_sync(os.read, 0, 4096, abandon_on_cancel=True):
        pass


@attrs.define(slots=True)
class ChildExchange:
    """An exchange that runs in another process."""

    hello: Hello
    _lines: _Lines
    _log: IO[bytes]
    damage: Damage = attrs.field(factory=Damage)
    """What of the recording it could not read so far."""

    async def wait_finished(self, tell: Callable[[], object] = bool) -> None:
        """Wait until it has played everything and has announced that to its clients.

        Args:
            tell: called whenever ``damage`` has changed.

        Raises:
            TickError: it ended for another reason.

        Cancellation: harmless; it can be called again.
        """
        while True:
            line = await self._lines.next()
            if line is None:
                raise TickError(f"the local exchange has ended by itself: {_last_line(self._log)}")
            message = _message(line)
            if not isinstance(message, Damage):
                return
            self.damage = message
            tell()


@attrs.define(slots=True)
class _Lines:
    """Lines from a stream."""

    _stream: trio.abc.ReceiveStream
    _buffer: bytes = b""

    async def next(self) -> bytes | None:
        while b"\n" not in self._buffer:
            data = await self._stream.receive_some()
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


@asynccontextmanager
async def open_child_exchange(arguments: Sequence[str]) -> AsyncIterator[ChildExchange]:
    """Start ``trio-ticks exchange`` with *arguments* in another process.

    Leaving the block ends that process.

    Raises:
        TickError: it could not start; the message is that of the process.

    Cancellation: ends the process.
    """
    with tempfile.TemporaryFile() as log:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-P", "-c", _PROGRAM, "exchange", "--child", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            env=_environment(),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            lines = _Lines(process.stdout)
            line = None
            with trio.move_on_after(START_S):
                line = await lines.next()
            if line is None:
                raise await _no_start(process, log)
            yield ChildExchange(msgspec.json.decode(line, type=Hello), lines, log)
        finally:
            # Closing its standard input ends the process; if not in time, a kill does.
            with trio.CancelScope(shield=True):
                await process.stdin.aclose()
                await process.stdout.aclose()
                with trio.move_on_after(END_S):
                    await process.wait()
                if process.returncode is None:
                    process.kill()
                    await process.wait()


def _environment() -> dict[str, str]:
    """Return the child's environment: ours without settings and keys."""
    ours = ("TICKDB_API_KEY", "WORKER_COUNT")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TRIO_TICKS_") and name not in ours
    }


async def _no_start(process: trio.Process, log: IO[bytes]) -> TickError:
    with trio.move_on_after(END_S):
        await process.wait()
    kind = ConfigError if process.returncode == EXIT_USAGE else TickError
    return kind(f"the local exchange did not start: {_last_line(log)}")


def _last_line(log: IO[bytes]) -> str:
    """Return the reason that the child gave.

    The command's name and the hint to ``--help`` are left out: the user has not called
    that command.
    """
    log.seek(0)
    lines = log.read()[-4096:].decode("utf-8", "replace").strip().splitlines()
    return (
        re.sub(r"^trio-ticks[a-z ]*: error: | \(see trio-ticks[a-z -]*\)$", "", lines[-1])
        if lines
        else "no reason given"
    )
