"""Runs one contender in this process and prints its account as one JSON line.

``runner`` starts it, in a fresh process each time.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import attrs

from .contenders import CONTENDERS
from .job import Job
from .loadgen import pin
from .recorder import Recorder

__all__ = ["main"]


def main() -> None:
    """Run the job that the first argument describes."""
    job = Job(**json.loads(sys.argv[1]))
    pin(job.core)
    contender = CONTENDERS[job.contender]
    recorder = Recorder(job.ticks, timed=bool(job.rate))
    account = recorder.account(contender.run(job, recorder))
    answer: dict[str, Any] = attrs.asdict(account)
    if not contender.on_wire:
        # The floor repeats its payloads, so their numbers cannot add up to the wire's.
        answer["intact"] = account.handled == account.expected
    if job.rate:
        answer["handled_ns"] = recorder.handled_ns.tolist()
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
