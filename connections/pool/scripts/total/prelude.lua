-- The part that every script of the total begins with.
--
-- KEYS: one hash, which says how much of max_total_connections each shard may have:
--   run      run_id and master_replid of the server that has written what follows
--   format   of this hash
--   epoch    greater after each new division
--   got:i    how much shard i was ever given in this epoch
--   back:i   how much of it is known to have come back
--   turn:i   how often shard i was confirmed in this epoch
-- The sum of all got:i - back:i is at most max_total_connections.
--
-- One that has become the primary since may have lost the last of it. Then the total is
-- divided anew, in an epoch that every shard has agreed to: each says what it has.
--
-- ARGV begins with max_total_connections.

local TOTAL, FORMAT = KEYS[1], 1
local call = redis.call

local max_total = tonumber(ARGV[1])
local this_run = call('INFO', 'server'):match('run_id:(%x+)')
  .. call('INFO', 'replication'):match('master_replid:(%x+)')
local run, format, epoch = unpack(call('HMGET', TOTAL, 'run', 'format', 'epoch'))
if format and tonumber(format) > FORMAT then
  return redis.error_reply('ERR the total in Redis has format ' .. format
    .. ', written by a newer release; this one reads format ' .. FORMAT)
end
epoch = tonumber(epoch or 0)

local function number_of(field)
  return tonumber(call('HGET', TOTAL, field) or 0)
end

if ARGV[2] ~= 'divide' and run ~= this_run then
  return {'unknown', this_run, epoch}
end
