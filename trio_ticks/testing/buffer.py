"""check_buffer: whether a buffer between processes keeps the laws of the seam.

The laws stand in :mod:`trio_ticks.buffer`. Real pipelines run on both sides of the
buffer under test: ingests with a feed of ours, workers with handlers that finish, fail
or hang.

Rules: each scene gets a fresh buffer, and raises an AssertionError that begins with the
scene's name. What a scene waits for is an event, never a time that should be enough;
only a buffer that loses ticks makes it wait for as long as it may.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import trio

from ..buffer import Buffer
from ..errors import ConfigError
from .buffer_scenes import SCENES, SHARED, Scene
from .buffer_watch import WatchedBuffer

__all__ = ["check_buffer"]


async def check_buffer(
    make: Callable[[], Any],
    *,
    sharing: bool = False,
    bound: int | None = None,
    patience_s: float = 30.0,
) -> None:
    """Check that a buffer keeps the laws of :mod:`trio_ticks.buffer`.

    - *Order*: the ticks of a symbol come in order and once, always in the same shard,
      with the gaps in their places and the times of their arrival.
    - *Acknowledgement*: a tick that is unfinished when its worker is cancelled comes
      again; one that is finished, also by an error, does not after a clean end.
    - *Return at shutdown*: what no worker has begun goes back, and comes again, in
      order and from the oldest tick on.
    - *Repeats*: what comes again is one stretch up to the newest tick; nothing is
      skipped.
    - *Withdrawal*, with *sharing*: workers that join, leave and are cancelled while
      others run lose nothing and skip nothing.

    Args:
        make: returns a fresh, empty buffer each time, or an async context manager that
            gives one.
        sharing: whether several sources may run at a time, and share the shards.
        bound: how many ticks the buffer holds at most, if that is to be checked. Make
            it small, since more than that are put in.
        patience_s: for how long ticks may be on their way, in seconds; longer than a
            worker that is gone keeps its shards.

    Raises:
        AssertionError: the buffer breaks a law; the message says in which scene, and
            which tick shows it.
        ConfigError: *make* gives no buffer.

    Cancellation: the check ends; the buffer is left as it is.
    """
    scenes: dict[str, Callable[[Scene], Awaitable[None]]] = dict(SCENES)
    if sharing:
        scenes |= SHARED
    if bound is None:
        del scenes["the bound"]
    for name, play in scenes.items():
        async with AsyncExitStack() as stack:
            made = make()
            if hasattr(type(made), "__aenter__"):
                made = await stack.enter_async_context(made)
            if not isinstance(made, Buffer):
                raise ConfigError(
                    f"make() must give a buffer with sink() and source(), got {made!r}"
                )
            scene = Scene(name, WatchedBuffer(made, name), patience_s, bound)
            with trio.move_on_after(20 * patience_s) as scope:
                await _play(play, scene)
            scene.buffer.check()
            if scope.cancelled_caught:
                raise AssertionError(f"{name}: the buffer has not come to an end")


async def _play(play: Callable[[Scene], Awaitable[None]], scene: Scene) -> None:
    """Play *scene*; what fails in one of its tasks comes out as itself."""
    try:
        await play(scene)
    except BaseExceptionGroup as group:
        failed = group.subgroup(AssertionError)
        if failed is None:
            raise
        first: BaseException = failed
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None  # noqa: ASYNC123  # one broken law, without the nurseries
