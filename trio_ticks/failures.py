"""Several errors at once: which part is a cancellation, and which error is raised.

Rules: no error is lost. An error that is not raised is logged; an error that is raised
keeps its own context.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from .logs import log_event

__all__ = ["is_closed_channel", "is_request_to_end", "log_second", "raise_first", "split"]

logger = logging.getLogger("trio_ticks.pipeline")

_REQUESTS = (trio.Cancelled, KeyboardInterrupt, SystemExit, GeneratorExit)


def split(raised: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Return the cancellation in *raised*, and the error in it; ``None`` for either."""
    if isinstance(raised, trio.Cancelled):
        return raised, None
    if isinstance(raised, BaseExceptionGroup) and raised.subgroup(trio.Cancelled) is not None:
        return raised.split(trio.Cancelled)
    return None, raised


def is_request_to_end(error: BaseException) -> bool:
    """Tell whether *error* asks a task or the program to end, and is no failure.

    What is neither that nor an ``Exception`` is a bug that its library holds to be
    grave, such as a panic in Rust.
    """
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(_REQUESTS) is not None
    return isinstance(error, _REQUESTS)


def is_closed_channel(error: BaseException) -> bool:
    """Tell whether *error* says only that a channel is closed or broken."""
    closed = (trio.ClosedResourceError, trio.BrokenResourceError)
    return (
        error.split(closed)[1] is None
        if isinstance(error, BaseExceptionGroup)
        else isinstance(error, closed)
    )


def log_second(error: BaseException) -> None:
    """Log *error*, since another error is raised instead."""
    log_event(
        logger,
        logging.ERROR,
        "pipeline.second_error",
        "%r, besides what is raised",
        error,
        exc_info=error,
        error=type(error).__name__,
    )


def raise_first(errors: Sequence[BaseException]) -> None:
    """Raise the first of *errors*, and log the others.

    The error keeps the context that it had. If Python handles another error at the
    time, it would put that one in its place.
    """
    for error in errors[1:]:
        log_second(error)
    if errors:
        context = errors[0].__context__
        try:
            raise errors[0]
        finally:
            errors[0].__context__ = context
