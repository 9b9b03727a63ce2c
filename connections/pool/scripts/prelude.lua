-- The part that every script of the pool begins with: keys, states, transitions.
--
-- KEYS share one hash tag, so that they lie in one hash slot of a Redis Cluster:
--   1 leases    sorted set  connection id -> end of its lease, ms of Redis TIME
--   2 slots     hash        connection id -> "opened limit node client"
--   3 ages      sorted set  "client opened connection-id", every score 0: a range
--                           by the client's prefix is its slots, oldest first
--   4 clients   set         clients that have a slot
--   5 tombs     sorted set  "reason connection-id" of slots that were taken away
--                           -> end of the tombstone, ms
--   6 state     hash        generation; recovering_until, ms; format
--   7 suspects  hash        client -> its limit; clients that a recovery let exceed it
--
-- ARGV begins with: lease in ms, max_total_connections, prefix of the channels.
-- Words in ARGV are percent-encoded, so that none contains a space. `opened` is
-- 16 hex digits that sort like the number they stand for.
--
-- The state of the pool (diagram: docs/topics/pool.md):
--   EXACT       The limits hold across nodes.
--   RECOVERING  Redis has lost the slots. For a third of a lease nodes report theirs,
--               which are taken whatever the limits say.
--   SETTLING    The excess over the limits is evicted, oldest first, in small steps.
--
--   event                                          from        to
--   no generation: Redis was flushed               any         RECOVERING
--   every lease has ended: Redis stood still       any         RECOVERING
--   recovering_until has passed                    RECOVERING  SETTLING
--   the clock of Redis went back                   RECOVERING  SETTLING
--   no excess is left                              SETTLING    EXACT
--
-- The state of the slot of one connection:
--   FREE        The pool does not know the connection.
--   LEASED      It has a lease that has not ended.
--   TAKEN_AWAY  It has a tombstone: "evicted" or "replaced".
--
--   event                                          from        to
--   acquire, retake                                FREE        LEASED
--   acquire, renew, retake                         LEASED      LEASED, for a new lease
--   an acquire evicts or replaces it; settling     LEASED      TAKEN_AWAY
--   release; the lease ends                        LEASED      FREE
--   release; two leases have passed                TAKEN_AWAY  FREE
--
-- Invariants:
--   * A connection has a lease or a tombstone, never both.
--   * In EXACT a client has at most as many leased slots as the limit of the one it
--     took last, and the pool at most max_total_connections.
--   * A script either refuses or takes: it evicts for no connection that it refuses.
--   * Every script may be repeated: a second call changes nothing.

local LEASES, SLOTS, AGES, CLIENTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local TOMBS, STATE, SUSPECTS = KEYS[5], KEYS[6], KEYS[7]
local call = redis.call

local lease_ms = tonumber(ARGV[1])
local max_total = tonumber(ARGV[2])
local channels = ARGV[3]

-- Leases are timed by the clock of Redis alone, because the clocks of nodes differ.
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- Lua unpacks some 8000 values at most, and no script should run for long.
local SLOTS_AT_ONCE = 500
local SUSPECTS_AT_ONCE = 200

-- The format of the keys. A release that changes it writes a higher number, which
-- this one refuses; a pool without a number has format 1.
local FORMAT = 1

local EXACT, RECOVERING, SETTLING = 'exact', 'recovering', 'settling'

local function as_integer(milliseconds)
  return string.format('%.0f', milliseconds)
end

local function describe(id)
  local entry = call('HGET', SLOTS, id)
  if not entry then
    return nil
  end
  local opened, limit, node, client = entry:match('^(%S+) (%S+) (%S+) (%S+)$')
  return {id = id, opened = opened, limit = tonumber(limit), node = node, client = client}
end

local function is_leased(id)
  local ends = call('ZSCORE', LEASES, id)
  return ends and tonumber(ends) > now
end

local function forget(id)
  local slot = describe(id)
  call('ZREM', LEASES, id)
  if not slot then
    return
  end
  call('HDEL', SLOTS, id)
  call('ZREM', AGES, slot.client .. ' ' .. slot.opened .. ' ' .. id)
  if call('ZLEXCOUNT', AGES, '[' .. slot.client .. ' ', '(' .. slot.client .. '!') == 0 then
    call('SREM', CLIENTS, slot.client)
  end
end

