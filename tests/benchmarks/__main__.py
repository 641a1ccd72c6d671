"""``python -m tests.benchmarks``: run the contenders and print what they reach.

On request it also writes JSON and a plot, and checks the figures against their limits.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .brokers import BROKERS, PARTS, measure_brokers
from .contenders import CONTENDERS
from .latency import LONE, LONE_RATE, RATES, measure_latency
from .limits import evaluate
from .machine import facts
from .report import limits_table, report
from .runner import ContenderError
from .scaling import GROUPS, measure_memory, measure_scaling
from .stages import measure_stages, stages_table
from .throughput import LossError, Say, measure_throughput

__all__ = ["main"]

_SECTIONS = ("throughput", "tls", "latency", *LONE, "scaling", "memory")
_ON_REQUEST = ("brokers",)


def _list_of(known: Sequence[str]) -> Any:
    def parse(text: str) -> list[str]:
        chosen = [part.strip() for part in text.split(",") if part.strip()]
        if unknown := [part for part in chosen if part not in known]:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown)}: choose from {', '.join(known)}"
            )
        return chosen

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure trio_ticks against other ways to get ticks from a WebSocket to a "
        "handler, side by side on the same wire.",
        epilog="Contenders: "
        + "; ".join(f"({contender.letter}) {contender.name}" for contender in CONTENDERS.values()),
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=("run", "profile", "plot"),
        default="run",
        help="profile: where a tick's time goes; plot: draw --json's results again",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--ticks",
        type=int,
        default=750_000,
        help="ticks a round for the fastest (slow contenders get a share)",
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="length of a latency run at each pace"
    )
    parser.add_argument(
        "--only",
        type=_list_of(_SECTIONS + _ON_REQUEST),
        default=list(_SECTIONS),
        metavar="SECTION,…",
        help=f"{', '.join(_SECTIONS)}; on request: {', '.join(_ON_REQUEST)}",
    )
    parser.add_argument(
        "--contenders",
        type=_list_of(list(CONTENDERS)),
        default=list(CONTENDERS),
        metavar="LETTER,…",
    )
    parser.add_argument(
        "--groups",
        type=_list_of(list(GROUPS)),
        default=list(GROUPS),
        metavar="GROUP,…",
        help="of scaling: " + ", ".join(GROUPS),
    )
    parser.add_argument(
        "--brokers",
        type=_list_of(BROKERS),
        default=list(BROKERS),
        metavar="BROKER,…",
        help="of brokers: " + ", ".join(BROKERS),
    )
    parser.add_argument(
        "--parts",
        type=_list_of(PARTS),
        default=list(PARTS),
        metavar="PART,…",
        help="of brokers: " + ", ".join(PARTS),
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a minute in all, for a first look: short rounds, wide errors",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.svg", help="draw the results there (needs matplotlib)"
    )
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 where a figure misses its limit"
    )
    return parser


def _measure(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    chosen: list[str] = options.contenders
    ticks, rounds, seconds = options.ticks, options.rounds, options.seconds
    if options.quick:
        ticks, rounds, seconds = min(ticks, 100_000), min(rounds, 2), min(seconds, 1.0)
    results: dict[str, Any] = {
        "machine": facts(),
        "settings": {
            "ticks": ticks,
            "rounds": rounds,
            "seconds": seconds,
            "workers": 4,
            "maxsize": 1000,
        },
    }
    for section in options.only:
        say(f"{section}:")
        if section == "throughput":
            results[section] = measure_throughput(chosen, ticks=ticks, rounds=rounds, say=say)
        elif section == "tls":
            if letters := [letter for letter in chosen if letter in "abe"]:
                results[section] = measure_throughput(
                    letters, ticks=ticks, rounds=rounds, say=say, tls=True
                )
        elif section == "latency":
            if letters := [letter for letter in chosen if letter in "abe"]:
                results[section] = measure_latency(
                    letters, seconds=seconds, rounds=rounds, say=say, rates=RATES
                )
        elif section in LONE:
            if letters := [letter for letter in chosen if letter in "be"]:
                results[section] = measure_latency(
                    letters,
                    seconds=seconds,
                    rounds=rounds,
                    say=say,
                    rates=(LONE_RATE,),
                    tls=section == "latency-tls",
                    threads=section == "latency-threads",
                )
        elif section == "scaling" and "e" in chosen:
            results[section] = measure_scaling(
                ticks=min(ticks, 400_000), rounds=rounds, say=say, groups=options.groups
            )
        elif section == "memory":
            results[section] = measure_memory(ticks=min(ticks, 500_000), say=say)
        elif section == "brokers":
            results[section] = measure_brokers(
                options.brokers,
                ticks=ticks,
                rounds=rounds,
                seconds=seconds,
                say=say,
                parts=options.parts,
            )
    results["limits"] = [limit.to_dict() for limit in evaluate(results)]
    return results


def _write(results: dict[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.plot:
        from .plot import draw

        for path in draw(results, options.plot):
            print(f"drawn: {path}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 1 after lost ticks, or missed limits with ``--check``."""
    options = _parser().parse_args(arguments)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        if options.command == "profile":
            stages = measure_stages(
                ticks=min(options.ticks, 100_000 if options.quick else 400_000),
                rounds=options.rounds,
            )
            print(stages_table(stages))
            if options.json:
                options.json.write_text(
                    json.dumps({"machine": facts(), "stages": stages}, indent=1) + "\n"
                )
            return 0
        if options.command == "plot":
            if not (options.json and options.plot):
                print(
                    "plot needs --json FILE to read and --plot FILE.svg to write", file=sys.stderr
                )
                return 2
            results = json.loads(options.json.read_text())
            options.json = None
            _write(results, options)
            return 0
        results = _measure(options, say)
    except (LossError, ContenderError) as error:
        print(error, file=sys.stderr)
        return 1
    _write(results, options)
    limits = evaluate(results)
    print(report(results))
    if limits:
        print(f"\n\nLimits\n\n{limits_table(limits)}")
    return int(options.check and not (limits and all(limit.met for limit in limits)))


if __name__ == "__main__":
    sys.exit(main())
