"""Deliberate bugs in the buffers between processes."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

_redis = partial(
    Mutant,
    tests=(
        "tests/brokers/test_redis_flow.py",
        "tests/brokers/test_redis_takeover.py",
        "tests/brokers/test_redis_trouble.py",
    ),
)
_zeromq = partial(
    Mutant,
    tests=(
        "tests/brokers/test_zeromq_lines.py",
        "tests/brokers/test_zeromq_protocol.py",
        "tests/brokers/test_zeromq_buffer.py",
    ),
)
_kafka = partial(
    Mutant, tests=("tests/brokers/test_kafka_state.py", "tests/brokers/test_kafka_delivery.py")
)

MUTANTS: Final = (
    Mutant(
        name="acknowledged-before-it-is-finished",
        file="brokers/acknowledging.py",
        before="return not unfinished or unfinished.isdisjoint(map(id, self.items))",
        after="return not unfinished.issuperset(map(id, self.items))",
        breaks="an entry is acknowledged while ticks of it are unfinished: a crash loses them",
        tests=(
            "tests/brokers/test_redis_flow.py",
            "tests/brokers/test_kafka_state.py",
            "tests/brokers/test_zeromq_buffer.py",
        ),
    ),
    # Redis Streams
    _redis(
        name="lost-answer-never-fetched-again",
        file="brokers/redis_streams/source.py",
        before="                    shard.pending = True\n",
        after="                    shard.pending = False\n",
        breaks="what was fetched when the connection was lost is stuck",
    ),
    _redis(
        name="acknowledgement-forgotten",
        file="brokers/redis_streams/turn.py",
        before="        if ready := holdings.finished(holdings.blocking(unfinished)):",
        after="        if ready := []:",
        breaks="nothing is ever acknowledged, and all comes again",
    ),
    _redis(
        name="lease-not-released",
        file="brokers/redis_streams/turn.py",
        before="                    steps.append(self._release(shard))",
        after="                    pass",
        breaks="a shard that is given up is blocked until its lease runs out",
    ),
    _redis(
        name="lease-kept-too-long",
        file="brokers/redis_streams/leases.py",
        before="self._valid_until = sent + buffer.lease",
        after="self._valid_until = sent + 100 * buffer.lease",
        breaks="a worker without its server goes on with shards that are another's",
    ),
    _redis(
        name="lost-shard's-ticks-stay",
        file="brokers/redis_streams/holdings.py",
        before="        unhandled = self._withdraw(gone)\n",
        after="        unhandled = frozenset[int]()\n",
        breaks="ticks of a lost shard are handled here and elsewhere",
    ),
    Mutant(
        name="acknowledged-before-it-is-fetched",
        file="brokers/redis_streams/holdings.py",
        before="    if not shard.unfetched:\n        return entries\n",
        after="    return entries\n",
        breaks="a lone tick is acknowledged that the server has not given to us yet",
        tests=("tests/brokers/test_redis_early.py",),
    ),
    _redis(
        name="appended-counted-before-it-is",
        file="brokers/redis_streams/sink.py",
        before="            records = records[taken:]\n",
        after="            records = []\n",
        breaks="records that found no room at the server are lost",
    ),
    # ZeroMQ
    _zeromq(
        name="taken-back-in-reverse",
        file="brokers/zeromq/lines.py",
        before="self.waiting.extendleft(reversed(back))",
        after="self.waiting.extendleft(back)",
        breaks="what a lost worker had is sent again in reverse",
    ),
    _zeromq(
        name="window-never-drains",
        file="brokers/zeromq/dispatch.py",
        before="        self.used -= count\n",
        after="",
        breaks="an ingest takes nothing more once its window was full",
    ),
    _zeromq(
        name="crashed-worker-keeps-its-shards",
        file="brokers/zeromq/dispatch.py",
        before="            self._free(shard, crashed=crashed)\n",
        after="            pass\n",
        breaks="shards of a worker that died are stuck",
    ),
    _zeromq(
        name="partly-acknowledged-sent-whole",
        file="brokers/zeromq/lines.py",
        before="return self._cut(sent, sent.left)[0] if sent.done else sent",
        after="return sent",
        breaks="ticks that were acknowledged are handled again",
    ),
    _zeromq(
        name="finished-not-told",
        file="brokers/zeromq/upstream.py",
        before="            self.link.acknowledge()\n",
        after="",
        breaks="the ingest never hears what is finished",
    ),
    _zeromq(
        name="stranger's-acknowledgement-counts",
        file="brokers/zeromq/dispatch.py",
        before="if shard is None or shard.holder is not member or shard.epoch != epoch:",
        after="if shard is None:",
        breaks="who has lost a shard acknowledges ticks that its new holder has",
    ),
    # Kafka
    _kafka(
        name="offset-one-too-low",
        file="brokers/kafka/holding.py",
        before="state.first = done[-1].position + 1",
        after="state.first = done[-1].position",
        breaks="the last record of each commit comes again",
    ),
    _kafka(
        name="older-offset-committed",
        file="brokers/kafka/committing.py",
        before="if mark.offset < self._highest.get(shard, 0):",
        after="if mark.offset < 0:",
        breaks="an older offset is committed after a newer one, and all between comes again",
    ),
    _kafka(
        name="refused-commit-forgotten",
        file="brokers/kafka/committing.py",
        before="            self._pending[shard] = attrs.evolve("
        "newer, ticks=newer.ticks + mark.ticks)",
        after="            pass",
        breaks="a commit that failed is never made again",
    ),
    _kafka(
        name="second-commit-under-way",
        file="brokers/kafka/committing.py",
        before="if self._sent is not None or not self._pending:",
        after="if not self._pending:",
        breaks="two commits are under way, and the older may come last",
    ),
    _kafka(
        name="delivered-but-not-said",
        file="brokers/kafka/delivering.py",
        before="                self._holding.delivered(stretch)",
        after="                pass",
        breaks="ticks that were delivered are never acknowledged",
    ),
    _kafka(
        name="withdrawn-taken-for-handled",
        file="brokers/kafka/parting.py",
        before="return self._holding.unfinished(waiting) | self._gone",
        after="return self._holding.unfinished(waiting)",
        breaks="ticks that were withdrawn from a partition on its way to another are committed",
        tests=("tests/brokers/test_kafka_parting.py",),
    ),
    _kafka(
        name="unread-record-kept",
        file="brokers/kafka/holding.py",
        before="        self.unread = _of_others(self.unread, shards)\n",
        after="",
        breaks="a record of a partition that went and came back is handled twice",
    ),
    Mutant(
        name="given-up-question-not-waited-for",
        file="brokers/kafka/topics.py",
        before="run_sync(self._end, abandon_on_cancel=True, limiter=self._limiter)",
        after="run_sync(self._end, abandon_on_cancel=True)",
        breaks="a client that is made too late is kept, with its threads and its log lines",
        tests=("tests/brokers/test_kafka_health.py",),
    ),
    # Entries
    Mutant(
        name="gap-beside-a-tick-lost",
        file="brokers/zeromq/lines.py",
        before="for at, gap in stretch.gaps if start <= at < start + size",
        after="for at, gap in stretch.gaps if start < at < start + size",
        breaks="a gap before a tick that is sent singly is not told",
        tests=(
            "tests/brokers/test_zeromq_protocol.py",
            "tests/brokers/test_zeromq_crashes.py",
            "tests/brokers/test_zeromq_buffer.py",
        ),
    ),
)
