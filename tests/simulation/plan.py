"""A run before it is run: settings, faults, and how it ends, all drawn from a seed.

A plan can be cut down, to find out which of its faults are needed for a failure: some
of the faults can be left out, and the market can be shorter.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection
from typing import Any, Final, Literal, final

import attrs

import trio_ticks as tt
from tests.simulation.network import WireFault
from tests.worlds.frame_wire import PING, TEXT, VIOLATIONS, close_of, frame
from tests.worlds.seeded_handlers import CurableError

__all__ = ["INJECTED", "SYMBOLS", "UNIT_S", "Act", "Ending", "Fate", "Plan"]

UNIT_S: Final = 0.01
"""What handlers take, and waits last, is a few of these, in seconds."""
SYMBOLS: Final = tuple("ABCDEFGH")
_HUGE: Final = 3000
_FAULTS: Final = (0, 1, 2, 3, 5, 8, 12)

INJECTED: Final[dict[str, bytes | str]] = {
    "no json": "nonsense",
    "half a quote": '{"symbol":"A","timestamp":"2026-11-29T12:00:00Z","bid":1',
    "a number": "5",
    "an empty object": "{}",
    "wrong types": '{"symbol":5,"timestamp":[],"bid":{},"ask":null}',
    "negative size": '{"symbol":"A","timestamp":"2026-11-29T12:00:00Z","bid":1,"ask":2,'
    '"bid_size":-1,"ask_size":1,"volume":1}',
    "too deep": "[" * 2000,
    "huge": '{"x":"' + "y" * 100_000 + '"}',
    "an error": '{"id":1,"error":{"code":"SOMETHING","message":"went wrong"}}',
    "a heartbeat": '{"type":"heartbeat"}',
    "no utf-8": b"\xff\xfe\x00",
    "symbol of nobody": '{"symbol":"ZZZ","timestamp":"2026-11-29T12:00:00Z","bid":1,"ask":2,'
    '"bid_size":1,"ask_size":1,"volume":1}',
}
"""Messages that make no tick."""

_RAW: Final = {
    **{f"violation: {name}": wire for name, (wire, _code) in VIOLATIONS.items() if len(wire) < 500},
    "ping": frame(PING, b"are you there"),
    "many pings": frame(PING, b"x") * 40,
    "close 1012": close_of(1012, "restart"),
    "close 1000": close_of(1000, "bye"),
    "junk in three pieces": frame(TEXT, b"{", final=False)
    + frame(0, b'"a":', final=False)
    + frame(PING, b"between")
    + frame(0, b"1}"),
}
"""Bytes that get between two writes of the exchange."""


@attrs.frozen
class Act:
    """Something that happens at a moment."""

    at_s: float
    kind: str
    """A key of ``_ACTS``."""
    for_s: float = 0.0
    """How long it lasts, in seconds; for a jump of the clock, how far."""
    what: Any = None


@attrs.frozen
class Fate:
    """What the handler does with a tick."""

    seconds: float
    """How long it waits; negative: it has no checkpoint at all."""
    fails: int = 0
    """How many tries fail in a way that another try cures."""
    hopeless: bool = False
    blocks_s: float = 0.0
    """How long it keeps the event loop, in seconds."""
    cancels: bool = False
    """Whether it cancels a scope of its own, and waits in that."""


@attrs.frozen
class Ending:
    """How a run ends: at the end of the market, or before."""

    how: Literal["market", "shutdown", "cancel", "scope"]
    at_s: float = 0.0
    at_step: int = 0
    """After how many steps of tasks, in place of a time: at any moment at all."""


@final
@attrs.frozen(kw_only=True)
class Plan:
    """All of one run."""

    seed: int
    ticks: int
    """How many the market makes."""
    rate: float
    symbols: tuple[str, ...]
    settings: dict[str, Any]
    """As ``open_pipeline`` takes them."""
    feed: dict[str, Any]
    """As ``WebSocketFeed`` takes them."""
    batch: tuple[int, float] | None
    names_failures: bool
    tells_s: float | None
    """How long ``on_error`` takes, if it is async."""
    moods: tuple[float, ...]
    """How likely a tick waits, fails, blocks, hangs and cancels."""
    beside: tuple[tuple[float, tuple[str, ...], float], ...]
    """What a second feed brings: a wait, the symbols of a batch, and how long to try;
    none: there is no second feed."""
    buffered: bool
    """Whether there is a buffer between processes between the two halves."""
    records: bool
    """Whether there is a recorder."""
    faults: tuple[Act | WireFault, ...]
    ending: Ending

    @classmethod
    def drawn(cls, seed: int, *, keep: Collection[int] | None = None, ticks: int = 0) -> Plan:
        """Make a plan from *seed*.

        Args:
            seed: the seed.
            keep: the indexes of the faults to keep; ``None``: all.
            ticks: how many ticks the market makes; 0: as many as the seed says.
        """
        rng = random.Random(f"plan {seed}")
        symbols = SYMBOLS[: rng.randint(1, 8)]
        count = rng.choice([1, 10, 30, 60, 100, 200])
        rate = rng.choice([100.0, 500.0, 2000.0, 20_000.0])
        span_s = min(4.0, count / rate) + rng.choice([0.05, 0.5, 2.0])
        settings = _settings(rng)
        faults = [_fault(rng, span_s, symbols) for _ in range(rng.choice(_FAULTS))]
        if isinstance(settings["overflow"], tt.Conflate):
            # The judge knows a conflated tick by its fields: these must be right.
            faults = [_uncorrupted(fault) for fault in faults]
        ending = _ending(rng, span_s)
        batch = (rng.randint(1, 9), UNIT_S * rng.choice([0, 0, 1, 5]))
        moods = tuple(rng.choice([0.0, 0.02, 0.2, 0.6]) for _ in range(5))
        return cls(
            seed=seed,
            ticks=ticks or count,
            rate=rate,
            symbols=symbols,
            settings=settings,
            feed=_feed(rng),
            batch=batch if rng.random() < 0.25 else None,
            names_failures=rng.random() < 0.5,
            tells_s=rng.choice([None, 0.0, UNIT_S]),
            moods=moods,
            beside=_beside(rng, span_s) if rng.random() < 0.4 else (),
            buffered=rng.random() < 0.2,
            records=rng.random() < 0.15,
            faults=tuple(fault for at, fault in enumerate(faults) if keep is None or at in keep),
            ending=ending,
        )

    def fate(self, arrival: int) -> Fate:
        """Return what the handler does with the tick that came as number *arrival*."""
        rng = random.Random(self.seed * 1_000_003 + arrival)
        waits, fails, blocks, hangs, cancels = (rng.random() < mood for mood in self.moods)
        seconds = -1.0
        if waits:
            seconds = UNIT_S * rng.choice([0, 0.3, 1, 4])
        if hangs and rng.random() < 0.1:
            seconds = 500 * UNIT_S
        return Fate(
            seconds,
            rng.choice([1, 2, 9]) if fails else 0,
            hopeless=fails and rng.random() < 0.3,
            blocks_s=UNIT_S * rng.random() if blocks else 0.0,
            cancels=cancels,
        )


def _settings(rng: random.Random) -> dict[str, Any]:
    return {
        "executor": "loop",
        "workers": rng.randint(1, 6),
        "ordering": rng.choice(["symbol", "symbol", "none"]),
        "maxsize": rng.choice([1, 3, 10, 50, 1000]),
        "overflow": rng.choice(
            [
                tt.Block(),
                tt.Block(timeout=2 * UNIT_S),
                tt.DropNewest(0),
                tt.DropNewest(3 * UNIT_S),
                tt.DropNewest(0, max_per_symbol=2),
                tt.DropOldest(),
                tt.DropOldest(longest_line=True),
                tt.Conflate(),
            ]
        ),
        "max_age": rng.choice(
            [None, None, None, 8 * UNIT_S, tt.MaxAge(10 * UNIT_S, since="timestamp")]
        ),
        "shutdown_timeout": rng.choice([0, 2 * UNIT_S, 1000 * UNIT_S]),
        "handler_timeout": rng.choice([None, 2 * UNIT_S]),
        "retry": rng.choice(
            [None, tt.Retry(CurableError, attempts=3, initial_s=0, maximum_s=UNIT_S)]
        ),
        "breaker": rng.choice([None, None, None, tt.Breaker(2, 5 * UNIT_S)]),
    }


def _feed(rng: random.Random) -> dict[str, Any]:
    return {
        "stale_after": rng.choice([None, 0.5, 2.0]),
        "ping_interval": rng.choice([None, 0.1, 0.5]),
        "pong_timeout": 0.3,
        "connect_timeout": 1.0,
        "newer_only": rng.random() < 0.2,
        "backoff": tt.BackoffPolicy(initial_s=0.05, maximum_s=rng.choice([0.1, 0.4])),
        "max_message_size": rng.choice([2**20, _HUGE]),
        "reconnect": rng.random() < 0.5,
    }


def _beside(rng: random.Random, span_s: float) -> tuple[tuple[float, tuple[str, ...], float], ...]:
    batches = rng.randint(1, 12)
    return tuple(
        (
            rng.uniform(0, 2 * span_s / batches),
            tuple(rng.choice("ABXY") for _ in range(rng.choice([1, 3, 30, 300]))),
            rng.choice([math.inf, math.inf, 0.0, 3 * UNIT_S]),
        )
        for _ in range(batches)
    )


def _ending(rng: random.Random, span_s: float) -> Ending:
    how: Any = rng.choice(["market", "market", "shutdown", "cancel", "scope", "scope"])
    if how != "market" and rng.random() < 0.5:
        return Ending(how, at_step=rng.randint(1, 3000))
    return Ending(how, at_s=rng.uniform(0, 1.5 * span_s))


def _fault(rng: random.Random, span_s: float, symbols: tuple[str, ...]) -> Act | WireFault:
    if rng.random() < 0.5:
        return _wire_fault(rng)
    kind: Any = rng.choice(list(_ACTS))
    at_s, for_s = rng.uniform(0, span_s), rng.choice([0.02, 0.2, 1.0])
    return Act(at_s, kind, for_s, _ACTS[kind](rng, symbols))


_ACTS: Final[dict[str, Any]] = {
    "refuse": lambda rng, _: rng.choice([429, 500, 503]),
    "unreachable": lambda *_: None,
    "silent": lambda *_: None,
    "no pongs": lambda *_: None,
    "drop": lambda *_: None,
    "inject": lambda rng, _: rng.choice(list(INJECTED)),
    "stamp": lambda rng, symbols: (
        rng.choice(symbols),
        rng.choice(["2026-11-29T13:00:00Z", "9999-12-31T23:59:59Z", "1970-01-01T00:00:00Z"]),
    ),
    "jump": lambda *_: None,
    "subscribe": lambda rng, _: rng.choice(SYMBOLS),
    "unsubscribe": lambda rng, _: rng.choice(SYMBOLS),
    "resize": lambda rng, _: rng.randint(1, 8),
    "pause": lambda rng, _: rng.choice(["queue", "unsubscribe"]),
    "throttle": lambda rng, _: rng.choice([10.0, 100.0, 1000.0]),
}


def _wire_fault(rng: random.Random) -> WireFault:
    kind: Any = rng.choice(["reset", "eof", "mute", "corrupt", "insert", "insert", "slow"])
    fault = WireFault(
        kind=kind,
        connection=rng.choice([0, 0, 0, 1, 1, 2, 3]),
        side="down" if kind == "insert" else rng.choice(["down", "down", "up"]),
        at=rng.choice([rng.randrange(400), rng.randrange(2000), rng.randrange(20_000)]),
    )
    match kind:
        case "corrupt":
            return attrs.evolve(fault, bit=rng.randrange(8))
        case "insert":
            # The first write is the answer to the handshake.
            data = _RAW[rng.choice(list(_RAW))]
            return attrs.evolve(fault, at=rng.randrange(1, 12), data=data)
        case "slow":
            return attrs.evolve(
                fault,
                at=0,
                delay_s=rng.choice([0.0, 0.001, 0.05]),
                piece=rng.choice([1, 7, 100, 4096]) if fault.side == "up" else rng.choice([7, 500]),
                room=rng.choice([256, 4096]),
            )
    return fault


def _uncorrupted(fault: Act | WireFault) -> Act | WireFault:
    if isinstance(fault, WireFault) and (fault.kind, fault.side) == ("corrupt", "down"):
        return attrs.evolve(fault, kind="reset")
    return fault
