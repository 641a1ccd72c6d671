"""check_channel: whether a pair of handles behaves as trio's own memory channel.

Rules: trio's channel is the reference and runs beside the channel under test; nothing
here says what the right result of a step is. hypothesis is imported only when a check
begins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from ..errors import ConfigError
from .channel_lockstep import AWAITED, SYNC, Step, play
from .channel_named import NAMED
from .channel_scenes import SCENES

__all__ = ["check_channel"]

_HEAD = "not as trio's memory channel"
_OFTEN = ("send", "receive", "send_nowait", "receive_nowait", "cancel")
"""Steps that are drawn nine times as often as the others."""


def check_channel(open: Callable[[int], tuple[Any, Any]], *, examples: int = 200) -> None:
    """Check that a channel behaves as trio's own memory channel does.

    It checks order, fairness, errors, closing and cloning, cancellation,
    ``statistics()`` and the async protocols: first in short named scenes, then in
    *examples* random lists of steps. Each step is done to the channel and to
    ``trio.open_memory_channel(maxsize)``, and all that can be observed has to be the
    same. The list that fails is shrunk before it is shown.

    The items are ticks (:class:`~trio_ticks.Tick`) of up to three symbols.

    Args:
        open: takes ``maxsize``, which is at least 1, and returns the two handles: one
            to send, one to receive. It is called inside ``trio.run``, once for each
            list of steps.
        examples: how many random lists of steps are tried. They are the same at every
            call.

    Raises:
        AssertionError: the channel differs; the message lists the steps and the
            difference.
        ConfigError: hypothesis is not installed, or trio runs already in this thread.
    """
    hypothesis = _hypothesis()
    if trio.lowlevel.in_trio_run():
        raise ConfigError("check_channel runs trio itself: call it outside of trio.run")
    for name, check in NAMED.items():
        try:
            difference = trio.run(check, open)
        except Exception as error:
            raise AssertionError(f"{_HEAD}: {name}\nit raised {error!r}") from error
        _fail(difference, name)
    for name, (maxsize, steps) in SCENES.items():
        _fail(trio.run(play, open, maxsize, steps), name)

    def random_steps(maxsize: int, clones: list[Step], parts: list[list[Step]]) -> None:
        steps = [*clones, *(step for part in parts for step in part)]
        _fail(trio.run(play, open, maxsize, steps), "random steps")

    settings = hypothesis.settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    settings(hypothesis.given(*_strategies(hypothesis.strategies))(random_steps))()


def _strategies(st: Any) -> tuple[Any, Any, Any]:
    """Return strategies for the size, for the clones at first, and for the rest."""

    def step(*whats: str, settle: Any) -> Any:
        at, symbol = st.integers(0, 3), st.sampled_from("ABC")
        return st.builds(Step, st.sampled_from(whats), at, settle, symbol)

    # Closing the only handle of a side ends most of a list, so begin with several.
    clones = st.lists(st.sampled_from([Step("clone sender"), Step("clone receiver")]), max_size=8)
    settle = st.sampled_from([True, False])
    any_steps = st.lists(step(*_OFTEN * 8, *SYNC, *AWAITED, settle=settle), min_size=1, max_size=8)
    # Tasks wait; one of them is woken; and before it has run something else happens.
    meanwhile = step("cancel", "cancel", *SYNC, settle=settle)
    moments = [
        st.tuples(
            st.lists(step(wait, settle=st.just(True)), min_size=1, max_size=4),
            step(wake, settle=st.just(False)),
            meanwhile,
        ).map(lambda each: [*each[0], *each[1:]])
        for wait, wake in (("receive", "send_nowait"), ("send", "receive_nowait"))
    ]
    # A list of lists is longer on average than one list, and is shrunk as well.
    return st.integers(1, 3), clones, st.lists(st.one_of(any_steps, *moments), max_size=8)


def _hypothesis() -> Any:
    try:
        import hypothesis
        import hypothesis.strategies
    except ImportError as error:
        raise ConfigError(
            "check_channel needs hypothesis: pip install 'trio-ticks[testing]'"
        ) from error
    return hypothesis


def _fail(difference: str | None, name: str) -> None:
    if difference is not None:
        raise AssertionError(f"{_HEAD}: {name}\n{difference}")
