"""The scripts that the server runs, and how they are called.

Each is one atomic step, so that several producers and workers need no coordinator. The
keys of a buffer share a hash tag, and are in one slot of a cluster.

Rules:

- A script may be sent again after its answer was lost, and does nothing twice.
- Whoever acts on a shard says under which lease; one who has none is told so by -1,
  and nothing is done.
- The server refuses a script at its first writing command if memory is out, unless that
  command needs none. Scripts that free memory, or keep a lease, begin with one that
  needs none: else a full server could never be emptied.
- Lua's ``unpack`` takes fewer than 8,000 values; nothing here unpacks more than shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, final

import attrs

from .connection import Command

__all__ = [
    "ACKNOWLEDGE",
    "ALL",
    "APPEND",
    "BEAT",
    "BURY",
    "FETCH",
    "FREE",
    "LAG",
    "LAYOUT",
    "MARK",
    "PENDING",
    "RELEASE",
    "RETIRE",
    "SETUP",
    "Script",
]

LAYOUT: Final = 1
"""The version of what these scripts keep, and how."""


@final
@attrs.frozen(slots=True, eq=False)
class Script:
    """One script."""

    body: bytes
    sha: bytes

    @classmethod
    def of(cls, body: str) -> Script:
        """Make one of its source."""
        data = body.encode()
        # The server names scripts by SHA-1; nothing depends on its strength.
        return cls(data, hashlib.sha1(data, usedforsecurity=False).hexdigest().encode())

    def call(self, keys: Sequence[bytes], *args: bytes | str | int) -> Command:
        """Return the command that runs it."""
        return (b"EVALSHA", self.sha, len(keys), *keys, *args)


_NOW = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
"""

_HELD = (
    _NOW
    + """
local function held(lease, me, token)
  local start = me .. '|' .. token .. '|'
  if not lease or lease:sub(1, #start) ~= start then return false end
  return (tonumber(lease:sub(#start + 1)) or 0) >= now
end
"""
)

_TICKS = """
local function ticks_of(fields)  -- 0: not of ours; anybody may write into a stream
  local count = fields[1] == 'n' and fields[2]:match('^%d+$')
  return count and #count < 10 and tonumber(count) or 0
end
"""

_FREE = (
    _TICKS
    + """
local function before(a, b)
  local am, as = a:match('^(%d+)-(%d+)$'); local bm, bs = b:match('^(%d+)-(%d+)$')
  am, as, bm, bs = tonumber(am), tonumber(as), tonumber(bm), tonumber(bs)
  return am < bm or (am == bm and as < bs)
end
-- Delete the first entries of a stream, up to an id; return ticks, and whether that is all.
local function free(stream, upto, pages)
  local ticks = 0
  while pages ~= 0 do
    local entries = redis.call('XRANGE', stream, '-', upto, 'COUNT', 100)
    for _, entry in ipairs(entries) do
      redis.call('XDEL', stream, entry[1])
      ticks = ticks + ticks_of(entry[2])
    end
    if #entries < 100 then return ticks, 1 end
    pages = pages - 1
  end
  return ticks, 0
end
"""
)

SETUP = Script.of(
    """
-- KEYS: settings, state, groups, done, streams.  ARGV: maxsize, shards, layout, group.
redis.call('HDEL', KEYS[1], '')  -- a write that needs no memory
local kept = redis.call('HMGET', KEYS[1], 'maxsize', 'shards', 'layout')
if not kept[1] then
  redis.call('HSET', KEYS[1], 'maxsize', ARGV[1], 'shards', ARGV[2], 'layout', ARGV[3])
  kept = {ARGV[1], ARGV[2], ARGV[3]}
end
local clock = redis.call('TIME')
local answer = {kept[1], kept[2], kept[3], clock[1], clock[2]}
if kept[1] ~= ARGV[1] or kept[2] ~= ARGV[2] or kept[3] ~= ARGV[3] then return answer end
local group = ARGV[4]
if group ~= '' then
  redis.call('SADD', KEYS[3], group)
  redis.call('HSETNX', KEYS[2], 'acked:' .. group, redis.call('HGET', KEYS[2], 'out') or '0')
  for i = 5, #KEYS do
    -- A group that somebody destroyed goes on where it had acknowledged all.
    local at = redis.call('HGET', KEYS[4], (i - 5) .. ':' .. group) or '0'
    local made = redis.pcall('XGROUP', 'CREATE', KEYS[i], group, at, 'MKSTREAM')
    if made.err and not made.err:find('BUSYGROUP') then return made end
  end
end
return answer
"""
)
"""Keep the buffer's settings, or say which are kept; make the group on each stream."""

