"""When a feed comes back after a connection, and when it gives up. No I/O, no clock."""

from __future__ import annotations

import math
from typing import Any

import pytest

from trio_ticks.feeds.comeback import Comeback, GiveUp
from trio_ticks.feeds.websocket.backoff import BackoffPolicy
from trio_ticks.feeds.websocket.connect import ConnectFailed
from trio_ticks.feeds.websocket.session import Ended

DROPPED = Ended(reason="the connection was lost")
REFUSED = ConnectFailed("cannot connect: refused")
QUIET = Ended(reason="no market data for 60 s", stale=True, pings_answered=True)
DEAD = Ended(reason="no market data for 60 s", stale=True)
WISHED = Ended(reason="the venue announces its shutdown", wished=True)


def refusal(status: int) -> ConnectFailed:
    permanent = status not in (429, 503)
    return ConnectFailed(f"the server answered {status}", permanent=permanent, status=status)


NO_HOST = ConnectFailed("cannot look up the host", permanent=True)


class Trial:
    """A Comeback with a clock: each step says how a connection ended, and when."""

    def __init__(self, *, give_up_after: float = math.inf, codes: tuple[int, ...] = ()) -> None:
        self.now = 1000.0
        self.comeback = Comeback(
            BackoffPolicy(uniform=lambda: 1.0),
            lambda: 0.5,
            give_up_after=give_up_after,
            final_close_codes=frozenset(codes),
            now=self.now,
        )
        self.had_data = False

    def ends(
        self,
        how: Ended | ConnectFailed,
        *,
        lived_s: float = 0.0,
        data: bool = False,
        retry_after: float | None = None,
    ) -> float | GiveUp:
        """End a connection that lived so long; the wait passes, too."""
        self.now += lived_s
        self.had_data = self.had_data or data
        ended = Ended(reason=str(how), failure=how) if isinstance(how, ConnectFailed) else how
        decided = self.comeback.after(
            ended,
            now=self.now,
            lived_s=lived_s,
            had_data=self.had_data,
            retry_after=retry_after,
        )
        if not isinstance(decided, GiveUp):
            self.now += decided
        return decided

    def gives_up(self, how: Ended | ConnectFailed, **facts: Any) -> GiveUp:
        decided = self.ends(how, **facts)
        assert isinstance(decided, GiveUp)
        return decided


# The waits


