"""No worker process is left behind, however its parent ends.

Whatever its handler does just then. Real processes, real signals.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.worlds.process_handlers import read
from tests.worlds.process_world import PATIENCE_S, is_alive

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="ends programs by signals")

PROGRAM = textwrap.dedent(
    """
    import sys
    import trio
    import trio_ticks as tt
    from tests.worlds.helpers import make_ticks
    from tests.worlds.process_handlers import Hangs

    class Feed:
        async def run(self, send):
            await send.send_many(make_ticks(2, "AB"))
            await trio.sleep_forever()

    async def main(path, how):
        report = await tt.run_pipeline(
            Feed(), Hangs(path, how), executor="process", workers=2, shutdown_timeout=0.2
        )
        print(report.ledger.unaccounted, dict(report.dropped_by_reason)["shutdown"], flush=True)

    {guard}trio.run(main, *sys.argv[1:])
    """
)


def started(
    tmp_path: Path, how: str, guard: str = 'if __name__ == "__main__": '
) -> subprocess.Popen[str]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(guard=guard))
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, str(program), str(tmp_path / "told"), how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
        start_new_session=True,
    )


def wait_until_hanging(path: Path) -> set[int]:
    """Wait until both handlers hang; return the numbers of their processes."""
    end = time.monotonic() + PATIENCE_S
    while len(read(path)) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    return {line.pid for line in read(path)}


def wait_until_gone(pids: set[int]) -> None:
    end = time.monotonic() + PATIENCE_S
    while any(map(is_alive, pids)):
        assert time.monotonic() < end, f"left behind: {[pid for pid in pids if is_alive(pid)]}"
        time.sleep(0.01)


HANGS = ["sleeps", "computes", "holds the interpreter"]
if sys.platform != "linux":
    HANGS.pop()


@pytest.mark.parametrize("how", HANGS)
def test_killing_the_parent_ends_its_processes(tmp_path: Path, how: str) -> None:
    with started(tmp_path, how) as program:
        pids = wait_until_hanging(tmp_path / "told")
        assert len(pids) == 2
        program.kill()
        wait_until_gone(pids)
        program.communicate()


@pytest.mark.parametrize(
    ("number", "to_all"),
    [(signal.SIGINT, True), (signal.SIGTERM, False)],
    ids=["ctrl-c", "sigterm"],
)
def test_a_graceful_end_ends_its_processes(
    tmp_path: Path, number: signal.Signals, to_all: bool
) -> None:
    with started(tmp_path, "holds the interpreter") as program:
        pids = wait_until_hanging(tmp_path / "told")
        # A terminal sends the signal to all processes of the group; the workers leave
        # it to their parent.
        (os.killpg if to_all else os.kill)(program.pid, number)
        out, err = program.communicate(timeout=PATIENCE_S)
        assert (program.returncode, out.split()) == (0, ["0", "2"]), err
        assert "Traceback" not in err
        wait_until_gone(pids)


def test_a_program_without_its_guard_is_told_what_is_missing(tmp_path: Path) -> None:
    with started(tmp_path, "sleeps", guard="") as program:
        _out, err = program.communicate(timeout=PATIENCE_S)
    assert program.returncode == 1
    # The children print it, since they import the program, and the parent, since they
    # ended.
    assert 'put what starts it under if __name__ == "__main__":' in err
    assert "WorkerCrashedError: process-" in err