APPEND = Script.of(
    """
-- KEYS: state, the producer's, streams.
-- ARGV: maxsize, ms to keep the producer, then for each: sequence, key, ticks, body.
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
local sums = redis.call('HMGET', KEYS[1], 'in', 'out')
local room = tonumber(ARGV[1]) - tonumber(sums[1] or '0') + tonumber(sums[2] or '0')
local taken, again, added = 0, 0, 0
for i = 3, #ARGV, 4 do
  local sequence, ticks = tonumber(ARGV[i]), tonumber(ARGV[i + 2])
  if sequence <= last then again = again + ticks
  elseif ticks > room then break
  else
    redis.call('XADD', KEYS[tonumber(ARGV[i + 1])], '*', 'n', ARGV[i + 2], 't', ARGV[i + 3])
    room = room - ticks; added = added + ticks; last = sequence
  end
  taken = taken + 1
end
if added > 0 then
  redis.call('HINCRBY', KEYS[1], 'in', added)
  redis.call('SET', KEYS[2], last, 'PX', ARGV[2])
end
local clock = redis.call('TIME')
return {taken, again, room, clock[1], clock[2]}
"""
)
"""Append in order what fits; count a record that is there already."""

BEAT = Script.of(
    _NOW
    + """
-- KEYS: state, leases, members.  ARGV: me, lease in ms, shards, whether I leave.
-- Who is there, whose shards are free, and a fair share for me.
local me, ttl, shards, leaves = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', '(' .. now)  -- a write that needs no memory
-- What ends later than any lease can is from before the server's clock was set back.
local latest = now + 601000
redis.call('ZREMRANGEBYSCORE', KEYS[3], '(' .. latest, '+inf')
if leaves then redis.call('ZREM', KEYS[3], me) else redis.call('ZADD', KEYS[3], now + ttl, me) end
local members = redis.call('ZCARD', KEYS[3])
local fair = math.ceil(shards / math.max(members, 1))
local mine, free, numbers = {}, {}, {}
for shard = 0, shards - 1 do numbers[shard + 1] = shard end
local leases = redis.call('HMGET', KEYS[2], unpack(numbers))
for shard = 0, shards - 1 do
  local lease, owner, token, till = leases[shard + 1]
  if lease then owner, token, till = lease:match('^(.-)|(%d+)|(%d+)$') end
  if owner == me and tonumber(till) >= now then
    mine[#mine + 1] = shard; mine[#mine + 1] = token
    redis.call('HSET', KEYS[2], shard, me .. '|' .. token .. '|' .. (now + ttl))
  elseif not owner or tonumber(till) < now or tonumber(till) > latest then
    free[#free + 1] = shard
  end
end
if not leaves then
  for _, shard in ipairs(free) do
    if #mine / 2 >= fair then break end
    local token = redis.call('HINCRBY', KEYS[1], 'token', 1)
    redis.call('HSET', KEYS[2], shard, me .. '|' .. token .. '|' .. (now + ttl))
    mine[#mine + 1] = shard; mine[#mine + 1] = tostring(token)
  end
end
return {members, fair, clock[1], clock[2], mine}
"""
)
"""Say that I am here, renew my leases, and take free shards up to a fair share."""

PENDING = Script.of(
    _HELD
    + _TICKS
    + """
-- KEYS: leases, progress, done, streams.
-- ARGV: group, me, entries a shard, ticks, then for each: shard, token, id to go on after.
local group, me, left = ARGV[1], ARGV[2], tonumber(ARGV[4])
local found, key = {}, 3
for i = 5, #ARGV, 3 do
  key = key + 1
  local shard, after = ARGV[i], ARGV[i + 2]
  if left <= 0 then break end
  if not held(redis.call('HGET', KEYS[1], shard), me, ARGV[i + 1]) then
    found[#found + 1] = {shard, -1}
  else
    local start = after == '' and '-' or '(' .. after
    local waiting = redis.call('XPENDING', KEYS[key], group, start, '+', ARGV[3])
    local entries = {}
    for _, each in ipairs(waiting) do
      if left <= 0 and #entries > 0 then break end
      local id, field = each[1], shard .. ':' .. each[1]
      local claimed = redis.call('XCLAIM', KEYS[key], group, me, 0, id)
      if claimed[1] and claimed[1][2] then
        local record = redis.call('HGET', KEYS[2], field) or ''
        if record:sub(1, 1) == 'c' then redis.call('HSET', KEYS[2], field, 'f' .. record:sub(2)) end
        entries[#entries + 1] = {id, claimed[1][2], record, each[2] == me and 1 or 0}
        left = left - math.max(1, ticks_of(claimed[1][2]))
      else
        redis.call('XACK', KEYS[key], group, id)  -- somebody has deleted it
        redis.call('HDEL', KEYS[2], field)
      end
    end
    if #waiting == 0 then
      for _, each in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[key], group)) do
        local consumer = {}
        for j = 1, #each, 2 do consumer[each[j]] = each[j + 1] end
        if consumer.pending == 0 and consumer.name ~= me then
          redis.call('XGROUP', 'DELCONSUMER', KEYS[key], group, consumer.name)
        end
      end
    end
    local at = redis.call('HGET', KEYS[3], shard .. ':' .. group) or '0-0'
    found[#found + 1] = {shard, #waiting, at, entries}
  end
end
return found
"""
)
"""Claim what earlier holders of my shards have left, in order."""

