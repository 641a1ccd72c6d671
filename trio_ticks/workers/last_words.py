"""Reports a tick whose handler raised what is no ``Exception``: that ends the pipeline.

A panic in Rust is one, and asyncio's cancellation. The error says nothing of the tick,
so this is the last chance to say which one it was.

Rules: the error itself is raised in the end, whatever goes wrong while it is reported.
The report takes a bounded time, also if the pipeline is being cancelled.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import trio

from ..failures import log_second
from ..logs import log_event, one_line
from ..settings import OnError
from ..tracebacks import add_note
from ..uninterrupted import await_theirs
from .worker import Worker

__all__ = ["report_last"]

logger = logging.getLogger("trio_ticks.channel")

_REPORT_S: Final = 0.5
"""How long ``on_error`` may wait for something, in seconds."""
_NOTE: Final = "trio_ticks: raised by the handler of"


async def report_last(
    on_error: OnError | None, worker: Worker[Any], item: Any, error: BaseException
) -> None:
    """Name *item* in *error* and in the log, and hand both to *on_error*.

    Of a batch whose ticks fail by one error, the first is named.

    Cancellation: *on_error* has half a second; then it is cancelled.
    """
    if not _is_named(error):
        _name(item, error)
    if on_error is None:
        return
    worker.reporting.append(item)
    try:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _REPORT_S):
            # The annotation of on_error says Exception, so that what users have written
            # stays right; they get the very error that the handler raised.
            await await_theirs(on_error, item, error)
    except Exception as second:
        log_second(second)
    finally:
        worker.reported(item)


def _is_named(error: BaseException) -> bool:
    notes = getattr(error, "__notes__", None)  # anybody may have set it to anything
    return isinstance(notes, list) and any(
        isinstance(note, str) and note.startswith(_NOTE) for note in notes
    )


def _name(item: Any, error: BaseException) -> None:
    symbol = one_line(str(item.symbol), 120)
    try:
        text = one_line(repr(item), 1000)
    except Exception:
        text = object.__repr__(item)
    add_note(error, f"{_NOTE} {symbol}: {text}")
    log_event(
        logger,
        logging.CRITICAL,
        "handler.broke",
        "by %s, of %s, which is no Exception: the pipeline ends by it. The tick was %s",
        type(error).__name__,
        symbol,
        text,
        exc_info=error,
        symbol=symbol,
        error=type(error).__name__,
    )
