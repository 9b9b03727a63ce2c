-- Take a slot for a connection: one atomic step, idempotent per connection.
--
-- ARGV: lease, max_total, channels, evicts ("1") or refuses ("0"), connection id,
--   client, node, opened, limit, the id that it replaces or "-", how many slots
--   the node holds, "1" if it tells them, how many of this client's it is giving
--   back and their ids, then, if it tells them and this client is at its limit on
--   this node alone, for each of its slots there: id, opened, limit.
-- Returns: "ok", then for each slot given up: id, opened, limit, node, reason;
--   or "taken" and the reason: this connection had a slot and has lost it again;
--   or "tell": call again, and tell; or "client_full"; or "full".

local evicts, slot = ARGV[4] == '1', {
  id = ARGV[5], client = ARGV[6], node = ARGV[7], opened = ARGV[8], limit = tonumber(ARGV[9]),
}
local replaces, held_by_node, tells = ARGV[10], tonumber(ARGV[11]), ARGV[12] == '1'
local first_held = 14 + tonumber(ARGV[13])
for index = 14, first_held - 1 do
  forget(ARGV[index])
end

-- A call repeated because its reply was lost.
if is_alive(slot.id) then
  extend(slot.id)
  return {'ok'}
end
local tomb = tomb_of(slot.id)
if tomb then
  return {'taken', tomb}
end

-- A recovering pool knows too little: what the node holds itself counts as well.
local total = count_alive()
if recovering then
  if not tells then
    return {'tell'}
  end
  for index = first_held, #ARGV, 3 do
    local id = ARGV[index]
    if not is_alive(id) and not tomb_of(id) then
      take_unconditionally({
        id = id, opened = ARGV[index + 1], limit = tonumber(ARGV[index + 2]),
        node = slot.node, client = slot.client,
      })
    end
  end
  total = math.max(count_alive(), held_by_node)
end

-- Decide first, so that nobody is evicted for a newcomer that is then refused.
local given_up, excess = {}, count_of(slot.client) + 1 - slot.limit
local replaced = is_alive(replaces) and describe(replaces)
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