FETCH = Script.of(
    _HELD
    + _TICKS
    + """
-- KEYS: leases, streams.  ARGV: group, me, ticks, ticks an entry, then for each: shard, token.
local group, me, left, size = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local found, live, shards, numbers = {}, {}, {}, {}
for i = 5, #ARGV, 2 do numbers[#numbers + 1] = ARGV[i] end
local leases = redis.call('HMGET', KEYS[1], unpack(numbers))
for i, number in ipairs(numbers) do
  if held(leases[i], me, ARGV[4 + 2 * i]) then
    live[#live + 1] = KEYS[i + 1]; shards[KEYS[i + 1]] = number
  else found[#found + 1] = {number, -1} end
end
while left > 0 and #live > 0 do
  -- So many entries that they fit even if all are large.
  local entries = math.max(1, math.floor(left / size))
  local count = math.max(1, math.floor(entries / #live))
  local some = math.min(#live, entries)
  local ask = {'XREADGROUP', 'GROUP', group, me, 'COUNT', count, 'STREAMS'}
  for i = 1, some do ask[7 + i] = live[i]; ask[7 + some + i] = '>' end
  local next_live, came = {}, {}
  for i = some + 1, #live do next_live[#next_live + 1] = live[i] end
  for _, each in ipairs(redis.call(unpack(ask)) or {}) do
    local key, list = each[1], each[2]
    found[#found + 1] = {shards[key], list}
    if #list == count then next_live[#next_live + 1] = key end
    for _, entry in ipairs(list) do
      local ticks = math.max(1, ticks_of(entry[2]))
      left = left - ticks
      if ticks > size then size = ticks end
    end
  end
  live = next_live
end
return found
"""
)
"""Read new entries of my shards, about as many ticks as I have room for."""

ACKNOWLEDGE = Script.of(
    _HELD
    + _FREE
    + """
-- KEYS: state, leases, done, progress, groups, streams.
-- ARGV: group, me, then for each shard: shard, token, how many, and their ids and ticks.
local group, me = ARGV[1], ARGV[2]
local groups, noted = redis.call('SMEMBERS', KEYS[5]), redis.call('HLEN', KEYS[4]) > 0
local sole = #groups == 1 and groups[1] == group
local answers, i, key, acked, out = {}, 3, 5, 0, 0
while ARGV[i] do
  key = key + 1
  local shard, token, count = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  i = i + 3
  if not held(redis.call('HGET', KEYS[2], shard), me, token) then
    answers[#answers + 1] = -1; i = i + 2 * count
  else
    local last
    for _ = 1, count do
      last = ARGV[i]
      -- An entry counts once, however often its acknowledgement is sent.
      if redis.call('XACK', KEYS[key], group, last) == 1 then acked = acked + ARGV[i + 1] end
      -- Without other groups it is deleted unread: free() reads what it deletes.
      if sole and redis.call('XDEL', KEYS[key], last) == 1 then out = out + ARGV[i + 1] end
      if noted then redis.call('HDEL', KEYS[4], shard .. ':' .. last) end
      i = i + 2
    end
    redis.call('HSET', KEYS[3], shard .. ':' .. group, last)
    local least = last  -- what every group has acknowledged
    for _, other in ipairs(groups) do
      if least and other ~= group then
        local at = redis.call('HGET', KEYS[3], shard .. ':' .. other)
        if not at then least = nil elseif before(at, least) then least = at end
      end
    end
    if least then out = out + free(KEYS[key], least, -1) end
    answers[#answers + 1] = count
  end
end
if acked > 0 then redis.call('HINCRBY', KEYS[1], 'acked:' .. group, acked) end
if out > 0 then redis.call('HINCRBY', KEYS[1], 'out', out) end
return answers
"""
)
"""Acknowledge the first entries of my shards; delete what no group needs any more."""

MARK = Script.of(
    _HELD
    + """
-- KEYS: leases, progress.  ARGV: me, then for each: shard, token, id, record.
redis.call('HDEL', KEYS[2], '')  -- a write that needs no memory
local answers = {}
for i = 2, #ARGV, 4 do
  local mine = held(redis.call('HGET', KEYS[1], ARGV[i]), ARGV[1], ARGV[i + 1])
  if mine then redis.call('HSET', KEYS[2], ARGV[i] .. ':' .. ARGV[i + 2], ARGV[i + 3]) end
  answers[#answers + 1] = mine and 1 or -1
end
return answers
"""
)
"""Note how far an entry has been handled."""

