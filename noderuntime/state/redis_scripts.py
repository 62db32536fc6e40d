"""The scripts that run on the Redis server: each is one atomic step there. Pure text.

Keys of a store NAME, all with the hash tag {NAME}, so that a cluster keeps them together:

    cells   hash   key -> REVISION ":" contribution (16 bytes) body
    order   zset   key, by revision of its last change
    due     zset   key, by the microsecond at which a value or part of it expires
    gone    zset   key, by revision of its deletion, while that is in force
    digests zset   digest of all contents, by the latest revision that had it
    head    hash   format, store, digest, revision, stamp, floor, floor_revision
    marks   hash   client -> its last applied change, with revision and note
    token:CLIENT   the last change of one client: its number, revision and note; expires after an hour

A body is MessagePack of [written, changes, stamp, origin, expires, value or false, [[kind, store, first, merges,
amount, expires], ...]], then true if the value is marked as MessagePack: the cell, when it was written, and when its
visible value changes by expiry. Numbers that a double may not hold are texts of 20 digits, which compare as the numbers
do. Digests are added up byte by byte.

CHANGE computes new cells from the present ones (see redis_cells.py), PURGE removes expired bytes from them. COMMIT is
for changes that only a client can make: another store's cells, and a user's own kind of merge. It stores them if the
keys that the client read are unchanged.
"""

from __future__ import annotations

from typing import Final

from noderuntime.state.redis_cells import CELLS

FORMATS: Final = "2", "3"  # a new store has "2"; its first value that is marked as MessagePack makes it "3"
NAMES: Final = ("cells", "order", "due", "gone", "digests", "head", "marks")

_HEAD: Final = """
local cells, order, due, gone, digests, head, marks = unpack(KEYS)
local function facts()
  local time = redis.call('TIME')
  local found = redis.call('HMGET', head, 'digest', 'revision', 'stamp', 'floor', 'floor_revision')
  return {time[1], time[2], found[1], found[2], found[3], found[4], found[5]}
end
local function with_rows(answer, keys)
  for from = 1, #keys, 1000 do
    local some = {}
    for i = from, math.min(from + 999, #keys) do some[#some + 1] = keys[i] end
    local rows = redis.call('HMGET', cells, unpack(some))
    for i, key in ipairs(some) do
      answer[#answer + 1] = key
      answer[#answer + 1] = rows[i]
    end
  end
  return answer
end
"""

READ: Final = _HEAD + "return with_rows(facts(), ARGV)"
"""ARGV: keys. The head, and the rows of these keys."""

ALL: Final = _HEAD + "return with_rows(facts(), redis.call('ZRANGE', order, 0, -1))"
"""The head, and all rows."""

AFTER: Final = (
    _HEAD
    + """
local keys = redis.call('ZRANGEBYSCORE', order, '(' .. ARGV[1], '+inf', 'LIMIT', 0, tonumber(ARGV[2]))
return with_rows(facts(), keys)
"""
)
"""ARGV: revision, limit. The head, and rows with a greater revision, in order."""

DUE: Final = (
    _HEAD
    + """
local time = redis.call('TIME')
local now = time[1] .. string.format('%06d', time[2])
return with_rows(facts(), redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, tonumber(ARGV[1])))
"""
)
"""ARGV: limit. The head, and rows with something that has expired."""

KEYS: Final = (
    _HEAD
    + """
local found = redis.call('HMGET', head, 'store', 'revision')
local start = '(' .. ARGV[2]
if found[1] ~= ARGV[1] or tonumber(found[2]) < tonumber(ARGV[2]) then start = '-inf' end
return {found[1], found[2], start == '-inf' and 1 or 0, redis.call('ZRANGEBYSCORE', order, start, '+inf')}
"""
)
"""ARGV: number of the store, revision. Its number and revision now, and the keys that have changed since; if it is
another store, or an older state of it, 1 and all keys."""

PAGE: Final = (
    _HEAD
    + """
local answer, room = facts(), tonumber(ARGV[1])
for i = 2, #ARGV do
  if room < 0 then break end
  local row = redis.call('HGET', cells, ARGV[i])
  answer[#answer + 1] = ARGV[i]
  answer[#answer + 1] = row
  if row then room = room - #ARGV[i] - #row end
end
local now = answer[1] .. string.format('%06d', answer[2])
return {answer, with_rows(facts(), redis.call('ZRANGEBYSCORE', due, '-inf', now))}
"""
)
"""ARGV: bytes, keys. The head and rows of the first of these keys, as many as fill so many bytes; then the head and
rows with something that has expired."""

