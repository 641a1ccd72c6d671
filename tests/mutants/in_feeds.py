"""Deliberate bugs in the feeds and in reading recordings."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

_frames = partial(Mutant, file="feeds/websocket/frames.py", tests=("tests/feeds/test_frames.py",))
_tap = partial(
    Mutant, file="feeds/websocket/frame_tap.py", tests=("tests/feeds/test_frame_tap.py",)
)
_session = partial(
    Mutant, file="feeds/websocket/session.py", tests=("tests/feeds/test_websocket_feed.py",)
)
_comeback = partial(Mutant, tests=("tests/feeds/test_comeback.py", "tests/feeds/test_backoff.py"))
_overlap = partial(
    Mutant,
    file="feeds/websocket/overlap.py",
    tests=("tests/feeds/test_overlap.py", "tests/feeds/test_succession.py"),
)
_recorder = partial(
    Mutant, file="recordings/feed_files.py", tests=("tests/recordings/test_recorder.py",)
)

MUTANTS: Final = (
    # Frames and the tap
    _frames(
        name="cut-header-loses-a-byte",
        before="""        if end - pos < 2:
            self._tail = data[pos:]""",
        after="""        if end - pos < 2:
            self._tail = data[pos + 1 :]""",
        breaks="a frame whose header is cut by two reads spoils all that follow",
    ),
    _frames(
        name="fragment-counts-twice",
        before="self._missing = missing - len(data)",
        after="self._missing = missing",
        breaks="a message in several reads swallows the beginning of the next one",
    ),
    _frames(
        name="fragments-not-cleared",
        before="            payload = bytes(buffer)\n            buffer.clear()",
        after="            payload = bytes(buffer)",
        breaks="a message in pieces comes again in front of the next one",
    ),
    _tap(
        name="messages-beside-a-ping-lost",
        before="        if batch:\n            if closing:",
        after="        if batch and not controls:\n            if closing:",
        breaks="messages that come in one read with a ping are lost",
    ),
    Mutant(
        name="cancelled-reader-leaves-a-delivery",
        file="feeds/websocket/frame_tap.py",
        before="""                if self._waits is not None:
                    await self._await_delivery()  # noqa: ASYNC102,ASYNC120
                raise""",
        after="                raise",
        breaks="ticks that a stand-in read are lost when the feed is cancelled",
        tests=("tests/feeds/test_socket_watch.py",),
    ),
    _tap(
        name="second-reader-not-woken",
        before="                self._read_ended.set()\n",
        after="",
        breaks="closing a connection waits for ever for its reader",
    ),
    Mutant(
        name="reader-not-called-by-the-stand-in",
        file="feeds/websocket/socket_watch.py",
        before="        self._few = False\n        self._left = True",
        after="        self._few = False",
        breaks="what a stand-in left to the reader is not dealt with: the connection is stuck",
        tests=("tests/feeds/test_socket_watch.py", "tests/feeds/test_stand_in_frames.py"),
    ),
    Mutant(
        name="extra-keys-not-counted",
        file="feeds/venues/extra_keys.py",
        before="        if self._decoder is None or quotes != self._quotes * number:",
        after="        if self._decoder is None:",
        breaks="a message with two prices, of which nobody knows which one counts, is a tick",
        tests=("tests/feeds/test_extra_keys.py",),
    ),
    Mutant(
        name="any-key-is-learnt",
        file="feeds/venues/extra_keys.py",
        before="        if any(map(_UNLEARNABLE.search, extra)):\n            return\n",
        after="",
        breaks="a feed ends by a venue's key with a backslash in it",
        tests=("tests/feeds/test_extra_keys.py",),
    ),
    Mutant(
        name="records-behind-the-handshake-forgotten",
        file="feeds/websocket/tls_stream.py",
        before="                self.unsettled = self._has_more\n                return\n",
        after="                return\n",
        breaks="what a server says together with the end of its handshake is not heard",
        tests=("tests/feeds/test_tls_stream.py",),
    ),
    Mutant(
        name="reader-waits-for-a-sender",
        file="feeds/websocket/tls_stream.py",
        before="        if self._sending.locked() and self._outgoing.pending <= _RECORD:",
        after="        if False:",
        breaks="client and server each wait until the other one reads",
        tests=("tests/feeds/test_tls_stream.py",),
    ),
    Mutant(
        name="records-left-encrypted",
        file="feeds/websocket/tls_stream.py",
        before="            while parts[-1] and (self._incoming.pending or self._tls.pending()):",
        after="            while False:",
        breaks="ticks that a TLS read brought wait until more arrive",
        tests=("tests/feeds/test_tls_stream.py",),
    ),
    Mutant(
        name="stand-in-keeps-what-tls-has-to-say",
        file="feeds/websocket/socket_watch.py",
        before="        if not data or not self._deal(data) or source.unsettled:",
        after="        if not data or not self._deal(data):",
        breaks="the end of a TLS connection, or its answer, waits for ever",
        tests=("tests/feeds/test_socket_watch.py",),
    ),
    # Sessions
    _session(
        name="half-open-connection-kept",
        before="            await trio.sleep(max(left, limit / 20))\n        scope.cancel()",
        after="            await trio.sleep(max(left, limit / 20))",
        breaks="a connection whose pings are not answered is never given up",
    ),
    _session(
        name="full-channel-counts-as-silence",
        before="        self._busy_s += now - busy_since\n",
        after="",
        breaks="a connection is given up because the channel was full",
    ),
    _session(
        name="end-of-the-connection-unseen",
        before="            await _wait_closed(ws)\n            nursery.cancel_scope.cancel()",
        after="            await _wait_closed(ws)",
        breaks="a feed never notices that its connection has ended",
    ),
    Mutant(
        name="later-subscriptions-not-sent",
        file="feeds/websocket/session.py",
        before="self._outbox.put_first(requests[1:])",
        after="self._outbox.put_first(())",
        breaks="of several requests of a subscription only the first is sent",
        tests=("tests/feeds/test_links.py",),
    ),
    Mutant(
        name="outbox-rings-no-bell",
        file="feeds/websocket/outbox.py",
        before="""            self._messages.append(message)
        if self._messages:
            self._arrived.set()""",
        after="            self._messages.append(message)",
        breaks="a subscription made while the feed runs is never sent",
        tests=("tests/feeds/test_outbox.py", "tests/feeds/test_websocket_feed.py"),
    ),
    Mutant(
        name="reconnect-not-told",
        file="feeds/websocket/link.py",
        before="            self._run.link_opened(self)\n            self.opened_before = True",
        after="            self._run.link_opened(self)",
        breaks="a strategy is not told of what was lost between two connections",
        tests=("tests/feeds/test_reconnect_gap.py", "tests/feeds/test_websocket_feed.py"),
    ),
    Mutant(
        name="one-link-fails-and-the-others-go-on",
        file="feeds/websocket/running.py",
        before="            self._error = error\n        self._scope.cancel()",
        after="            self._error = error",
        breaks="a feed with several connections goes on without those of one that gave up",
        tests=("tests/feeds/test_links.py",),
    ),
    Mutant(
        name="new-symbols-on-no-connection",
        file="feeds/websocket/running.py",
        before="                self._board.links.append(link)\n                self._start(link)",
        after="                self._board.links.append(link)",
        breaks="symbols beyond a connection's limit are never subscribed to",
        tests=("tests/feeds/test_links.py",),
    ),
    # Comebacks
    _comeback(
        name="backoff-never-resets",
        file="feeds/websocket/backoff.py",
        before="""        \"\"\"Start over with the shortest wait.\"\"\"
        self._bound = self._policy.initial_s""",
        after='        """Start over with the shortest wait."""',
        breaks="after one bad night each reconnect waits for a minute",
    ),
    _comeback(
        name="backoff-without-a-bound",
        file="feeds/websocket/backoff.py",
        before="self._bound = min(self._bound * 2, self._policy.maximum_s)",
        after="self._bound = self._bound * 2",
        breaks="a feed waits for hours after a long outage",
    ),
    _comeback(
        name="short-connection-counts-as-good",
        file="feeds/comeback.py",
        before="if failure is None and lived_s >= self._good_after_s:",
        after="if failure is None and lived_s < self._good_after_s:",
        breaks="a venue that hangs up at once is asked again without a pause",
    ),
    _comeback(
        name="outage-has-no-end",
        file="feeds/comeback.py",
        before="if now - self._outage_since >= self._give_up_after:",
        after="if now - self._outage_since > 2 * self._give_up_after:",
        breaks="a feed does not give up when the user said so",
    ),
    # What comes twice, what is missing
    _overlap(
        name="overlap-doubles-a-tick",
        before="                if place[1] <= last:",
        after="                if place[1] < last:",
        breaks="at the change of connections a tick comes twice",
    ),
    _overlap(
        name="change-loses-what-waits",
        before="        newer = [payload for _stream, _number, payload in self._waiting]",
        after="        newer = [payload for _stream, _number, payload in self._waiting][1:]",
        breaks="at the change of connections a tick is lost",
    ),
    _overlap(
        name="change-too-early",
        before="            number <= old.get(stream, -math.inf) "
        "for stream, number in first.items()",
        after="            number >= old.get(stream, -math.inf) "
        "for stream, number in first.items()",
        breaks="a connection takes over though ticks are missing between the two",
    ),
    Mutant(
        name="duplicate-passes",
        file="feeds/sequence.py",
        before="if known is not None and last <= known:",
        after="if known is not None and last < known:",
        breaks="a message that comes twice is handled twice",
        tests=("tests/channel/test_gaps.py", "tests/feeds/test_binance.py"),
    ),
    Mutant(
        name="gap-of-one-too-many",
        file="feeds/sequence.py",
        before="max(0, first - known - 1)",
        after="max(0, first - known)",
        breaks="each message counts as a loss",
        tests=("tests/channel/test_gaps.py", "tests/feeds/test_binance.py"),
    ),
    Mutant(
        name="stamp-from-the-future-remembered",
        file="feeds/newer.py",
        before="        if item.timestamp <= latest:\n            last.at = item.timestamp",
        after="        last.at = item.timestamp",
        breaks="after one wrong stamp all of its symbol is left out as old",
        tests=("tests/feeds/test_newer.py", "tests/feeds/test_night.py"),
    ),
    # Other feeds
    Mutant(
        name="merged-feeds-go-on",
        file="feeds/merged.py",
        before="                error = error or raised\n"
        "                nursery.cancel_scope.cancel()",
        after="                error = error or raised",
        breaks="one of several feeds fails and nobody is told",
        tests=("tests/feeds/test_merged.py",),
    ),
    Mutant(
        name="clone-of-a-merged-feed-left-open",
        file="feeds/merged.py",
        before="                if own is not send:\n                    own.close()",
        after="                pass",
        breaks="a feed that has ended keeps the channel open",
        tests=("tests/feeds/test_merged.py",),
    ),
    Mutant(
        name="iterable's-tail-dropped",
        file="feeds/iterable.py",
        before="return self._is_over and not self._got and self._error is None",
        after="return self._is_over",
        breaks="the last ticks of an iterable that is read in a thread are lost",
        tests=("tests/feeds/test_iterable_in_thread.py",),
    ),
    Mutant(
        name="thread-without-room-never-woken",
        file="feeds/iterable.py",
        before="            error, self._error = self._error, None\n        self._room.set()",
        after="            error, self._error = self._error, None",
        breaks="an iterable that is read in a thread stops after 256 ticks",
        tests=("tests/feeds/test_iterable_in_thread.py",),
    ),
    Mutant(
        name="pressure-kept-by-paused-symbols",
        file="feeds/websocket/throttling.py",
        before="self.resumed += [(symbol, self.paused.pop(symbol)) for symbol in symbols]",
        after="self.resumed += [(symbol, self.paused[symbol]) for symbol in symbols]",
        breaks="symbols that were paused are never subscribed to for good",
        tests=("tests/control/test_throttle.py", "tests/feeds/test_throttle_release.py"),
    ),
    # Recordings
    Mutant(
        name="recording-ends-before-its-tail",
        file="feeds/playback.py",
        before="return self._exhausted and not self._items",
        after="return self._exhausted",
        breaks="the last piece of a recording is not played",
        tests=(
            "tests/exchange/test_exchange_recorded.py",
            "tests/exchange/test_recorded_binance.py",
        ),
    ),
    Mutant(
        name="later-recordings-left-out",
        file="feeds/timeline.py",
        before="return not self._tracks and not self._waiting",
        after="return not self._tracks",
        breaks="of several recordings those that begin later are not played",
        tests=("tests/feeds/test_replay.py", "tests/feeds/test_replay_files.py"),
    ),
    Mutant(
        name="recording's-loss-not-told",
        file="feeds/replay.py",
        before="            for gap in lost:\n",
        after="            for gap in lost[:0]:\n",
        breaks="a loss in a recording is not told",
        tests=("tests/feeds/test_replay.py", "tests/feeds/test_capture_venues.py"),
    ),
    Mutant(
        name="torn-recording-looks-whole",
        file="recordings/files.py",
        before="        if self._blocks.truncated:\n            self._report_truncated()",
        after="        pass",
        breaks="a recording that ends in the middle looks whole",
        tests=("tests/recordings/test_files.py", "tests/recordings/test_recording_frames.py"),
    ),
    _recorder(
        name="recorder's-room-not-given-back",
        before="""        self._room.freed += frame.size
        if counts.failing:""",
        after="        if counts.failing:",
        breaks="a recorder drops all that comes once its buffer was full",
    ),
    _recorder(
        name="frame-lost-by-a-full-disk",
        before="            if not self._put(self._frame):\n                return False",
        after="            if not self._put(self._frame):\n                self._frame = None\n"
        "                return False",
        breaks="what a full disk did not take is not written when there is room again",
    ),
    _recorder(
        name="unwritten-not-counted",
        before="            self._counts.lost += lost\n",
        after="",
        breaks="messages that a recorder could not write at its end are in no count",
    ),
    Mutant(
        name="lost-by-the-recorder-not-said",
        file="recordings/taps.py",
        before="        self.refused += count",
        after="        pass",
        breaks="what found no room in a recorder's buffer is in no count",
        tests=("tests/recordings/test_recorder.py",),
    ),
)
