"""Fuzz the frame parser: ``python -m tests.fuzz.fuzz_frames --seconds 600``.

With atheris installed, libFuzzer looks for new paths through the parser. Without it, or
with ``--random``, streams are made of right and wrong frames, and then damaged. Either
way each input has to pass oracle.py: no exception, the same result however it is cut
up, and the same as wsproto finds. An input that fails is printed, and the exit status
is not zero.

Half of the inputs are parsed as on a connection with permessage-deflate. What a wrong
one unpacks to depends on how long zlib goes on with it, so these are compared with each
other only, and not with wsproto.
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


def check(limit: int, places: list[int], wire: bytes, window_bits: int | None = None) -> str:
    """Check one input; returns what kind of end it came to.

    With *window_bits* the connection has permessage-deflate. Odd: no context takeover.
    """
    from tests.fuzz.oracle import check_against_wsproto, check_splits
    from trio_ticks.feeds.websocket.inflate import DeflateParameters

    try:
        if window_bits is None:
            parsed = check_splits(wire, places, limit)
            check_against_wsproto(wire)
        else:
            agreed = DeflateParameters(window_bits % 2 == 1, window_bits)
            parsed = check_splits(wire, places, limit, agreed)
    except BaseException:
        print(
            f"FAILED: check({limit}, {places}, bytes.fromhex('{wire.hex()}'), {window_bits})",
            flush=True,
        )
        raise
    if parsed.violation is not None:
        return re.sub(r"\b(0x.|\d{3,})\b", "N", parsed.violation.reason)
    if parsed.closed is not None:
        return "closed by the peer"
    return "whole" if parsed.idle else "in the middle of a message"


def make_payload(rng: random.Random) -> bytes:
    size = rng.choice(
        (0, 1, 2, 3, 5, 20, 100, 124, 125, 126, 127, 128, 255, 256, 299, 300, 301, 1000)
    )
    if rng.random() < 0.02:
        size = rng.choice((65534, 65535, 65536, 65537))
    return rng.randbytes(1) * size if rng.random() < 0.5 else rng.randbytes(size)


def make_wire(rng: random.Random, window_bits: int | None = None) -> bytes:
    """Return frames as a server might send them, some of them wrong.

    Perhaps with a few bytes changed, lost or added. With *window_bits* most messages
    are compressed, as in :func:`check`.
    """
    from tests.worlds.deflating import Deflater
    from tests.worlds.frame_wire import VIOLATIONS, frame
    from trio_ticks.feeds.websocket.inflate import DeflateParameters

    deflater = None
    if window_bits is not None:
        agreed = DeflateParameters(window_bits % 2 == 1, window_bits)
        deflater = Deflater(agreed, level=rng.randrange(10))
    pieces: list[bytes] = []
    under_way = False
    for _ in range(rng.randrange(1, 12)):
        kind = rng.random()
        if kind < 0.5 and deflater is not None and not under_way:
            cuts = [rng.randrange(2**32) for _ in range(rng.choice((0, 0, 1, 3)))]
            pieces += deflater.frames(rng.choice((1, 2)), make_payload(rng), cuts)
        elif kind < 0.65:
            final = rng.random() < 0.6
            pieces.append(
                frame(0 if under_way else rng.choice((1, 2)), make_payload(rng), final=final)
            )
            under_way = not final
        elif kind < 0.9:
            pieces.append(frame(rng.choice((9, 10)), make_payload(rng)[:125]))
        elif kind < 0.94:
            pieces.append(
                frame(
                    8,
                    b""
                    if rng.random() < 0.3
                    else rng.randrange(900, 5100).to_bytes(2, "big") + make_payload(rng)[:120],
                )
            )
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
        window_bits = rng.choice((None, rng.randrange(8, 16)))
        wire = make_wire(rng, window_bits)
        places = [rng.randrange(2**32) for _ in range(rng.choice((0, 1, 2, 5, 20)))]
        if rng.random() < 0.1 and len(wire) < 3000:
            places = list(range(len(wire)))
        outcomes[check(rng.choice(LIMITS), places, wire, window_bits)] += 1
        total += len(wire)
    print(
        f"seed {seed}: {outcomes.total():,} inputs, {total:,} bytes in {spent:.0f} s, "
        "no failure; they ended:"
    )
    for outcome, count in outcomes.most_common():
        print(f"{count:12,}  {outcome}")


def fuzz_with_atheris(atheris: Any, seconds: int, seed: int) -> None:
    """Let libFuzzer choose the inputs. Never returns: libFuzzer ends the process."""
    from tests.worlds.frame_wire import VIOLATIONS

    def one_input(data: bytes) -> None:
        provider = atheris.FuzzedDataProvider(data)
        limit = LIMITS[provider.ConsumeIntInRange(0, len(LIMITS) - 1)]
        places = [provider.ConsumeInt(2) for _ in range(provider.ConsumeIntInRange(0, 4))]
        window_bits = provider.ConsumeIntInRange(0, 15)
        wire = provider.ConsumeBytes(len(data))
        check(limit, places, wire, window_bits if window_bits >= 8 else None)

    with tempfile.TemporaryDirectory() as corpus:
        for n, (wire, _code) in enumerate(VIOLATIONS.values()):
            Path(corpus, str(n)).write_bytes(wire[:2000])
        rng = random.Random(seed)
        for n in range(100):
            wire = make_wire(rng, rng.choice((None, rng.randrange(8, 16))))
            Path(corpus, f"made{n}").write_bytes(wire[:4000])
        # libFuzzer would leave a file for a failing input where it was started; check()
        # has printed the input already.
        options = [
            f"-max_total_time={seconds}",
            f"-seed={seed}",
            "-max_len=5000",
            "-print_final_stats=1",
            f"-artifact_prefix={corpus}/",
        ]
        atheris.Setup([sys.argv[0], *options, corpus], one_input)
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz.fuzz_frames", description="Fuzz the frame parser."
    )
    parser.add_argument("--seconds", type=int, default=60, help="how long (60)")
    parser.add_argument("--seed", type=int, default=None, help="repeat an earlier run's choices")
    parser.add_argument(
        "--random", action="store_true", help="do not use atheris even if it is installed"
    )
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
    parsers = ["trio_ticks.feeds.websocket.frames", "trio_ticks.feeds.websocket.inflate"]
    with atheris.instrument_imports(include=parsers):
        pass
    fuzz_with_atheris(atheris, options.seconds, seed)


if __name__ == "__main__":
    main()
