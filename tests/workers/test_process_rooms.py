"""Systems without worker processes: one clear ConfigError before anything runs."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest

import trio_ticks as tt
from tests.worlds.helpers import make_ticks
from tests.worlds.pipeline_world import ScriptFeed, Send
from tests.worlds.process_handlers import Tell
from trio_ticks import run_pipeline
from trio_ticks.workers.processes import progress as progress_module

pytest.importorskip("trio_parallel")

_PROGRAM = """
import sys
import trio
import trio_ticks as tt

class Feed:
    async def run(self, send):
        print("the feed ran")

def main():
    try:
        trio.run(lambda: tt.run_pipeline(Feed(), len, executor="process", workers=2))
    except tt.ConfigError as error:
        print("ConfigError:", error)
"""


def output_of(program: str, *prefix: str) -> str:
    """Run *program*; return what it printed, if it ended in order."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", _PROGRAM + program],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(tt.__file__).parent.parent)},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_daemonic_process_is_told_that_it_may_have_no_children() -> None:
    program = """
import multiprocessing
process = multiprocessing.get_context("fork").Process(target=main, daemon=True)
process.start()
process.join()
"""
    assert output_of(program).startswith("ConfigError: this process is a daemon")


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_so_is_a_worker_of_multiprocessings_pool() -> None:
    program = """
import multiprocessing
with multiprocessing.get_context("fork").Pool(1) as pool:
    pool.apply(main)
"""
    assert output_of(program).startswith("ConfigError: this process is a daemon")


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_worker_of_concurrent_futures_may_have_processes() -> None:
    program = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
    pool.submit(main).result()
"""
    assert output_of(program) == "the feed ran\n"


@pytest.fixture(scope="module")
def namespace() -> tuple[str, ...]:
    """Return what runs a shell that can mount a file system of its own on /dev/shm."""
    if not (shutil.which("unshare") and Path("/dev/shm").is_dir()):
        pytest.skip("has no mount namespaces, or no /dev/shm")
    prefix = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--mount", "-r")
    tried = subprocess.run(
        [*prefix, "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"],
        capture_output=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip("may not mount anything")
    return prefix


@pytest.mark.parametrize(
    ("options", "prepare", "why"),
    [
        ("size=4k", "head -c 4096 /dev/zero >/dev/shm/full", "No space left"),
        ("size=4k", "true", "8192 bytes"),
        ("ro", "true", "Read-only"),
    ],
    ids=["full", "small", "read-only"],
)
def test_shared_memory_without_room(
    namespace: tuple[str, ...], options: str, prepare: str, why: str
) -> None:
    shell = f'mount -t tmpfs -o {options} tmpfs /dev/shm && {prepare} && exec "$@"'
    said = output_of("main()", *namespace, "sh", "-c", shell, "sh")
    assert said.startswith('ConfigError: executor="process" needs shared memory')
    assert why in said
    assert said.count("\n") == 1


# The same where the system cannot be prepared so


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Return the sizes of the shared memory that is made; check that none is left."""
    sizes: list[int] = []
    files: list[Path] = []

    def make(name: str | None = None, create: bool = False, size: int = 0) -> SharedMemory:
        sizes.append(size)
        memory = SharedMemory(name, create, size)
        files.append(Path("/dev/shm") / memory.name)
        return memory

    monkeypatch.setattr(progress_module, "SharedMemory", make)
    yield sizes
    assert not any(file.exists() for file in files)


@pytest.mark.skipif(sys.platform != "linux", reason="allocates files of /dev/shm")
@pytest.mark.parametrize(("allocations", "runs"), [(0, False), (1, True), (2, True)])
async def test_no_room_at_any_moment_is_one_config_error(
    allocations: int, runs: bool, made: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    left = allocations
    ran: list[str] = []

    def allocate(_descriptor: int, _offset: int, _size: int) -> None:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left -= 1

    async def script(send: Send) -> None:
        ran.append("feed")
        await send.send_many(make_ticks(3))

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    with pytest.raises(tt.ConfigError, match=r"needs shared memory.*No space left"):
        await run_pipeline(
            ScriptFeed(script), Tell(str(tmp_path / "told")), executor="process", workers=3
        )
    assert made[0] >= 3 * 4096
    assert bool(ran) == runs


@pytest.mark.skipif(sys.platform != "linux", reason="looks at files of /dev/shm")
def test_what_is_shared_has_its_memory_before_it_is_written_to(made: list[int]) -> None:
    progress = progress_module.Progress()
    try:
        blocks = (Path("/dev/shm") / progress.name).stat().st_blocks
        assert blocks > 0
    finally:
        progress.close()
