"""Fuzz every parser of what comes from outside: ``python -m tests.fuzz.fuzz_parsers``.

``--seconds 600`` is for each of them, ``--only NAME`` for one. With atheris installed,
libFuzzer looks for new paths; what it finds is kept in ``--corpus`` and is where the
next run begins. Without it inputs are damaged at random. An input that fails is
printed, and the exit status is not zero.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

__all__ = ["main", "mutated"]

CORPUS: Final = Path(__file__).parents[2] / ".fuzz"
_PIECES: Final = (
    *(b"", b"{", b"}", b"[", b"]", b'"', b":", b",", b"null", b"true", b"-1", b"1e999", b"NaN"),
    *(b"99999999999999999999999", b"0" * 30, b"\x00", b"\xff", b"\xed\xa0\x80", b"\\u0000", b" "),
    *(
        b"\n",
        b"\r\n",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"[" * 300,
        b"%00",
        b"@",
        b"//",
        b"?",
        b"#",
    ),
)


def mutated(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return one of *seeds*, or two of them joined, with a few places changed."""
    data = bytearray(rng.choice(seeds))
    if rng.random() < 0.2:
        data += rng.choice((b"", b"\n")) + rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        length = rng.choice((0, 0, 1, 1, 4, 20))
        match rng.randrange(4):
            case 0:
                data[at : at + length] = rng.choice(_PIECES)
            case 1:
                data[at : at + length] = bytes(rng.randrange(256) for _ in range(length))
            case 2:
                other = rng.randrange(len(data) + 1)
                data[at:at] = data[other : other + 10 * length]
            case _:
                del data[at : at + length]
    return bytes(data)


def checked(name: str, data: bytes) -> None:
    """Check *data* with the parser *name*; print it if that fails."""
    from tests.fuzz.parsers import PARSERS

    try:
        PARSERS[name].check(data)
    except BaseException:
        print(f"FAILED: PARSERS[{name!r}].check(bytes.fromhex('{data.hex()}'))", flush=True)
        raise


def fuzz_at_random(name: str, seconds: float, seed: int) -> None:
    """Damage inputs at random."""
    from tests.fuzz.parsers import PARSERS

    rng, count, began = random.Random(seed), 0, time.monotonic()
    while time.monotonic() - began < seconds:
        checked(name, mutated(rng, PARSERS[name].seeds))
        count += 1
    print(f"{name}: seed {seed}, {count:,} inputs in {seconds:g} s, no failure", flush=True)


def fuzz_with_atheris(atheris: Any, name: str, seconds: int, seed: int, corpus: Path) -> None:
    """Let libFuzzer choose the inputs. Never returns: libFuzzer ends the process."""
    from tests.fuzz.parsers import PARSERS

    corpus.mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(PARSERS[name].seeds):
        (corpus / f"seed-{number}").write_bytes(each)
    folder = tempfile.mkdtemp()
    # checked() prints a failing input; libFuzzer's own file of it is thrown away.
    options = [f"-max_total_time={seconds}", f"-seed={seed}", "-max_len=4000", "-verbosity=0"]
    options += ["-print_final_stats=1", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: checked(name, data))
    atheris.Fuzz()


def fuzz_one(name: str, seconds: int, seed: int, corpus: Path, *, at_random: bool) -> None:
    """Fuzz the parser *name* in this process."""
    logging.disable()
    if not at_random:
        try:
            atheris: Any = importlib.import_module("atheris")
        except ImportError:
            print("atheris is not installed: inputs are made at random")
        else:
            with atheris.instrument_imports(include=["trio_ticks", "prometheus_client.parser"]):
                importlib.import_module("tests.fuzz.parsers")
            fuzz_with_atheris(atheris, name, seconds, seed, corpus / name)
            return
    fuzz_at_random(name, seconds, seed)


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz.fuzz_parsers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=int, default=60, help="for each parser (60)")
    parser.add_argument("--seed", type=int, default=None, help="repeat an earlier run's choices")
    parser.add_argument("--only", action="append", default=[], help="the name of a parser")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="kept from run to run")
    parser.add_argument("--random", action="store_true", help="do not use atheris")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1, 2**31)
    if options.here:
        (name,) = options.only
        fuzz_one(name, options.seconds, seed, options.corpus, at_random=options.random)
        return 0
    from tests.fuzz.parsers import PARSERS

    failed = []
    for name in options.only or PARSERS:
        # One process each: libFuzzer ends the process that it ran in.
        command = [sys.executable, "-m", "tests.fuzz.fuzz_parsers", "--here", "--only", name]
        command += ["--seconds", str(options.seconds), "--seed", str(seed)]
        command += ["--corpus", str(options.corpus), *(["--random"] if options.random else [])]
        began = time.monotonic()
        done = subprocess.run(command, check=False)
        verdict = "held  " if done.returncode == 0 else "MISSED"
        print(f"{verdict} {name}: {time.monotonic() - began:.0f} s", flush=True)
        failed += [name] if done.returncode else []
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
