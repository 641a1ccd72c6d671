"""How this library's throughput changes when one thing grows, and what order costs.

What grows: symbols, workers, the queue, or the messages. Within a group all variants
take turns, and each is compared with the group's first in the same round.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import attrs

from .memory import QUEUES, bytes_per_tick
from .recorder import Account
from .runner import Generator, open_generator, run_job
from .stats import median, ratios
from .throughput import Say, summarise, verify

__all__ = ["GROUPS", "Variant", "measure_memory", "measure_scaling"]

_MOST_BYTES = 300_000_000


@attrs.frozen
class Variant:
    """One setting that differs from the default, in the generator or the pipeline."""

    label: str
    symbols: int = 5
    size: int | None = None
    settings: dict[str, Any] = attrs.field(factory=dict)


GROUPS: dict[str, tuple[Variant, ...]] = {
    # The first of each group is what the others are compared with.
    "symbols": tuple(Variant(f"{count:,}", symbols=count) for count in (5, 1, 100, 1_000, 10_000)),
    "workers": tuple(
        Variant(str(count), settings={"workers": count}) for count in (4, 1, 2, 16, 64)
    ),
    "maxsize": tuple(
        Variant(f"{size:,}", settings={"maxsize": size})
        for size in (1_000, 100, 10_000, 100_000, 1_000_000)
    ),
    "message size": tuple(
        Variant(f"{size or 157:,} B", size=size) for size in (None, 500, 2_000, 10_000)
    ),
    "ordering": (Variant("none", settings={"ordering": "none"}), Variant("symbol")),
}


def _run(generator: Generator, variant: Variant, ticks: int) -> Account:
    account, _ = run_job(generator, "e", ticks, symbols=variant.symbols, **variant.settings)
    verify("e", account, generator.served()["sent"])
    return account


def measure_scaling(
    *, ticks: int, rounds: int, say: Say, groups: Sequence[str] = tuple(GROUPS)
) -> dict[str, Any]:
    """Run every variant of *groups* in each round.

    Raises:
        LossError: an account does not agree.
    """
    result: dict[str, Any] = {}
    for group in groups:
        variants = GROUPS[group]
        runs: dict[str, list[Account]] = {variant.label: [] for variant in variants}
        with contextlib.ExitStack() as stack:
            generators: dict[tuple[int, int | None], Generator] = {}
            counts: dict[str, int] = {}
            for variant in variants:
                counts[variant.label] = min(ticks, _MOST_BYTES // (variant.size or 157))
                wire = (variant.symbols, variant.size)
                if wire not in generators:
                    generators[wire] = stack.enter_context(
                        open_generator(
                            counts[variant.label], symbols=variant.symbols, size=variant.size
                        )
                    )
            for number in range(rounds):
                for variant in variants:
                    account = _run(
                        generators[variant.symbols, variant.size], variant, counts[variant.label]
                    )
                    runs[variant.label].append(account)
                    say(
                        f"  round {number + 1}  {group} {variant.label:>10}  "
                        f"{account.us_per_tick:8.2f} µs a tick"
                    )
            sizes = {
                variant.label: generators[variant.symbols, variant.size].frame_bytes
                for variant in variants
            }
        first = [account.us_per_tick for account in runs[variants[0].label]]
        result[group] = {
            label: {
                **summarise(accounts),
                "frame_bytes": sizes[label],
                "of_first": median(ratios(first, [account.us_per_tick for account in accounts])),
            }
            for label, accounts in runs.items()
        }
    return result


def measure_memory(*, ticks: int, say: Say) -> dict[str, float]:
    """Return the bytes that a queued tick takes, here and in the classic pipeline."""
    result = {}
    for queue in QUEUES:
        result[queue] = bytes_per_tick(queue, ticks)
        say(f"  {queue}: {result[queue]:.0f} bytes a queued tick")
    return result
