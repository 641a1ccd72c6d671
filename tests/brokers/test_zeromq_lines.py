"""What an ingest keeps of a shard, without sockets: nothing twice, nobody else's."""

from __future__ import annotations

from tests.worlds.zeromq_world import tick
from trio_ticks.brokers.packing import Packer, Record, Unpacker
from trio_ticks.brokers.zeromq.dispatch import Dispatch, Member, Terms
from trio_ticks.brokers.zeromq.lines import Line, Splitter
from trio_ticks.buffer import Stretch

SHARDS = 1


def record(first: int, count: int) -> Record:
    """Return an entry of so many ticks, whose volumes count from *first* on."""
    items = [tick("S", number) for number in range(first, first + count)]
    (made,), _refused = Packer(SHARDS, 64).pack(Stretch(items, [1.0] * count))
    return made


def numbers(body: bytes) -> list[int]:
    return [int(item.volume) for item in Unpacker().unpack(body).items]


def test_what_is_acknowledged_of_an_entry_is_not_sent_again() -> None:
    line = Line()
    line.append(record(1, 5), 1.0)
    line.append(record(6, 2), 1.0)
    line.send()
    line.send()
    assert line.acknowledge(3)[0] == 3
    assert line.take_back(Splitter(Packer(SHARDS, 64)), crashed=False) == []
    assert [numbers(sent.body) for sent in line.waiting] == [[4, 5], [6, 7]]
    assert [(sent.first, sent.ticks, sent.done) for sent in line.waiting] == [(4, 2, 0), (6, 2, 0)]
    assert (line.ticks, line.next_sequence) == (4, 4)


def member(name: bytes) -> Member:
    return Member(name, name, 1, name.decode(), credit=100, heard=0.0)


def test_only_the_holder_acknowledges_and_only_in_its_epoch() -> None:
    dispatch = Dispatch(Terms(b"i", SHARDS, 100, 1.0, 5.0, 3, 10), Packer(SHARDS, 64))
    holder, stranger = member(b"a"), member(b"b")
    dispatch.members[b"a"] = holder
    dispatch.share()
    dispatch.append([(record(1, 5), 1.0)])
    dispatch.acknowledge(stranger, [(0, 1, 5)])
    dispatch.acknowledge(holder, [(0, 7, 5)])
    dispatch.acknowledge(holder, [(9, 1, 5)])
    assert (dispatch.used, dispatch.appended, dispatch.fenced) == (5, 0, 3)
    dispatch.acknowledge(holder, [(0, 1, 2)])
    assert (dispatch.used, dispatch.appended, dispatch.fenced) == (3, 2, 3)


def test_an_entry_that_waits_for_credit_is_not_overtaken() -> None:
    dispatch = Dispatch(Terms(b"i", 3, 100, 1.0, 5.0, 3, 10), Packer(3, 64))
    holder = Member(b"a", b"a", 1, "a", credit=12, heard=0.0)
    dispatch.members[b"a"] = holder
    dispatch.share()
    for shard, count in ((0, 10), (1, 10), (2, 2)):
        dispatch.append([(Record(shard, count, b""), 1.0)])
    # The last one would find room for ever, and the large one never.
    assert holder.out == 10
    dispatch.acknowledge(holder, [(0, 1, 10)])
    assert holder.out == 12
    assert not holder.ready
