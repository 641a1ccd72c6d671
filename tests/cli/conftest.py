"""What several tests of the command line need."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.worlds.command_line import command, environment


@pytest.fixture(scope="module")
def exchange() -> Iterator[str]:
    """Return the URL of a local exchange."""
    with subprocess.Popen(
        command("exchange", "--port", "0", "--symbols", "SPY", "--rate", "100"),
        stdout=subprocess.PIPE,
        text=True,
        env=environment(PYTHONUNBUFFERED="1"),
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()
