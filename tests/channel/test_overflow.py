"""The strategies' settings: what they refuse, and that they are plain values."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest

from trio_ticks.channel.ends import open_tick_channel
from trio_ticks.errors import ConfigError
from trio_ticks.overflow import (
    Block,
    Conflate,
    DropNewest,
    DropOldest,
    Fail,
    OverflowStrategy,
    Throttle,
    check_policy,
)
from trio_ticks.ticks import Tick, Trade


@pytest.mark.parametrize("timeout", [-1, -1e-9, math.nan, "1", None, True, [1]])
def test_a_patience_that_cannot_work_is_refused(timeout: Any) -> None:
    with pytest.raises(ConfigError, match="timeout must be a number of seconds"):
        DropNewest(timeout)
    if timeout is not None:
        with pytest.raises(ConfigError, match="timeout must be a number of seconds"):
            Block(timeout)


@pytest.mark.parametrize("timeout", [0, 0.5, 10, math.inf])
def test_any_other_patience_is_kept(timeout: float) -> None:
    assert DropNewest(timeout).timeout == timeout
    assert Block(timeout).timeout == timeout


@pytest.mark.parametrize("cap", [0, -1, 1.5, True, "3"])
def test_a_cap_that_cannot_work_is_refused(cap: Any) -> None:
    for strategy in (DropNewest, DropOldest):
        with pytest.raises(ConfigError, match="max_per_symbol must be a whole number"):
            strategy(max_per_symbol=cap)


def test_a_merge_must_be_callable() -> None:
    with pytest.raises(ConfigError, match="merge must be a function"):
        Conflate(merge=3)  # type: ignore[arg-type]  # that is the point


def test_the_default_is_a_second_of_patience() -> None:
    assert DropNewest() == DropNewest(timeout=1.0)
    assert open_tick_channel()[1].state.policy == DropNewest(timeout=1.0)


@pytest.mark.parametrize(
    "strategy", [Block(), DropNewest(2), DropOldest(), Conflate(), Fail()], ids=repr
)
def test_strategies_are_frozen_values(strategy: OverflowStrategy) -> None:
    assert strategy == attrs.evolve(strategy)
    assert hash(strategy) == hash(attrs.evolve(strategy))
    assert not hasattr(strategy, "__dict__")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        strategy.timeout = 3  # type: ignore[misc, union-attr]  # that is the point


@pytest.mark.parametrize(
    "policy",
    ["block", None, Block, 1, [], {}, {Tick: Block}, {"Tick": Block()}, {Tick: None}],
    ids=repr,
)
def test_what_is_no_policy_is_refused(policy: Any) -> None:
    with pytest.raises(ConfigError, match="overflow"):
        check_policy(policy)


@pytest.mark.parametrize("kind", [Block, DropNewest, DropOldest, Conflate, Fail, Throttle])
def test_the_class_of_a_strategy_is_refused_with_what_to_write(kind: Any) -> None:
    write = rf"write {kind.__name__}\(\)$"
    with pytest.raises(ConfigError, match=rf"^overflow must be a strategy, .*{write}"):
        check_policy(kind)
    with pytest.raises(ConfigError, match=rf"^overflow for Trade must be .*{write}"):
        check_policy({Tick: Block(), Trade: kind})


def test_a_mapping_is_copied() -> None:
    mapping: dict[type, OverflowStrategy] = {Tick: Conflate(), Trade: Block()}
    policy = check_policy(mapping)
    mapping.clear()
    assert policy == {Tick: Conflate(), Trade: Block()}


@pytest.mark.parametrize("maxsize", [0, -1, 1.0, True, "10", None, math.inf])
def test_a_size_that_cannot_work_is_refused(maxsize: Any) -> None:
    with pytest.raises(ConfigError, match="maxsize must be a whole number"):
        open_tick_channel(maxsize)


@pytest.mark.parametrize("max_age", [0, -1, math.nan, "1", True])
def test_an_age_that_cannot_work_is_refused(max_age: Any) -> None:
    with pytest.raises(ConfigError, match="must be a positive number of seconds"):
        open_tick_channel(10, max_age=max_age)
