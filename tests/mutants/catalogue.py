"""All deliberate bugs, in the order in which a tick meets them."""

from __future__ import annotations

from typing import Final

from tests.mutants import in_brokers, in_channel, in_feeds, in_pipeline, in_workers
from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

MUTANTS: Final[tuple[Mutant, ...]] = (
    *in_feeds.MUTANTS,
    *in_channel.MUTANTS,
    *in_workers.MUTANTS,
    *in_pipeline.MUTANTS,
    *in_brokers.MUTANTS,
)