-- Return the ids of a client's slots, oldest first, and forget the expired ones.
local function slots_of(client)
  local found = {}
  for _, member in ipairs(call('ZRANGEBYLEX', AGES, '[' .. client .. ' ', '(' .. client .. '!')) do
    local id = member:match('(%S+)$')
    if is_leased(id) then
      found[#found + 1] = id
    else
      forget(id)
    end
  end
  return found
end

-- True once all expired slots are forgotten. Before that, a client's slots have to
-- be checked one by one.
local is_purged = false

local function count_of(client)
  if not is_purged then
    return #slots_of(client)
  end
  return call('ZLEXCOUNT', AGES, '[' .. client .. ' ', '(' .. client .. '!')
end

local function oldest_of(client, count)
  if not is_purged then
    return slots_of(client)
  end
  local found = {}
  for _, member in ipairs(call('ZRANGEBYLEX', AGES, '[' .. client .. ' ', '(' .. client .. '!',
                               'LIMIT', 0, math.max(count, 0))) do
    found[#found + 1] = member:match('(%S+)$')
  end
  return found
end

-- Return the number of leased slots; expired ones that are not purged do not count.
local function count_slots()
  return call('ZCOUNT', LEASES, '(' .. as_integer(now), '+inf')
end

local function extend(id)
  call('ZADD', LEASES, as_integer(now + lease_ms), id)
end

local function take(slot)
  forget(slot.id)
  extend(slot.id)
  call('HSET', SLOTS, slot.id, slot.opened .. ' ' .. slot.limit .. ' ' .. slot.node .. ' ' .. slot.client)
  call('ZADD', AGES, 0, slot.client .. ' ' .. slot.opened .. ' ' .. slot.id)
  call('SADD', CLIENTS, slot.client)
end

-- Free a slot at once, leave a tombstone for two leases, and notify the node that
-- has the connection. If the message is lost, the next renewal finds the tombstone.
local function take_away(slot, reason)
  forget(slot.id)
  call('ZADD', TOMBS, as_integer(now + 2 * lease_ms), reason .. ' ' .. slot.id)
  call('PUBLISH', channels .. 'node:' .. slot.node,
       cjson.encode({kind = 'taken', reason = reason, ids = {slot.id}}))
end

-- Return why a slot was taken away, or nil.
local function tombstone_of(id)
  for _, reason in ipairs({'evicted', 'replaced'}) do
    local ends = call('ZSCORE', TOMBS, reason .. ' ' .. id)
    if ends and tonumber(ends) > now then
      return reason
    end
  end
  return nil
end

-- Forget expired tombstones and slots; return true once none is left.
local function purge()
  call('ZREMRANGEBYSCORE', TOMBS, '-inf', as_integer(now))
  local expired = call('ZRANGEBYSCORE', LEASES, '-inf', as_integer(now),
                       'LIMIT', 0, SLOTS_AT_ONCE)
  for _, id in ipairs(expired) do
    forget(id)
  end
  return #expired < SLOTS_AT_ONCE
end

-- Shorten leases that end later than possible: the clock of Redis went back since.
-- Leases of up to twice this node's length stay, for nodes may differ in theirs.
local function cap_leases()
  local latest = as_integer(now + 2 * lease_ms)
  for _, id in ipairs(call('ZRANGEBYSCORE', LEASES, '(' .. latest, '+inf',
                           'LIMIT', 0, SLOTS_AT_ONCE)) do
    extend(id)
  end
end

local function evict(ids, count)
  for index = 1, math.min(count, #ids) do
    take_away(describe(ids[index]), 'evicted')
  end
end

local function evict_oldest(client, count)
  evict(oldest_of(client, count), count)
end

-- Evict what exceeds the clients' limits, then what exceeds the total, oldest first.
-- Return true once no excess is left.
local function settle()
  for _ = 1, SUSPECTS_AT_ONCE do
    local client = call('HRANDFIELD', SUSPECTS)
    if not client then
      break
    end
    local excess = count_of(client) - tonumber(call('HGET', SUSPECTS, client))
    if excess > SLOTS_AT_ONCE then
      evict_oldest(client, SLOTS_AT_ONCE)
      return false
    end
    evict_oldest(client, excess)
    call('HDEL', SUSPECTS, client)
  end
  if call('HLEN', SUSPECTS) > 0 then
    return false
  end
  local excess = count_slots() - max_total
  if excess > 0 then
    local all = {}
    for _, id in ipairs(call('ZRANGEBYSCORE', LEASES, '(' .. as_integer(now), '+inf')) do
      all[#all + 1] = {id = id, age = describe(id).opened .. ' ' .. id}
    end
    table.sort(all, function(one, other) return one.age < other.age end)
    local oldest = {}
    for index = 1, math.min(excess, SLOTS_AT_ONCE) do
      oldest[index] = all[index].id
    end
    evict(oldest, #oldest)
  end
  return excess <= SLOTS_AT_ONCE
end

-- Take a slot whatever the limits say; settle() evicts the excess afterwards.
local function take_unconditionally(slot)
  take(slot)
  if count_of(slot.client) > slot.limit then
    call('HSET', SUSPECTS, slot.client, slot.limit)
  end
end

local generation, recovering_until, format =
  unpack(call('HMGET', STATE, 'generation', 'recovering_until', 'format'))
if format and tonumber(format) > FORMAT then
  return redis.error_reply('ERR the pool in Redis has format ' .. format
    .. ', written by a newer release; this one reads format ' .. FORMAT)
end

-- Find the state of the pool. Every transition is here or in the lines that follow.
local function find_state()
  local newest = call('ZREVRANGE', LEASES, 0, 0, 'WITHSCORES')
  local has_stood_still = newest[2] and tonumber(newest[2]) <= now
  if has_stood_still or not generation then
    if has_stood_still then
      call('UNLINK', LEASES, SLOTS, AGES, CLIENTS, SUSPECTS)
    end
    call('HSET', STATE, 'generation', time[1] .. '.' .. time[2],
         'recovering_until', as_integer(now + lease_ms / 3), 'format', FORMAT)
    call('PUBLISH', channels .. 'all', cjson.encode({kind = 'recovering'}))
    return RECOVERING
  end
  if not recovering_until then
    return EXACT
  end
  -- It is never more than a lease away, unless the clock of Redis went back.
  local until_ms = tonumber(recovering_until)
  if now < until_ms and until_ms <= now + lease_ms then
    return RECOVERING
  end
  return SETTLING
end

local pool_state = find_state()
cap_leases()
is_purged = purge()
if pool_state == SETTLING and settle() then
  call('HDEL', STATE, 'recovering_until')
  pool_state = EXACT
end
