"""The Autobahn test suite against this package's WebSocket client, several times over.

``python -m tests.autobahn [--runs 5] [--python PATH]`` takes its time, so it is no
test; ``nox -s autobahn`` installs what it needs. The suite's ``wstest`` is the server.
It runs under Python 2.7 only, which *PATH* names. A real :class:`WebSocketFeed` is the
client, with a codec that sends back each message as it came.

The groups are 1 to 7, 9 and 10: framing, control frames, reserved bits, opcodes,
fragments, UTF-8, closing, large messages, and messages that are sent in small pieces.
Groups 12 and 13 are about compression; a feed never compresses what it sends, so it
cannot echo there. ``tests/feeds/test_compressed_sessions.py`` reads their messages.

It exits with 1 if any case failed, or if one passed "non-strictly", in the suite's
word, that is not in ``NON_STRICT``.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import trio

import trio_ticks as tt
from tests.worlds.feed_venues import Collector

GROUPS: Final = ("1", "2", "3", "4", "5", "6", "7", "9", "10")
PATIENCE_S: Final = 300
"""Nothing waits for this; the suite itself gives a case up before."""
LARGEST: Final = 2**25
"""More than the largest message of group 9, in bytes."""
PASSED: Final = frozenset({"OK", "INFORMATIONAL"})
FAILED: Final = frozenset({"FAILED", "UNCLEAN", "WRONG CODE", "UNIMPLEMENTED", "no result"})
NON_STRICT: Final = frozenset({"6.4.1", "6.4.2", "6.4.3", "6.4.4"})
"""Cases that may pass less strictly.

They send a text in pieces and break its UTF-8 early. The suite would have the
connection fail before the last piece. A feed decodes whole messages only, so its codec
sees it then.
"""

SERVER: Final = """
import json, sys
from autobahntestsuite import wstest  # first: it chooses Twisted's reactor
from twisted.internet import reactor

listen = reactor.listenTCP

def on_loopback(port, factory, *args, **kwargs):
    listener = listen(0, factory, interface="127.0.0.1")
    factory.externalPort = listener.getHost().port
    sys.stdout.write("listens at ws://127.0.0.1:%d\\n" % factory.externalPort)
    return listener

reactor.listenTCP = on_loopback
wstest.run()
"""
"""``wstest``, in Python 2.7, but at a free port of the loopback interface only."""


# --- the client


class Kinds:
    """Notes of each data message of a server whether it is text.

    The feed hands payloads on without saying it, since market data needs no such
    distinction. An echo does.
    """

    def __init__(self) -> None:
        self.texts: deque[bool] = deque()
        self._rest = bytearray()
        self._in_head = True
        self._skip = 0
        self._is_text = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes from the wire, in any pieces."""
        rest = self._rest
        rest += data
        if self._in_head:
            head, blank, _ = rest.partition(b"\r\n\r\n")
            if not blank:
                return
            del rest[: len(head) + len(blank)]
            self._in_head = False
        while self._skip_payload() and self._take_header():
            pass

    def _skip_payload(self) -> bool:
        skipped = min(self._skip, len(self._rest))
        del self._rest[:skipped]
        self._skip -= skipped
        return not self._skip

    def _take_header(self) -> bool:
        rest = self._rest
        if len(rest) < 2:
            return False
        size, end = rest[1] & 0x7F, 2
        if size > 125:
            end += 2 if size == 126 else 8
            if len(rest) < end:
                return False
            size = int.from_bytes(rest[2:end], "big")
        opcode, final = rest[0] & 0x0F, rest[0] & 0x80
        if opcode in (1, 2):
            self._is_text = opcode == 1
        if opcode <= 2 and final:
            self.texts.append(self._is_text)
        del rest[:end]
        self._skip = size
        return True


class Overheard(trio.abc.HalfCloseableStream):
    """A stream of which *kinds* hears all that is received."""

    def __init__(self, stream: trio.SocketStream, kinds: Kinds) -> None:
        self._stream = stream
        self._kinds = kinds

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self._stream.receive_some(max_bytes))
        self._kinds.feed(data)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


