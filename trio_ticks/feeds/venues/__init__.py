"""The languages of the venues: one codec class each, in a module of its own.

To add one to the library, write a :class:`~.base.Codec` in a module of its own and
enter it in ``language.py``.
"""

from __future__ import annotations

from .base import Codec, CodecContext, KeepAlive, Limits, MalformedMessage
from .language import VENUES, Language, find_language, is_sendable, requests_of
from .rest_snapshots import RestSnapshots

__all__ = [
    "VENUES",
    "Codec",
    "CodecContext",
    "KeepAlive",
    "Language",
    "Limits",
    "MalformedMessage",
    "RestSnapshots",
    "find_language",
    "is_sendable",
    "requests_of",
]
