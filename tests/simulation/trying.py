"""Tries one seed, in whichever process, and explains one that fails."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tests.simulation.plan import Plan
from tests.simulation.shrink import shrunk
from tests.simulation.world import played

__all__ = ["explained", "tried"]


def explained(seed: int, wrongs: Sequence[str]) -> str:
    """Return what is wrong with *seed*, and the line that repeats it, cut down."""
    cut = shrunk(seed, lambda plan: bool(played(plan)))
    faults = "\n".join(f"    {fault}" for fault in cut.plan().faults)
    return f"seed {seed}: {'; '.join(wrongs[:3])}\n  {cut.command}\n{faults}"


def tried(seed: int) -> tuple[int, list[str]]:
    """Return *seed*, and what was wrong with its run."""
    logging.disable()
    return seed, played(Plan.drawn(seed))
