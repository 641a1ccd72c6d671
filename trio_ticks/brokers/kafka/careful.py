"""One tick at a time, after a crash: so that a tick that kills its process is found.

What a process that died may have begun is handled again. If one of these ticks kills
its process, the next process dies as well, and so on. So each of them is delivered
alone, after a mark has been committed that says it is being begun, for the how manieth
time. A tick that has been begun so often goes to the dead letters instead. That a tick
is through is committed before one of another shard is begun: else it would be suspected
when the process dies of that one.

Rules: sync, no I/O, no clock. The partition's other ticks wait here meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Literal, final

import attrs

from ...buffer import Stretch
from ...gaps import Gap

__all__ = ["Careful", "Single", "Suspects"]


@attrs.frozen
class Single:
    """One tick, to be delivered alone."""

    offset: int
    item: Any
    arrived: float
    gap: Gap | None

    def stretch(self) -> Stretch:
        """Return it as it is delivered."""
        gaps = [] if self.gap is None else [(0, self.gap)]
        return Stretch([self.item], [self.arrived], gaps)


@final
@attrs.define
class Careful:
    """The ticks of one partition that are handled one at a time."""

    left: int
    """How many ticks may still have been begun by the process that died."""
    begun: int
    """How often the next tick has been begun."""
    waiting: deque[Single] = attrs.field(factory=deque)
    current: Single | None = None
    phase: Literal["idle", "marking", "handling"] = "idle"

    def add(self, offset: int, stretch: Stretch) -> None:
        """Keep the ticks of one record."""
        gaps = dict(stretch.gaps)
        for place, item in enumerate(stretch.items):
            single = Single(offset, item, stretch.arrived[place], gaps.get(place))
            self.waiting.append(single)

    def finish(self) -> None:
        """Note that the current tick has an outcome."""
        self.left -= 1
        self.begun = 0
        self.current = None
        self.phase = "idle"

    def next(self) -> Single:
        """Go on to the next tick that waits, begun ``begun`` times before."""
        self.current = self.waiting.popleft()
        return self.current

    def rest(self) -> list[Single]:
        """Return what waits, for it to be delivered as usual."""
        waiting, self.waiting = list(self.waiting), deque()
        return waiting


@final
class Suspects:
    """All shards that are handled one tick at a time.

    One tick at a time in all of them: two at once would both be suspected.

    Args:
        most: how often a tick may have been begun.
        mark: has it committed that the next tick of a shard is being begun.
        is_marked: tells whether that is committed.
        deliver: has a stretch of a shard delivered.
    """

    def __init__(
        self,
        most: int,
        mark: Callable[[int, Careful, frozenset[int]], None],
        is_marked: Callable[[int], bool],
        deliver: Callable[[int, Stretch], None],
    ) -> None:
        self._most = most
        self._mark = mark
        self._is_marked = is_marked
        self._deliver = deliver
        self.shards: dict[int, Careful] = {}
        self._ended: int | None = None
        """The shard of the last tick that is through, if no commit says so yet."""
        self._is_noting = False
        """Whether such a commit is on its way."""

    def alone(self) -> int | None:
        """Return the shard whose next tick is to be the only one in the process.

        The process died once when it was begun. If it dies again while nothing else is
        handled, nothing else is to blame.
        """
        for shard, careful in self.shards.items():
            if careful.current is not None:
                # Another suspect waits until this tick has its outcome.
                return shard if careful.begun >= 2 else None
        suspected = (
            shard for shard, careful in self.shards.items() if careful.begun and careful.waiting
        )
        return next(suspected, None)

    def step(self, unfinished: frozenset[int], busy: bool) -> list[tuple[int, Single]]:
        """Go on.

        Args:
            unfinished: the identities of all ticks without an outcome.
            busy: whether any of them is delivered.

        Returns:
            Ticks that are not to be handled any more, with their shards. They must stay
            unfinished until somebody has noted them.
        """
        for shard, careful in list(self.shards.items()):
            current = careful.current
            if current is None:
                continue
            if careful.phase == "marking" and self._is_marked(shard):
                careful.phase = "handling"
                self._deliver(shard, current.stretch())
            elif careful.phase == "handling" and id(current.item) not in unfinished:
                careful.finish()
                self._ended = shard
        if any(careful.current is not None for careful in self.shards.values()):
            return []
        for shard, careful in sorted(self.shards.items(), key=lambda each: -each[1].begun):
            if careful.left <= 0:
                if not self._is_noted(unfinished):
                    return []
                del self.shards[shard]
                for single in careful.rest():
                    self._deliver(shard, single.stretch())
            elif careful.begun and careful.waiting and busy:
                # What is handled now is ended before a suspect is handled again.
                return []
            elif careful.waiting:
                # The mark of the next tick of the same shard says it as well.
                if shard != self._ended and not self._is_noted(unfinished):
                    return []
                found = careful.next()
                if careful.begun >= self._most:
                    careful.phase = "handling"
                    return [(shard, found)]
                careful.begun += 1
                careful.phase = "marking"
                self._ended, self._is_noting = None, False
                self._mark(shard, careful, unfinished)
                return []
        return []

    def _is_noted(self, unfinished: frozenset[int]) -> bool:
        """Tell whether it is committed that the last tick is through; if not, do so."""
        ended = None if self._ended is None else self.shards.get(self._ended)
        if self._ended is None or ended is None:
            self._ended, self._is_noting = None, False
            return True
        if not self._is_noting:
            self._is_noting = True
            self._mark(self._ended, ended, unfinished)
            return False
        if not self._is_marked(self._ended):
            return False
        self._ended, self._is_noting = None, False
        return True
