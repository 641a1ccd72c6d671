"""``trio-ticks demo`` in a process of its own, which serves something while it runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["running_demo"]

PATIENCE_S = 30.0


@contextmanager
def running_demo(what: str) -> Iterator[str]:
    """Run the demo with ``--<what>-port=0``; gives the address that it says.

    Afterwards it sees that the demo ends well at SIGTERM.
    """
    command = [sys.executable, "-m", "trio_ticks", "demo", "--rate=500", "--duration=inf"]
    command += ["--view=none", f"--{what}-port=0"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRIO_TICKS_")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=kept, text=True
    ) as process:
        try:
            assert process.stderr is not None
            # On a busy machine a warning may come before it.
            said = next(line for line in process.stderr if line.startswith(f"{what}: "))
            yield said.removeprefix(f"{what}: ").strip()
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
