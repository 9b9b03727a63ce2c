-- How much of the pool is taken.
--
-- ARGV: lease, max_total, channels.
-- Returns: slots, clients (a few expired ones may still be among them), and 1
--   while the pool is recovering.

return {count_alive(), call('SCARD', CLIENTS), recovering and 1 or 0}
