-- Take slots that a node has and the pool does not know.
--
-- Unconditional while the pool is recovering. Otherwise, "keep" takes a slot only
-- where there is room and never evicts; "late" treats it as new, for a connection
-- that was admitted during an outage: the client's oldest is evicted, be it this one.
--
-- ARGV: lease, max_total, channels, "keep" or "late", then for each slot: id,
--   client, node, opened, limit.
-- Returns: for each slot that was not taken: its id, and "evicted", "replaced",
--   "lost" (its client is at its limit), "full" (the pool is), or "again": the
--   client's expired slots have to be forgotten first.

local is_late, reply = ARGV[4] == 'late', {}

local function refuse(slot, reason)
  reply[#reply + 1] = slot.id
  reply[#reply + 1] = reason
end

local left = EVICTED_AT_ONCE

local function take_late(slot, count)
  local excess = count + 1 - slot.limit
  if count_slots() - math.max(excess, 0) >= max_total then
    return refuse(slot, 'full')
  end
  if excess > left then
    evict_oldest(slot.client, left)
    left = 0
    return refuse(slot, 'again')
  end
  left = left - math.max(excess, 0)
  take(slot)
  evict_oldest(slot.client, excess)
  if not is_leased(slot.id) then
    refuse(slot, 'evicted')
  end
end

for index = 5, #ARGV, 5 do
  local slot = {
    id = ARGV[index], client = ARGV[index + 1], node = ARGV[index + 2],
    opened = ARGV[index + 3], limit = tonumber(ARGV[index + 4]),
  }
  local taken_for = tombstone_of(slot.id)
  if is_leased(slot.id) then
    extend(slot.id)
  elseif taken_for then
    refuse(slot, taken_for)
  elseif pool_state == RECOVERING then
    take_unconditionally(slot)
  else
    local count = count_of(slot.client)
    if not count then
      refuse(slot, 'again')
    elseif is_late then
      take_late(slot, count)
    elseif count >= slot.limit then
      refuse(slot, 'lost')
    elseif count_slots() >= max_total then
      refuse(slot, 'full')
    else
      take(slot)
    end
  end
end
return reply
