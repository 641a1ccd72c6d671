"""The benchmarks run from end to end, and their accounting can fail.

A benchmark that cannot notice a loss proves nothing. No timing is asserted here. What
takes a process is kept to a few hundred ticks.
"""

from __future__ import annotations

import json
import math
import random
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from tests.benchmarks.__main__ import main
from tests.benchmarks.contenders import CONTENDERS
from tests.benchmarks.latency import latencies_us, measure_latency
from tests.benchmarks.limits import Limit, evaluate
from tests.benchmarks.recorder import Account, Recorder
from tests.benchmarks.replay_load import measure as measure_replays
from tests.benchmarks.report import report
from tests.benchmarks.runner import ContenderError, open_generator, run_job
from tests.benchmarks.simulations import measure_day, measure_sweep
from tests.benchmarks.stats import median, quantile, ratios
from tests.benchmarks.tables import table
from tests.benchmarks.throughput import LossError, measure_throughput, verify
from tests.benchmarks.wire import FrameReader, accept_key, encode_session, server_frame

# Those that need nothing beyond the package itself.
ALWAYS_HERE = ["d", "e", "f"]


def silent(line: str) -> None:
    """Say nothing."""


def tick(number: int) -> Any:
    return SimpleNamespace(volume=float(number))


def masked(opcode: int, payload: bytes) -> bytes:
    mask = b"\x11\x22\x33\x44"
    frame = server_frame(opcode, payload)
    header = frame[: len(frame) - len(payload)]
    body = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return header[:1] + bytes((header[1] | 0x80,)) + header[2:] + mask + body


def test_accept_key_is_that_of_the_rfc() -> None:
    # The example of RFC 6455, section 1.3.
    assert accept_key(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize("size", [None, 107, 500, 70_000])
def test_session_holds_numbered_ticks(size: int | None) -> None:
    session = encode_session(20, symbols=3, size=size)
    ticks = [json.loads(payload) for payload in session.payloads()]
    assert [entry["volume"] for entry in ticks] == list(range(20))
    assert len({entry["symbol"] for entry in ticks}) == 3
    assert session.ends[-1] == len(session.data)
    if size is not None and size > 157:
        # The header takes 4 bytes or 10, which the padding does not look at.
        assert abs(session.frame_bytes - size) <= 6


def test_session_is_the_same_each_time() -> None:
    assert encode_session(50).data == encode_session(50).data
    assert encode_session(50).data == encode_session(80).data[: encode_session(50).ends[-1]]


def test_frame_reader_takes_frames_split_anywhere() -> None:
    payloads = [b"", b"x" * 125, b"y" * 126, b"z" * 70_000]
    stream = b"".join(masked(0x1, payload) for payload in payloads)
    rng = random.Random(7)
    for _ in range(20):
        reader, seen, position = FrameReader(), [], 0
        while position < len(stream):
            step = rng.choice((1, 2, 5, 40_000))
            seen += list(reader.feed(stream[position : position + step]))
            position += step
        assert seen == [(0x1, payload) for payload in payloads]


async def test_recorder_counts_and_notices_doubles() -> None:
    done: list[bool] = []
    recorder = Recorder(4)
    recorder.on_done = lambda: done.append(True)
    for number in (0, 1, 1):
        await recorder.handler(tick(number))
    assert recorder.progress == 3
    assert not done
    await recorder.handler(tick(3))
    assert done
    account = recorder.account()
    assert (account.handled, account.lost, account.finished) == (4, 0, True)
    assert not account.intact


async def test_recorder_ends_with_a_drop_too() -> None:
    done: list[bool] = []
    recorder = Recorder(3)
    recorder.on_done = lambda: done.append(True)
    recorder.drop()
    await recorder.handler(tick(1))
    assert not done
    recorder.drop()
    assert done
    account = recorder.account()
    assert (account.handled, account.dropped, account.lost, account.finished) == (1, 2, 0, True)
    assert not account.intact


async def test_recorder_notes_when_each_tick_came() -> None:
    recorder = Recorder(3, timed=True)
    for number in (2, 0, 1):
        await recorder.handler(tick(number))
    first, second, third = recorder.handled_ns
    assert 0 < third <= first <= second
    assert recorder.account().intact


def account_of(**changes: Any) -> Account:
    account = Account(
        expected=100,
        handled=100,
        dropped=0,
        lost=0,
        intact=True,
        wall_s=1.0,
        cpu_s=1.0,
        peak_rss_mb=30.0,
        finished=True,
    )
    return attrs.evolve(account, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"handled": 99, "lost": 1, "intact": False, "finished": False},
        {"handled": 99, "dropped": 1, "intact": False},
        {"intact": False},
        {"detail": {"unaccounted": 2}},
    ],
    ids=["lost", "dropped", "doubled", "unaccounted"],
)
def test_verify_refuses_what_does_not_add_up(changes: dict[str, Any]) -> None:
    verify("e", account_of(), 100)
    with pytest.raises(LossError, match="trio_ticks"):
        verify("e", account_of(**changes), 100)


