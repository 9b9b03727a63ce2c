-- What all scripts of presence share; it precedes each of them.
--
-- nodes   sorted set: node -> the end of its lease, in ms of the clock of Redis
-- due     sorted set: "room\nmember" of members without a node -> the end of their linger
-- state   hash: generation (of these keys), format, recovering_until
-- room:R  hash: member -> "due|node node|data"; without nodes it lingers until `due`
-- held:N  set: "room\nmember" of the members that node N has reported
--
-- A member is present while one of its nodes has a lease, and for linger_ms after the
-- last lease or the last leave. The clock of Redis alone times both.

local call = redis.call
local NODES, DUE, STATE, PREFIX = unpack(KEYS)
local lease_ms, linger_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
local max_members, channels = tonumber(ARGV[3]), ARGV[4]

local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- The format of the keys. A release that changes it writes a higher number, which
-- this one refuses.
local FORMAT = 1

-- The most work of one script.
local ONLINE = 'online'  -- the room of all clients, which is never full

local RELEASED_AT_ONCE = 100
local ENDED_AT_ONCE = 200
local CAPPED_AT_ONCE = 100
local READ_AT_ONCE = 500

local generation, format, recovering_until = unpack(
  call('HMGET', STATE, 'generation', 'format', 'recovering_until'))
if format and tonumber(format) > FORMAT then
  return redis.error_reply('ERR presence in Redis has format ' .. format
    .. ', written by a newer release; this one reads format ' .. FORMAT)
end

local function as_integer(milliseconds)
  return string.format('%.0f', milliseconds)
end

-- False before a node has begun, and while nodes report what Redis lost.
local function knows_all()
  local until_ms = tonumber(recovering_until or 0)
  return generation and not (now < until_ms and until_ms <= now + lease_ms)
end

local leases = {}

local function lease_of(node)
  leases[node] = leases[node] or tonumber(call('ZSCORE', NODES, node) or 0)
  return leases[node]
end

-- Return the end of a linger, the nodes and the data of an entry.
local function parse(entry)
  local due, nodes, data = entry:match('^(%d+)|([^|]*)|(.*)$')
  return tonumber(due), nodes, data
end

local function is_present(entry)
  local due, nodes = parse(entry)
  for node in nodes:gmatch('%S+') do
    due = math.max(due, lease_of(node) + linger_ms)
  end
  return due > now
end

-- Return a list of nodes without one of them.
local function without(nodes, node)
  local kept = {}
  for one in nodes:gmatch('%S+') do
    if one ~= node then
      kept[#kept + 1] = one
    end
  end
  return table.concat(kept, ' ')
end

-- Release a member from a node that had it until a moment; without another node it
-- lingers from the latest of these moments.
local function let_go(node, key, until_ms)
  local room, member = key:match('^([^\n]*)\n(.*)$')
  local entry = call('HGET', PREFIX .. 'room:' .. room, member)
  if not entry then
    return
  end
  local due, nodes, data = parse(entry)
  nodes, due = without(nodes, node), math.max(due, until_ms + linger_ms)
  if nodes == '' then
    call('ZADD', DUE, as_integer(due), key)
  end
  call('HSET', PREFIX .. 'room:' .. room, member, as_integer(due) .. '|' .. nodes .. '|' .. data)
end

local deltas = {}

local function delta_of(room)
  deltas[room] = deltas[room] or {kind = 'presence', room = room}
  return deltas[room]
end

local function record_joined(room, member, data)
  local delta = delta_of(room)
  delta.joined = delta.joined or {}
  table.insert(delta.joined, {member, data})
end

local function record_left(room, member)
  local delta = delta_of(room)
  delta.left = delta.left or {}
  table.insert(delta.left, member)
end

-- End the linger of a member, which leaves its room unless a node has it again.
local function end_linger(key)
  local room, member = key:match('^([^\n]*)\n(.*)$')
  local entry = call('HGET', PREFIX .. 'room:' .. room, member)
  if entry then
    local _, nodes = parse(entry)
    if nodes == '' then
      call('HDEL', PREFIX .. 'room:' .. room, member)
      record_left(room, member)
    end
  end
  call('ZREM', DUE, key)
end

local function publish()
  for _, delta in pairs(deltas) do
    call('PUBLISH', channels .. 'all', cjson.encode(delta))
  end
end
