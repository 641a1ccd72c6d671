"""One client for the REST interfaces of venues: history, snapshots, polling."""

from __future__ import annotations

from .answers import Failure, judge_status
from .client import RestClient
from .venues import open_venue

__all__ = ["Failure", "RestClient", "judge_status", "open_venue"]