def test_verify_compares_with_what_was_sent() -> None:
    with pytest.raises(LossError, match="generator sent something else"):
        verify("e", account_of(), 99)


def test_verify_lets_those_drop_that_must() -> None:
    verify("c", account_of(handled=40, dropped=60, intact=False), 100)
    with pytest.raises(LossError, match="lost 1"):
        verify("c", account_of(handled=40, dropped=59, lost=1, intact=False, finished=False), 100)


def test_every_contender_without_asyncio_agrees_with_the_generator() -> None:
    section = measure_throughput(ALWAYS_HERE, ticks=3_000, rounds=1, say=silent)
    assert set(section["contenders"]) == set(ALWAYS_HERE)
    for letter, row in section["contenders"].items():
        assert row["intact"], letter
        assert row["rounds"][0]["handled"] == max(2, int(3_000 * CONTENDERS[letter].share))
    ledger = section["contenders"]["e"]["rounds"][0]["detail"]["ledger"]
    assert ledger["produced"] == ledger["consumed"] == 3_000
    assert set(section["ratios"]) == {"d", "f"}


def test_tls_takes_the_same_way() -> None:
    section = measure_throughput(["e"], ticks=500, rounds=1, say=silent, tls=True)
    assert section["contenders"]["e"]["intact"]


@pytest.mark.parametrize("letter", ["d", "e"])
def test_a_loss_on_the_wire_is_found(letter: str) -> None:
    with open_generator(200) as generator:
        # The client is promised more than the generator has.
        account, _ = run_job(generator, letter, 250, stall_s=0.5)
        served = generator.served()
    assert (account.handled, account.lost, account.finished) == (200, 50, False)
    with pytest.raises(LossError, match="lost 50"):
        verify(letter, account, served["sent"])


def test_a_contender_that_fails_says_why() -> None:
    with open_generator(10) as generator, pytest.raises(ContenderError, match="maxsize"):
        run_job(generator, "e", 10, maxsize=0)


def test_latency_is_counted_from_when_it_was_due() -> None:
    # Ten ticks a second; the handler stalls for a second after the first, and each
    # later tick is charged with its wait.
    base, second = 5_000_000_000, 1_000_000_000
    handled = [base, *([base + second] * 10)]
    assert latencies_us(handled, base, 10.0) == [
        0.0,
        *[1e6 - number * 1e5 for number in range(1, 11)],
    ]
    assert latencies_us(handled, base, 10.0, skip=9) == [1e5, 0.0]


def test_latency_runs_and_nothing_comes_before_its_time() -> None:
    section = measure_latency(["e"], seconds=0.05, rounds=1, say=silent, rates=[2_000])
    check_latencies(section["2000"]["e"])


def check_latencies(row: dict[str, Any]) -> None:
    # Both processes read one clock, so a tick cannot have been handled before it was
    # sent.
    assert 0 < row["p50_us"] <= row["p99_us"] <= row["p999_us"] <= row["max_us"]


@pytest.mark.parametrize("settings", [{"tls": True}, {"threads": True}], ids=str)
@pytest.mark.parametrize("letter", ["b", "e"])
def test_latency_over_tls_and_of_handlers_in_threads(letter: str, settings: Any) -> None:
    if letter == "b":
        pytest.importorskip("websockets")
    section = measure_latency(
        [letter], seconds=0.05, rounds=1, say=silent, rates=[2_000], **settings
    )
    check_latencies(section["2000"][letter])


