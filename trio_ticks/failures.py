"""Errors that meet: what is a cancellation in a group, which of two errors is raised, and what becomes of the other.

Rules: nothing is lost: an error that is not raised is logged; one that is raised keeps its own context.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

__all__ = ["is_closed_channel", "log_second", "raise_first", "split"]

logger = logging.getLogger("trio_ticks.pipeline")


def split(raised: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Return what is a cancellation in *raised*, and what is an error."""
    if isinstance(raised, trio.Cancelled):
        return raised, None
    if isinstance(raised, BaseExceptionGroup) and raised.subgroup(trio.Cancelled) is not None:
        return raised.split(trio.Cancelled)
    return None, raised


def is_closed_channel(error: BaseException) -> bool:
    """Tell whether *error* says nothing but that a channel is closed."""
    closed = (trio.ClosedResourceError, trio.BrokenResourceError)
    return error.split(closed)[1] is None if isinstance(error, BaseExceptionGroup) else isinstance(error, closed)


def log_second(error: BaseException) -> None:
    """Log *error*, since another one is raised."""
    logger.error("pipeline.second_error: %r, besides what is raised", error, exc_info=error, extra={"error": type(error).__name__})


def raise_first(errors: Sequence[BaseException]) -> None:
    """Raise the first of *errors*, with the context that it had: raised while another is handled, it would get that one instead."""
    for error in errors[1:]:
        log_second(error)
    if errors:
        context = errors[0].__context__
        try:
            raise errors[0]
        finally:
            errors[0].__context__ = context
