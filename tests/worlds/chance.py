"""The chance of pipelines, which the system seeds, by a seed of the test's."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

__all__ = ["seeded_chance"]


@contextmanager
def seeded_chance(seed: object) -> Iterator[None]:
    """Have each source of chance that is made in the block go by *seed*."""
    numbers = itertools.count(1)

    def new_random() -> random.Random:
        return random.Random(f"{seed} {next(numbers)}")

    with ExitStack() as stack:
        for name, module in tuple(sys.modules.items()):
            if name.startswith("trio_ticks") and "new_random" in vars(module):
                stack.enter_context(mock.patch.object(module, "new_random", new_random))
        yield
