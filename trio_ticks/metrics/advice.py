"""What a running pipeline would have lost with other settings, in numbers and words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["NOW", "advice_text"]

NOW: Final = "now"
"""The key of the share that is lost with the settings as they are."""


def advice_text(shares: Mapping[str, float]) -> str | None:
    """Return an advice in words.

    Args:
        shares: for each change of a setting, such as ``workers=6``, which share of the
            ticks would be lost; and for ``NOW`` which one is lost without.

    Returns:
        ``None`` where there is nothing to say.
    """
    now = shares.get(NOW)
    others = [(change, share) for change, share in shares.items() if change != NOW]
    if now is None or not others:
        return None
    if not now:
        return f"{' or '.join(change for change, _ in others)} would do as well"
    words = [
        f"with {change}: {_share(share)}" + (f" instead of {_share(now)}" if not number else "")
        for number, (change, share) in enumerate(others)
    ]
    return f"lost {'; '.join(words)}"


def _share(share: float) -> str:
    if share <= 0:
        return "nothing"
    return f"{share:.2%}" if share < 0.001 else f"{share:.1%}"
