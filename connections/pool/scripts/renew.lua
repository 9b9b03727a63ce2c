-- Extend leases; never takes a slot and never evicts one.
--
-- ARGV: lease, max_total, channels, then connection ids (a few hundred at most).
-- Returns: for each slot that has no lease: its id, and "evicted", "replaced" or
--   "missing".

if BUDGET then
  call('HSET', STATE, 'renewed', as_integer(now))
end
local ids, reply, kept = {}, {}, {}
for index = 4, #ARGV do
  ids[#ids + 1] = ARGV[index]
end
if #ids == 0 then
  return reply
end
local ends = as_integer(now + lease_ms)
for index, score in ipairs(call('ZMSCORE', LEASES, unpack(ids))) do
  if score and tonumber(score) > now then
    kept[#kept + 1] = ends
    kept[#kept + 1] = ids[index]
  else
    reply[#reply + 1] = ids[index]
    reply[#reply + 1] = tombstone_of(ids[index]) or 'missing'
  end
end
if #kept > 0 then
  call('ZADD', LEASES, unpack(kept))
end
return reply
