"""How long one tick takes, for each contender, on the same wire.

The contenders take turns in rounds, so that a slow minute is slow for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs

from .contenders import CONTENDERS
from .recorder import Account
from .runner import open_generator, run_job
from .stats import median, ratios

__all__ = ["BASELINES", "LossError", "measure_throughput", "summarise", "verify"]

Say = Callable[[str], None]
BASELINES = ("a", "b", "f")


class LossError(Exception):
    """A contender that must not lose a tick lost one, and its time means nothing."""


def verify(letter: str, account: Account, sent: int | None) -> None:
    """Check that what was sent, handled and dropped agree.

    Raises:
        LossError: they do not, or a contender without loss dropped something.
    """
    contender = CONTENDERS[letter]
    facts = (
        f"({letter}) {contender.name}: expected {account.expected}, sent {sent}, "
        f"handled {account.handled}, dropped {account.dropped}"
    )
    if not account.finished or account.lost:
        raise LossError(f"{facts}, lost {account.lost}")
    if sent is not None and sent != account.expected:
        raise LossError(f"{facts}: the generator sent something else")
    if contender.lossless and not account.intact:
        raise LossError(f"{facts}: not each tick exactly once")
    if account.detail.get("unaccounted"):
        raise LossError(
            f"{facts}: the ledger has {account.detail['unaccounted']} ticks unaccounted for"
        )


def summarise(accounts: Sequence[Account]) -> dict[str, Any]:
    """Return medians over the rounds, and the rounds themselves."""
    per_tick = median(account.us_per_tick for account in accounts)
    return {
        "us_per_tick": per_tick,
        "cpu_us_per_tick": median(account.cpu_us_per_tick for account in accounts),
        "ticks_per_s": 1e6 / per_tick if per_tick else 0.0,
        "dropped_share": median(account.dropped / account.expected for account in accounts),
        "peak_rss_mb": median(account.peak_rss_mb for account in accounts),
        "intact": all(account.intact for account in accounts),
        "rounds": [
            {**attrs.asdict(account), "us_per_tick": account.us_per_tick} for account in accounts
        ],
    }


def measure_throughput(
    letters: Sequence[str], *, ticks: int, rounds: int, say: Say, tls: bool = False, **settings: Any
) -> dict[str, Any]:
    """Run each contender in each round; return its figures.

    With them this library's ratio to the others, round by round.

    Args:
        letters: Which contenders.
        ticks: How many the fastest get; slow ones get their share of them.
        rounds: How many.
        say: Called with each line of progress.
        tls: Over ``wss``.
        settings: Further settings for every :class:`Job`.

    Raises:
        LossError: the account of a contender does not agree.
    """
    runs: dict[str, list[Account]] = {letter: [] for letter in letters}
    with open_generator(ticks, tls=tls, symbols=settings.get("symbols", 5)) as generator:
        for number in range(rounds):
            for letter in letters:
                contender = CONTENDERS[letter]
                account, _ = run_job(
                    generator, letter, max(2, int(ticks * contender.share)), **settings
                )
                verify(letter, account, generator.served()["sent"] if contender.on_wire else None)
                runs[letter].append(account)
                say(f"  round {number + 1}  ({letter})  {account.us_per_tick:8.2f} µs a tick")
        frame_bytes = generator.frame_bytes
    result: dict[str, Any] = {"frame_bytes": frame_bytes, "contenders": {}, "ratios": {}}
    for letter, accounts in runs.items():
        result["contenders"][letter] = {"name": CONTENDERS[letter].name, **summarise(accounts)}
    for letter in letters:
        if "e" in runs and letter != "e":
            theirs, ours = (
                [account.us_per_tick for account in runs[which]] for which in (letter, "e")
            )
            by_round = ratios(theirs, ours)
            # Other processes can only add time, so on a busy machine the fastest rounds
            # say more than the median.
            result["ratios"][letter] = {
                "median": median(by_round),
                "fastest": min(theirs) / min(ours),
                "rounds": by_round,
            }
    return result
