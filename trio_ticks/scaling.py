"""A pool that sizes itself: between which bounds. Plain values.

Rules: no clock and no trio here.
"""

from __future__ import annotations

import attrs

from .errors import ConfigError

__all__ = ["AutoWorkers"]


def _check_count(_instance: object, field: attrs.Attribute[int], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{field.name} must be a whole number of workers, 1 or more, got {value!r}")


@attrs.frozen(slots=True)
class AutoWorkers:
    """Have the pool size itself between two bounds. ``workers="auto"`` means this with the defaults.

    Raises:
        ConfigError: a bound is out of range, or they are the wrong way round.
    """

    minimum: int = attrs.field(default=1, validator=_check_count)
    """Workers that are always there; the pool begins with them."""
    maximum: int = attrs.field(default=64, validator=_check_count)
    """Workers at most."""

    def __attrs_post_init__(self) -> None:
        if self.minimum > self.maximum:
            raise ConfigError(f"minimum ({self.minimum}) must not exceed maximum ({self.maximum})")
