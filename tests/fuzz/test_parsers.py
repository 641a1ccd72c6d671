"""Each parser of what comes from outside, on bytes that nobody meant.

``python -m tests.fuzz.fuzz_parsers`` goes on for longer, and looks for new paths.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.fuzz_parsers import mutated
from tests.fuzz.parsers import PARSERS


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", PARSERS)
def test_it_takes_what_it_begins_with(name: str) -> None:
    assert PARSERS[name].seeds
    for seed in PARSERS[name].seeds:
        PARSERS[name].check(seed)


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.binary(max_size=200))
def test_any_bytes(name: str, data: bytes) -> None:
    PARSERS[name].check(data)


@pytest.mark.parametrize("name", PARSERS)
@given(rng=st.randoms(use_true_random=False))
def test_damaged_input(name: str, rng: object) -> None:
    parser = PARSERS[name]
    parser.check(mutated(rng, parser.seeds))  # type: ignore[arg-type]


_OTHERS: Final[tuple[Any, ...]] = (None, [], {}, "", 0, -1, True, [None], "x", 1e308)


def changed_in_one_place(value: Any) -> Iterator[Any]:
    """Yield *value* with one part missing or of another kind, for each in turn."""
    places: list[Any] = []
    if isinstance(value, dict):
        places = list(value)
    elif isinstance(value, list):
        places = list(range(len(value)))
    for place in places:
        rest = value.copy()
        del rest[place]
        yield rest
        for other in _OTHERS:
            rest = value.copy()
            rest[place] = other
            yield rest
        for part in changed_in_one_place(value[place]):
            rest = value.copy()
            rest[place] = part
            yield rest


@pytest.mark.parametrize("name", [name for name in PARSERS if name.startswith("codec-")])
def test_each_part_of_a_message_missing_or_of_another_kind(name: str) -> None:
    count = 0
    for seed in PARSERS[name].seeds:
        for line in seed.splitlines():
            with suppress(ValueError):
                for message in changed_in_one_place(json.loads(line)):
                    PARSERS[name].check(json.dumps(message, separators=(",", ":")).encode())
                    count += 1
    assert count > 50
