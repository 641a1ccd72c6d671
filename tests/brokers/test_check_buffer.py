"""check_buffer passes what keeps the laws, and says what is wrong with the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio.lowlevel
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.broken_buffers import (
    BROKEN,
    BrokenBuffer,
    GreedySink,
    SharedBuffer,
    SkippingSource,
)
from tests.worlds.memory_buffer import MemoryBuffer
from trio_ticks.testing import check_buffer


async def test_a_buffer_in_memory_passes(autojump_clock: MockClock) -> None:
    await check_buffer(MemoryBuffer)
    await check_buffer(lambda: MemoryBuffer(maxsize=50, shards=1, pack=1), bound=50)


async def test_a_context_manager_may_make_it(autojump_clock: MockClock) -> None:
    life: list[str] = []

    @asynccontextmanager
    async def make() -> AsyncIterator[MemoryBuffer]:
        await trio.lowlevel.checkpoint()
        life.append("begin")
        yield MemoryBuffer()
        life.append("end")

    await check_buffer(make)
    assert life == ["begin", "end"] * 5


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_one_fails_and_hears_why(name: str, autojump_clock: MockClock) -> None:
    settings, says = BROKEN[name]
    with pytest.raises(AssertionError, match=says):
        await check_buffer(lambda: BrokenBuffer(**settings))


async def test_one_without_a_bound_fails(autojump_clock: MockClock) -> None:
    with pytest.raises(AssertionError, match="the bound: it holds at most 30 ticks"):
        await check_buffer(lambda: BrokenBuffer(sink_of=GreedySink, maxsize=30), bound=30)


async def test_one_that_several_share_passes(autojump_clock: MockClock) -> None:
    await check_buffer(SharedBuffer, sharing=True)


async def test_one_that_acknowledges_what_it_withdrew_fails(autojump_clock: MockClock) -> None:
    with pytest.raises(AssertionError, match=r"workers come and go: (lost|skipped)"):
        await check_buffer(
            lambda: SharedBuffer(source_of=SkippingSource), sharing=True, patience_s=5.0
        )


@pytest.mark.parametrize("wrong", [lambda: None, dict])
async def test_what_is_no_buffer_is_refused(wrong: Any) -> None:
    with pytest.raises(tt.ConfigError, match="make"):
        await check_buffer(wrong)
