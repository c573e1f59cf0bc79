"""The arithmetic of `schedule`, in Lua: what Redis runs for one ask.

A second reading of the same rules. `tests/throttle/test_schedule.py` holds both to the same
answers; whoever changes one changes the other. Numbers that both need are put in from here.

Layout, all under one hash tag, so that a cluster keeps them together:

    {tokfluence}:throttle            hash: salt of the names, latest time seen, the clock's offset
    {tokfluence}:throttle:NAME       hash: one lane
    {tokfluence}:throttle:NAME:alive sorted set: its processes by when they were seen
    {tokfluence}:throttle:NAME:free  sorted set: leases given back (of an address)
    {tokfluence}:throttle:NAME:cells hash: used cells (of a key)
"""

from __future__ import annotations

from .pause import DAY
from .schedule import ALIVE, COLD, NEVER, STRICT
from .share import FIRST_STEP, SECOND_STEP, STEP_TO

__all__ = ["LANE_FIELDS", "SCRIPT"]

#: What a lane's hash holds, beside `v`, the version of this layout.
LANE_FIELDS = [
    "due",
    "until",
    "opens",
    "gate_version",
    "low",
    "hold",
    "stepped",
    "proven",
    "proven_until",
    "version",
    "limit",
    "span",
    "strict_until",
    "debt",
]

