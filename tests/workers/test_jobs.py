"""Jobs for worker processes and their answers: each carries its number.

Both sides speak one version.
"""

from __future__ import annotations

import attrs
import pytest

import trio_ticks as tt
from tests.worlds.helpers import make_book, make_ticks
from trio_ticks.wire import ItemDecoder, Items
from trio_ticks.workers.processes.child import failure_of
from trio_ticks.workers.processes.jobs import (
    VERSION,
    Job,
    JobEncoder,
    Reply,
    decode_failure,
    decode_job,
    decode_reply,
    encode,
)

OTHER = VERSION + 1


def test_a_job_comes_out_as_it_went_in() -> None:
    ticks = make_ticks(5, "AB")
    payload, count, wrong = JobEncoder().encode(7, ticks, (1.0, 2.0, 3.0, 4.0, 5.0))
    job = decode_job(payload)
    assert (count, wrong) == (5, None)
    assert (job.version, job.number, job.lives_s) == (VERSION, 7, (1.0, 2.0, 3.0, 4.0, 5.0))
    assert ItemDecoder().decode(job.items) == (ticks, None)


def test_a_job_ends_before_what_cannot_go() -> None:
    before = make_ticks(3)
    item = attrs.evolve(make_book(), first_sequence=2**70)
    payload, count, wrong = JobEncoder().encode(1, [*before, item, *before], (1.0,) * 7)
    job = decode_job(payload)
    assert count == 3
    assert isinstance(wrong, tt.ConfigError)
    assert job.lives_s == (1.0,) * 3
    assert ItemDecoder().decode(job.items) == (before, None)


def test_a_reply_and_its_failures_come_out_as_they_went_in() -> None:
    failure = failure_of(2, ValueError("no bid"))
    reply = Reply(VERSION, 3, 2, (failure,), b"12345678", 0.5, 0.25, 1, 2)
    assert decode_reply(encode(reply)) == reply
    assert decode_failure(encode(failure)) == failure


def test_another_version_is_refused() -> None:
    with pytest.raises(RuntimeError, match=f"version {OTHER}"):
        decode_job(encode(Job(OTHER, 1, Items(()))))
    with pytest.raises(RuntimeError, match=f"version {OTHER}"):
        decode_reply(encode(Reply(OTHER, 1, 0, (), b"", 0.0, 0.0)))
