"""Bounds what an exception drags along, and keeps the texts of stacks that come again.

Python adds the frames of each raise to the traceback that an exception has already. So
one object that is raised again and again, such as a dead connection that keeps its
error, grows without end, and formatting it takes longer each time. A chain of causes
grows likewise where a handler raises a new error from its last one.

Rules: what is short is left as it is. Of what was raised again and again the first and
the last raise stay; of what is long, too, the first and the last frames.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from types import CodeType, TracebackType
from typing import Final, final

__all__ = [
    "FRAMES",
    "STACKS",
    "StackTexts",
    "add_note",
    "bound",
    "has_company",
    "is_ours",
    "message_of",
    "writable",
]

FRAMES: Final = 10
"""How many of the first and of the last frames are kept of a long traceback."""
_SHORT: Final = 8
"""A traceback of so many frames is not looked at: most failures cost a count only."""
_LONG: Final = 3 * FRAMES
"""A traceback with more frames is cut: rarely, so that most failures only count."""
_CHAIN: Final = 16
"""How many errors of a chain of causes are kept."""
_MOST: Final = 64
"""How many errors of a chain with groups are looked at."""
STACKS: Final = 256
"""How many stacks are kept as text: to make one costs 100 times a look-up."""


_PACKAGE: Final = str(Path(__file__).parent) + os.sep


def is_ours(code: CodeType) -> bool:
    """Return whether *code* belongs to this package."""
    return code.co_filename.startswith(_PACKAGE)


def bound(error: BaseException) -> None:
    """Cut the traceback and the causes of *error* in place, if they have grown long."""
    _cut(error)
    if not has_company(error):
        return
    seen, level = {id(error)}, [error]
    for _ in range(_CHAIN - 1):
        following: list[BaseException] = []
        for each in level:
            for linked in _linked(each):
                if id(linked) not in seen and len(seen) < _MOST:
                    seen.add(id(linked))
                    _cut(linked)
                    following.append(linked)
        if not following:
            return
        level = following
    for each in level:
        # Setting the cause would hide the context.
        suppressed = each.__suppress_context__
        each.__cause__ = each.__context__ = None
        each.__suppress_context__ = suppressed


def has_company(error: BaseException) -> bool:
    """Return whether other errors belong to *error*: a cause, or those of a group."""
    return (
        error.__context__ is not None
        or error.__cause__ is not None
        or isinstance(error, BaseExceptionGroup)
    )


def writable(text: str) -> str:
    """Return *text* as a plain ``str`` that can be encoded.

    Halves of characters are escaped: the name of a file may hold such, and whatever
    was decoded with ``surrogateescape``.
    """
    if type(text) is str and text.isascii():
        return text
    return str.encode(text, "utf-8", "backslashreplace").decode()


def message_of(error: BaseException) -> str:
    """Return the text of *error*, which can be written anywhere; never raises."""
    try:
        return writable(str(error))
    except Exception:
        return "its message cannot be made"


def add_note(error: BaseException, note: str) -> None:
    """Add *note* to *error*, unless its raiser left no place for notes."""
    with contextlib.suppress(Exception):
        error.add_note(note)


def _linked(error: BaseException) -> list[BaseException]:
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return [each for each in (error.__cause__, error.__context__, *inner) if each is not None]


def _cut(error: BaseException) -> None:
    head = error.__traceback__
    if head is None:
        return
    count, link = 1, head.tb_next
    while link is not None:
        count += 1
        link = link.tb_next
    if count <= _SHORT or _cut_raises(head) or count <= _LONG:
        return
    for _ in range(FRAMES - 1):
        assert head.tb_next is not None
        head = head.tb_next
    tail = head.tb_next
    for _ in range(count - 2 * FRAMES):
        assert tail is not None
        tail = tail.tb_next
    head.tb_next = tail


def _cut_raises(head: TracebackType) -> bool:
    """Cut all but the first and the last raise out of *head*, if there were more."""
    code = head.tb_frame.f_code
    # Who catches what is raised again is an outermost frame each time: of the same file
    # as the first, or of this package like that, and in a place that was there already.
    outer, place = (_PACKAGE if is_ours(code) else code.co_filename), (id(code), head.tb_lasti)
    places, again, inside = {place}, False, True
    raises: list[TracebackType] = []
    before, link = head, head.tb_next
    while link is not None:
        code = link.tb_frame.f_code
        if not code.co_filename.startswith(outer):
            inside = False
        elif not inside or (id(code), link.tb_lasti) == place:
            inside = True
            raises.append(before)
            here = id(code), link.tb_lasti
            again = again or here in places
            places.add(here)
        before, link = link, link.tb_next
    if not again or len(raises) < 2:
        return False
    raises[0].tb_next = raises[-1].tb_next
    return True


@final
class StackTexts:
    """Makes the texts of stacks, and keeps those that occur again.

    A strategy that fails tends to fail at the same place, tick after tick. A stack is
    known by its code objects and the instructions in them.

    Args:
        is_hidden: whether a frame's code is left out, if it is on top of the stack.
    """

    def __init__(self, is_hidden: Callable[[CodeType], bool] = lambda _code: False) -> None:
        self._is_hidden = is_hidden
        self._known: dict[tuple[int, ...], tuple[str, list[CodeType]]] = {}

    def text(self, trace: TracebackType | None) -> str:
        """Return the frames of *trace* as ``traceback.format_tb``, but writable."""
        places: list[int] = []
        codes: list[CodeType] = []
        link = trace
        while link is not None:
            # The line's number would have to be looked up in the code's table.
            places.append(link.tb_lasti)
            codes.append(link.tb_frame.f_code)
            link = link.tb_next
        key = (*map(id, codes), *places)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= STACKS:
                self._known.clear()
            while (
                trace is not None
                and trace.tb_next is not None
                and self._is_hidden(trace.tb_frame.f_code)
            ):
                trace = trace.tb_next
            # Keep the code objects alive, or others could get their ids.
            known = self._known[key] = writable("".join(traceback.format_tb(trace))), codes
        return known[0]

    def whole(self, error: BaseException) -> str:
        """Return the text of *error* as ``traceback.format_exception`` does.

        Never raises: the last line may be all that can be had. See :func:`writable`.
        """
        try:
            return self._whole(error)
        except Exception:
            # Notes that are no list, or thousands of groups in each other.
            return f"{writable(type(error).__qualname__)}: {message_of(error)}\n"

    def _whole(self, error: BaseException) -> str:
        if has_company(error) or error.__traceback__ is None:
            return writable("".join(traceback.format_exception(error)))
        last = writable("".join(traceback.format_exception_only(error)))
        return f"Traceback (most recent call last):\n{self.text(error.__traceback__)}{last}"
