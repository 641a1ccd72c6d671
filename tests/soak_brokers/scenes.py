"""What is done to workers, servers and connections, and what must hold then.

Each scene is a function of a stage that has begun, by its name in ``SCENES``.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

import trio_ticks as tt
from tests.soak_brokers.judge import Found
from tests.soak_brokers.stage import RunError, Stage
from tests.soak_brokers.stations import CLUSTER, KAFKA, REDIS, ZEROMQ, opened
from tests.worlds.redis_world import Proxy, proxied, sums
from trio_ticks.brokers.redis_streams import RedisStreams

__all__ = ["SCENES", "Case", "Scene", "play"]

ALL = (*REDIS, KAFKA, ZEROMQ)
WINDOW = 4096
"""Of ZeroMQ: the default."""
PATIENCE_S = 900.0
CUT_EVERY_S = 0.013

Script = Callable[[Stage, Any], Awaitable[None]]


async def kill_one(stage: Stage, _proxy: Any) -> None:
    """Kill one of the workers."""
    await stage.until_part(stage.chance.uniform(0.2, 0.6))
    first, *_ = stage.workers.values()
    stage.chance.choice(first).signal(signal.SIGKILL)


async def stop_one(stage: Stage, _proxy: Any) -> None:
    """Stop one of the workers for twice its lease, and have it go on."""
    await stage.until_part(stage.chance.uniform(0.2, 0.4))
    worker = stage.chance.choice(stage.workers["workers"])
    worker.signal(signal.SIGSTOP)
    await trio.sleep(2 * stage.station.lease_s)
    worker.signal(signal.SIGCONT)


async def kill_the_server(stage: Stage, _proxy: Any) -> None:
    """Kill the server three times, and start it again with its log."""
    server = stage.station.server
    assert server is not None
    for part in (0.2, 0.45, 0.7):
        await stage.until_part(part + stage.chance.uniform(-0.1, 0.1))
        server.kill()
        await trio.sleep(stage.chance.uniform(0.1, 1.0))
        await trio.to_thread.run_sync(server.start)


async def cut_all(stage: Stage, proxy: Proxy) -> None:
    """Cut all connections every 13 ms until four fifths are handled."""
    async with trio.open_nursery() as nursery:

        async def cut() -> None:
            while True:
                await trio.sleep(CUT_EVERY_S)
                proxy.cut()

        nursery.start_soon(cut)
        await stage.until_part(0.8)
        nursery.cancel_scope.cancel()


async def lose_replies(stage: Stage, proxy: Proxy) -> None:
    """Cut the connection instead of passing on an answer, every twentieth time."""
    proxy.lose_every = 20
    await stage.until_part(0.8)
    proxy.lose_every = 0


async def restart_all(stage: Stage, _proxy: Any) -> None:
    """Replace each of the workers, one after another, in good order."""
    await stage.until_part(0.1)
    for worker in list(stage.workers["workers"]):
        heir = stage.begin_spare()
        # Where there is no shard to spare it has to wait for the old one to leave.
        spare = stage.station.shards > len(stage.workers["workers"]) - 1
        what = "shards" if spare else "connected"
        await stage.until_says(heir, what)
        stage.workers["workers"].remove(worker)
        stage.gone.append(worker)
        worker.signal(signal.SIGTERM)
        await worker.ended()


@attrs.frozen(kw_only=True)
class Scene:
    """What is done, at which brokers, and what is allowed to come of it."""

    title: str
    script: Script
    kinds: tuple[str, ...]
    runs: int = 2
    count: int = 32_000
    workers: int = 2
    spare: int = 0
    """Workers that take the place of others."""
    ingests: int = 1
    groups: tuple[str, ...] = ("workers",)
    fsync: str = ""
    lease_s: float = 2.0
    """A lease of Redis and ZeroMQ, a session of Kafka."""
    through_proxy: bool = False
    most_back: int | None = 1
    """How often a symbol may go back."""
    most_repeats: Callable[[str], int] | None = None
    """How many repeats there may be over all, by the kind of broker."""


def _none_but_zeromq(kind: str) -> int:
    return WINDOW if kind == ZEROMQ else 0


def _none(_kind: str) -> int:
    return 0


SCENES = {
    "kill": Scene(
        title="one of two workers is killed (`kill -9`)",
        script=kill_one,
        kinds=ALL,
        runs=10,
        count=24_000,
    ),
    "stop": Scene(
        title="one of two workers is stopped for twice its lease (`SIGSTOP`), and goes on",
        script=stop_one,
        kinds=ALL,
        runs=3,
        count=40_000,
        # Once as its shards go to the other, once as it ends the tick it had begun.
        most_back=3,
    ),
    "server-always": Scene(
        title="the server is killed three times, `appendfsync always`",
        script=kill_the_server,
        kinds=REDIS,
        fsync="always",
        lease_s=10.0,
    ),
    "server-everysec": Scene(
        title="the server is killed three times, `appendfsync everysec`",
        script=kill_the_server,
        kinds=REDIS,
        fsync="everysec",
        lease_s=10.0,
    ),
    "cut": Scene(
        title="all connections are cut every 13 ms",
        script=cut_all,
        kinds=REDIS,
        lease_s=10.0,
        through_proxy=True,
    ),
    "replies": Scene(
        title="every twentieth answer is lost after the server did what it was asked",
        script=lose_replies,
        kinds=REDIS,
        lease_s=10.0,
        through_proxy=True,
    ),
    "groups": Scene(
        title="two groups of two workers, one of them is killed",
        script=kill_one,
        kinds=(*REDIS, KAFKA),
        groups=("workers", "others"),
    ),
    "producers": Scene(
        title="three ingests, and one of two workers is killed",
        script=kill_one,
        kinds=ALL,
        ingests=3,
        count=30_000,
    ),
    "rolling": Scene(
        title="four workers are replaced, one after another",
        script=restart_all,
        kinds=(*ALL, CLUSTER),
        workers=4,
        spare=4,
        count=80_000,
        most_back=None,
        most_repeats=_none_but_zeromq,
    ),
}


@attrs.frozen
class Case:
    """One run of a scene."""

    scene: str
    kind: str
    seed: int


@asynccontextmanager
async def _staged(case: Case, folder: Path) -> AsyncIterator[tuple[Stage, Proxy | None]]:
    """Open the broker and the stage of *case*."""
    scene = SCENES[case.scene]
    with opened(
        case.kind, ingests=scene.ingests, fsync=scene.fsync, lease_s=scene.lease_s
    ) as station:
        async with trio.open_nursery() as nursery:
            stand = partial(
                Stage,
                nursery,
                folder=folder,
                seed=case.seed,
                count=scene.count,
                ingests=scene.ingests,
                groups=scene.groups,
            )
            if scene.through_proxy:
                assert station.server is not None
                async with proxied(station.server.port) as proxy:
                    address = f"redis://127.0.0.1:{proxy.port}/0"
                    stage = stand(station=attrs.evolve(station, address=address))
                    try:
                        yield stage, proxy
                    finally:
                        stage.close()
            else:
                stage = stand(station=station)
                try:
                    yield stage, None
                finally:
                    stage.close()
            nursery.cancel_scope.cancel()


async def play(case: Case) -> dict[str, Any]:
    """Play *case*; return its record: what was found, and whether all held."""
    scene = SCENES[case.scene]
    record: dict[str, Any] = {**attrs.asdict(case), "title": scene.title}
    began = time.monotonic()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            with trio.fail_after(PATIENCE_S):
                async with _staged(case, folder) as (stage, proxy):
                    try:
                        await stage.begin(workers=scene.workers, spare=scene.spare)
                        await scene.script(stage, proxy)
                        await stage.complete()
                        await until_empty(stage)
                        record |= await stage.finish()
                        if left := await left_over(stage):
                            raise RunError(left)
                    finally:
                        record["groups"] = [
                            attrs.asdict(judge.found()) for judge in stage.judges.values()
                        ]
                        if proxy is not None:
                            record["cuts"] = proxy.cuts
        except* (RunError, trio.TooSlowError) as caught:
            wrong += [repr(each) for each in caught.exceptions]
        for found in record.get("groups", []):
            wrong += broken(scene, case.kind, Found(**found))
        errors = folder / "errors"
        if wrong and errors.exists():
            record["errors"] = errors.read_text(errors="replace")[-6000:]
    return record | {
        "seconds": round(time.monotonic() - began, 1),
        "wrong": wrong,
        "held": not wrong,
    }


async def left_over(stage: Stage) -> str:
    """Say what the broker still has, or which law it breaks; nothing: all is well."""
    spec = stage.station.buffer()
    if stage.station.kind == ZEROMQ:
        return ""  # Its windows are empty, or the ingests do not end.
    buffer = getattr(tt.brokers, spec.pop("kind"))(**spec)
    if isinstance(buffer, RedisStreams):
        left = await sums(buffer)
        lawful = left.came - left.out == left.kept and left.came == stage.count
        return "" if lawful and not left.entries else f"the server's sums are {left}"
    for group in stage.workers:
        view = await tt.brokers.look(attrs.evolve(buffer, group=group))
        if any(each.lag for each in view.groups):
            return f"not all is committed: {view}"
    return ""


async def until_empty(stage: Stage) -> None:
    """Wait until the workers have acknowledged all, repeats included."""
    while await left_over(stage):
        stage.check_processes()
        await trio.sleep(0.2)


def broken(scene: Scene, kind: str, found: Found) -> list[str]:
    """Return which bounds of *scene* were missed."""
    wrong = []
    if found.lost:
        wrong.append(f"{found.lost} ticks were lost")
    if found.skipped:
        wrong.append(f"{found.skipped} ticks were skipped")
    if scene.most_back is not None and found.most_back > scene.most_back:
        wrong.append(f"a symbol went back {found.most_back} times")
    if scene.most_repeats is not None and found.repeats > scene.most_repeats(kind):
        wrong.append(f"{found.repeats} repeats")
    return wrong
