"""A terminal that is closed sends SIGHUP to all processes of a program at once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.worlds.process_world import PATIENCE_S

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")

PROGRAM = textwrap.dedent(
    """
    import pathlib, signal, sys, time
    import trio
    import trio_ticks as tt
    from tests.worlds.helpers import make_ticks

    class Feed:
        async def run(self, send):
            await send.send_many(make_ticks(6, "AB"))
            await trio.sleep_forever()

    class Handler:
        def __init__(self, go_on):
            self.go_on = pathlib.Path(go_on)

        def __call__(self, tick):
            print("handles", flush=True)
            while not self.go_on.exists():
                time.sleep(0.01)

    async def main(go_on):
        report = await tt.run_pipeline(
            Feed(), Handler(go_on), executor="process", workers=2, shutdown_timeout=60.0
        )
        print(report.consumed, report.failed, report.dropped, report.worker_restarts, flush=True)

    if __name__ == "__main__":
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also under nohup
        trio.run(main, *sys.argv[1:])
    """
)


def test_worker_processes_finish_what_they_are_in(tmp_path: Path) -> None:
    program, go_on = tmp_path / "program.py", tmp_path / "go_on"
    program.write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, str(program), str(go_on)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(2)] == ["handles\n"] * 2
            os.killpg(process.pid, signal.SIGHUP)
            go_on.touch()
            out, errors = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    # A machine that is busy with other things makes the loop late, which is told.
    assert not re.search(r"Traceback|Error|Warning|process\.", errors), errors
    assert out.splitlines()[-1] == "6 0 0 0"
    assert process.returncode == 0
