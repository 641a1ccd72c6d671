"""The past played exactly, and the future computed from it.

Rules: this room runs whole pipelines; nothing below knows it.
"""

from __future__ import annotations
