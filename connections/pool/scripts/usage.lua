-- Count the slots and clients of the pool.
--
-- ARGV: lease, max_total, channels.
-- Returns: slots, clients (a few expired ones may still be among them), and 1
--   while the pool is recovering.

return {count_slots(), call('SCARD', CLIENTS), pool_state == RECOVERING and 1 or 0}