# KEYS: the common hash, the address' four, the key's four.
# ARGV: salt, process, slots, leaving, then for each lane: limit, span, window, opened, pause or "",
# version, five of the learnt share or ""; then the leases given back.
_TEMPLATE = """
local NEVER, FOREVER, MICRO = @NEVER@, 1e300, 1000000
local ALIVE, STRICT, DAY = @ALIVE@ * MICRO, @STRICT@ * MICRO, @DAY@ * MICRO
local FIELDS = {@FIELDS@}
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min

local function text(number) return string.format('%.17g', number) end
local function whole(number) return string.format('%.0f', number) end

-- The clock: Redis' own, kept from going back.
local time = redis.call('TIME')
local common = redis.call('HMGET', KEYS[1], 'salt', 'seen', 'offset', 'v')
if common[4] ~= '1' and redis.call('EXISTS', KEYS[1]) == 1 then
  return redis.error_reply('SOMETHINGELSE ' .. KEYS[1])
end
if common[1] and common[1] ~= ARGV[1] then return {'salt', common[1]} end
local offset = tonumber(common[3] or '0')
local now = tonumber(time[1]) * MICRO + tonumber(time[2]) + offset
local seen = tonumber(common[2] or '0')
if now < seen then
  offset, now = offset + seen - now, seen
end
redis.call('HSET', KEYS[1], 'v', '1', 'salt', ARGV[1], 'seen', whole(now), 'offset', whole(offset))

local function load(base)
  local values = redis.call('HMGET', KEYS[base], 'v', unpack(FIELDS))
  local lane = {base = base}
  if not values[1] and redis.call('EXISTS', KEYS[base]) == 1 or values[1] and values[1] ~= '1' then
    return nil
  end
  for i, name in ipairs(FIELDS) do
    lane[name] = values[i + 1] and tonumber(values[i + 1])
  end
  if not values[1] then
    for _, name in ipairs(FIELDS) do lane[name] = 0 end
    for _, name in ipairs({'due', 'until', 'opens', 'hold', 'stepped', 'proven_until',
                           'strict_until'}) do
      lane[name] = NEVER
    end
    lane.low, lane.proven = 1, 1
  end
  return lane
end

local function interval(lane)
  if lane.limit == 0 then return 0 end
  return lane.span / lane.limit
end

local function read(at)
  local asked = {limit = tonumber(ARGV[at]), span = tonumber(ARGV[at + 1]) * MICRO,
                 window = tonumber(ARGV[at + 2]), opened = ARGV[at + 3] == '1',
                 version = tonumber(ARGV[at + 5])}
  if ARGV[at + 4] ~= '' then asked.pause = tonumber(ARGV[at + 4]) end
  if ARGV[at + 6] ~= '' then
    asked.learnt = {}
    for i = 1, 5 do asked.learnt[i] = tonumber(ARGV[at + 5 + i]) end
  end
  return asked
end

local process, slots, leaving = ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local ip, key = load(2), load(6)
if not ip then return redis.error_reply('SOMETHINGELSE ' .. KEYS[2]) end
if not key then return redis.error_reply('SOMETHINGELSE ' .. KEYS[6]) end
local of_ip, of_key = read(5), read(16)
local CELLS, FREE = KEYS[9], KEYS[4]

-- Cells of the key.
local function ring() return 2 * key.limit + 64 end
local function get(cell) return tonumber(redis.call('HGET', CELLS, whole(cell % ring())) or '0') end
local function set(cell, value)
  if value == 0 then
    redis.call('HDEL', CELLS, whole(cell % ring()))
  else
    redis.call('HSET', CELLS, whole(cell % ring()), whole(value))
  end
end
local function used(cell)
  local value = get(cell)
  if value ~= 0 and floor(value / interval(key)) == cell then return value end
  return nil
end

local function meet(lane)
  if leaving then
    redis.call('ZREM', KEYS[lane.base + 1], process)
  else
    redis.call('ZADD', KEYS[lane.base + 1], whole(now), process)
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[lane.base + 1], '-inf', '(' .. whole(now - ALIVE))
end

local function take_numbers(lane, asked)
  local wanted = 0
  if asked.limit > 0 then wanted = asked.span / asked.limit end
  if wanted < interval(lane) and now < lane.strict_until then return end
  lane.strict_until = now + STRICT
  if wanted == interval(lane) then return end
  if lane == ip then
    if lane.due == NEVER then lane.due = now + @COLD@ * wanted end
  else
    redis.call('DEL', CELLS)
    lane.due = max(lane.due, now)
    lane.debt = 0
  end
  lane.limit, lane.span = asked.limit, asked.span
end

local function share(lane, asked)
  local after = (now - lane.hold) / MICRO
  if after <= 0 then return lane.low end
  local step = min(1, @STEP_TO@ * lane.low)
  if after <= @FIRST_STEP@ * asked.window then return step end
  if after <= (@FIRST_STEP@ + @SECOND_STEP@) * asked.window then return math.sqrt(step) end
  return 1
end

local function give_back(lease)
  if lease <= now then return end
  if key.limit > 0 then
    local cell = floor(lease / interval(key))
    if get(cell) ~= lease then return end
    set(cell, 0)
  end
  if ip.limit > 0 and lease < ip.due then redis.call('ZADD', FREE, whole(lease), whole(lease)) end
end

local function refuse(lane, asked)
  lane['until'] = max(lane['until'], now + min(asked.pause * MICRO, FOREVER))
  lane.opens = max(lane.opens, min(lane['until'], now + DAY))
  if asked.learnt and asked.version >= lane.version then
    lane.version = asked.version + 1
    lane.low, lane.proven = asked.learnt[1], asked.learnt[4]
    lane.hold = max(now + asked.learnt[2] * MICRO, NEVER)
    lane.stepped = max(now + asked.learnt[3] * MICRO, NEVER)
    lane.proven_until = max(now + asked.learnt[5] * MICRO, NEVER)
  end
  lane.due = max(lane.due, lane.opens)
  redis.call('DEL', FREE)
end

local function place(slot)
  if key.limit == 0 then return slot end
  local width = interval(key)
  slot = max(slot, ceil(key.due))
  local cell = floor(slot / width)
  for _ = 1, 4096 do
    if not used(cell) then
      local before, behind = used(cell - key.limit), used(cell + key.limit)
      if before then slot = max(slot, ceil(before + key.span)) end
      if floor(slot / width) == cell and (not behind or slot + key.span <= behind) then
        return slot
      end
    end
    cell = cell + 1
    slot = ceil(cell * width)
    cell = floor(slot / width)
  end
  return slot
end

local function use(slot, part)
  if key.limit == 0 then return end
  local width = interval(key)
  local cell = floor(slot / width)
  set(cell, slot)
  key.debt = key.debt + 1 / part - 1
  while key.debt >= 1 do
    cell = cell + 1
    if not used(cell) then
      set(cell, ceil(cell * width))
      key.debt = key.debt - 1
    end
  end
end

local function lease()
  local part = share(key, of_key)
  for _, member in ipairs(redis.call('ZRANGE', FREE, 0, -1)) do
    local slot = tonumber(member)
    if place(slot) == slot then
      redis.call('ZREM', FREE, member)
      use(slot, part)
      return slot
    end
  end
  local from = now
  if ip.limit > 0 then from = max(now, ip.due) end
  local slot = place(ceil(from))
  use(slot, part)
  if ip.limit > 0 then
    local begin = slot
    if slot - 1 < ip.due then begin = ip.due end
    ip.due = begin + interval(ip) / share(ip, of_ip)
  end
  return slot
end

for _, each in ipairs({{ip, of_ip}, {key, of_key}}) do
  meet(each[1])
  take_numbers(each[1], each[2])
end
for at = 27, #ARGV do give_back(tonumber(ARGV[at])) end
for _, each in ipairs({{ip, of_ip}, {key, of_key}}) do
  local lane, asked = each[1], each[2]
  if asked.opened then
    lane['until'], lane.opens, lane.gate_version = now, now, lane.gate_version + 1
  end
  if asked.pause then refuse(lane, asked) end
end
redis.call('ZREMRANGEBYSCORE', FREE, '-inf', '(' .. whole(now))
local leases = {}
for _ = 1, slots do
  if max(ip.opens, key.opens) > now then break end
  leases[#leases + 1] = lease()
  for _, lane in ipairs({ip, key}) do
    if now < lane['until'] then lane.opens = min(lane['until'], now + DAY) end
  end
end
table.sort(leases)

local reply = {'ok'}
for _, lane in ipairs({ip, key}) do
  local flat = {'v', '1'}
  for _, name in ipairs(FIELDS) do
    flat[#flat + 1] = name
    flat[#flat + 1] = text(lane[name])
  end
  redis.call('HSET', KEYS[lane.base], unpack(flat))
  local living = ceil(2 * lane.span / 1000) + 3600000
  if lane['until'] > now then living = living + min((lane['until'] - now) / 1000, 864000000) end
  for i = 0, 3 do redis.call('PEXPIRE', KEYS[lane.base + i], whole(living)) end
  for _, number in ipairs({(lane['until'] - now) / MICRO, (lane.opens - now) / MICRO,
                           lane.gate_version, lane.low, (lane.hold - now) / MICRO,
                           (lane.stepped - now) / MICRO, lane.proven,
                           (lane.proven_until - now) / MICRO, lane.version,
                           redis.call('ZCARD', KEYS[lane.base + 1])}) do
    reply[#reply + 1] = text(number)
  end
end
for _, slot in ipairs(leases) do
  reply[#reply + 1] = whole(slot)
  reply[#reply + 1] = text((slot - now) / MICRO)
end
return reply
"""


def _with_numbers(template: str) -> str:
    for name, value in {
        "NEVER": NEVER,
        "ALIVE": ALIVE,
        "COLD": COLD,
        "STRICT": STRICT,
        "DAY": DAY,
        "STEP_TO": STEP_TO,
        "FIRST_STEP": FIRST_STEP,
        "SECOND_STEP": SECOND_STEP,
        "FIELDS": ", ".join(f"'{name}'" for name in LANE_FIELDS),
    }.items():
        template = template.replace(f"@{name}@", str(value))
    return template


#: What Redis runs for one ask.
SCRIPT = _with_numbers(_TEMPLATE)
