"""Which of the errors that end a pipeline's block comes out; the others are logged.

Rules: no error is lost: one is raised as itself, each other is logged. A cancellation
goes on its way only where there is no error.
"""

from __future__ import annotations

from typing import Any, final

from ..failures import log_second, raise_first, split
from ..uninterrupted import uninterrupted
from .running import Pipeline

__all__ = ["BlockErrors"]


@final
@uninterrupted
class BlockErrors:
    """Sorts the errors that end the block of a pipeline.

    They come from the block, from the pipeline, or are cancellations. Entered around
    the nursery. When it is left, the report is made, and the first error is raised as
    itself; any other is logged.

    Args:
        pipeline: whose block it is.
    """

    def __init__(self, pipeline: Pipeline[Any]) -> None:
        self._pipeline = pipeline
        self._of_block: BaseException | None = None
        self._block_first = False

    def keep(self, error: BaseException) -> bool:
        """Keep the block's *error*; return False if a cancellation is in it.

        A kept error must not reach the nursery: that would put it into a group, and a
        group into a copy of itself. A cancellation must reach it.
        """
        self._block_first = self._pipeline.failure is None
        if split(error)[0] is not None:
            return False
        self._of_block = error
        return True

    def __enter__(self) -> BlockErrors:
        return self

    def __exit__(self, _kind: object, left: BaseException | None, _trace: object) -> None:
        for half in (self._pipeline, self._pipeline.ingest):
            if half is not None:
                half._report = half._make_report()
        kept, failure = self._of_block, self._pipeline.failure
        cancelled, error = (None, None) if left is None else split(left)
        if kept is None and cancelled is not None and error is not None:
            # The block's own group goes on its way as it is.
            if failure is not None:
                log_second(failure)
            return
        # A deadline that passes meanwhile takes no error along: as from any `finally`,
        # an error comes out in the place of the cancellation.
        of_block = _from_nursery(error) if kept is None else kept
        errors = [of_block, failure] if self._block_first else [failure, of_block]
        if kept is not None:
            errors.append(error)  # of what ends with the block: a recorder, a server
        raise_first([each for each in errors if each is not None])


def _from_nursery(error: BaseException | None) -> BaseException | None:
    """Return the block's error.

    It came to the nursery with a cancellation, because the pipeline had failed.
    """
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return error.exceptions[0]
    return error
