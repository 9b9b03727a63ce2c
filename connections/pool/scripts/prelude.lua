-- What every script of the pool begins with.
--
-- KEYS, all of one hash tag, so that they share one slot of a Redis Cluster:
--   1 leases    sorted set  connection id -> when its lease ends, ms of Redis TIME
--   2 slots     hash        connection id -> "opened limit node client"
--   3 ages      sorted set  "client opened connection-id", every score 0: read
--                           by prefix it is a client's slots, oldest first
--   4 clients   set         clients that have a slot
--   5 tombs     sorted set  "reason connection-id" of slots that were taken away
--                           -> when that is forgotten, ms
--   6 state     hash        generation; recovering_until, ms
--   7 suspects  hash        client -> its limit; over it after a recovery
--
-- Words in ARGV are percent-encoded, so that none contains a space. `opened` is
-- 16 hex digits that sort like the number they stand for.
--
-- ARGV begins with: lease in ms, max_total_connections, prefix of the channels.

local LEASES, SLOTS, AGES, CLIENTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local TOMBS, STATE, SUSPECTS = KEYS[5], KEYS[6], KEYS[7]
local call = redis.call

local lease_ms = tonumber(ARGV[1])
local max_total = tonumber(ARGV[2])
local channels = ARGV[3]

-- The one clock for leases is Redis: those of nodes differ.
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- Lua unpacks some 8000 values at most, and no script should run for long.
local PURGED_AT_ONCE = 500

local function describe(id)
  local entry = call('HGET', SLOTS, id)
  if not entry then
    return nil
  end
  local opened, limit, node, client = entry:match('^(%S+) (%S+) (%S+) (%S+)$')
  return {id = id, opened = opened, limit = tonumber(limit), node = node, client = client}
end

local function is_alive(id)
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

-- Ids of a client's slots, oldest first; what has expired is forgotten.
local function slots_of(client)
  local found = {}
  for _, member in ipairs(call('ZRANGEBYLEX', AGES, '[' .. client .. ' ', '(' .. client .. '!')) do
    local id = member:match('(%S+)$')
    if is_alive(id) then
      found[#found + 1] = id
    else
      forget(id)
    end
  end
  return found
end

-- Whether all that has expired is forgotten: then a count is a count, and what is
-- there is alive. Otherwise a client's slots are looked at one by one.
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

-- Exact whatever has not been purged yet.
local function count_alive()
  return call('ZCOUNT', LEASES, '(' .. string.format('%.0f', now), '+inf')
end

local function extend(id)
  call('ZADD', LEASES, string.format('%.0f', now + lease_ms), id)
end

local function take(slot)
  forget(slot.id)
  extend(slot.id)
  call('HSET', SLOTS, slot.id, slot.opened .. ' ' .. slot.limit .. ' ' .. slot.node .. ' ' .. slot.client)
  call('ZADD', AGES, 0, slot.client .. ' ' .. slot.opened .. ' ' .. slot.id)
  call('SADD', CLIENTS, slot.client)
end

-- Give a slot up at this instant, leave a tombstone for two leases, and tell the
-- node that has the socket. Should the message be lost, its renewal finds the tomb.
local function take_away(slot, reason)
  forget(slot.id)
  call('ZADD', TOMBS, string.format('%.0f', now + 2 * lease_ms), reason .. ' ' .. slot.id)
  call('PUBLISH', channels .. 'node:' .. slot.node,
       cjson.encode({kind = 'taken', reason = reason, ids = {slot.id}}))
end

local function tomb_of(id)
  for _, reason in ipairs({'evicted', 'replaced'}) do
    local ends = call('ZSCORE', TOMBS, reason .. ' ' .. id)
    if ends and tonumber(ends) > now then
      return reason
    end
  end
  return nil
end

local function purge()
  call('ZREMRANGEBYSCORE', TOMBS, '-inf', string.format('%.0f', now))
  local expired = call('ZRANGEBYSCORE', LEASES, '-inf', string.format('%.0f', now),
                       'LIMIT', 0, PURGED_AT_ONCE)
  for _, id in ipairs(expired) do
    forget(id)
  end
  return #expired < PURGED_AT_ONCE
end

-- A lease that ends later than any can is from before the clock of Redis went back.
-- Nodes whose leases differ, up to twice as long, leave each other's alone.
local function shorten()
  local latest = string.format('%.0f', now + 2 * lease_ms)
  for _, id in ipairs(call('ZRANGEBYSCORE', LEASES, '(' .. latest, '+inf',
                           'LIMIT', 0, PURGED_AT_ONCE)) do
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

-- After a recovery: evict what is over a client's limit, then what is over the
-- total, oldest first. Returns whether all of it is done.
local function settle()
  for _ = 1, 200 do
    local client = call('HRANDFIELD', SUSPECTS)
    if not client then
      break
    end
    local excess = count_of(client) - tonumber(call('HGET', SUSPECTS, client))
    if excess > PURGED_AT_ONCE then
      evict_oldest(client, PURGED_AT_ONCE)
      return false
    end
    evict_oldest(client, excess)
    call('HDEL', SUSPECTS, client)
  end
  if call('HLEN', SUSPECTS) > 0 then
    return false
  end
  local excess = count_alive() - max_total
  if excess > 0 then
    local all = {}
    for _, id in ipairs(call('ZRANGEBYSCORE', LEASES, '(' .. string.format('%.0f', now), '+inf')) do
      all[#all + 1] = {id = id, age = describe(id).opened .. ' ' .. id}
    end
    table.sort(all, function(one, other) return one.age < other.age end)
    local oldest = {}
    for index = 1, math.min(excess, PURGED_AT_ONCE) do
      oldest[index] = all[index].id
    end
    evict(oldest, #oldest)
  end
  return excess <= PURGED_AT_ONCE
end

-- Whether the pool is recovering: for a third of a lease after Redis was flushed
-- (no generation) or stood still (every lease has expired at once). Then whether
-- what was taken meanwhile is to be settled.
local function is_recovering()
  local newest = call('ZREVRANGE', LEASES, 0, 0, 'WITHSCORES')
  local has_stood_still = newest[2] and tonumber(newest[2]) <= now
  if has_stood_still or call('HEXISTS', STATE, 'generation') == 0 then
    if has_stood_still then
      call('UNLINK', LEASES, SLOTS, AGES, CLIENTS, SUSPECTS)
    end
    call('HSET', STATE, 'generation', time[1] .. '.' .. time[2],
         'recovering_until', string.format('%.0f', now + lease_ms / 3))
    call('PUBLISH', channels .. 'all', cjson.encode({kind = 'recovering'}))
    return true, false
  end
  local until_ms = call('HGET', STATE, 'recovering_until')
  if not until_ms then
    return false, false
  end
  -- It is never so far off, unless the clock of Redis went back.
  local is_over = now >= tonumber(until_ms) or tonumber(until_ms) > now + lease_ms
  return not is_over, is_over
end

-- Take a slot whatever the limits say; the excess is settled afterwards.
local function take_unconditionally(slot)
  take(slot)
  if count_of(slot.client) > slot.limit then
    call('HSET', SUSPECTS, slot.client, slot.limit)
  end
end

local recovering, must_settle = is_recovering()
shorten()
is_purged = purge()
if must_settle and settle() then
  call('HDEL', STATE, 'recovering_until')
end
