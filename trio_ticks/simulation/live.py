"""Which setting would have avoided what a running pipeline lost. Sans-I/O.

Plan: the last stretch with losses is simulated with the settings as they are, and with
some others. Advice is given only if the simulation of what is loses about as much as
was really lost: else it does not know this load.

Rules: a caller runs the simulations piece by piece, when it has the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Final, final

import attrs

from ..handlers.kinds import Place
from ..metrics.advice import NOW
from .events import Setting
from .jobs import Summary, summarised
from .loads import Load, Services
from .playing import event_loop
from .recent import Look, Recent, services

__all__ = ["Present", "advise"]

_LOST: Final = 0.002
"""What is lost less is not worth an advice."""
_BELIEVED: Final = (0.4, 2.5)
"""How many times as much as was lost the simulation may lose, to be believed."""
_ALL: Final = 0.95
"""A load that keeps this share of the workers busy is too much for them."""
_SPARE: Final = 1.5
_GENEROUS: Final = 8
"""A queue is too generous if it is so many times as long as it ever had to be."""
_SLOWER: Final = 2.0
"""Fewer workers do as well if the p99 lag is at most so many times as long."""
_NO_LAG_S: Final = 0.001


@final
@attrs.frozen(slots=True, kw_only=True)
class Present:
    """A pipeline as it is set now."""

    setting: Setting
    executor: Place
    """Where the handler runs."""
    per_batch: float
    """How many ticks a worker takes at a time, on average."""
    peak: int
    """Most ticks that were ever queued."""
    sizes_itself: bool
    """Whether the number of workers is the pool's business."""


def advise(
    present: Present, recent: Recent, counts: Sequence[int], random: Random, steps: int
) -> Iterator[Mapping[str, float] | None]:
    """Yield ``None`` after every *steps* events, and at last the shares that are lost.

    Those are empty where there is nothing to advise; see
    :func:`~trio_ticks.metrics.advice.advice_text`.

    Args:
        present: the settings.
        recent: what came lately.
        counts: how many handlings took how long, by the buckets of ``BOUNDS_S``.
        random: draws services and symbols.
        steps: how much is done between two yields: 100 take about half a millisecond.
    """
    stretch = recent.stretch()
    lost, produced = _between(stretch)
    load = recent.load(stretch, random) if produced else None
    if load is None:
        yield {}
        return
    place, per_batch = present.executor, present.per_batch
    drawn = services(stretch, counts, load, place, per_batch, random)
    if drawn is None:
        yield {}
        return
    really = lost / produced
    overloaded = _asked_for(load, drawn) >= present.setting.workers * _ALL
    changes: dict[str, Setting] = {}
    if really >= _LOST:
        changes = _more(present, overloaded=overloaded)
    elif not lost:
        changes = _less(present)
    summaries: dict[str, Summary] = {}
    for change, setting in {NOW: present.setting, **changes}.items() if changes else ():
        loop = event_loop(load, drawn, setting)
        while loop.advance(steps):
            yield None
        summaries[change] = summarised(loop.outcome(), setting, 1)
        yield None
        if change == NOW and not _is_believed(summaries[NOW], really):
            summaries.clear()
            break
    if not summaries:
        yield {}
    else:
        yield _as_counted(_better(summaries), really) if lost else _as_good(summaries)


def _between(stretch: Sequence[Look]) -> tuple[int, int]:
    if len(stretch) < 2:
        return 0, 0
    first, last = stretch[0], stretch[-1]
    return last.lost - first.lost, last.produced - first.produced


def _is_believed(now: Summary, really: float) -> bool:
    simulated = now.unwanted_drop_rate
    if not really:
        return not simulated
    return _BELIEVED[0] <= simulated / really <= _BELIEVED[1]


def _asked_for(load: Load, drawn: Services) -> float:
    """Return how many workers *load* keeps busy; infinite if it cannot be handled."""
    span_s = load.span_s
    if span_s <= 0 or drawn.mean_busy_s() * len(load) >= span_s:
        return math.inf
    return drawn.mean_s() * len(load) / span_s


def _more(present: Present, *, overloaded: bool) -> dict[str, Setting]:
    """Return settings that may lose less, by what is changed.

    A longer queue does not help if *overloaded*: it only fills later.
    """
    setting, found = present.setting, {}
    if not overloaded:
        sizes = (setting.maxsize * factor for factor in (2, 4, 10))
        found = {f"maxsize={size}": attrs.evolve(setting, maxsize=size) for size in sizes}
    if not present.sizes_itself:
        numbers = dict.fromkeys(
            setting.workers + max(1, round(setting.workers * part)) for part in (0.25, 0.5, 1, 3)
        )
        found |= {f"workers={n}": attrs.evolve(setting, workers=n) for n in numbers}
    if setting.ordering == "symbol":
        found['ordering="none"'] = attrs.evolve(setting, ordering="none")
    return found


def _less(present: Present) -> dict[str, Setting]:
    """Return settings that may do as well, by what is changed."""
    setting, found = present.setting, {}
    size = max(10, round(present.peak * _SPARE))
    if size * _GENEROUS <= setting.maxsize:
        found[f"maxsize={size}"] = attrs.evolve(setting, maxsize=size)
    if not present.sizes_itself:
        numbers = {setting.workers // 4, setting.workers // 2} - {0, setting.workers}
        found |= {f"workers={n}": attrs.evolve(setting, workers=n) for n in sorted(numbers)}
    return found


def _better(summaries: Mapping[str, Summary]) -> dict[str, float]:
    """Return of each kind of change the smallest that helps, if one does."""
    now = summaries[NOW].unwanted_drop_rate
    found = {NOW: now}
    for kind in ("maxsize", "workers", "ordering"):
        shares = [
            (change, each.unwanted_drop_rate)
            for change, each in summaries.items()
            if change.startswith(kind)
        ]
        least = min((share for _change, share in shares), default=now)
        if least <= now / 2:
            # The smallest change that is nearly as good as the greatest.
            found |= [next(pair for pair in shares if pair[1] <= max(1.2 * least, _LOST / 2))]
    return found if len(found) > 1 else {}


def _as_counted(shares: Mapping[str, float], really: float) -> dict[str, float]:
    """Return *shares* in proportion to what was *really* lost with what is set now.

    A simulation begins with an empty queue, and so loses less at first: what users see
    beside the drops that were counted must agree with them.
    """
    return {change: share * really / shares[NOW] for change, share in shares.items()}


def _as_good(summaries: Mapping[str, Summary]) -> dict[str, float]:
    """Return the smallest settings of each kind with which nothing gets worse."""
    allowed_s = max(_NO_LAG_S, _SLOWER * summaries[NOW].p99_lag_s)
    found = {NOW: 0.0}
    for kind in ("maxsize", "workers"):
        for change, each in summaries.items():
            fine = not each.unwanted_drop_rate and each.p99_lag_s <= allowed_s
            if change.startswith(kind) and fine:
                found[change] = 0.0
                break
    return found if len(found) > 1 else {}
