"""What runs on the Redis server: each script is one atomic step there. Pure text. Floor 2.

Keys of a store NAME, all with the hash tag {NAME}, so that a cluster keeps them together:

    cells   hash   key -> REVISION ":" contribution (16 bytes) body (opaque to the server)
    order   zset   key, by revision of its last change
    due     zset   key, by the microsecond at which something of it expires
    gone    zset   key, by revision of its deletion, while that is in force
    digests zset   digest of all contents, by the latest revision that had it
    head    hash   store, digest, revision, stamp (20 digits), floor, floor_revision
    marks   hash   who -> the last of its changes that was applied
    token:CLIENT   number of the last change of one client, and its revision; goes after an hour

The scripts compare, add up digests (128-bit, byte by byte: Lua's numbers are floats) and keep order. Cells are made by
clients, who commit what they made of a revision only if that is still the present one: compare-and-set is the server's.
"""

from __future__ import annotations

from typing import Final

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
  redis.call('HSET', head, 'store', ARGV[1], 'digest', ARGV[2], 'revision', '0', 'stamp', ARGV[3],
             'floor', ARGV[2], 'floor_revision', '0')
end
return redis.call('HGET', head, 'store')
"""
)
"""ARGV: number of the store if it is new, digest of nothing, stamp 0. The number of the store."""

COMMIT: Final = (
    _HEAD
    + """
local token_key = KEYS[8]
local channel, token, history, who, mark, stamp = unpack(ARGV, 1, 6)
local expected, puts = tonumber(ARGV[7]), tonumber(ARGV[8])
local known = redis.call('GET', token_key)
if known then
  local colon = known:find(':', 1, true)
  if known:sub(1, colon - 1) == token then return {'ok', known:sub(colon + 1)} end
end
if who ~= '' then
  local last = redis.call('HGET', marks, who)
  if last and last >= mark then return {'ok', redis.call('HGET', head, 'revision')} end
end
local at = 9
for _ = 1, expected do
  local row = redis.call('HGET', cells, ARGV[at])
  local revision = row and row:sub(1, row:find(':', 1, true) - 1) or '0'
  if revision ~= ARGV[at + 1] then return {'again', ''} end
  at = at + 2
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
local digest, revision = found[1], tonumber(found[2])
for _ = 1, puts do
  local key, body, contribution, expires, is_gone, delta = unpack(ARGV, at, at + 5)
  at = at + 6
  revision = revision + 1
  digest = add(digest, delta, 1)
  local number = string.format('%.0f', revision)
  redis.call('HSET', cells, key, number .. ':' .. contribution .. body)
  redis.call('ZADD', order, number, key)
  if expires == '0' then redis.call('ZREM', due, key) else redis.call('ZADD', due, expires, key) end
  if is_gone == '1' then redis.call('ZADD', gone, number, key) else redis.call('ZREM', gone, key) end
  redis.call('ZADD', digests, number, digest)
end
local number = string.format('%.0f', revision)
if puts > 0 then
  local last = revision - tonumber(history)
  if last > 0 then
    last = string.format('%.0f', last)
    local floor = redis.call('ZREVRANGEBYSCORE', digests, last, '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if floor[1] then redis.call('HSET', head, 'floor', floor[1], 'floor_revision', floor[2]) end
    local old = redis.call('ZRANGEBYSCORE', gone, '-inf', last)
    local before = digest
    for _, key in ipairs(old) do
      local row = redis.call('HGET', cells, key)
      local colon = row:find(':', 1, true)
      digest = add(digest, row:sub(colon + 1, colon + 16), -1)
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
  redis.call('HSET', head, 'digest', digest, 'revision', number)
end
if stamp > found[3] then redis.call('HSET', head, 'stamp', stamp) end
if who ~= '' then redis.call('HSET', marks, who, mark) end
redis.call('SET', token_key, token .. ':' .. number, 'EX', 3600)
if puts > 0 then redis.call('PUBLISH', channel, number) end
return {'ok', number}
"""
)
"""KEYS[8]: the client's token key. ARGV: channel, token, history, who, mark, stamp, number of expectations, number of
changes, then (key, revision) for each expectation, (key, body, contribution, expiry, gone, delta) for each change.
{'ok', revision} or {'again', ''}."""
