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
--   6 state     hash        generation; recovering_until, ms; format; suspected and
--                           ordered: the generation whose recovery has written 7, 8
--   7 suspects  hash        client -> its limit; clients that a recovery let exceed it
--   8 order     sorted set  "opened connection-id", every score 0: the slots that a
--                           recovery has found, oldest first; gone in EXACT
--   9 budget    hash        only of a shard: its part of the total (budget.lua)
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
--   counts disagree: Redis has lost a key          any         RECOVERING
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
--   * Every script does bounded work, about 5 ms at most. One that has to evict or
--     forget more does a part, and answers "again".
--   * leases, slots and ages have a member for each slot, so their sizes are equal.
--     A loss of tombs alone is not noticed: the limits hold without.

local LEASES, SLOTS, AGES, CLIENTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local TOMBS, STATE, SUSPECTS, ORDER = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local BUDGET = KEYS[9]
local call = redis.call

local lease_ms = tonumber(ARGV[1])
local max_total = tonumber(ARGV[2])
local channels = ARGV[3]

-- A server that has become the primary since the budget was confirmed may have lost
-- what the budget was last, so until then the shard has none. One that was the primary
-- before, and is again, has the same run_id and another master_replid.
local is_confirmed, this_run = true, nil
if BUDGET then
  this_run = call('INFO', 'server'):match('run_id:(%x+)')
    .. call('INFO', 'replication'):match('master_replid:(%x+)')
  local run, got, back = unpack(call('HMGET', BUDGET, 'run', 'got', 'back'))
  is_confirmed = run == this_run
  max_total = is_confirmed and tonumber(got) - tonumber(back) or 0
end

-- Leases are timed by the clock of Redis alone, because the clocks of nodes differ.
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- The most work of one script. On a busy host forgetting a slot takes about 30 us,
-- and evicting one 100 us.
local EXPIRED_AT_ONCE = 50
local CAPPED_AT_ONCE = 200
local EVICTED_AT_ONCE = 25
local SUSPECTS_AT_ONCE = 100
local COUNTED_AT_ONCE = 50

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

-- True from the start of a recovery until no excess is left.
local is_ordered = false

local generation, recovering_until, format, suspected, ordered = unpack(
  call('HMGET', STATE, 'generation', 'recovering_until', 'format', 'suspected', 'ordered'))
if format and tonumber(format) > FORMAT then
  return redis.error_reply('ERR the pool in Redis has format ' .. format
    .. ', written by a newer release; this one reads format ' .. FORMAT)
end

local function forget(id)
  local slot = describe(id)
  call('ZREM', LEASES, id)
  if not slot then
    return
  end
  call('HDEL', SLOTS, id)
  call('ZREM', AGES, slot.client .. ' ' .. slot.opened .. ' ' .. id)
  if is_ordered then
    call('ZREM', ORDER, slot.opened .. ' ' .. id)
  end
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

-- Return how many slots a client has; nil if its expired ones are too many to check,
-- which the next scripts purge.
local function count_of(client)
  local count = call('ZLEXCOUNT', AGES, '[' .. client .. ' ', '(' .. client .. '!')
  if is_purged or count == 0 then
    return count
  end
  if count > COUNTED_AT_ONCE then
    return nil
  end
  return #slots_of(client)
end

-- Return the oldest slots of a client whose slots count_of() has counted.
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
  if is_ordered then
    call('ZADD', ORDER, 0, slot.opened .. ' ' .. slot.id)
    if ordered ~= generation then
      call('HSET', STATE, 'ordered', generation)
      ordered = generation
    end
  end
end

-- Free slots at once, leave tombstones for two leases, and notify the nodes that
-- have the connections. If a message is lost, the next renewal finds the tombstone.
local function take_away(slots, reason)
  local ids_of = {}
  for _, slot in ipairs(slots) do
    forget(slot.id)
    call('ZADD', TOMBS, as_integer(now + 2 * lease_ms), reason .. ' ' .. slot.id)
    ids_of[slot.node] = ids_of[slot.node] or {}
    table.insert(ids_of[slot.node], slot.id)
  end
  for node, ids in pairs(ids_of) do
    call('PUBLISH', channels .. 'node:' .. node,
         cjson.encode({kind = 'taken', reason = reason, ids = ids}))
  end
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
                       'LIMIT', 0, EXPIRED_AT_ONCE)
  for _, id in ipairs(expired) do
    forget(id)
  end
  return #expired < EXPIRED_AT_ONCE
end

-- Shorten leases that end later than possible: the clock of Redis went back since.
-- Leases of up to twice this node's length stay, for nodes may differ in theirs.
local function cap_leases()
  local latest = as_integer(now + 2 * lease_ms)
  for _, id in ipairs(call('ZRANGEBYSCORE', LEASES, '(' .. latest, '+inf',
                           'LIMIT', 0, CAPPED_AT_ONCE)) do
    extend(id)
  end
