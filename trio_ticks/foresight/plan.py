"""The plan as its user holds it: a text, plain values, and a page."""

from __future__ import annotations

from pathlib import Path
from typing import final

import attrs

from .page import page
from .plans import Findings
from .words import report

__all__ = ["Plan"]


@final
@attrs.frozen(slots=True, kw_only=True)
class Plan(Findings):
    """What :func:`~trio_ticks.plan` found out.

    ``str(plan)`` is a report for a terminal, :meth:`to_dict` has plain values for JSON,
    and :meth:`to_html` is a page that stands alone. ``plan.advice.settings()`` are
    keyword arguments of :func:`~trio_ticks.open_pipeline`.
    """

    def to_html(self) -> str:
        """Return a page that stands alone: no script, nothing from elsewhere."""
        return page(self)

    def save_html(self, path: str | Path) -> None:
        """Write the page of :meth:`to_html` to *path*.

        Raises:
            OSError: it cannot be written.
        """
        Path(path).write_text(self.to_html(), encoding="utf-8")

    def __str__(self) -> str:
        return report(self)