def test_a_handler_in_threads_counts_each_tick_once() -> None:
    done = threading.Event()
    recorder = Recorder(4_000)
    recorder.on_done = done.set
    handle = recorder.in_threads()

    def run(begin: int) -> None:
        for number in range(begin, begin + 1_000):
            handle(tick(number))

    threads = [threading.Thread(target=run, args=(1_000 * place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done.is_set()
    assert recorder.account().intact


@pytest.mark.parametrize("threads", [False, True])
def test_a_replay_is_run_beside_a_live_feed_and_memory(threads: bool) -> None:
    found, rate = measure_replays(1, 0.2, threads=threads)
    assert list(found) == ["live", "file", "memory"]
    assert rate > 0
    for (run,) in found.values():
        assert 0 <= run.dropped < 1
        # The pipeline itself takes some of it, whatever the source.
        assert run.beside_us > 0


def test_a_day_and_a_sweep_are_simulated() -> None:
    lines: list[str] = []
    reading_us, days = measure_day(600, lines.append)
    assert len(days) == 24
    assert lines[0].startswith("reading: ")
    assert lines[1:] == [day.line() for day in days]
    assert all(day.ticks == 600 and day.us > reading_us for day in days)
    assert any(day.dropped for day in days)
    assert all(not day.dropped for day in days if day.strategy == "Block")
    swept = measure_sweep(600, processes=1)
    assert swept["settings"] == 30
    assert swept["told"] == list(range(1, 31))
    assert swept["core_s"] > 0


def test_quantiles_and_ratios() -> None:
    ordered = [float(number) for number in range(1, 101)]
    assert (
        quantile(ordered, 0.5),
        quantile(ordered, 0.99),
        quantile(ordered, 1.0),
        quantile(ordered, 0.0),
    ) == (50.0, 99.0, 100.0, 1.0)
    assert quantile([], 0.5) == median([]) == 0.0
    assert ratios([40.0, 60.0], [2.0, 4.0]) == [20.0, 15.0]


def results_of(against_a: float, against_b: float, against_floor: float) -> dict[str, Any]:
    ratios_ = {"a": against_a, "b": against_b, "f": 1 / against_floor}
    return {
        "throughput": {"ratios": {letter: {"median": ratio} for letter, ratio in ratios_.items()}}
    }


def test_limits_are_met_or_missed() -> None:
    assert [limit.met for limit in evaluate(results_of(20.0, 5.0, 1.8))] == [True, True, True]
    assert [limit.met for limit in evaluate(results_of(19.9, 4.9, 1.9))] == [False, False, False]
    assert not Limit("not measured", math.nan, 1.0).met
    assert evaluate({}) == []


def test_limits_of_latency_and_scaling() -> None:
    def row(p50_us: float, p99_us: float, cpu_share: float, *, kept_up: bool = True) -> Any:
        return {"p50_us": p50_us, "p99_us": p99_us, "cpu_share": cpu_share, "kept_up": kept_up}

    results = {
        "latency": {
            "10000": {
                "a": row(150.0, 300.0, 0.7),
                "b": row(120.0, 500.0, 0.5),
                "e": row(100.0, 400.0, 0.5),
            },
            "50000": {"a": row(9.0, 9.0, 1.0, kept_up=False), "e": row(10.0, 10.0, 1.0)},
        },
        "latency-threads": {
            "10000": {"b": row(120.0, 500.0, 0.5), "e": row(121.0, 400.0, 0.6)},
        },
        "tls": {"ratios": {"a": {"median": 9.0}}},
        "scaling": {
            "symbols": {"10,000": {"of_first": 0.81}},
            "workers": {"64": {"of_first": 0.79}},
            "ordering": {"symbol": {"of_first": 0.75}},
        },
    }
    met = {limit.name: limit.met for limit in evaluate(results)}
    assert met == {
        "throughput against (a) over TLS": False,
        "p50 at 10,000 ticks/s, against the best asyncio": True,
        "p99 at 10,000 ticks/s, against the best asyncio": False,
        "CPU at 10,000 ticks/s, against the best asyncio": True,
        "p50 at 10,000 ticks/s with handlers in threads, against the best asyncio": False,
        "p99 at 10,000 ticks/s with handlers in threads, against the best asyncio": True,
        "CPU at 10,000 ticks/s with handlers in threads, against the best asyncio": False,
        "throughput, 10,000 symbols against 5": True,
        "throughput, 64 workers against 4": False,
        'throughput, ordering="symbol" against "none"': True,
    }


def test_table_aligns() -> None:
    assert (
        table(("what", "n"), [("one", "1"), ("three", "300")])
        == "what     n\n-----  ---\none      1\nthree  300"
    )


def test_the_command_writes_results_that_name_no_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    arguments = [
        "--ticks",
        "600",
        "--rounds",
        "1",
        "--only",
        "throughput,memory",
        "--contenders",
        "e,f",
        "--json",
        str(path),
    ]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    text = path.read_text()
    results = json.loads(text)
    assert results["throughput"]["contenders"]["e"]["intact"]
    assert "time against (f) the floor" in shown
    assert report(results) in shown
    for place in (str(Path(__file__).parents[2]), str(tmp_path), "127.0.0.1"):
        assert place not in text


def test_the_command_knows_its_contenders() -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--contenders", "z"])
