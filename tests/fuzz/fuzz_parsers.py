"""Fuzz every parser of what comes from outside: ``python -m tests.fuzz.fuzz_parsers``.

``--seconds 600`` is for each of them, ``--only NAME`` for one. With atheris installed,
libFuzzer looks for new paths; what it finds is kept in ``--corpus`` and is where the
next run begins. Without it inputs are damaged at random. An input that fails is
printed, and the exit status is not zero.

What became of each parser is written to ``--log`` at once. A round that was cut off
goes on with the parsers that it has not come to; ``--anew`` begins anew.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

__all__ = ["main", "mutated"]

_ROOT: Final = Path(__file__).parents[2]
CORPUS: Final = _ROOT / ".fuzz"
LOG: Final = _ROOT / "docs" / "_static" / "fuzz.jsonl"
_COUNT: Final = re.compile(r"number_of_executed_units: (\d+)|seed \d+, ([\d,]+) inputs")
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


def run(command: Sequence[str]) -> tuple[bool, int | None]:
    """Run a fuzzer; return whether its parser held, and how many inputs that were.

    What it prints is passed on.
    """
    inputs = None
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if found := _COUNT.search(line):
                inputs = int((found[1] or found[2]).replace(",", ""))
    return process.returncode == 0, inputs


def round_of(
    log: Path, names: Sequence[str], seconds: int, *, anew: bool = False
) -> tuple[str, set[str]]:
    """Return the round that goes on, and the parsers that it is through with.

    A round is known by its beginning. The last one goes on if it was as long for each
    parser, none has failed in it, and some of *names* are left.
    """
    written = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    last = [each for each in written if each["round"] == written[-1]["round"]]
    done = {each["parser"] for each in last}
    as_long = all(each["held"] and each["seconds"] == seconds for each in last)
    if last and as_long and not anew and not done.issuperset(names):
        return last[0]["round"], done
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}", set()


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
    parser.add_argument("--log", type=Path, default=LOG, help="what became of each parser")
    parser.add_argument("--anew", action="store_true", help="begin a round anew")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1, 2**31)
    if options.here:
        (name,) = options.only
        fuzz_one(name, options.seconds, seed, options.corpus, at_random=options.random)
        return 0
    from tests.fuzz.parsers import PARSERS

    names = options.only or list(PARSERS)
    begun, done = round_of(options.log, names, options.seconds, anew=options.anew)
    failed = False
    for name in names:
        if name in done:
            continue
        # One process each: libFuzzer ends the process that it ran in.
        command = [sys.executable, "-m", "tests.fuzz.fuzz_parsers", "--here", "--only", name]
        command += ["--seconds", str(options.seconds), "--seed", str(seed)]
        command += ["--corpus", str(options.corpus), *(["--random"] if options.random else [])]
        began = time.monotonic()
        held, inputs = run(command)
        verdict = "held  " if held else "MISSED"
        print(f"{verdict} {name}: {time.monotonic() - began:.0f} s", flush=True)
        failed = failed or not held
        outcome = {"parser": name, "seconds": options.seconds, "inputs": inputs, "held": held}
        with options.log.open("a") as file:
            file.write(json.dumps({"round": begun, **outcome}) + "\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
