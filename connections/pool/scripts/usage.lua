-- Count the slots and clients of the pool.
--
-- ARGV: lease, max_total, channels.
-- Returns: slots, clients (a few expired ones may still be among them), and the
--   state of the pool: "lacking" if it is a shard that settles, and evicts the excess
--   over its budget once no other shard lends it more.

local is_lacking = BUDGET and pool_state == SETTLING and count_slots() > max_total
  and call('HLEN', SUSPECTS) == 0
return {count_slots(), call('SCARD', CLIENTS), is_lacking and 'lacking' or pool_state}
