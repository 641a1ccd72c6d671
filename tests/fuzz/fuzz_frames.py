"""Fuzz the frame parser: ``python -m tests.fuzz.fuzz_frames --seconds 600``.

With atheris installed, libFuzzer looks for new paths through the parser. Without it, or with ``--random``, streams are made up of frames,
right and wrong, and then damaged. Either way each input has to pass what oracle.py asks: no exception, the same result however it is cut
up, and the same as wsproto finds. An input that fails is printed, and the exit status is not zero.
"""

from __future__ import annotations

import argparse
import importlib
import random
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

LIMITS = (1, 125, 126, 300, 65535, 65536, 2**20)


def check(limit: int, places: list[int], wire: bytes) -> str:
    """Check one input; returns what kind of end it came to."""
    from tests.fuzz.oracle import check_against_wsproto, check_splits

    try:
        parsed = check_splits(wire, places, limit)
        check_against_wsproto(wire)
    except BaseException:
        print(f"FAILED: check({limit}, {places}, bytes.fromhex('{wire.hex()}'))", flush=True)
        raise
    if parsed.violation is not None:
        return re.sub(r"\b(0x.|\d{3,})\b", "N", parsed.violation.reason)
    if parsed.closed is not None:
        return "closed by the peer"
    return "whole" if parsed.idle else "in the middle of a message"


def make_payload(rng: random.Random) -> bytes:
    size = rng.choice((0, 1, 2, 3, 5, 20, 100, 124, 125, 126, 127, 128, 255, 256, 299, 300, 301, 1000))
    if rng.random() < 0.02:
        size = rng.choice((65534, 65535, 65536, 65537))
    return rng.randbytes(1) * size if rng.random() < 0.5 else rng.randbytes(size)


def make_wire(rng: random.Random) -> bytes:
    """Return frames as a server might send them, some of them wrong, perhaps with a few bytes changed, lost or added."""
    from tests.frame_wire import VIOLATIONS, frame

    pieces: list[bytes] = []
    under_way = False
    for _ in range(rng.randrange(1, 12)):
        kind = rng.random()
        if kind < 0.65:
            final = rng.random() < 0.6
            pieces.append(frame(0 if under_way else rng.choice((1, 2)), make_payload(rng), final=final))
            under_way = not final
        elif kind < 0.9:
            pieces.append(frame(rng.choice((9, 10)), make_payload(rng)[:125]))
        elif kind < 0.94:
            pieces.append(frame(8, b"" if rng.random() < 0.3 else rng.randrange(900, 5100).to_bytes(2, "big") + make_payload(rng)[:120]))
        elif kind < 0.97:
            pieces.append(rng.choice(list(VIOLATIONS.values()))[0][:300])
        else:
            pieces.append(rng.randbytes(rng.randrange(1, 20)))
    wire = bytearray(b"".join(pieces))
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 5))):
        place = rng.randrange(len(wire) + 1)
        match rng.randrange(4):
            case 0:
                wire[place : place + 1] = rng.randbytes(1)
            case 1:
                del wire[place : place + rng.randrange(1, 5)]
            case 2:
                wire[place:place] = rng.randbytes(rng.randrange(1, 5))
            case _:
                del wire[place:]
    return bytes(wire)


def fuzz_at_random(seconds: float, seed: int) -> None:
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    total = 0
    begin = time.monotonic()
    while (spent := time.monotonic() - begin) < seconds:
        wire = make_wire(rng)
        places = [rng.randrange(2**32) for _ in range(rng.choice((0, 1, 2, 5, 20)))]
        if rng.random() < 0.1 and len(wire) < 3000:
            places = list(range(len(wire)))
        outcomes[check(rng.choice(LIMITS), places, wire)] += 1
        total += len(wire)
    print(f"seed {seed}: {outcomes.total():,} inputs, {total:,} bytes in {spent:.0f} s, no failure; they ended:")
    for outcome, count in outcomes.most_common():
        print(f"{count:12,}  {outcome}")


def fuzz_with_atheris(atheris: Any, seconds: int, seed: int) -> None:
    """Let libFuzzer choose the inputs. Never returns: libFuzzer ends the process."""
    from tests.frame_wire import VIOLATIONS

    def one_input(data: bytes) -> None:
        provider = atheris.FuzzedDataProvider(data)
        limit = LIMITS[provider.ConsumeIntInRange(0, len(LIMITS) - 1)]
        places = [provider.ConsumeInt(2) for _ in range(provider.ConsumeIntInRange(0, 4))]
        check(limit, places, provider.ConsumeBytes(len(data)))

    with tempfile.TemporaryDirectory() as corpus:
        for n, (wire, _code) in enumerate(VIOLATIONS.values()):
            Path(corpus, str(n)).write_bytes(wire[:2000])
        rng = random.Random(seed)
        for n in range(100):
            Path(corpus, f"made{n}").write_bytes(make_wire(rng)[:4000])
        # A file for an input that fails would be left where the fuzzer was started, and check() has printed it.
        options = [f"-max_total_time={seconds}", f"-seed={seed}", "-max_len=5000", "-print_final_stats=1", f"-artifact_prefix={corpus}/"]
        atheris.Setup([sys.argv[0], *options, corpus], one_input)
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.fuzz_frames", description="Fuzz the frame parser.")
    parser.add_argument("--seconds", type=int, default=60, help="how long (60)")
    parser.add_argument("--seed", type=int, default=None, help="repeat an earlier run's choices")
    parser.add_argument("--random", action="store_true", help="do not use atheris even if it is installed")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1, 2**31)
    atheris: Any = None
    if not options.random:
        try:
            atheris = importlib.import_module("atheris")
        except ImportError:
            print("atheris is not installed: inputs are made at random")
    if atheris is None:
        fuzz_at_random(options.seconds, seed)
        return
    with atheris.instrument_imports(include=["trio_ticks.feeds.frames"]):
        import trio_ticks.feeds.frames  # noqa: F401 - before anybody else imports it without the instruments
    fuzz_with_atheris(atheris, options.seconds, seed)


if __name__ == "__main__":
    main()
