-- Give, take back, and divide the total among the shards.
--
-- ARGV: max_total, the operation, and its arguments:
--   give shard, its epoch, its got, wanted, then for each other shard that gave
--     something back: its number, epoch, turn, back, got
--             -> "ok", got of the shard, then the numbers of shards that have to be
--                confirmed anew, each with -1, and of those that have not yet got all
--                that they were given, each with that got; or "stale", epoch
--   look      -> "ok", run, epoch, and what no shard was given (below 0: the total
--                was lowered)
--   turn shard
--             -> "ok", epoch, turn, got, back: what to confirm the shard with
--   divide run, epoch, then the budget of each shard, from the first on
--             -> "ok"; or "stale": somebody else has divided it
-- Each may answer "unknown", run and epoch, until the total is divided.

local operation, shard = ARGV[2], ARGV[3]
local operations = {}

local function free()
  local fields, sum = call('HGETALL', TOTAL), 0
  for index = 1, #fields, 2 do
    local kind = fields[index]:match('^(%a+):')
    local sign = kind == 'got' and 1 or kind == 'back' and -1 or 0
    sum = sum + sign * tonumber(sign ~= 0 and fields[index + 1] or 0)
  end
  return max_total - sum
end

function operations.give()
  if tonumber(ARGV[4]) ~= epoch then
    return {'stale', epoch}
  end
  local reply = {'ok', 0}
  for index = 7, #ARGV, 5 do
    local other, its_epoch, its_turn, back, its_got = unpack(ARGV, index, index + 4)
    if tonumber(its_epoch) ~= epoch or tonumber(its_turn) ~= number_of('turn:' .. other) then
      reply[#reply + 1] = tonumber(other)
      reply[#reply + 1] = -1
    else
      if tonumber(back) > number_of('back:' .. other) then
        call('HSET', TOTAL, 'back:' .. other, back)
      end
      local given = number_of('got:' .. other)
      if given > tonumber(its_got) then
        reply[#reply + 1] = tonumber(other)
        reply[#reply + 1] = given
      end
    end
  end
  local got = number_of('got:' .. shard)
  -- What it was given before may still be on its way.
  local given = got <= tonumber(ARGV[5]) and math.min(tonumber(ARGV[6]), free()) or 0
  if given > 0 then
    got = call('HINCRBY', TOTAL, 'got:' .. shard, given)
  end
  reply[2] = got
  return reply
end

function operations.look()
  return {'ok', this_run, epoch, free()}
end

function operations.turn()
  local turn = call('HINCRBY', TOTAL, 'turn:' .. shard, 1)
  return {'ok', epoch, turn, number_of('got:' .. shard), number_of('back:' .. shard)}
end

function operations.divide()
  if ARGV[3] ~= this_run or tonumber(ARGV[4]) <= epoch then
    return {'stale'}
  end
  call('DEL', TOTAL)
  call('HSET', TOTAL, 'run', this_run, 'format', FORMAT, 'epoch', ARGV[4])
  for index = 5, #ARGV do
    call('HSET', TOTAL, 'got:' .. index - 5, ARGV[index])
  end
  return {'ok'}
end

return operations[operation]()
