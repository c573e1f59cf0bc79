"""What a Redis journal does in the store, each in one step that nobody comes between.

A job has six hashes, all under one hash tag:

    meta     format, and the epoch: a number that the store loses if it loses the job
    posts    post id    -> "sure request_id time [status, url]"
    batches  request id -> "owner sent_at sent_again_at posts"; owner is "journal.claim", or "-"
    claims   post id    -> the request id of the batch that the post is in
    alive    journal    -> when its heartbeat ends, by the store's clock
    learnt   name       -> a number

Every script begins with the epoch and the heartbeat, and answers with the store's time first. A
script may be run twice, as an answer can be lost: the second time changes nothing.
"""

from __future__ import annotations

__all__ = ["FORMAT", "SCRIPTS"]

FORMAT = 1

# ARGV: epoch, journal, seconds that the heartbeat lasts.
_BEGIN = """
local meta, posts, batches, claims = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local alive, learnt = KEYS[5], KEYS[6]
if redis.call('HGET', meta, 'epoch') ~= ARGV[1] then return {'gone'} end
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local told = string.format('%.6f', now)
redis.call('HSET', alive, ARGV[2], string.format('%.6f', now + tonumber(ARGV[3])))
local function owner_of(batch)
  return batch and string.match(batch, '^(%S+)')
end
local function is_live(owner)
  if owner == '-' then return false end
  local journal = string.match(owner, '^([^.]*)')
  local due = redis.call('HGET', alive, journal)
  return due and tonumber(due) > now
end
local function members_of(batch)
  return string.gmatch(string.match(batch, '(%S*)$'), '([0-9]+)[^,]*')
end
local function drop(id, batch)
  for post in members_of(batch) do
    if redis.call('HGET', claims, post) == id then redis.call('HDEL', claims, post) end
  end
  redis.call('HDEL', batches, id)
end
"""

# ARGV: a new epoch, format.
_OPEN = """
local meta = KEYS[1]
for _, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key)
  kind = kind['ok'] or kind
  if kind ~= 'none' and kind ~= 'hash' then return {'other'} end
end
local format = redis.call('HGET', meta, 'format')
if not format then
  for _, key in ipairs(KEYS) do
    if redis.call('EXISTS', key) == 1 then return {'other'} end
  end
  redis.call('HSET', meta, 'format', ARGV[2], 'epoch', ARGV[1])
elseif format ~= ARGV[2] then
  return {'format', format}
end
return {'ok', redis.call('HGET', meta, 'epoch')}
"""

