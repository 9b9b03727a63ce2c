-- node, then (operation, room, member, data) for each change: + joins, = joins without
-- an event, - leaves. Return {1, room, member, ...} with those that a full room refused,
-- or {0} for a node without a lease.

local node = ARGV[5]
if lease_of(node) <= now then
  return {0}
end
local held, answer = PREFIX .. 'held:' .. node, {1}

for index = 6, #ARGV, 4 do
  local operation, room, member, data = unpack(ARGV, index, index + 3)
  local members, key = PREFIX .. 'room:' .. room, room .. '\n' .. member
  if operation == '-' then
    if call('SREM', held, key) == 1 then
      let_go(node, key, now)
    end
  else
    local entry = call('HGET', members, member)
    if not entry and room ~= ONLINE and call('HLEN', members) >= max_members then
      table.insert(answer, room)
      table.insert(answer, member)
    else
      local nodes = node
      if entry then
        local _, others = parse(entry)
        others = without(others, node)
        nodes = others == '' and node or others .. ' ' .. node
        call('ZREM', DUE, key)
      elseif operation == '+' then
        record_joined(room, member, data)
      end
      call('HSET', members, member, '0|' .. nodes .. '|' .. data)
      call('SADD', held, key)
    end
  end
end
publish()
return answer
