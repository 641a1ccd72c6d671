"""What takes the numbers of a pipeline: Prometheus or OpenTelemetry, for example.

Rules: a protocol only. Names and labels are those of :mod:`.readings`.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["Sink"]


class Sink(Protocol):
    """Takes the numbers of one pipeline.

    Each reading passes every name. A value of ``None`` means that the name has no value
    now.
    """

    def gauge(self, name: str, help: str, value: float | None, **labels: str) -> None: ...

    def counter(self, name: str, help: str, value: float | None, **labels: str) -> None: ...

    def histogram(
        self, name: str, help: str, counts: list[int], total: float, **labels: str
    ) -> None:
        """Take a histogram.

        Args:
            name: the metric's name.
            help: its description.
            counts: how many samples were at most each of ``readings.BUCKETS_S``, and,
                last, how many there were.
            total: the sum of the samples, in seconds.
            **labels: those of this histogram.
        """