SINCE: Final = (
    _HEAD
    + """
local answer = facts()
local place = redis.call('ZSCORE', digests, ARGV[1])
if not place and answer[6] == ARGV[1] then place = answer[7] end
if not place then return {answer} end
return {with_rows(answer, redis.call('ZRANGEBYSCORE', order, '(' .. place, '+inf'))}
"""
)
"""ARGV: digest. The head, and what has changed since the latest revision with it; {head} alone when it is not known."""

INIT: Final = (
    _HEAD
    + """
if redis.call('EXISTS', head) == 0 then
  redis.call('HSET', head, 'format', ARGV[4], 'store', ARGV[1], 'digest', ARGV[2], 'revision', '0', 'stamp', ARGV[3],
             'floor', ARGV[2], 'floor_revision', '0')
end
local found = redis.call('HMGET', head, 'store', 'format')
return {found[1], found[2] or '1'}
"""
)
"""ARGV: number of the store if it is new, digest of nothing, stamp 0, format. Number and format of the store."""

_WRITES: Final = r"""
local channel, history, once, who, mark = unpack(ARGV, 1, 5)
local token_key = KEYS[8]

-- What a change was answered with that was made before; {'stale'} when its client has made a later one since.
local function known()
  local last
  if once == 'mark' then last = redis.call('HGET', marks, who) else last = redis.call('GET', token_key) end
  if not last then return nil end
  local before, revision, note = last:match('^([^:]*):([^:]*):(.*)$')
  if before == mark or (once == 'mark' and before > mark) then return {'ok', revision, note} end
  if before > mark then return {'stale', before} end
end

local function remember(revision, note)
  local done = mark .. ':' .. revision .. ':' .. note
  if once == 'mark' then redis.call('HSET', marks, who, done) else redis.call('SET', token_key, done, 'EX', 3600) end
end

local function add(a, b, sign)
  local out, carry = {}, 0
  for i = 1, 16 do
    local sum = a:byte(i) + sign * b:byte(i) + carry
    carry = math.floor(sum / 256)
    out[i] = string.char(sum % 256)
  end
  return table.concat(out)
end

local found = redis.call('HMGET', head, 'digest', 'revision', 'stamp')
if not found[1] then return {'absent'} end
local digest, revision, stamp = found[1], tonumber(found[2]), found[3]
local first = revision

local function contributed(row)
  local colon = row:find(':', 1, true)
  return row:sub(colon + 1, colon + 16)
end

-- `changes`: when what is visible expires first, in microseconds, '0': never
local function put(key, row, body, contribution, changes, is_gone, packed)
  revision = revision + 1
  if row then digest = add(digest, contributed(row), -1) end
  digest = add(digest, contribution, 1)
  local number = string.format('%.0f', revision)
  redis.call('HSET', cells, key, number .. ':' .. contribution .. body)
  redis.call('ZADD', order, number, key)
  if changes == '0' then redis.call('ZREM', due, key) else redis.call('ZADD', due, changes, key) end
  if is_gone then redis.call('ZADD', gone, number, key) else redis.call('ZREM', gone, key) end
  redis.call('ZADD', digests, number, digest)
  if packed then redis.call('HSET', head, 'format', '3') end
end

local function trim(number)
  local last = revision - tonumber(history)
  if last <= 0 then return end
  last = string.format('%.0f', last)
  local floor = redis.call('ZREVRANGEBYSCORE', digests, last, '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if floor[1] then redis.call('HSET', head, 'floor', floor[1], 'floor_revision', floor[2]) end
  local before = digest
  for _, key in ipairs(redis.call('ZRANGEBYSCORE', gone, '-inf', last)) do
    digest = add(digest, contributed(redis.call('HGET', cells, key)), -1)
    redis.call('HDEL', cells, key)
    redis.call('ZREM', order, key)
    redis.call('ZREM', due, key)
    redis.call('ZREM', gone, key)
  end
  if digest ~= before then
    redis.call('ZADD', digests, number, digest)
    if tonumber(history) == 0 then redis.call('HSET', head, 'floor', digest, 'floor_revision', number) end
  end
  redis.call('ZREMRANGEBYSCORE', digests, '-inf', last)
end

-- The head, the history, and the word to those who watch; returns the revision of the last change.
local function finish(latest)
  local number = string.format('%.0f', revision)
  if revision > first then
    trim(number)
    redis.call('HSET', head, 'digest', digest, 'revision', number)
    redis.call('PUBLISH', channel, number)
  end
  if latest > stamp then redis.call('HSET', head, 'stamp', latest) end
  return number
end
"""

