"""What an operator uses: metrics and health over HTTP, log set-up, the terminal view.

Rules: importing the pipeline imports nothing of this room. Every module needs at most
one optional dependency and imports it only inside itself. It reads snapshots and
counters, and adds nothing to the hot path.
"""

from __future__ import annotations

__all__: list[str] = []
