"""Twenty strings as a hostile venue, broker, server or file name may bring them.

All that shows a text from outside is tested with each of them: see
``docs/operations/outside_text.md``.
"""

from __future__ import annotations

import unicodedata
from typing import Final

__all__ = ["HOSTILE", "MARK", "is_clean"]

MARK: Final = "Zq"
"""Stands in each of the strings, so that a test sees that it was shown at all."""

HOSTILE: Final = (
    f"{MARK}\x1b[31mred",  # colours a terminal
    f"{MARK}\x1b[2J\x1b[H",  # clears it
    f"{MARK}\x1b]0;title\x07",  # renames its window
    f"{MARK}\x1bP+q544e\x1b\\",  # asks it for an answer, which then is typed
    f"{MARK}\x9b31m",  # the same in one character
    f"{MARK}\nERROR trio_ticks.pipeline forged",  # poses as another line
    f"{MARK}\r\nX-Forged: 1",
    f"\r{MARK} over the beginning of the line",
    f"{MARK}\x00end",
    f"{MARK}\x08\x08\x7f",  # takes back what was written
    f"{MARK}\x0b\x0c\x1c\x1d\x1e\x85",  # lines, to str.splitlines
    f"{MARK}\u2028two\u2029three",
    f"{MARK}\u202etxt.exe",  # turned round
    f"{MARK}\u2066isolated\u2069\u200f",
    f"{MARK}\u200b\ufeff\u00ad",  # nothing to be seen
    f"{MARK}\ud800",  # half a character: no encoding has it
    f'{MARK}"}} 1\ntrio_ticks_forged{{a="b"}} 2',  # ends a label
    f"{MARK}\\n%s%(x)d{{0}}[bold]",  # means something to those who format
    f"<img src=x onerror=alert(1)>{MARK}</script>",
    MARK + "\U000e0041\ufff9" + "x" * 5000,  # invisible, then too long
)


def is_clean(text: str, *, lines: bool = True) -> bool:
    r"""Return whether nothing in *text* is a control character or invisible.

    Args:
        text: what was shown.
        lines: whether it may have line ends; they are ``\n`` alone.
    """
    return not [
        char
        for char in text
        if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
        and not (lines and char == "\n")
    ]
