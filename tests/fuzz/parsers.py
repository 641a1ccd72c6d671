"""All parsers of what comes from outside, each with what must hold for any bytes.

Rules: a parser returns, or raises one of the errors that its documentation names. What
it returns makes sense: an item has a symbol and a time, and how messages are cut into
batches makes no difference.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import attrs

import trio_ticks as tt
from tests.worlds.helpers import make_book, make_tick, make_ticks, make_trade
from trio_ticks.brokers.kafka import progress
from trio_ticks.brokers.packing import JunkEntryError, Packer, Unpacker
from trio_ticks.brokers.redis_streams.addresses import parse_url
from trio_ticks.brokers.urls import from_url, secrets_of
from trio_ticks.brokers.zeromq.protocol import JunkMessageError, OtherPeerError, Reader
from trio_ticks.buffer import Stretch
from trio_ticks.exchange.wire import answer
from trio_ticks.feeds.captures import LineDecoder
from trio_ticks.feeds.venues import find_language
from trio_ticks.feeds.websocket.backoff import parse_retry_after
from trio_ticks.feeds.websocket.connect import Target
from trio_ticks.feeds.websocket.extensions import BadAnswer, accepted_deflate
from trio_ticks.feeds.websocket.proxy import Proxy
from trio_ticks.handlers.dead_letters import read_dead_letters
from trio_ticks.hosts import Hosts
from trio_ticks.observability.fetch import FetchError, HttpAddress
from trio_ticks.observability.samples import read_answer
from trio_ticks.recordings.files import LineReader, split_line

__all__ = ["PARSERS", "Parser"]

NOON: Final = datetime(2026, 11, 29, 12, tzinfo=UTC)


@attrs.frozen
class Parser:
    """A parser under test."""

    check: Callable[[bytes], object]
    """Parses, and raises where something is not as it should be."""
    seeds: tuple[bytes, ...]
    """Inputs that it takes, to begin with."""


@final
class Context:
    """What a codec reports to; counts."""

    def __init__(self, channels: tuple[str, ...]) -> None:
        self.channels = channels
        self.arrived = NOON
        self.reports = 0

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return self._report

    def _report(self, *_values: object, **_named: object) -> None:
        self.reports += 1


def _check_codec(venue: str, data: bytes) -> None:
    """Decode lines of *data* one by one and at once: the same, and never an error."""
    payloads = data.split(b"\n")[:20]
    language = find_language(venue, "all" if venue not in ("flat", "tickdb") else None)

    def decoded(batches: list[list[bytes]]) -> list[Any]:
        context = Context(language.channels)
        codec = language.codec_for(context)
        codec.subscribe(["BTCUSDT", "BTC-USD", "BTC/USD", "SPY"])
        found: list[Any] = []
        for batch in batches:
            before = context.reports
            items = codec.decode(batch)
            language.symbols_in(items)
            assert items or context.reports > before, batch
            found += items
        return found

    single = decoded([[payload] for payload in payloads])
    for item in single:
        assert isinstance(item.symbol, str), item
        assert item.timestamp.utcoffset() is not None, item
    assert list(map(repr, decoded([payloads]))) == list(map(repr, single))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _check_text(
    parse: Callable[[str], object], errors: tuple[type[Exception], ...], data: bytes
) -> None:
    with contextlib.suppress(*errors):
        parse(_text(data))


def _check_bytes(
    parse: Callable[[bytes], object], errors: tuple[type[Exception], ...], data: bytes
) -> None:
    with contextlib.suppress(*errors):
        parse(data)


def _check_entry(data: bytes) -> None:
    """An entry is read whole, or is junk that says how many ticks it costs."""
    cost = 1
    try:
        stretch = Unpacker().unpack(data)
    except JunkEntryError as error:
        cost = error.ticks
    else:
        assert len(stretch.items) == len(stretch.arrived)
        assert all(0 <= place <= len(stretch.items) for place, _gap in stretch.gaps)
    assert 1 <= cost <= max(1, len(data))


def _said_of(url: str) -> str:
    """Return what is wrong with *url*, or an empty text."""
    try:
        from_url(url)
    except tt.ConfigError as error:
        return str(error)
    return ""


def _check_buffer_url(data: bytes) -> None:
    text = _text(data)
    # A password may happen to be a part of what is said of every wrong URL.
    shown, always = _said_of(text), _said_of("")
    told = [
        each for each in secrets_of(text) if len(each) >= 8 and each in shown and each not in always
    ]
    assert not told, shown


def _with_file(check: Callable[[Path], object], data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        path.write_bytes(data)
        check(path)


def _read_recording(path: Path) -> None:
    decoder = LineDecoder(find_language("flat"))
    with LineReader(path) as reader:
        while (line := reader.read()) is not None:
            for ns, item in decoder.decode(line):
                assert isinstance(ns, int)
                assert item.symbol


def _metrics_text() -> bytes:
    lines = [
        'trio_ticks_produced_total{pipeline="main"} 5',
        'trio_ticks_queue_size{pipeline="main",half="ingest"} 1e3',
        'trio_ticks_pressure{pipeline="a\\"b\\n",state="ok"} 1',
        "# HELP trio_ticks_x y",
        "other_metric 5",
    ]
    return "\n".join(lines).encode()


def _entries() -> tuple[bytes, ...]:
    items = [*make_ticks(3, "AB"), make_trade("A", 5), make_book("B", 6)]
    gap = tt.Gap("A", NOON, "overflow", 3, NOON)
    records, _refused = Packer(2, 8).pack(Stretch(items, [1.0] * len(items), [(1, gap)]))
    return tuple(record.body for record in records)


def _dead_letters() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "dead.jsonl")
        with tt.DeadLetterFile(path) as file:
            file(make_tick("A", 1), ValueError("wrong"))
        return path.read_bytes()


def _gunzipped() -> bytes:
    import gzip

    return gzip.compress(b'1700000000000000000 {"symbol":"A"}\n' * 3)


_FLAT: Final = (
    b'{"symbol":"SPY","timestamp":"2026-03-02T14:30:00Z","bid":1,"ask":2,"bid_size":3,'
    b'"ask_size":4,"volume":5}'
)
_CODECS: Final[dict[str, tuple[bytes, ...]]] = {
    "flat": (_FLAT, b'{"id":1,"result":{}}', _FLAT + b"\n" + _FLAT.replace(b"5}", b'"6"}')),
    "tickdb": (
        b'{"cmd":"ticker","data":{"symbol":"BTCUSDT","last_price":"1","timestamp":1700000000000}}',
        b'{"cmd":"depth","data":{"symbol":"BTCUSDT","b":[["1","2"]],"a":[["3","4"]],"t":1}}',
        b'{"cmd":"pong"}',
    ),
    "binance": (
        b'{"stream":"btcusdt@bookTicker","data":{"u":1,"s":"BTCUSDT","b":"1","B":"2","a":"3",'
        b'"A":"4"}}',
        b'{"stream":"btcusdt@trade","data":{"e":"trade","E":1700000000000,"s":"BTCUSDT","t":1,'
        b'"p":"1","q":"2","T":1700000000000,"m":true}}',
        b'{"stream":"btcusdt@depth","data":{"e":"depthUpdate","E":1700000000000,"s":"BTCUSDT",'
        b'"U":1,"u":2,"b":[["1","2"]],"a":[]}}',
        b'{"result":null,"id":1}',
    ),
    "coinbase": (
        b'{"type":"ticker","sequence":1,"product_id":"BTC-USD","price":"1","best_bid":"1",'
        b'"best_bid_size":"2","best_ask":"3","best_ask_size":"4","volume_24h":"5",'
        b'"time":"2026-03-02T14:30:00.000000Z"}',
        b'{"type":"l2update","product_id":"BTC-USD","changes":[["buy","1","2"]],'
        b'"time":"2026-03-02T14:30:00.000000Z"}',
        b'{"type":"error","message":"no"}',
    ),
    "kraken": (
        b'{"channel":"ticker","type":"update","data":[{"symbol":"BTC/USD","bid":1,"bid_qty":2,'
        b'"ask":3,"ask_qty":4,"last":1,"volume":5,"timestamp":"2026-03-02T14:30:00.000Z"}]}',
        b'{"channel":"book","type":"snapshot","data":[{"symbol":"BTC/USD","bids":[{"price":1,'
        b'"qty":2}],"asks":[],"checksum":1,"timestamp":"2026-03-02T14:30:00.000Z"}]}',
        b'{"method":"subscribe","success":false,"error":"no"}',
    ),
}

_ALIKE: Final = {
    "binance-usdm": "binance",
    "binance-usdm-market": "binance",
    "tickdb-old": "tickdb",
    "tickdb-market": "tickdb",
    "tickdb-flat": "flat",
    "coinbase-advanced": "coinbase",
}
"""Further languages, and whose messages they begin with."""
_CODECS.update({venue: _CODECS[other] for venue, other in _ALIKE.items()})

PARSERS: Final[dict[str, Parser]] = {
    **{
        f"codec-{venue}": Parser(partial(_check_codec, venue), seeds)
        for venue, seeds in _CODECS.items()
    },
    "entry": Parser(_check_entry, _entries()),
    "zeromq-ingest": Parser(
        partial(_check_bytes, Reader("ingest").read, (JunkMessageError, OtherPeerError)),
        (b"\x96\xa7welcome\xaatrio-ticks\x01\xa6ingest\x01", b"\x91\xa8stranger"),
    ),
    "zeromq-work": Parser(
        partial(_check_bytes, Reader("work").read, (JunkMessageError, OtherPeerError)),
        (b"\x92\xa4ping\xcb?\xf0\x00\x00\x00\x00\x00\x00", b"\x91\xa7leaving"),
    ),
    "kafka-metadata": Parser(
        partial(_check_text, progress.read, ()),
        (progress.write(5, holder="me", window=3, handled={6: (1, 2)}).encode(), b"{}"),
    ),
    "buffer-url": Parser(
        _check_buffer_url,
        (
            b"redis://user:password@host:6379/0?name=ticks&maxsize=5",
            b"zmq+tcp://host:5555",
            b"redis+sentinel://a,b:1/master/0",
        ),
    ),
    "redis-url": Parser(
        partial(_check_text, parse_url, (tt.ConfigError,)),
        (b"rediss://:secret@[::1]:6380/3", b"unix:///path?db=2"),
    ),
    "websocket-url": Parser(
        partial(_check_text, Target.parse, (tt.ConfigError,)),
        (b"wss://host.example:444/path?key=value", b"ws://[::1]/"),
    ),
    "proxy-url": Parser(
        partial(_check_text, Proxy.parse, (tt.ConfigError,)),
        (b"http://user:password@proxy:3128",),
    ),
    "metrics-url": Parser(
        partial(_check_text, HttpAddress.parse, (tt.ConfigError, FetchError)),
        (b"http://127.0.0.1:9464/metrics", b":9464"),
    ),
    "metrics": Parser(
        partial(_check_text, read_answer, (FetchError,)),
        (_metrics_text(),),
    ),
    "recording": Parser(
        partial(_with_file, _read_recording),
        (
            b"1700000000000000000 " + _FLAT + b"\n",
            b"1700000000.5: " + _FLAT + b"\n",
            b'{"recv_ts_ns":1700000000000000000,"payload":"{}"}\n',
            _gunzipped(),
        ),
    ),
    "recording-line": Parser(
        partial(_check_bytes, split_line, (ValueError,)),
        (b"1700000000000000000 x", b"wss://a <-> 1", b"1.5: x"),
    ),
    "dead-letters": Parser(
        partial(_with_file, lambda path: list(read_dead_letters(path))),
        (_dead_letters(),),
    ),
    "exchange-request": Parser(
        lambda data: answer(
            _text(data), listed=frozenset({"SPY"}), subscription=frozenset(), max_rate=None
        ),
        (
            b'{"method":"subscribe","params":{"symbols":["SPY"]},"id":1}',
            b'{"method":"throttle","params":{"max_rate":5}}',
        ),
    ),
    "retry-after": Parser(
        lambda data: parse_retry_after(_text(data), NOON),
        (b"120", format_datetime(NOON).encode()),
    ),
    "handshake-extensions": Parser(
        partial(_check_bytes, accepted_deflate, (BadAnswer,)),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Extensions: permessage-deflate; "
            b"server_max_window_bits=10\r\n\r\n",
        ),
    ),
    "host-header": Parser(
        lambda data: (Hosts(["a.example"]).admit(_text(data)), Hosts().admit_origin(_text(data))),
        (b"127.0.0.1:9464", b"http://[::1]:80"),
    ),
}
"""By name. What frames are has a fuzzer of its own: ``fuzz_frames``."""
