"""A batch of ticks that a thread, a process or a batch handler runs.

Rules: nothing here knows trio.

Warning: the event loop and a worker thread use a batch at the same time, without a
lock. It is safe only because each attribute has one writer, except ``todo``: both sides
pop from it, at opposite ends, and a deque's pops are atomic.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Any, Generic, TypeVar

__all__ = ["Batch"]

T = TypeVar("T")


class Batch(Generic[T]):
    """Ticks that are run together, and how far the run has come.

    The first ``done`` of ``items`` have an outcome. The ticks still in ``todo`` have
    not been begun and can be called back. A failure ends the run, so that it can be
    reported before the symbol's next tick begins; then the rest is run again.

    Args:
        items: the ticks.
        arrivals: when they arrived.
        symbols: the symbols that are leased for it, in the order of their leases. They
            are released in that order: the order of a set differs in every process.
        calls_back: whether its runner takes the ticks one by one, out of ``todo``.
    """

    __slots__ = (
        "arrivals",
        "began_at",
        "broken",
        "done",
        "failures",
        "first",
        "items",
        "kept",
        "reporting",
        "sent_at",
        "stale",
        "symbols",
        "thread",
        "todo",
        "values",
    )

    def __init__(
        self, items: list[T], arrivals: list[float], symbols: dict[str, None], *, calls_back: bool
    ) -> None:
        self.items = items
        self.arrivals = arrivals
        self.symbols = symbols
        self.todo = deque(zip(items, arrivals, strict=True)) if calls_back else deque()
        """Ticks that have not been begun, with their arrivals.

        The runner takes them at the left, the loop calls them back from the right.
        Always empty where the runner gets all ticks at once."""
        self.first: tuple[T, float] | None = None
        """The tick that the runner begins with: it cannot be called back."""
        self.reporting: set[str] = set()
        """Symbols whose gap or failure is being reported.

        Their next ticks must not begin, so these symbols stay leased if ticks are
        called back."""
        self.done = 0
        self.stale: list[int] = []
        """The indexes in ``items`` of ticks that were too old when their turn came."""
        self.failures: list[tuple[int, BaseException]] = []
        """The ticks that failed, by their index in ``items``, and what was raised."""
        self.broken: BaseException | None = None
        """What was raised that is no ``Exception``, and no request to end.

        The pipeline ends by it, once it is reported as the failure of its ticks."""
        self.values: list[tuple[Any, Any]] = []
        """Ticks with what the handler returned for them, if results are wanted."""
        self.kept: int | None = None
        """How many ticks at the beginning have their results written, or have none;
        ``None`` where results are not wanted. Only these have an outcome."""
        self.thread: int | None = None
        """The identifier of the thread that runs it now."""
        self.sent_at = 0.0
        """When it was handed to its runner, on the pipeline's clock."""
        self.began_at: list[float] = []
        """When each tick's turn came, and last when the run ended, on that clock."""

    @property
    def settled(self) -> int:
        """How many ticks at the beginning have an outcome that stands."""
        return self.done if self.kept is None else min(self.done, self.kept)

    def begin(self) -> None:
        """Take the first tick out of ``todo``: the run begins with it now."""
        self.first = self.todo.popleft() if self.todo else None

    def stop(self) -> None:
        """Let the runner begin no further tick, nor the first one."""
        self.first = None
        self.todo.clear()

    def call_back(self) -> list[tuple[T, float]]:
        """Remove and return the ticks that have not been begun, with their arrivals."""
        rest: deque[tuple[T, float]] = deque()
        with contextlib.suppress(IndexError):
            while True:
                rest.appendleft(self.todo.pop())
        keep = len(self.items) - len(rest)
        del self.items[keep:], self.arrivals[keep:]
        return list(rest)

    def call_back_all(self) -> list[tuple[T, float]]:
        """Remove and return all ticks, with their arrivals.

        The batch must not be running.
        """
        rest = list(zip(self.items, self.arrivals, strict=True))
        self.todo.clear()
        self.items.clear()
        self.arrivals.clear()
        return rest

    def settle(self) -> None:
        """Remove the ticks that have an outcome, so that the rest can be run."""
        del self.items[: self.done], self.arrivals[: self.done]
        self.done = 0
        self.stale = []
        self.failures = []
        self.began_at = []
        self.values = []
        self.kept = None
