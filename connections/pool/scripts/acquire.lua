-- Take a slot for a connection: one atomic step, idempotent per connection.
--
-- ARGV: lease, max_total, channels, evicts ("1") or refuses ("0"), connection id,
--   client, node, opened, limit, the id that it replaces or "-", how many slots
--   the node has, "1" if the node has reported its slots of this client, then the
--   ids of slots of this client that the node is releasing (a hundred at most).
-- Returns: "ok", then for each slot taken away: id, opened, limit, node, reason;
--   or "again" and the same: more has to be taken away or forgotten, so repeat;
--   or "taken" and the reason: this connection had a slot and has lost it again;
--   or "tell": the pool is recovering, so report the node's slots and repeat;
--   or "client_full"; or "full".

local evicts, slot = ARGV[4] == '1', {
  id = ARGV[5], client = ARGV[6], node = ARGV[7], opened = ARGV[8], limit = tonumber(ARGV[9]),
}
local replaces, own_count, has_reported = ARGV[10], tonumber(ARGV[11]), ARGV[12] == '1'
for index = 13, #ARGV do
  forget(ARGV[index])
end

-- This call repeats one whose reply was lost.
if is_leased(slot.id) then
  extend(slot.id)
  return {'ok'}
end
local taken_for = tombstone_of(slot.id)
if taken_for then
  return {'taken', taken_for}
end

-- A recovering pool does not know all slots yet: those of the node count as well.
local total = count_slots()
if pool_state == RECOVERING then
  if not has_reported then
    return {'tell'}
  end
  total = math.max(total, own_count)
end

-- Decide first, so that no slot is evicted for a connection that is then refused.
local count = count_of(slot.client)
if not count then
  return {'again'}
end
local excess, replaced = count + 1 - slot.limit, is_leased(replaces) and describe(replaces)
if replaced and replaced.client ~= slot.client then
  replaced = nil
end
local given_up = math.max(excess, replaced and 1 or 0)
if excess > (replaced and 1 or 0) and not evicts then
  return {'client_full'}
end
if total - given_up >= max_total then
  return {'full'}
end

local evicted, reply = {}, {'ok'}
local wanted = given_up - (replaced and 1 or 0)
if wanted > EVICTED_AT_ONCE then
  wanted, reply = EVICTED_AT_ONCE, {'again'}
end
-- One more, because the replaced slot may be among the oldest.
for _, id in ipairs(wanted > 0 and oldest_of(slot.client, wanted + 1) or {}) do
  if id ~= replaces and #evicted < wanted then
    evicted[#evicted + 1] = describe(id)
  end
end

local function give_up(slots, reason)
  take_away(slots, reason)
  for _, one in ipairs(slots) do
    for _, value in ipairs({one.id, one.opened, one.limit, one.node, reason}) do
      reply[#reply + 1] = value
    end
  end
end

if reply[1] == 'ok' and replaced then
  give_up({replaced}, 'replaced')
end
give_up(evicted, 'evicted')
if reply[1] == 'ok' then
  take(slot)
end
return reply
