-- Keep the budget of a shard: the part of the total that it may fill.
--
-- The hash `budget`; the budget is got - back:
--   run        run_id and master_replid of the server that confirmed it
--   epoch      of the total that gave it (total/prelude.lua)
--   turn       how often it was confirmed in this epoch
--   got        how much the total has ever given to the shard in this epoch
--   back       how much of it the shard has ever given back
--   exhausted  only while settling: no other shard lends what this one lacks
--
-- got and back only grow. The total knows got first and back last, so a message that
-- is lost, late or repeated makes a budget too small for a time, never too great.
--
-- ARGV: lease, max_total, channels, the operation, and its arguments:
--   look                         -> epoch, "1" if confirmed, got, run
--   credit epoch, got            -> "ok"; or "stale": look again
--   give_back most               -> epoch, turn (-1: not confirmed), back, got; a half
--                                   of what is free, `most` at most, was added to back
--   fence epoch                  -> "ok", got, "1" if confirmed, slots; or "stale", epoch
--   confirm run, epoch, turn, got, back
--                                -> "ok"; or "stale": look again
--   exhaust                      -> "ok"; the excess may be evicted; or "stale"

local operation, first = ARGV[4], ARGV[5]
local epoch, turn, got, back = unpack(call('HMGET', BUDGET, 'epoch', 'turn', 'got', 'back'))
epoch, turn = tonumber(epoch or 0), tonumber(turn or 0)
got, back = tonumber(got or 0), tonumber(back or 0)

local operations = {}

function operations.look()
  return {epoch, is_confirmed and 1 or 0, got, this_run}
end

function operations.credit()
  if not is_confirmed or tonumber(first) ~= epoch then
    return {'stale'}
  end
  if tonumber(ARGV[6]) > got then
    call('HSET', BUDGET, 'got', ARGV[6])
    call('HDEL', BUDGET, 'exhausted')
  end
  return {'ok'}
end

function operations.give_back()
  -- A pool that does not know all its slots yet gives nothing back.
  local free = pool_state == EXACT and max_total - count_slots() or 0
  local given = math.min(math.ceil(free / 2), tonumber(first))
  if given > 0 then
    back = call('HINCRBY', BUDGET, 'back', given)
  end
  return {epoch, is_confirmed and turn or -1, back, got}
end

-- Take no older message of the total any more, so that what this returns is the most
-- that the shard has.
function operations.fence()
  if tonumber(first) < epoch then
    return {'stale', epoch}
  end
  if tonumber(first) > epoch then
    got = max_total
    call('HSET', BUDGET, 'epoch', first, 'turn', 0, 'got', got, 'back', 0)
  end
  return {'ok', got, is_confirmed and 1 or 0, count_slots()}
end

function operations.confirm()
  local its_epoch, its_turn = tonumber(ARGV[6]), tonumber(ARGV[7])
  if first ~= this_run then
    return {'stale'}
  end
  if its_epoch < epoch or its_epoch == epoch and its_turn <= turn then
    return {is_confirmed and 'ok' or 'stale'}
  end
  call('HSET', BUDGET, 'run', this_run, 'epoch', ARGV[6], 'turn', its_turn,
       'got', ARGV[8], 'back', ARGV[9])
  call('HDEL', BUDGET, 'exhausted')
  if pool_state == EXACT and count_slots() > tonumber(ARGV[8]) - tonumber(ARGV[9]) then
    recover('a part of the total')
  end
  return {'ok'}
end

function operations.exhaust()
  if not is_confirmed or pool_state ~= SETTLING then
    return {'stale'}
  end
  call('HSET', BUDGET, 'exhausted', 1)
  return {'ok'}
end

return operations[operation]()