class Client:
    """Visits the addresses of a fuzzing server, one after the other.

    Args:
        url: of the server, without a path.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._kinds = Kinds()
        self._is_open = False
        self._visit = trio.CancelScope()
        self._echoes = True
        self.heard: list[bytes] = []
        """The messages of the last visit that did not echo."""

    async def count_cases(self) -> int:
        """Return how many cases the server has."""
        await self.visit("/getCaseCount", echoes=False)
        return int(self.heard[0])

    async def visit(self, path: str, *, echoes: bool = True) -> None:
        """Connect to *path*, and echo all messages until the connection ends.

        Args:
            path: of the server.
            echoes: whether to send messages back; otherwise they are in :attr:`heard`.
        """
        self._echoes, self._is_open = echoes, False
        self.heard.clear()
        feed = tt.WebSocketFeed(
            self._url + path,
            ["-"],
            venue=self._codec(),
            open_stream=self._open_stream,
            max_message_size=LARGEST,
            stale_after=None,
            backoff=tt.BackoffPolicy(uniform=lambda: 0.0),
            reconnect=False,
        )
        # A text that is not UTF-8 ends the feed, by the codec below.
        with (
            trio.move_on_after(PATIENCE_S),
            trio.CancelScope() as self._visit,
            suppress(tt.VenueProtocolError),
        ):
            await feed.run(Collector())

    async def _open_stream(self, host: str, port: int) -> trio.abc.Stream:
        if self._is_open:
            # The connection has ended, and the feed would make another one.
            self._visit.cancel()
            await trio.lowlevel.checkpoint()
        self._is_open = True
        self._kinds = Kinds()
        return Overheard(await trio.open_tcp_stream(host, port), self._kinds)

    def _codec(self) -> type[tt.Codec]:
        client = self

        class Echo(tt.Codec):
            def subscribe(self, symbols: Sequence[str], /) -> Sequence[str | bytes]:
                return ()

            def decode(self, payloads: Sequence[bytes], /) -> Sequence[Any]:
                for payload in payloads:
                    if not client._echoes:
                        client.heard.append(payload)
                        continue
                    self.context.reply(client._as_it_came(payload))
                return ()

        return Echo

    def _as_it_came(self, payload: bytes) -> str | bytes:
        if not self._kinds.texts.popleft():
            return payload
        try:
            return payload.decode()
        except UnicodeDecodeError:
            raise tt.VenueProtocolError("text that is not UTF-8", code=1007) from None


# --- the server


@contextmanager
def server(python: str, folder: Path, cases: Sequence[str]) -> Iterator[str]:
    """Run the fuzzing server, whose reports go to *folder*; gives its URL."""
    (folder / "reports" / "index.json").unlink(missing_ok=True)  # of an earlier run
    spec = folder / "fuzzingserver.json"
    settings = {
        "url": "ws://127.0.0.1:9001",  # The port is another one, see SERVER.
        "outdir": str(folder / "reports"),
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    spec.write_text(json.dumps(settings))
    log = folder / "server.log"
    arguments = ["-m", "fuzzingserver", "-s", str(spec), "-u", "0"]  # 0: no web server
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [python, "-u", "-c", SERVER, *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            yield wait_for_url(process, log)
        finally:
            process.kill()


def wait_for_url(process: subprocess.Popen[bytes], log: Path) -> str:
    until = time.monotonic() + PATIENCE_S
    while (found := re.search(r"listens at (ws://\S+)\n", log.read_text())) is None:
        if process.poll() is not None or time.monotonic() > until:
            raise SystemExit(f"the server does not start:\n{log.read_text()}")
        time.sleep(0.05)
    return found[1]


# --- what came of it


Results = dict[str, list[str]]
"""By case, its outcome in each run, the worse one of behaviour and closing."""


def outcome(result: dict[str, Any] | None) -> str:
    """Return the worse one of the suite's two words for a case."""
    if result is None:
        return "no result"
    words: list[str] = [result["behavior"], result["behaviorClose"]]
    return max(words, key=lambda word: (word in FAILED, word not in PASSED, word != "OK"))


def results_in(folder: Path, agents: Sequence[str]) -> Results:
    """Read the reports of *agents*, one of each run."""
    index = json.loads((folder / "reports" / "index.json").read_text())
    cases = {case for agent in agents for case in index.get(agent, ())}
    order = sorted(cases, key=lambda case: [int(part) for part in case.split(".")])
    return {case: [outcome(index.get(agent, {}).get(case)) for agent in agents] for case in order}


async def play(url: str, runs: int) -> tuple[list[str], int]:
    """Play all cases *runs* times.

    Returns:
        The agents' names in the reports, and the number of cases.
    """
    client = Client(url)
    count = await client.count_cases()
    agents = [f"trio_ticks {run + 1}" for run in range(runs)]
    for agent in agents:
        began = time.monotonic()
        name = agent.replace(" ", "%20")
        for case in range(1, count + 1):
            await client.visit(f"/runCase?case={case}&agent={name}")
            if case % 50 == 0 or case == count:
                spent = time.monotonic() - began
                print(f"{agent}: {case:3} of {count} cases, {spent:.0f} s", flush=True)
    await client.visit(f"/updateReports?agent={name}", echoes=False)
    return agents, count


def table(results: Results) -> list[str]:
    """Return the lines that say how many cases of each group came out how."""
    groups: dict[str, Counter[str]] = {}
    for case, words in results.items():
        groups.setdefault(case.partition(".")[0], Counter()).update(words)
    return [
        f"group {group:>2}: " + ", ".join(f"{n} {word}" for word, n in counts.most_common())
        for group, counts in groups.items()
    ]


def judge(results: Results, count: int) -> int:
    """Print what came of all *count* cases; returns the exit code."""
    print(*table(results), sep="\n")
    missing, failed, non_strict = count - len(results), 0, set()
    for case, words in results.items():
        if not PASSED.issuperset(words):
            print(f"{case:8} {', '.join(words)}")
            failed += not FAILED.isdisjoint(words)
            non_strict.add(case)
    print(
        f"{count} cases: {failed} failed, {missing} without a result,"
        f" {len(non_strict) - failed} non-strict"
    )
    return 1 if failed or missing or non_strict - NON_STRICT or not count else 0


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--python", default="python2.7", help="with autobahntestsuite installed")
    parser.add_argument("--cases", nargs="*", default=[f"{group}.*" for group in GROUPS])
    parser.add_argument("--out", type=Path, help="keep the suite's reports in this folder")
    arguments = parser.parse_args()
    logging.getLogger("trio_ticks").setLevel(logging.ERROR)  # Each case is a lost connection.
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.out or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with server(arguments.python, folder, arguments.cases) as url:
            agents, count = trio.run(play, url, arguments.runs)
        results = results_in(folder, agents)
    return judge(results, count)


if __name__ == "__main__":
    sys.exit(main())
