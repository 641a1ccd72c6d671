"""The settings of a pipeline, checked before anything runs. Plain values; what they mean is told at :func:`open_pipeline`.

Rules: every error says what to change; nothing here knows trio.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, Literal

import attrs

from .breaker import Breaker
from .errors import ConfigError
from .freshness import MaxAge
from .gaps import Gap
from .handling import Retry
from .overflow import Overflow
from .scaling import AutoWorkers
from .signatures import check_callback
from .systems import tell_limits

__all__ = ["OnCrash", "OnError", "OnGap", "Ordering", "Settings"]

logger = logging.getLogger(__name__)

Ordering = Literal["symbol", "none"]
OnCrash = Literal["fail", "retry"]
OnError = Callable[[Any, Exception], Any]
OnGap = Callable[[Gap], Any]


@attrs.frozen(slots=True, kw_only=True)
class Settings:
    """The settings of a pipeline, or of a worker pool alone."""

    workers: int | Literal["auto"] | AutoWorkers = 4
    maxsize: int = 1000
    write_timeout: float = 1.0
    lag_threshold: int = 500
    overflow: Overflow | None = None
    ordering: Ordering = "symbol"
    executor: str = "auto"
    max_age: MaxAge | float | None = None
    shutdown_timeout: float = 5.0
    handler_timeout: float | None = None
    retry: Retry | None = None
    breaker: Breaker | None = None
    on_crash: OnCrash = "fail"
    on_error: OnError | None = None
    on_gap: OnGap | None = None

    def __attrs_post_init__(self) -> None:
        for name in ("maxsize", "lag_threshold"):
            _check_count(name, getattr(self, name))
        if not isinstance(self.workers, AutoWorkers) and self.workers != "auto":
            _check_count("workers", self.workers, ', or "auto"')
        for name in ("write_timeout", "shutdown_timeout"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
                raise ConfigError(f"{name} must be a number of seconds, 0 or more, got {value!r}")
        timeout = self.handler_timeout
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf):
            raise ConfigError(f"handler_timeout must be a number of seconds, more than 0, or None, got {timeout!r}")
        for name, kind in (("retry", Retry), ("breaker", Breaker)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise ConfigError(f"{name} must be a trio_ticks.{kind.__name__}(...) or None, got {value!r}")
        if self.ordering not in ("symbol", "none"):
            raise ConfigError(f'ordering must be "symbol" or "none", got {self.ordering!r}')
        if self.on_crash not in ("fail", "retry"):
            raise ConfigError(f'on_crash must be "fail" or "retry", got {self.on_crash!r}')
        if self.on_crash == "retry" and self.executor != "process":
            text = 'settings.ignored: on_crash="retry" is for executor="process"; with executor=%r no handler can crash alone'
            logger.warning(text, self.executor, extra={"setting": "on_crash", "executor": self.executor})
        tell_limits(self.executor)
        if self.on_error is not None:
            check_callback("on_error", self.on_error, ("a tick", "an exception"))
        if self.on_gap is not None:
            check_callback("on_gap", self.on_gap, ("a Gap",))

    @property
    def pool_size(self) -> AutoWorkers | int:
        """How many workers there are, or the bounds between which the pool sizes itself."""
        return AutoWorkers() if self.workers == "auto" else self.workers


def _check_count(name: str, value: object, also: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a whole number, 1 or more{also}, got {value!r}")
