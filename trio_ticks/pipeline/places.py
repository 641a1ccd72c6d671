"""Where the ticks that a worker holds lie in the buffer: for their results.

Rules: ticks are known by identity, from their delivery until a source asks which are
unfinished and they are not. So no more places are kept than ticks were delivered in one
turn of the source, and those before it that are unfinished.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, final

from ..buffer import Stretch
from ..results import Place

__all__ = ["Places"]


@final
class Places:
    """The places of ticks that were delivered and are not finished."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, Place, int]] = {}

    def add(self, shard: int, stretch: Stretch) -> None:
        """Remember where the items of *stretch* lie."""
        origins: Sequence[tuple[int, str | None, int]] = stretch.origins or [(0, None, 0)]
        ends = [origin[0] for origin in origins[1:]] + [len(stretch.items)]
        for (begin, position, index), end in zip(origins, ends, strict=True):
            for item in stretch.items[begin:end]:
                self._known[id(item)] = (item, Place(shard, position, index), stretch.delivery)
                index += position is not None

    def keep(self, unfinished: Iterable[Any]) -> None:
        """Forget what is not among *unfinished*."""
        known = self._known
        self._known = {id(item): known[id(item)] for item in unfinished if id(item) in known}

    def of(self, item: Any) -> tuple[Place | None, int]:
        """Return where *item* lies, and which delivery of it this is."""
        found = self._known.get(id(item))
        return (None, 1) if found is None else found[1:]
