"""A day at the market is written down, and played again as often as you like.

``record=`` takes down every message as it arrives, beside the strategy that runs.
``replay_virtual`` plays the recording on a clock of its own: as fast as the code runs,
and for the same seed the same again to the last tick. So two settings can be compared.
"""

from tempfile import TemporaryDirectory

import trio

import trio_ticks as tt
from trio_ticks.exchange import open_exchange

SYMBOLS = ["AAPL", "MSFT", "NVDA", "TSLA"]
SECONDS = 3


async def strategy(tick: tt.Tick) -> None:
    """Take 5 ms for a tick; on the virtual clock that takes no time to wait for."""
    await trio.sleep(0.005)


async def record(folder: str) -> tt.PipelineReport:
    """Run the strategy on the market, and record that."""
    async with open_exchange(rate=2_000, burst=0.8, symbols=SYMBOLS) as exchange:
        feed = tt.WebSocketFeed(exchange.url, SYMBOLS)
        async with tt.open_pipeline(
            feed, strategy, overflow=tt.DropOldest(), record=tt.Recorder(folder)
        ) as pipeline:
            await trio.sleep(SECONDS)
    return pipeline.report


def replay(folder: str, overflow: tt.OverflowStrategy, workers: int) -> tt.PipelineReport:
    """Play the recording through the same strategy with other settings."""
    return tt.replay_virtual(folder, strategy, overflow=overflow, workers=workers)


def run() -> list[tuple[str, tt.PipelineReport]]:
    """Record for three seconds, then play that five times."""
    with TemporaryDirectory() as folder:
        reports = [("live", trio.run(record, folder))]
        for overflow in (tt.DropOldest(), tt.Conflate()):
            for workers in (2, 4):
                name = f"{type(overflow).__name__}, {workers} workers"
                reports.append((name, replay(folder, overflow, workers)))
        again = replay(folder, tt.DropOldest(), 2)
    assert again.fingerprint == reports[1][1].fingerprint, "a replay was not the same"
    return reports


def main() -> None:
    for name, report in run():
        print(
            f"{name:>22}: {report.consumed:5,} handled, {report.dropped:5,} dropped, "
            f"waited {report.queue_wait_ms.p99:5,.0f} ms (p99), took {report.duration_s:.1f} s"
        )


if __name__ == "__main__":
    main()
