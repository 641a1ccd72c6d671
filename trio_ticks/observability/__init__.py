"""What an operator looks at: log set-up and the terminal view. Nothing here is imported by the pipeline itself.

Every module needs at most one optional dependency, imports it only inside itself, and reads snapshots: it never touches the hot path.
"""

from __future__ import annotations

__all__: list[str] = []
