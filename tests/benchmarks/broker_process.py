"""``python -m tests.benchmarks.broker_process TASK``: one end, in this process."""

from __future__ import annotations

import json
import sys

from .broker_child import Task
from .broker_loops import LOOPS
from .broker_ours import OURS

__all__ = ["main"]


def main() -> None:
    """Do the task that the first argument describes, as JSON."""
    task = Task(**json.loads(sys.argv[1]))
    {**LOOPS, **OURS}[task.role](task)


if __name__ == "__main__":
    main()
