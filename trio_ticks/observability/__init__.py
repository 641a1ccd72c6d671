"""What an operator looks at: metrics and health over HTTP, log set-up, the terminal view. Nothing here is imported with the pipeline.

Every module needs at most one optional dependency, imports it only inside itself, and reads snapshots: it never touches the hot path.
"""

from __future__ import annotations

__all__: list[str] = []
