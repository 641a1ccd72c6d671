"""Which of librdkafka's settings are secret, and how they are shown.

Rules: sync, no I/O. A setting is taken for a secret by its name alone, and rather one
too many than one too few.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...logs import Redactor

__all__ = ["is_secret", "masked", "redactor"]

_WORDS = ("password", "secret", "token", "key.pem", "oauthbearer", "credential", "jaas", "private")


def is_secret(name: str) -> bool:
    """Tell whether the setting *name* must not be shown."""
    lowered = name.lower()
    return any(word in lowered for word in _WORDS)


def masked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return *settings* with ``***`` for each secret."""
    return {name: "***" if is_secret(name) else value for name, value in settings.items()}


def _secrets(settings: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for each in settings:
        for name, value in each.items():
            if is_secret(name) and isinstance(value, str) and value:
                yield value
                # A log line holds one line of a key, not all of it.
                yield from (line for line in value.splitlines() if len(line) >= 16)


def redactor(settings: Iterable[Mapping[str, Any]]) -> Redactor:
    """Return what takes the secrets in *settings* out of a text."""
    return Redactor(_secrets(settings))