@pytest.mark.parametrize("how", [DROPPED, REFUSED, DEAD, Ended(reason="", code=1000)])
def test_waits_grow(how: Ended | ConnectFailed) -> None:
    trial = Trial()
    assert [trial.ends(how) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert trial.comeback.attempts == 8


@pytest.mark.parametrize("data", [False, True])
def test_neither_data_nor_a_short_life_begins_anew(data: bool) -> None:
    trial = Trial()
    assert [trial.ends(DROPPED, lived_s=59.9, data=data) for _ in range(4)] == [1, 2, 4, 8]


def test_a_life_as_long_as_the_longest_wait_begins_anew() -> None:
    trial = Trial()
    for _ in range(5):
        trial.ends(REFUSED)
    assert trial.ends(DROPPED, lived_s=60.0) == 1
    assert trial.comeback.attempts == 1
    assert trial.ends(DROPPED) == 2


def test_how_long_that_is_depends_on_the_policy() -> None:
    comeback = Comeback(
        BackoffPolicy(initial_s=1.0, maximum_s=4.0),
        lambda: 1.0,
        give_up_after=math.inf,
        final_close_codes=frozenset(),
        now=0.0,
    )
    waits = [
        comeback.after(DROPPED, now=n, lived_s=lived, had_data=False, retry_after=None)
        for n, lived in enumerate([0.0, 3.9, 0.0, 4.0])
    ]
    assert waits == [1, 2, 4, 1]


def test_retry_after_is_a_lower_bound_up_to_five_minutes() -> None:
    trial = Trial()
    asked = [7.0, 0.0, 86_400.0, math.inf]
    assert [trial.ends(refusal(503), retry_after=s) for s in asked] == [7, 2, 300, 300]


# Quiet venues and wishes


def test_a_quiet_venue_is_no_failure() -> None:
    trial = Trial(give_up_after=100)
    assert [trial.ends(REFUSED) for _ in range(2)] == [1, 2]
    assert [trial.ends(QUIET, lived_s=60.0) for _ in range(5)] == [0] * 5
    assert trial.comeback.attempts == 0
    # The schedule stays where it was, and the outage begins now.
    assert [trial.ends(DROPPED) for _ in range(3)] == [4, 8, 16]


def test_a_quiet_venue_need_not_live_long() -> None:
    assert Trial().ends(QUIET, lived_s=0.5) == 0


def test_silence_without_an_answer_is_a_failure() -> None:
    trial = Trial()
    assert [trial.ends(DEAD, lived_s=30.0) for _ in range(3)] == [1, 2, 4]


def test_a_wish_is_followed_at_once_and_begins_anew() -> None:
    trial = Trial()
    for _ in range(4):
        trial.ends(REFUSED)
    assert trial.ends(WISHED, lived_s=5.0) == 0
    assert trial.comeback.attempts == 0
    assert trial.ends(REFUSED) == 1


def test_wishes_right_at_the_beginning_are_failures() -> None:
    trial = Trial()
    assert [trial.ends(WISHED, lived_s=4.9) for _ in range(3)] == [1, 2, 4]


# What is permanent


@pytest.mark.parametrize("status", [301, 400, 404, 410])
def test_permanent_before_any_data(status: int) -> None:
    trial = Trial()
    trial.ends(REFUSED)
    failure = refusal(status)
    decided = trial.gives_up(failure)
    assert decided == GiveUp(str(failure), 1, failure)
    assert not decided.auth


@pytest.mark.parametrize("status", [401, 403])
def test_credentials_refused_before_any_data(status: int) -> None:
    decided = Trial().gives_up(refusal(status))
    assert decided.auth
    assert decided.attempts == 1


def test_a_host_that_does_not_exist() -> None:
    assert Trial().gives_up(NO_HOST).failure is NO_HOST


@pytest.mark.parametrize("failure", [refusal(404), NO_HOST], ids=str)
def test_an_outage_after_data(failure: ConnectFailed) -> None:
    trial = Trial()
    trial.ends(DROPPED, data=True)
    assert [trial.ends(failure) for _ in range(7)] == [2, 4, 8, 16, 32, 60, 60]


def test_a_long_connection_without_data_proves_nothing() -> None:
    trial = Trial()
    trial.ends(DROPPED, lived_s=1000.0)
    trial.gives_up(NO_HOST)


def test_a_refusal_with_retry_after_is_not_permanent() -> None:
    trial = Trial()
    assert trial.ends(refusal(404), retry_after=20.0) == 20
    assert trial.ends(refusal(401), retry_after=20.0) == 20
    trial.gives_up(refusal(404))


def test_a_final_failure_is_final_even_after_data() -> None:
    trial = Trial()
    trial.ends(DROPPED, lived_s=1000.0, data=True)
    decided = trial.gives_up(ConnectFailed("no token", final=True))
    assert decided.auth
    assert decided.reason == "no token"


# Credentials that were good once


@pytest.mark.parametrize("status", [401, 403])
def test_credentials_refused_for_a_minute(status: int) -> None:
    trial = Trial()
    trial.ends(DROPPED, data=True)
    began = trial.now
    waits: list[float] = []
    while not isinstance(decided := trial.ends(refusal(status)), GiveUp):
        waits.append(decided)
    assert waits == [2, 4, 8, 16, 32]
    assert trial.now - began == 62
    assert decided.auth
    assert decided.attempts == 7


@pytest.mark.parametrize("between", [REFUSED, DROPPED, QUIET, refusal(503)], ids=str)
def test_another_end_between_them_begins_the_minute_anew(between: Any) -> None:
    trial = Trial()
    trial.ends(DROPPED, data=True)
    for _ in range(4):
        assert not isinstance(trial.ends(refusal(401)), GiveUp)
    trial.ends(between)
    began = trial.now
    while not isinstance(trial.ends(refusal(401)), GiveUp):
        pass
    assert trial.now - began >= 60


def test_retry_after_does_not_keep_refused_credentials_for_ever() -> None:
    trial = Trial()
    assert trial.ends(refusal(401), retry_after=40.0) == 40
    assert trial.ends(refusal(401), retry_after=40.0) == 40
    assert trial.gives_up(refusal(401), retry_after=40.0).auth


# The end of patience


def test_no_patience() -> None:
    decided = Trial(give_up_after=0).gives_up(REFUSED)
    assert decided.attempts == 1
    assert decided.failure is REFUSED
    assert "refused" in decided.reason


def test_no_patience_with_a_good_connection_either() -> None:
    assert Trial(give_up_after=0).gives_up(DROPPED, lived_s=1000.0).failure is None


def test_the_last_try_is_made_when_the_time_is_up() -> None:
    trial = Trial(give_up_after=10)
    assert [trial.ends(REFUSED) for _ in range(4)] == [1, 2, 4, 3]
    assert trial.gives_up(REFUSED).attempts == 5


def test_retry_after_does_not_lengthen_the_outage() -> None:
    trial = Trial(give_up_after=10)
    assert trial.ends(refusal(503), retry_after=100.0) == 10
    trial.gives_up(refusal(503), retry_after=100.0)


def test_only_a_good_connection_ends_the_outage() -> None:
    trial = Trial(give_up_after=200)
    for _ in range(3):
        assert not isinstance(trial.ends(DROPPED, lived_s=50.0, data=True), GiveUp)
    trial.gives_up(DROPPED, lived_s=50.0)
    trial = Trial(give_up_after=200)
    for _ in range(30):
        assert trial.ends(DROPPED, lived_s=60.0) == 1


# Close codes


def test_final_close_codes() -> None:
    trial = Trial(codes=(4001, 1008))
    assert trial.ends(Ended(reason="", code=4000)) == 1
    decided = trial.gives_up(Ended(reason="bad key", code=4001), lived_s=1000.0, data=True)
    assert decided.reason == "the venue closed with the final code 4001: bad key"
    assert decided.failure is None
    assert not decided.auth


def test_a_code_of_our_own_is_not_final() -> None:
    trial = Trial(codes=(1002, 1009))
    assert trial.ends(Ended(reason="too big", code=1009, violation=True)) == 1
