"""Which failures of a handler are worth another try, how many tries, and the waits.

Rules: nothing here knows trio.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random

import attrs

from ..checks import check_count, check_exceptions, check_seconds, checked
from ..errors import ConfigError
from .batches import BatchError

__all__ = ["Retry"]


def _kinds(value: type[Exception] | Iterable[type[Exception]]) -> tuple[type[Exception], ...]:
    if isinstance(value, type):
        return (value,)
    # The validator refuses what is no class; the letters of a text are no items of it.
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)


@attrs.frozen(slots=True)
class Retry:
    """Try a tick again if its handler raised an exception that another try may cure.

    The symbol's next ticks wait meanwhile, other symbols do not. After the last try the
    tick has failed, with the exception of that try. An exception group is worth another
    try if every exception in it is.

    A batch handler is tried again with the whole batch, unless it raised a
    :class:`BatchError`: then the rest of the batch has been handled, and trying the
    failed ticks again would change the order.

    Raises:
        ConfigError: a setting is out of range.
    """

    on: tuple[type[Exception], ...] = attrs.field(
        converter=_kinds,
        validator=checked(
            check_exceptions,
            shown="the classes of exceptions that another try may cure, "
            "such as (TimeoutError, OSError)",
        ),
    )
    """Which exceptions another try may cure: a class, or several.

    They must be named, since most exceptions mean a bug that the next try meets again.
    """
    attempts: int = attrs.field(
        default=3,
        validator=checked(check_count, least=2, also=", the first try included"),
        kw_only=True,
    )
    """Tries in all, the first one included."""
    initial_s: float = attrs.field(default=0.05, validator=checked(check_seconds), kw_only=True)
    """The upper bound of the wait between the first two tries, in seconds.

    A uniformly random part of the bound is waited ("full jitter").
    """
    maximum_s: float = attrs.field(default=1.0, validator=checked(check_seconds), kw_only=True)
    """The bound of the wait doubles with every try, up to this, in seconds."""

    def __attrs_post_init__(self) -> None:
        if self.initial_s > self.maximum_s:
            raise ConfigError(
                f"initial_s ({self.initial_s!r}) must not exceed maximum_s ({self.maximum_s!r})"
            )

    def cures(self, error: Exception) -> bool:
        """Tell whether another try may cure *error*."""
        if isinstance(error, BatchError):
            return False
        return isinstance(error, self.on) or (
            isinstance(error, ExceptionGroup) and error.split(self.on)[1] is None
        )

    def waits(self, random: Random) -> Iterator[float]:
        """Yield how long to wait before each further try, in seconds.

        Args:
            random: the source of the random part of each wait.
        """
        bound = self.initial_s
        for _ in range(self.attempts - 1):
            yield bound * random.random()
            bound = min(2 * bound, self.maximum_s)
