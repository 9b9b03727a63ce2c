-- Count the slots and clients of the pool.
--
-- ARGV: lease, max_total, channels.
-- Returns: slots, clients (a few expired ones may still be among them), and the
--   state of the pool.

return {count_slots(), call('SCARD', CLIENTS), pool_state}
