"""Read the samples of pipelines out of what another process serves, in bounded time.

Rules: nothing that is served is trusted. A missing or senseless number is 0, names and
states have no control characters, and of one answer a bounded number of lines is read,
of a bounded number of pipelines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import attrs

from ..logs import one_line
from .fetch import FetchError

__all__ = [
    "MOST_LABEL",
    "MOST_PIPELINES",
    "Answer",
    "Samples",
    "parse_metrics",
    "read_answer",
]

_PREFIX: Final = "trio_ticks_"
MOST_PIPELINES: Final = 200
"""How many pipelines of one answer are shown, the first ones."""
_MOST_SAMPLES: Final = 1000
"""How many samples of one metric of a pipeline are read: more than we serve."""
MOST_LABEL: Final = 120
"""The longest name or state that is shown, in characters."""
_LARGEST: Final = 1e18
"""No count, time or size that makes sense is larger."""
_PIPELINE_LABEL: Final = re.compile(r'[{,]pipeline="((?:[^"\\]|\\.)*)"')
_UNUSED: Final = _PREFIX + "symbol_ticks_"
"""The metrics by symbol, which may be thousands of lines, and are not shown."""


class Samples:
    """The numbers of one pipeline, or of one of its halves, in one answer."""

    def __init__(self, half: str | None = None) -> None:
        self.half = half
        self.ingest: Samples | None = None
        """Those of the ingest, if this is the workers' half of the same pipeline."""
        self._samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}

    def add(self, name: str, labels: Mapping[str, str], value: float) -> None:
        samples = self._samples.setdefault(name, [])
        if len(samples) < _MOST_SAMPLES:
            # Also NaN is nothing: it is neither below nor above anything.
            samples.append((labels, value if abs(value) <= _LARGEST else 0.0))

    def has(self, name: str) -> bool:
        return name in self._samples

    def number(self, name: str, **labels: str) -> float:
        """Return the sum of the samples with these labels; 0 if there are none."""
        wanted = labels.items()
        return sum(value for own, value in self._samples.get(name, ()) if wanted <= own.items())

    def count(self, name: str, **labels: str) -> int:
        return int(self.number(name, **labels))

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Return the values by one label, in the order in which they came."""
        wanted = labels.items()
        return {
            own[label]: value
            for own, value in self._samples.get(name, ())
            if label in own and wanted <= own.items()
        }

    def state(self, name: str, **labels: str) -> str:
        """Return the state whose sample is not 0, or ``""`` if there is none."""
        return next(
            (state for state, value in self.by(name, "state", **labels).items() if value), ""
        )


@attrs.frozen(slots=True)
class Answer:
    """What one answer holds."""

    pipelines: dict[str, Samples]
    more: int
    """How many further pipelines it has, which are not looked at."""


def parse_metrics(text: str) -> dict[str, Samples]:
    """Return the pipelines in *text*; as :func:`read_answer`, without the rest."""
    return read_answer(text).pipelines


def read_answer(text: str, *, only: str | None = None) -> Answer:
    """Return the pipelines that *text*, in Prometheus' format, has samples of.

    Args:
        text: the answer.
        only: the name of the one that is wanted; ``None``: the first 200.

    Raises:
        FetchError: it has none, or is not in that format.
    """
    # Imported only here, so that the other commands need not wait for the import.
    from prometheus_client.parser import text_string_to_metric_families

    lines, more = _wanted_lines(text, only)
    halves: dict[tuple[str, str | None], Samples] = {}
    try:
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                if "pipeline" in sample.labels:
                    labels = {
                        name: one_line(value, MOST_LABEL) for name, value in sample.labels.items()
                    }
                    key = labels["pipeline"], labels.get("half")
                    samples = halves.get(key) or halves.setdefault(key, Samples(key[1]))
                    samples.add(sample.name.removeprefix(_PREFIX), labels, sample.value)
    except (ValueError, KeyError, IndexError) as error:
        raise FetchError(f"it serves metrics that cannot be read: {error}") from error
    pipelines = _joined(halves)
    if not pipelines:
        raise FetchError("it answers, but not with the metrics of a trio_ticks pipeline")
    return Answer(pipelines, more)


def _wanted_lines(text: str, only: str | None) -> tuple[list[str], int]:
    """Return our own lines in *text*, of a bounded number of pipelines.

    Metrics of others may be many, and may be malformed. And to parse a line takes much
    longer than to look at its label.

    Returns:
        The lines, and how many pipelines were left out.
    """
    wanted: list[str] = []
    others: list[str] = []
    known: dict[str, None] = {}
    numbers: dict[tuple[str, str], int] = {}
    left_out: set[str] = set()
    # Not splitlines: it would also split at characters that a label may hold.
    for line in text.split("\n"):
        if not line.startswith(_PREFIX) or line.startswith(_UNUSED):
            continue
        found = _PIPELINE_LABEL.search(line)
        name = None if found is None else found[1]
        if name is None:
            if len(others) < _MOST_SAMPLES:
                others.append(line)
        elif name in known:
            metric = line.partition("{")[0], name
            if numbers.get(metric, 0) < _MOST_SAMPLES:
                numbers[metric] = numbers.get(metric, 0) + 1
                wanted.append(line)
        elif len(known) < MOST_PIPELINES and (only is None or only == _unescaped(name)):
            known[name] = None
            wanted.append(line)
        else:
            left_out.add(name)
    if only is not None and not known and left_out:
        return _wanted_lines(text, None)  # So that it can be said which there are.
    return others + wanted, len(left_out)


def _unescaped(label: str) -> str:
    """Return the value of a label as it is chosen by ``--pipeline``."""
    plain = re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else str(found[1]), label)
    return one_line(plain, MOST_LABEL)


def _joined(halves: Mapping[tuple[str, str | None], Samples]) -> dict[str, Samples]:
    """Return the halves by their pipeline's name, the ingest beside the workers."""
    pipelines: dict[str, Samples] = {}
    for (name, half), samples in halves.items():
        other = pipelines.get(name)
        if half == "ingest" and other is not None:
            other.ingest = samples
            continue
        if other is not None and other.half == "ingest":
            samples.ingest = other
        pipelines[name] = samples
    return pipelines