BURY = Script.of(
    _HELD
    + """
-- KEYS: leases, progress, state, dead letters.
-- ARGV: me, shard, token, id, record, most letters, then fields and values of the letter.
if not held(redis.call('HGET', KEYS[1], ARGV[2]), ARGV[1], ARGV[3]) then return -1 end
local field = ARGV[2] .. ':' .. ARGV[4]
if redis.call('HGET', KEYS[2], field) == ARGV[5] then return 0 end
redis.call('HDEL', KEYS[2], '')  -- a write that needs no memory
local letter = {}
for i = 7, #ARGV do letter[#letter + 1] = ARGV[i] end
redis.call('XADD', KEYS[4], 'MAXLEN', ARGV[6], '*', unpack(letter))
redis.call('HSET', KEYS[2], field, ARGV[5])
redis.call('HINCRBY', KEYS[3], 'dead', 1)
return 1
"""
)
"""Write a dead letter, and note that it is written."""

RELEASE = Script.of(
    _HELD
    + """
-- KEYS: leases, progress.  ARGV: me, shard, token, then for each left over: id, record.
if not held(redis.call('HGET', KEYS[1], ARGV[2]), ARGV[1], ARGV[3]) then return -1 end
redis.call('HDEL', KEYS[1], ARGV[2])
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[2] .. ':' .. ARGV[i], ARGV[i + 1]) end
return 1
"""
)
"""Give a shard up, with a note on what of it is not acknowledged."""

LAG = Script.of(
    """
-- KEYS: state, done, streams.  ARGV: group.
local sums = redis.call('HMGET', KEYS[1], 'in', 'out', 'acked:' .. ARGV[1], 'dead')
local oldest = -1
for i = 3, #KEYS do
  local at = redis.call('HGET', KEYS[2], (i - 3) .. ':' .. ARGV[1])
  local first = redis.call('XRANGE', KEYS[i], at and '(' .. at or '-', '+', 'COUNT', 1)[1]
  if first then
    local since = tonumber(first[1]:match('^(%d+)'))
    if oldest < 0 or since < oldest then oldest = since end
  end
end
local clock = redis.call('TIME')
return {
  tonumber(sums[1] or '0'), tonumber(sums[2] or '0'), tonumber(sums[3] or sums[2] or '0'),
  tonumber(sums[4] or '0'), oldest, clock[1], clock[2]
}
"""
)
"""Count what the group has not acknowledged, and say since when the oldest is there."""

RETIRE = Script.of(
    _NOW
    + """
-- KEYS: groups, state, done, leases, members, progress, streams.  ARGV: group.
local group = ARGV[1]
if redis.call('SISMEMBER', KEYS[1], group) == 0 then return -1 end
local there = redis.call('ZCOUNT', KEYS[5], now, '+inf')
for _, lease in ipairs(redis.call('HVALS', KEYS[4])) do
  -- One that is leaving is no member any more, and ends what it holds.
  if there == 0 and tonumber(lease:match('|(%d+)$')) >= now then there = 1 end
end
if there > 0 then return there end
redis.call('SREM', KEYS[1], group)
redis.call('HDEL', KEYS[2], 'acked:' .. group)
redis.call('DEL', KEYS[4], KEYS[5], KEYS[6])
for i = 7, #KEYS do
  redis.call('HDEL', KEYS[3], (i - 7) .. ':' .. group)
  redis.pcall('XGROUP', 'DESTROY', KEYS[i], group)  -- a stream may not be there
end
return 0
"""
)
"""Forget a group that has no workers: 0; -1: there is none; else how many are there."""

FREE = Script.of(
    _FREE
    + """
-- KEYS: groups, state, done, stream.  ARGV: shard, pages of 100 entries.
local groups, least = redis.call('SMEMBERS', KEYS[1]), nil
for i, group in ipairs(groups) do
  local at = redis.call('HGET', KEYS[3], ARGV[1] .. ':' .. group)
  if not at then return {0, 1} end
  if not least or before(at, least) then least = at end
end
if not least then return {0, 1} end
local ticks, all = free(KEYS[4], least, tonumber(ARGV[2]))
if ticks > 0 then redis.call('HINCRBY', KEYS[2], 'out', ticks) end
return {ticks, all}
"""
)
"""Delete some of what every group has acknowledged; say whether that is all of it."""

ALL: Final = (
    SETUP,
    APPEND,
    BEAT,
    PENDING,
    FETCH,
    ACKNOWLEDGE,
    MARK,
    BURY,
    RELEASE,
    LAG,
)
