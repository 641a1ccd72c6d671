"""Ctrl-C ends a replay on a virtual clock, and leaves nothing behind."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_ticks as tt
from tests.worlds.ctrl_c import raising, stand
from tests.worlds.helpers import make_ticks
from trio_ticks.clock import seeded_random
from trio_ticks.foresight import scheduling


@pytest.fixture(autouse=True)
def ours() -> Iterator[None]:
    with raising():
        yield


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Return where a few ticks are recorded."""

    async def main() -> None:
        feed = tt.IterableFeed(make_ticks(20))
        async with tt.open_pipeline(feed, _handle, record=tt.Recorder(tmp_path)) as pipeline:
            await pipeline.wait()

    trio.run(main)
    return tmp_path


async def _handle(_tick: tt.Tick) -> None: ...


async def _interrupted_behind(_tick: tt.Tick) -> None:
    _interrupted()


def _interrupted(*_tick: object) -> float:
    stand()
    return 0.0


@pytest.mark.parametrize(
    ("handler", "settings"),
    [
        (_handle, {"service": lambda tick: _interrupted(tick)}),
        (lambda _tick: None, {"service": lambda tick: _interrupted(tick)}),
        (lambda tick: _interrupted_behind(tick), {}),
        (lambda tick: _interrupted_behind(tick), {"service": "measured"}),
        (lambda tick: _interrupted_behind(tick), {"executor": "loop"}),
    ],
)
def test_a_users_function_is_interrupted(
    recording: Path, handler: Any, settings: dict[str, Any]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        tt.replay_virtual(recording, handler, **settings)


def _then_interrupted(function: Callable[..., object]) -> Callable[..., None]:
    def call(*args: object) -> None:
        function(*args)
        raise KeyboardInterrupt

    return call


def test_the_schedulers_dice_are_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = trio._core._run._r
    monkeypatch.setattr(scheduling, "enter", _then_interrupted(scheduling.enter))
    with pytest.raises(KeyboardInterrupt), scheduling.seeded(7):
        pass
    assert trio._core._run._r is before
    monkeypatch.setattr(scheduling, "enter", _then_interrupted(lambda _seed: None))
    with pytest.raises(KeyboardInterrupt), scheduling.seeded(7):
        pass


def test_the_module_random_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = random.getstate()
    monkeypatch.setattr(random, "seed", _then_interrupted(random.seed))
    with pytest.raises(KeyboardInterrupt), seeded_random(7):
        pass
    assert random.getstate() == before
