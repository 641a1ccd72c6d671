"""What a function of the user's has raised, described in one line."""

from __future__ import annotations

import os
import traceback

from ..errors import FeedAuthError

__all__ = ["auth_error_in", "innermost", "where_raised"]


def innermost(error: BaseException) -> BaseException:
    """Return the one exception inside nested groups; a group of several as it is."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def auth_error_in(error: BaseException) -> FeedAuthError | None:
    """Return the FeedAuthError that *error* is or holds."""
    if isinstance(error, FeedAuthError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = (auth_error_in(each) for each in error.exceptions)
        return next((each for each in found if each is not None), None)
    return None


def where_raised(error: BaseException) -> str:
    """Return file and line in the user's function, in brackets; empty if unknown."""
    # The first frame is ours, the second is the user's function.
    frames = traceback.extract_tb(error.__traceback__)[1:2]
    return "".join(f" ({os.path.basename(f.filename)}:{f.lineno})" for f in frames)
