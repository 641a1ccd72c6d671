"""check_channel: trio's own channel passes, ours passes, and each broken one fails."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import trio
from hypothesis import settings

import trio_ticks as tt
from tests.worlds.broken_channels import BROKEN, faithful
from trio_ticks.testing import channel, check_channel

EXAMPLES = 2 * settings().max_examples
SEEN = [
    "send_nowait barges",
    "receive_nowait barges",
    "lost on cancel",
    "doubled on cancel",
    "closing twice counts twice",
]
"""Faults that random steps have to find without the named scenes."""


def open_ours(maxsize: int) -> tuple[Any, Any]:
    return tt.open_tick_channel(maxsize, overflow=tt.Block())


def test_the_channel_is_a_trio_channel() -> None:
    check_channel(open_ours, examples=EXAMPLES)


@pytest.mark.parametrize("open", [trio.open_memory_channel, faithful], ids=["trio", "wrapped"])
def test_trio_passes(open: Any) -> None:
    check_channel(open, examples=EXAMPLES)


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_channel_fails_and_the_message_says_why(fault: str) -> None:
    open, words = BROKEN[fault]
    with pytest.raises(AssertionError, match=words):
        check_channel(open)


@pytest.mark.parametrize("fault", SEEN)
def test_random_steps_alone_find_it(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "NAMED", {})
    monkeypatch.setattr(channel, "SCENES", {})
    with pytest.raises(AssertionError, match=r"random steps\nmaxsize=\d; steps:\n  1\. "):
        check_channel(BROKEN[fault][0])


def test_a_message_lists_the_steps_and_the_difference() -> None:
    with pytest.raises(AssertionError) as caught:
        check_channel(BROKEN["wrong error on close"][0])
    assert str(caught.value).splitlines() == [
        "not as trio's memory channel: "
        "closing a receiver ends the tasks that wait on that very handle",
        "maxsize=1; steps:",
        "  1. clone receiver 0",
        "  2. receive by receiver 0",
        "  3. receive by receiver 1",
        "  4. close receiver 0",
        "then the task of step 2: EndOfChannel, trio's: ClosedResourceError",
    ]


def test_it_names_the_extra_where_hypothesis_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(tt.ConfigError, match=r"pip install 'trio-ticks\[testing\]'"):
        check_channel(trio.open_memory_channel)


async def test_it_refuses_to_run_inside_trio() -> None:
    with pytest.raises(tt.ConfigError, match=r"outside of trio\.run"):
        check_channel(trio.open_memory_channel)


def test_what_a_channel_raises_of_its_own_is_shown() -> None:
    with pytest.raises(AssertionError, match=r"it raised TypeError\('a channel of a size"):
        check_channel(open_raising)


def open_raising(maxsize: int) -> tuple[Any, Any]:
    raise TypeError(f"a channel of a size of {maxsize}")
