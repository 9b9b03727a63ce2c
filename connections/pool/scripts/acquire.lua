-- Take a slot for a connection: one atomic step, idempotent per connection.
--
-- ARGV: lease, max_total, channels, evicts ("1") or refuses ("0"), connection id,
--   client, node, opened, limit, the id that it replaces or "-", how many slots
--   the node has, "1" if the call reports them, how many slots of this client the
--   node is releasing, and their ids. Where the call reports and this client is at
--   its limit on this node alone, each of its slots there follows: id, opened, limit.
-- Returns: "ok", then for each slot taken away: id, opened, limit, node, reason;
--   or "taken" and the reason: this connection had a slot and has lost it again;
--   or "tell": the pool is recovering, so repeat the call with the node's slots;
--   or "client_full"; or "full".

local evicts, slot = ARGV[4] == '1', {
  id = ARGV[5], client = ARGV[6], node = ARGV[7], opened = ARGV[8], limit = tonumber(ARGV[9]),
}
local replaces, own_count, reports_own = ARGV[10], tonumber(ARGV[11]), ARGV[12] == '1'
local first_own = 14 + tonumber(ARGV[13])
for index = 14, first_own - 1 do
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
  if not reports_own then
    return {'tell'}
  end
  for index = first_own, #ARGV, 3 do
    local id = ARGV[index]
    if not is_leased(id) and not tombstone_of(id) then
      take_unconditionally({
        id = id, opened = ARGV[index + 1], limit = tonumber(ARGV[index + 2]),
        node = slot.node, client = slot.client,
      })
    end
  end
  total = math.max(count_slots(), own_count)
end

-- Decide first, so that no slot is evicted for a connection that is then refused.
local given_up, excess = {}, count_of(slot.client) + 1 - slot.limit
local replaced = is_leased(replaces) and describe(replaces)
if replaced and replaced.client == slot.client then
  given_up[1] = {slot = replaced, reason = 'replaced'}
  excess = excess - 1
end
if excess > 0 then
  if not evicts then
    return {'client_full'}
  end
  local most = excess + #given_up
  for _, id in ipairs(oldest_of(slot.client, most)) do
    if id ~= replaces and #given_up < most then
      given_up[#given_up + 1] = {slot = describe(id), reason = 'evicted'}
    end
  end
end
if total - #given_up >= max_total then
  return {'full'}
end

local reply = {'ok'}
for _, one in ipairs(given_up) do
  take_away(one.slot, one.reason)
  for _, value in ipairs({one.slot.id, one.slot.opened, one.slot.limit, one.slot.node, one.reason}) do
    reply[#reply + 1] = value
  end
end
take(slot)
return reply
