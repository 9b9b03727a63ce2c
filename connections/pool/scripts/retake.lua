-- Take slots again that a node holds and the pool does not know.
--
-- Unconditional while the pool is recovering. Otherwise a slot comes back where
-- there is room ("keep": never evicts), or as the newcomer that it was while the
-- pool was out of reach ("late": the client's oldest goes, be it this one).
--
-- ARGV: lease, max_total, channels, "keep" or "late", then for each slot: id,
--   client, node, opened, limit.
-- Returns: for each slot that was not taken: its id, and "evicted", "replaced" or
--   "lost".

local is_late, reply = ARGV[4] == 'late', {}

local function refuse(slot, reason)
  reply[#reply + 1] = slot.id
  reply[#reply + 1] = reason
end

local function take_late(slot)
  local excess = count_of(slot.client) + 1 - slot.limit
  if count_alive() - math.max(excess, 0) >= max_total then
    return refuse(slot, 'lost')
  end
  take(slot)
  evict_oldest(slot.client, excess)
  if not is_alive(slot.id) then
    refuse(slot, 'evicted')
  end
end

for index = 5, #ARGV, 5 do
  local slot = {
    id = ARGV[index], client = ARGV[index + 1], node = ARGV[index + 2],
    opened = ARGV[index + 3], limit = tonumber(ARGV[index + 4]),
  }
  local tomb = tomb_of(slot.id)
  if is_alive(slot.id) then
    extend(slot.id)
  elseif tomb then
    refuse(slot, tomb)
  elseif recovering then
    take_unconditionally(slot)
  elseif is_late then
    take_late(slot)
  elseif count_of(slot.client) < slot.limit and count_alive() < max_total then
    take(slot)
  else
    refuse(slot, 'lost')
  end
end
return reply