end

local function evict_oldest(client, count)
  local ids, slots = oldest_of(client, count), {}
  for index = 1, math.min(count, #ids) do
    slots[index] = describe(ids[index])
  end
  take_away(slots, 'evicted')
end

-- Evict what exceeds the clients' limits, then what exceeds the total, oldest first.
-- Return true once no excess is left.
local function settle()
  local left = EVICTED_AT_ONCE
  for _ = 1, SUSPECTS_AT_ONCE do
    local client = call('HRANDFIELD', SUSPECTS)
    if not client then
      break
    end
    local excess = count_of(client) - tonumber(call('HGET', SUSPECTS, client))
    if excess > left then
      evict_oldest(client, left)
      return false
    end
    evict_oldest(client, excess)
    left = left - math.max(excess, 0)
    call('HDEL', SUSPECTS, client)
  end
  if call('HLEN', SUSPECTS) > 0 then
    return false
  end
  local excess = count_slots() - max_total
  if excess <= 0 then
    return true
  end
  if BUDGET and not (is_confirmed and call('HGET', BUDGET, 'exhausted')) then
    return false -- It may have more, or other shards may lend it what it lacks.
  end
  local oldest, members = {}, call('ZRANGE', ORDER, 0, math.min(excess, left) - 1)
  for _, member in ipairs(members) do
    local slot = describe(member:match('(%S+)$'))
    if slot then
      oldest[#oldest + 1] = slot
    end
  end
  if #members > 0 then
    call('ZREM', ORDER, unpack(members))
  end
  take_away(oldest, 'evicted')
  -- Slots that an earlier release took are not in the order; they are left alone.
  return excess <= #oldest or call('ZCARD', ORDER) == 0
end

-- Take a slot whatever the limits say; settle() evicts the excess afterwards.
local function take_unconditionally(slot)
  take(slot)
  local count = count_of(slot.client)
  if count and count <= slot.limit then
    return
  end
  call('HSET', SUSPECTS, slot.client, slot.limit)
  if suspected ~= generation then
    call('HSET', STATE, 'suspected', generation)
    suspected = generation
  end
end

-- recovering_until is never more than a lease away, unless the clock of Redis went
-- back.
local function is_recovering()
  local until_ms = tonumber(recovering_until or 0)
  return now < until_ms and until_ms <= now + lease_ms
end

-- True if a node has renewed within a lease. A shard may be empty but for the slots of
-- a node that is gone: then Redis did not stand still.
local function is_renewed()
  local renewed = BUDGET and tonumber(call('HGET', STATE, 'renewed') or 0)
  return renewed and now - lease_ms < renewed and renewed <= now
end

-- Return what Redis has lost, or nil.
local function find_loss()
  if not generation then
    return 'all keys'
  end
  local newest = call('ZREVRANGE', LEASES, 0, 0, 'WITHSCORES')
  if newest[2] and tonumber(newest[2]) <= now and not is_renewed() then
    return 'the leases'
  end
  local slots, clients = call('HLEN', SLOTS), call('SCARD', CLIENTS)
  if slots ~= call('ZCARD', LEASES) or slots ~= call('ZCARD', AGES)
      or clients > slots or (clients == 0) ~= (slots == 0) then
    return 'one key'
  end
  if is_recovering() and suspected == generation and call('HLEN', SUSPECTS) == 0 then
    return 'the suspects'
  end
  if recovering_until and ordered == generation and slots > 0
      and call('ZCARD', ORDER) == 0 then
    return 'the order'
  end
  return nil
end

local function recover(lost)
  call('UNLINK', LEASES, SLOTS, AGES, CLIENTS, SUSPECTS, ORDER)
  if BUDGET then
    call('HDEL', BUDGET, 'exhausted')
  end
  generation = time[1] .. '.' .. time[2]
  call('HSET', STATE, 'generation', generation,
       'recovering_until', as_integer(now + lease_ms / 3), 'format', FORMAT)
  call('PUBLISH', channels .. 'all', cjson.encode({kind = 'recovering', lost = lost}))
end

-- Find the state of the pool. Every transition is here or in the lines that follow.
local function find_state()
  local lost = find_loss()
  if lost then
    recover(lost)
    return RECOVERING
  end
  if not recovering_until then
    return EXACT
  end
  return is_recovering() and RECOVERING or SETTLING
end

local pool_state = find_state()
is_ordered = pool_state ~= EXACT
cap_leases()
is_purged = purge()
if pool_state == SETTLING and is_purged and settle() then
  call('HDEL', STATE, 'recovering_until', 'suspected', 'ordered')
  call('UNLINK', ORDER)
  if BUDGET then
    call('HDEL', BUDGET, 'exhausted')
  end
  pool_state, is_ordered = EXACT, false
end