# What each script does after that.
_BODIES = {
    # ARGV: request id, owner, request id and owner of the batch it replaces or "", posts as text;
    # then for each post its id and the request id of the record that the caller has found wanting,
    # or "". Answers with the posts that are not free: in another batch, or settled since.
    "sending": """
local id, owner, old, old_owner, text = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
if owner_of(redis.call('HGET', batches, id)) == owner then return {told} end
local replaced = old ~= '' and redis.call('HGET', batches, old)
local taken = {told}
for at = 9, #ARGV, 2 do
  local post, seen = ARGV[at], ARGV[at + 1]
  local free = old == '' or owner_of(replaced) == old_owner
  local claim = redis.call('HGET', claims, post)
  if claim and claim ~= old then free = false end
  local record = redis.call('HGET', posts, post)
  if record and string.match(record, '^%S+ (%S+)') ~= seen then free = false end
  if not free then table.insert(taken, post) end
end
if #taken > 1 then return taken end
if replaced then drop(old, replaced) end
for at = 9, #ARGV, 2 do redis.call('HSET', claims, ARGV[at], id) end
redis.call('HSET', batches, id, owner .. ' ' .. told .. ' ' .. told .. ' ' .. text)
return {told}
""",
    # ARGV: request id, owner, "1" if it is about to be sent again. Whether it is still the owner's.
    "confirm": """
local batch = redis.call('HGET', batches, ARGV[4])
if owner_of(batch) ~= ARGV[5] then return {told, 'lost'} end
if ARGV[6] == '1' then
  local sent, text = string.match(batch, '^%S+ (%S+) %S+ (%S*)$')
  redis.call('HSET', batches, ARGV[4], ARGV[5] .. ' ' .. sent .. ' ' .. told .. ' ' .. text)
end
return {told, 'held'}
""",
    # ARGV: request id, owner, seconds since the analysis; then for each outcome the post id, "1" if
    # it is sure, and status and URL as JSON. A record that is sure is never made unsure. What a
    # batch leaves out is free.
    "settled": """
local id = ARGV[4]
local batch = redis.call('HGET', batches, id)
local ours = owner_of(batch) == ARGV[5]
local at = string.format('%.6f', now - tonumber(ARGV[6]))
for n = 7, #ARGV, 3 do
  local post, sure = ARGV[n], ARGV[n + 1]
  local record = redis.call('HGET', posts, post)
  local better = not record or (sure == '1' and string.sub(record, 1, 1) == '0')
  if better or ours then
    redis.call('HSET', posts, post, sure .. ' ' .. id .. ' ' .. at .. ' ' .. ARGV[n + 2])
  end
end
if ours then drop(id, batch) end
return {told}
""",
    # ARGV: request id, owner.
    "released": """
local batch = redis.call('HGET', batches, ARGV[4])
if owner_of(batch) == ARGV[5] then drop(ARGV[4], batch) end
return {told}
""",
    # ARGV: request id, owner. The batch stays, and is nobody's.
    "forgotten": """
local batch = redis.call('HGET', batches, ARGV[4])
if owner_of(batch) == ARGV[5] then
  redis.call('HSET', batches, ARGV[4], (string.gsub(batch, '^%S+', '-', 1)))
end
return {told}
""",
    # ARGV: the new owner, or "" to look only; then posts, or none for all batches. Answers with
    # request id and record of each batch whose owner is dead.
    "take_up": """
local owner = ARGV[4]
local wanted = {}
if #ARGV > 4 then
  local known = {}
  for at = 5, #ARGV do
    local id = redis.call('HGET', claims, ARGV[at])
    if id and not known[id] then known[id] = true; table.insert(wanted, id) end
  end
else
  wanted = redis.call('HKEYS', batches)
  local ends = redis.call('HGETALL', alive)
  for at = 1, #ends, 2 do  -- journals of long ago
    if tonumber(ends[at + 1]) < now then redis.call('HDEL', alive, ends[at]) end
  end
end
local found = {told}
for _, id in ipairs(wanted) do
  local batch = redis.call('HGET', batches, id)
  local before = owner_of(batch)
  if batch and (not before or before == owner or not is_live(before)) then
    local rest = string.match(batch, '^%S+( .*)$')
    if owner ~= '' and rest then redis.call('HSET', batches, id, owner .. rest) end
    table.insert(found, id)
    table.insert(found, batch)
  end
end
return found
""",
    # ARGV: posts. Those that are in a batch whose owner is alive.
    "busy": """
local busy = {told}
for at = 4, #ARGV do
  local id = redis.call('HGET', claims, ARGV[at])
  local owner = id and owner_of(redis.call('HGET', batches, id))
  if owner and is_live(owner) then table.insert(busy, ARGV[at]) end
end
return busy
""",
    # ARGV: a post. Its record, "" for none.
    "look_up": "return {told, redis.call('HGET', posts, ARGV[4]) or ''}",
    "known": """
local known = redis.call('HKEYS', posts)
table.insert(known, 1, told)
return known
""",
    "learnt": """
local values = redis.call('HGETALL', learnt)
table.insert(values, 1, told)
return values
""",
    # ARGV: names and numbers.
    "learn": """
for at = 4, #ARGV, 2 do redis.call('HSET', learnt, ARGV[at], ARGV[at + 1]) end
return {told}
""",
    "beat": "return {told}",
    # The journal ends: what it leaves in doubt may be taken up at once.
    "leave": "redis.call('HDEL', alive, ARGV[2]) return {told}",
}

SCRIPTS = {"open": _OPEN} | {name: _BEGIN + body for name, body in _BODIES.items()}
