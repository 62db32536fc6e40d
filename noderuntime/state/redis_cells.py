"""Cells and merges in Lua, for a Redis server's scripts: the twin of space/kvs_cells.py and merges.py. Pure text.

A script computes the result of a merge on the server, where the cell is, so that a change is one round trip and needs
no retry. `tests/state/test_redis_cells.py` compares it with its twin, cell by cell and byte by byte.

Lua's numbers are doubles. So stamps and other numbers above 2**53 are texts of 20 digits, which compare as the numbers
do. An integer that is merged is split, {high, low} for high * 2**32 + low, so that it adds and compares exactly.
A number that is not an integer is {double = ...}. Texts are compared by bytes: `<` would follow the server's locale.

Where two values do not fit (a TypeError in the twin), the result is nil: the script changes nothing, and the client
repeats the merge with the twin, which raises the error.
"""

from __future__ import annotations

from typing import Final

DIGITS: Final = 20

CELLS: Final = r"""
local NEVER = string.rep('0', 20)
local ONE = string.rep('0', 19) .. '1'
local TWO32 = 4294967296
local char, floor = string.char, math.floor

local function plus(a, b)
  local low = tonumber(a:sub(-9)) + tonumber(b:sub(-9))
  local high = tonumber(a:sub(1, -10)) + tonumber(b:sub(1, -10))
  if low >= 1e9 then low, high = low - 1e9, high + 1 end
  return string.format('%011.0f%09.0f', high, low)
end

-- numbers ------------------------------------------------------------------------------------------------------------

local SIZES = {[0xca] = 5, [0xcb] = 9, [0xcc] = 2, [0xcd] = 3, [0xce] = 5, [0xcf] = 9,
               [0xd0] = 2, [0xd1] = 3, [0xd2] = 5, [0xd3] = 9}
local WIDTHS = {[0xcc] = '>I1', [0xcd] = '>I2', [0xce] = '>I4', [0xd0] = '>i1', [0xd1] = '>i2', [0xd2] = '>i4'}

local function number(packed)
  local tag = packed:byte(1)
  if not tag then return nil end
  if tag < 0x80 and #packed == 1 then return {high = 0, low = tag} end
  if tag >= 0xe0 and #packed == 1 then return {high = -1, low = TWO32 - 256 + tag} end
  if SIZES[tag] ~= #packed then return nil end
  if tag == 0xca or tag == 0xcb then
    local double = struct.unpack(tag == 0xca and '>f' or '>d', packed, 2) + 0
    if double ~= double then return nil end
    return {double = double}
  end
  if #packed == 9 then
    return {high = (struct.unpack(tag == 0xcf and '>I4' or '>i4', packed, 2)), low = (struct.unpack('>I4', packed, 6))}
  end
  local found = struct.unpack(WIDTHS[tag], packed, 2)
  if found < 0 then return {high = -1, low = TWO32 + found} end
  return {high = 0, low = found}
end

local function pack_number(n)
  if n.double then return '\203' .. struct.pack('>d', n.double) end
  local high, low = n.high, n.low
  if high > 0 then return '\207' .. struct.pack('>I4', high) .. struct.pack('>I4', low) end
  if high == 0 then
    if low < 128 then return char(low) end
    if low < 256 then return '\204' .. char(low) end
    if low < 65536 then return '\205' .. struct.pack('>I2', low) end
    return '\206' .. struct.pack('>I4', low)
  end
  local small = high == -1 and low - TWO32 or -TWO32
  if small >= -32 then return char(256 + small) end
  if small >= -128 then return '\208' .. char(256 + small) end
  if small >= -32768 then return '\209' .. struct.pack('>I2', 65536 + small) end
  if small >= -2147483648 then return '\210' .. struct.pack('>I4', low) end
  return '\211' .. struct.pack('>I4', TWO32 + high) .. struct.pack('>I4', low)
end

local function double_of(n)
  return n.double or n.high * TWO32 + n.low
end

local function sum(a, b)
  if a.double or b.double then
    local double = double_of(a) + double_of(b) + 0
    if double ~= double then return nil end
    return {double = double}
  end
  local high, low = a.high + b.high, a.low + b.low
  if low >= TWO32 then high, low = high + 1, low - TWO32 end
  if high < -2147483648 or high >= TWO32 then return nil end
  return {high = high, low = low}
end

-- below 0, 0, above 0; of 1 and 1.0 the whole number is the greater one
local function compare(a, b)
  if a.double and b.double then return a.double < b.double and -1 or a.double > b.double and 1 or 0 end
  if a.double then return -compare(b, a) end
  local high, low = b.high, b.low
  if b.double then
    if b.double >= TWO32 * TWO32 then return -1 end
    if b.double < -2147483648 * TWO32 then return 1 end
    local below = floor(b.double)
    high = floor(below / TWO32)
    low = below - high * TWO32
    if a.high == high and a.low == low then return below < b.double and -1 or 1 end
  end
  if a.high ~= high then return a.high < high and -1 or 1 end
  return a.low < low and -1 or a.low > low and 1 or 0
end

-- sets ---------------------------------------------------------------------------------------------------------------

local function tail(byte)
  return byte and byte >= 0x80 and byte < 0xc0
end

local function is_utf8(text)
  local at = text:find('[\128-\255]')
  while at do
    local a, b, c, d = text:byte(at, at + 3)
    if a >= 0xc2 and a < 0xe0 and tail(b) then
      at = at + 2
    elseif a >= 0xe0 and a < 0xf0 and tail(b) and tail(c) and not (a == 0xe0 and b < 0xa0)
        and not (a == 0xed and b >= 0xa0) then
      at = at + 3
    elseif a >= 0xf0 and a < 0xf5 and tail(b) and tail(c) and tail(d) and not (a == 0xf0 and b < 0x90)
        and not (a == 0xf4 and b >= 0x90) then
      at = at + 4
    else
      return false
    end
    at = text:find('[\128-\255]', at)
  end
  return true
end

local function head_of(size, small, tags)
  if small and size < 32 then return char(small + size) end
  if tags[1] and size < 256 then return char(tags[1], size) end
  if size < 65536 then return char(tags[2]) .. struct.pack('>I2', size) end
  return char(tags[3]) .. struct.pack('>I4', size)
end

local STR, BIN = {0xd9, 0xda, 0xdb}, {0xc4, 0xc5, 0xc6}
local LENGTHS = {[0xd9] = 1, [0xda] = 2, [0xdb] = 4, [0xc4] = 1, [0xc5] = 2, [0xc6] = 4}

-- the element that begins at a place, as it is packed anew, and the place behind it
local function element(packed, at)
  local tag = packed:byte(at)
  if not tag then return nil end
  if tag == 0xc0 or tag == 0xc2 or tag == 0xc3 then
    return {rank = tag == 0xc0 and 0 or 1, number = {high = 0, low = tag}, packed = char(tag)}, at + 1
  end
  if tag < 0x80 or tag >= 0xe0 or SIZES[tag] then
    local behind = at + (SIZES[tag] or 1)
    local found = number(packed:sub(at, behind - 1))
    if not found then return nil end
    return {rank = found.double and 3 or 2, number = found, packed = pack_number(found)}, behind
  end
  local size, start = tag - 0xa0, at + 1
  if LENGTHS[tag] then
    start = at + 1 + LENGTHS[tag]
    if start - 1 > #packed then return nil end
    size = struct.unpack('>I' .. LENGTHS[tag], packed, at + 1)
  elseif tag < 0xa0 or tag > 0xbf then
    return nil
  end
  local text = packed:sub(start, start + size - 1)
  if #text ~= size then return nil end
  if tag == 0xc4 or tag == 0xc5 or tag == 0xc6 then
    return {rank = 5, text = text, packed = head_of(size, nil, BIN) .. text}, start + size
  end
  if not is_utf8(text) then return nil end
  return {rank = 4, text = text, packed = head_of(size, 0xa0, STR) .. text}, start + size
end

local function before(a, b)
  if a.rank ~= b.rank then return a.rank < b.rank end
  if not a.text then return compare(a.number, b.number) < 0 end
  if a.text == b.text then return false end
  for at = 1, math.min(#a.text, #b.text) do
    local x, y = a.text:byte(at), b.text:byte(at)
    if x ~= y then return x < y end
  end
  return #a.text < #b.text
end

-- in order and without repetition
local function elements(packed)
  local tag = packed:byte(1)
  if not tag then return nil end
  local count, at = tag - 0x90, 2
  if tag == 0xdc and #packed >= 3 then
    count, at = struct.unpack('>I2', packed, 2)
  elseif tag == 0xdd and #packed >= 5 then
    count, at = struct.unpack('>I4', packed, 2)
  elseif tag < 0x90 or tag > 0x9f then
    return nil
  end
  local found, sorted = {}, true
  for place = 1, count do
    found[place], at = element(packed, at)
    if not found[place] then return nil end
    sorted = sorted and (place == 1 or before(found[place - 1], found[place]))
  end
  if at ~= #packed + 1 then return nil end
  if sorted then return found end
  local seen, once = {}, {}
  for _, item in ipairs(found) do
    if not seen[item.packed] then
      seen[item.packed] = true
      once[#once + 1] = item
    end
  end
  table.sort(once, before)
  return once
end

local function union(one, other)
  local a, b = elements(one), elements(other)
  if not a or not b then return nil end
  local all, i, j = {''}, 1, 1
  while i <= #a or j <= #b do
    local item = a[i]
    if not item or (b[j] and before(b[j], item)) then
      item, j = b[j], j + 1
    else
      i = i + 1
      if b[j] and b[j].packed == item.packed then j = j + 1 end
    end
    all[#all + 1] = item.packed
  end
  local count = #all - 1
  all[1] = count < 16 and char(0x90 + count) or head_of(count, nil, {nil, 0xdc, 0xdd})
  return table.concat(all)
end

-- cells --------------------------------------------------------------------------------------------------------------

local ADD, MAX, MIN, UNION = 0, 1, 2, 3

local function combine(kind, amount, current)
  if not current then return amount end
  if kind == UNION then return union(current, amount) end
  local one, other = number(current), number(amount)
  if not one or not other then return nil end
  local made
  if kind == ADD then
    made = sum(one, other)
  elseif kind == MAX then
    made = compare(one, other) >= 0 and one or other
  else
    made = compare(one, other) <= 0 and one or other
  end
  return made and pack_number(made)
end

local function is_over(expires, now)
  return expires ~= NEVER and expires <= now
end

local function counts(part, now)
  return part.amount ~= '' and not is_over(part.expires, now)
end

local function visible(cell, now)
  local value = not is_over(cell.expires, now) and cell.value
  for _, part in ipairs(cell.parts) do
    if counts(part, now) then value = combine(part.kind, part.amount, value) or value end
  end
  return value
end

-- the expiries of all that is in force: the first one that comes, and the last one, NEVER if that never comes
local function ends(cell, now)
  local first, last, never = NEVER, NEVER, false
  local function look(expires)
    if expires == NEVER then never = true return end
    if first == NEVER or expires < first then first = expires end
    if expires > last then last = expires end
  end
  if cell.value and not is_over(cell.expires, now) then look(cell.expires) end
  for _, part in ipairs(cell.parts) do
    if counts(part, now) then look(part.expires) end
  end
  return first, never and NEVER or last
end

local function latest(cell)
  local found = cell.stamp
  for _, part in ipairs(cell.parts) do
    if part.first > found then found = part.first end
  end
  return found
end

local function written(stamp, origin, value, expires, packed)
  return {stamp = stamp, origin = origin, expires = expires, value = value, parts = {}, packed = packed or false}
end

local function expired(cell, now)
  local over = is_over(cell.expires, now)
  local made = written(cell.stamp, cell.origin, not over and cell.value, over and NEVER or cell.expires,
                       not over and cell.packed)
  for place, part in ipairs(cell.parts) do
    local amount = not is_over(part.expires, now) and part.amount or ''
    made.parts[place] = {kind = part.kind, store = part.store, first = part.first, merges = part.merges,
                         amount = amount, expires = part.expires}
  end
  return made
end

-- nil: it cannot be combined
local function merged(cell, kind, amount, stamp, origin, store, now, default)
  local current = visible(cell, now)
  local result = combine(kind, amount, current)
  if not result then return nil end
  local expires = default
  if current then expires = select(2, ends(cell, now)) end
  for _, part in ipairs(cell.parts) do
    if part.amount ~= '' and part.kind ~= kind then return written(stamp, origin, result, expires, true) end
  end
  if not current and (cell.value or #cell.parts > 0) then cell = written(stamp, origin, false, NEVER) end
  local made, own = written(cell.stamp, cell.origin, cell.value, cell.expires, cell.packed), nil
  for place, part in ipairs(cell.parts) do
    made.parts[place] = part
    if not own and part.store == store and counts(part, now) then own = place end
  end
  own = own or #made.parts + 1
  local part = made.parts[own] or {kind = kind, store = store, first = plus(stamp, ONE), merges = NEVER, amount = '',
                                   expires = expires}
  local total = result
  if part.amount ~= current then total = combine(kind, amount, part.amount ~= '' and part.amount) end
  if not total then return written(stamp, origin, result, expires, true) end
  made.parts[own] = {kind = part.kind, store = store, first = part.first, merges = plus(part.merges, ONE),
                     amount = total, expires = part.expires}
  table.sort(made.parts, function(a, b) return a.first < b.first or a.first == b.first and a.store < b.store end)
  return made
end

local function contribution(key, value)
  local size = #key
  local text = char(size % 256, floor(size / 256), 0, 0) .. key
  if value then text = text .. '=' .. value end
  local hex = redis.sha1hex(text)
  return (hex:sub(1, 32):gsub('..', function(pair) return char(tonumber(pair, 16)) end))
end

-- as bytes -----------------------------------------------------------------------------------------------------------

local EMPTY = written(NEVER, NEVER, false, NEVER)

local function load_cell(body)
  local found = cmsgpack.unpack(body)
  local cell = written(found[3], found[4], found[6], found[5], found[8])
  for place, part in ipairs(found[7]) do
    cell.parts[place] = {kind = part[1], store = part[2], first = part[3], merges = part[4], amount = part[5],
                         expires = part[6]}
  end
  return cell, found[2]
end

local function pack_cell(cell, written_at, changes)
  local parts = {}
  for place, part in ipairs(cell.parts) do
    parts[place] = {part.kind, part.store, part.first, part.merges, part.amount, part.expires}
  end
  local body = {written_at, changes, cell.stamp, cell.origin, cell.expires, cell.value, parts}
  if cell.packed then body[8] = true end
  return cmsgpack.pack(body)
end
"""
"""Functions that the scripts of redis_scripts.py begin with, where they change something."""