COMMIT: Final = (
    _HEAD
    + _WRITES
    + """
local answer = known()
if answer then return answer end
local latest, note = ARGV[6], ARGV[7]
local expected, puts = tonumber(ARGV[8]), tonumber(ARGV[9])
local at, rows = 10, {}
for _ = 1, expected do
  local key = ARGV[at]
  local row = redis.call('HGET', cells, key)
  local present = row and row:sub(1, row:find(':', 1, true) - 1) or '0'
  if present ~= ARGV[at + 1] then return {'again'} end
  rows[key] = row
  at = at + 2
end
for _ = 1, puts do
  local key, body, contribution, changes, is_gone, packed = unpack(ARGV, at, at + 5)
  at = at + 6
  put(key, rows[key], body, contribution, changes, is_gone == '1', packed == '1')
end
local number = finish(latest)
remember(number, note)
return {'ok', number, note}
"""
)
"""KEYS[8]: the client's token key. ARGV: channel, history, once ('mark': known for ever; 'token': for an hour), who,
mark, latest stamp, note, number of expectations, number of changes, then (key, revision) for each expectation, (key,
body, contribution, expiry, gone, packed) for each change. {'ok', revision, note}, {'again'} or {'stale', the later
mark}."""

_CELLS: Final = (
    _HEAD
    + _WRITES
    + CELLS
    + r"""
local time = redis.call('TIME')
local now = string.format('%011.0f%09.0f', tonumber(time[1]), tonumber(time[2]) * 1000)

local function keep(key, row, cell, value)
  local changes = ends(cell, now)
  local micros = '0'
  if changes ~= NEVER then  -- rounded up
    micros = plus(changes, string.rep('0', 17) .. '999'):sub(1, 17):gsub('^0+', '')
  end
  local written_at = latest(cell)
  if #cell.parts > 0 and now > written_at then written_at = now end
  put(key, row, pack_cell(cell, written_at, changes), contribution(key, value), micros, not value,
      cell.packed)
end
"""
)

CHANGE: Final = (
    _CELLS
    + """
local answer = known()
if answer then return answer end
local origin, store, default, most = unpack(ARGV, 6, 9)
local writes = tonumber(ARGV[10])
local next_stamp = plus(stamp, ONE)
if now > next_stamp then next_stamp = now end
local rows, made, keys, present = {}, {}, {}, false
for write = 0, writes - 1 do
  local operation, key, value, kind, ttl, expect = unpack(ARGV, 11 + 6 * write, 16 + 6 * write)
  local cell = made[key]
  if not cell then
    if rows[key] == nil then rows[key] = redis.call('HGET', cells, key) end
    local row = rows[key]
    cell = row and load_cell(row:sub(row:find(':', 1, true) + 17)) or EMPTY
    if expect ~= '' then
      local there = visible(cell, now) and row:sub(1, row:find(':', 1, true) - 1) or '0'
      if there ~= expect then return {'conflict', there} end
    end
  end
  if ttl == NEVER then ttl = default end
  local expires = ttl ~= NEVER and plus(now, ttl) or NEVER
  local new
  if operation == 'set' or operation == 'pack' then
    new = written(next_stamp, origin, value, expires, operation == 'pack')
  elseif operation == 'merge' then
    new = merged(cell, tonumber(kind), value, next_stamp, origin, store, now, expires)
    if not new then return {'refused'} end
  else
    present = visible(cell, now) and true
    new = present and written(next_stamp, origin, false, NEVER)
  end
  if new then
    if not made[key] then keys[#keys + 1] = key end
    made[key] = new
  end
  next_stamp = plus(next_stamp, '00000000000000000002')
end
local values, last = {}, stamp
for _, key in ipairs(keys) do
  local value = visible(made[key], now)
  if value and #value > tonumber(most) then return {'refused'} end
  values[key] = value
  if latest(made[key]) > last then last = latest(made[key]) end
end
for _, key in ipairs(keys) do keep(key, rows[key], made[key], values[key]) end
local note = present and '1' or ''
local number = finish(last)
remember(number, note)
return {'ok', number, note}
"""
)
"""KEYS[8] and the first five of ARGV as with COMMIT; then origin, store, default time to live, bytes of the largest
value, number of writes, and for each ('set' | 'pack' | 'merge' | 'delete', key, value or amount, kind of merge, time to
live, expected revision or ''); 'pack' sets, and marks as MessagePack. {'ok', revision, '1' if the last one has deleted
something}, {'stale', mark}, {'conflict', revision in force}, or {'refused'}: something does not combine, or is too
large. Then nothing is changed."""

PURGE: Final = (
    _CELLS
    + """
local micros = time[1] .. string.format('%06d', time[2])
local old = redis.call('ZRANGEBYSCORE', due, '-inf', micros, 'LIMIT', 0, tonumber(ARGV[6]))
for _, key in ipairs(old) do
  local row = redis.call('HGET', cells, key)
  local cell = expired(load_cell(row:sub(row:find(':', 1, true) + 17)), now)
  keep(key, row, cell, visible(cell, now))
end
finish(stamp)
return #old
"""
)
"""ARGV: channel, history, '', '', '', limit. Turns what has expired into deletions; how many keys."""
