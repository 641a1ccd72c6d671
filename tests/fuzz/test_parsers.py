"""Each parser of what comes from outside, on bytes that nobody meant.

``python -m tests.fuzz.fuzz_parsers`` goes on for longer, and looks for new paths.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

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
